"""`mosaicvi map`: a model and new cells -> where they lie, all their values, and a page."""

from __future__ import annotations

import shlex
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicvi._version import __version__
from mosaicvi.cli.data import H5MU, Loaded, check_data_output
from mosaicvi.cli.for_model import load_for, prepared
from mosaicvi.cli.label import label_columns
from mosaicvi.cli.options import (
    BatchSize,
    Data,
    Model,
    Overwrite,
    Quiet,
    Reading,
    TakeAs,
    Unlabeled,
    command_again,
    mapping,
    reads_data,
)
from mosaicvi.cli.say import for_terminal, note, progress
from mosaicvi.errors import InputError, MosaicWarning, warn
from mosaicvi.store.files import shown

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from mosaicvi.data.mosaic import Mosaic
    from mosaicvi.infer.output import ImputedModality
    from mosaicvi.model import MosaicVI
    from mosaicvi.report.mapped import Mapped


@reads_data
def command(
    reading: Reading,
    model: Model,
    data: Data,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="MAPPED.h5mu", help="The file to be.", show_default=False),
    ],
    report: Annotated[
        Path | None, typer.Option(metavar="PAGE.html", help="Write a page about it as well.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="REF.h5mu",
            help="The data that the model was trained on: their picture and labels are kept, and they say "
            "which imputed values to believe, asked for just what the query has.",
        ),
    ] = None,
    label_key: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of obs with the reference's labels.")
    ] = None,
    unlabeled: Unlabeled = None,
    match: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MOD=RULE[,RULE]",
            help="Features that are written otherwise: ensembl, version, case, adt, or overlap of peaks.",
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            metavar="LEVEL",
            help="Also write the ends between which this share of the values lies, such as 0.9. Counts are "
            "then given as log1p_cp10k, over the cell's own total.",
        ),
    ] = None,
    take_as: TakeAs = None,
    batch_size: BatchSize = 512,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Map new cells onto a model: embedding, labels, all values, and how far to trust them.

        mosaicvi map model query.h5ad --output mapped.h5mu --report mapped.html
        mosaicvi map model tenx_folder/ --reference atlas.h5mu --label-key cell_type --output mapped.h5mu
        mosaicvi map model query.h5mu --match adt=adt --interval 0.9 --output mapped.h5mu

    Features that the query lacks are not measured, others are left out. Of the file: `X` of each modality the
    expected values, `obsm["X_mosaicvi"]` the latent, `obsm["X_umap"]` places in the reference's picture,
    `obs["reference_distance"]` and `obs["reference_rank"]` how far from the reference a cell lies;
    `var["believe"]` (yes, partly, no; measured by all cells; unknown) and `var["accuracy_from_..."]` how well
    each feature that the query lacks is imputed, by hiding it of the reference's cells: as the model
    remembers it, or with `--reference` from just what the query measured; with `--label-key`
    `obs["predicted_label"]`, its probability and so on; with `--interval` layers `lower` and `upper`. What
    the values mean, as which batch they are given, and on which level of staining, is in `uns["mosaicvi"]`.
    """
    check_data_output(output, overwrite=overwrite, suffixes=(H5MU,))
    if report is not None:
        check_data_output(report, overwrite=overwrite, suffixes=(".html",))
    if label_key is not None and reference is None:
        raise InputError("--label-key: name the data that have the labels, --reference REF.h5mu")
    rules = {name: text.split(",") for name, text in mapping(match, "--match").items()}
    from mosaicvi.infer.output import interval_notes, with_accuracy, write_imputed
    from mosaicvi.model.learning import shown_learning
    from mosaicvi.report.mapped import write_mapped

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", MosaicWarning)
        trained, known = _opened(model, reference, reading, quiet=quiet)
        loaded = load_for(model, data, reading, take_as=mapping(take_as, "--take-as"), quiet=quiet)
        query = prepared(model, loaded, match=rules).to_register
        cells = trained.registered(query)
        with shown_learning(not quiet):
            names = trained.config.uni_block_names
            parts = [_part(trained, cells, name, interval, batch_size) for name in names]
            page = _page(trained, loaded, query, cells, known, label_key, unlabeled)
            page = replace(page, values=[(p.name, str(p.scale), p.batch, p.staining or "") for p in parts])
            trained.readout(cells)
        parts = [with_accuracy(part, page.trust, cells.modality(part.name)) for part in parts]
    words = list(dict.fromkeys(str(w.message) for w in said if issubclass(w.category, MosaicWarning)))
    words += interval_notes(parts)
    for word in words:
        warn(word)
    with progress("imputing", sum(p.n_rows for p in parts), quiet=quiet) as (bar, task):
        write_imputed(
            output,
            parts,
            page.obs,
            uns={"version": __version__, "model": shlex.quote(str(model)), "features": page.features},
            obsm={"X_mosaicvi": page.latent, "X_umap": page.places},
            overwrite=overwrite,
            advance=lambda n: bar.advance(task, n),
        )
    for name, row in page.features.iterrows():
        if row.cells:
            note(f"{name}: {row.in_the_data:,} of {row.known:,} features, {row.cells:,} cells", quiet=quiet)
        else:
            note(f"{name}: not in the data, all {row.known:,} features are imputed", quiet=quiet)
    for part in parts:
        if part.interval is not None and part.scale.kind == "log1p_cp10k":
            note(f"{part.name}: {part.scale}, the scale of intervals", quiet=quiet)
    note(f"Wrote {shown(output)}: {len(page.obs):,} cells", quiet=quiet)
    if report is not None:
        said_words = [for_terminal(word) for word in words]
        write_mapped(page, report, warnings=said_words, command=command_again(), overwrite=overwrite)
        note(f"Wrote {shown(report)}", quiet=quiet)


def _opened(
    model: Path, reference: Path | None, reading: Reading, *, quiet: bool
) -> tuple[MosaicVI, AnnData | MuData | None]:
    """The model with the reference's data, or without."""
    from mosaicvi.model import MosaicVI

    if reference is None:
        return MosaicVI.load(model), None
    data = load_for(model, [reference], reading, quiet=quiet).to_register
    return MosaicVI.load(model, data), data


def _page(
    trained: MosaicVI,
    loaded: Loaded,
    query: AnnData | MuData,
    cells: Mosaic,
    reference: AnnData | MuData | None,
    label_key: str | None,
    unlabeled: list[str] | None,
) -> Mapped:
    """Where the cells lie, how far from the reference, and what of its features they have."""
    import numpy as np

    from mosaicvi.infer.labels import UNLABELED
    from mosaicvi.infer.mapped import features_found, placed
    from mosaicvi.report.mapped import Mapped
    from mosaicvi.view.umap import layout

    z = np.asarray(trained.get_latent_representation(cells))
    kept = trained.reference_cells()
    obs = loaded.to_register.obs.loc[:, [c for c in loaded.to_register.obs if ":" not in str(c)]].copy()
    if reference is not None:
        around = np.asarray(trained.get_latent_representation())
        own = reference.obsm.get("X_umap")
        background = layout(around)[0] if own is None else np.asarray(own, np.float32)[:, :2]
    elif kept is not None:
        around = kept.latent
        background = layout(around)[0]
    else:
        raise InputError(
            "The model keeps no cells to compare with, as an older version saved it; "
            "name the data that it was trained on, --reference REF.h5mu"
        )
    if kept is not None:
        far = trained.distance_to_reference(cells)
        obs["reference_distance"], obs["reference_rank"] = far["distance"].to_numpy(), far["rank"].to_numpy()
    if label_key is not None:
        labels = trained.predict_labels(label_key, mdata=query, unlabeled=unlabeled or UNLABELED)
        for column, values in label_columns(labels):
            obs[column] = values.to_numpy()
    can_tell = reference is not None or trained.kept_accuracy() is not None
    about = query.uns.get("mosaicvi", {})
    came = loaded.original if loaded.combined else loaded.to_register
    return Mapped(
        model=repr(trained).splitlines()[0],
        latent=z,
        obs=obs,
        places=placed(around, background, z),
        background=background,
        features=features_found(came, query, trained.registry),
        matches=about.get("matches"),
        trust=trained.imputation_accuracy(query=cells) if can_tell else None,
        is_remembered=reference is None,
    )


def _part(
    trained: MosaicVI, cells: Mosaic, name: str, level: float | None, batch_size: int
) -> ImputedModality:
    """One modality of all cells, still to be imputed."""
    import numpy as np
    import pandas as pd

    from mosaicvi.infer.covariates import batches_of, level_in_words
    from mosaicvi.infer.intervals import not_promised
    from mosaicvi.infer.output import ImputedModality

    scale, library = None, None
    if level is not None:
        scale = trained.interval_scale(name).kind
        library = trained.registry.median_library[name] if scale == "counts" else None
    asked: dict[str, Any] = {
        "modality": name,
        "scale": scale,
        "library": library,
        "batch_size": batch_size,
    }
    return ImputedModality(
        name=name,
        cells=cells.cells,
        measured=cells.modality(name).row_of_cell >= 0,
        var=pd.DataFrame(index=trained.imputed_features(name)),
        scale=trained.imputed_scale(name, scale=scale, library=library),
        batch=batches_of(trained.registry, name).said_of(cells, name),
        staining=level_in_words(cells, name),
        values=trained.iter_imputed_values(cells, **asked),
        interval=None if level is None else trained.iter_imputed_intervals(cells, level=level, **asked),
        level=level,
        interval_note=None
        if level is None
        else not_promised(trained.registry, cells, np.arange(cells.n_cells), name),
    )
