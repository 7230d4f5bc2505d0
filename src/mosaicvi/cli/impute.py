"""`mosaicvi impute`: a model and data -> expected values of every modality."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicvi._version import __version__
from mosaicvi.cli.data import H5AD, H5MU, Loaded, check_data_output
from mosaicvi.cli.for_model import load_for, load_model, prepared
from mosaicvi.cli.options import (
    AllowMissing,
    BatchSize,
    Data,
    Model,
    OnDisk,
    Overwrite,
    Quiet,
    Reading,
    TakeAs,
    mapping,
    one_or_mapping,
    reads_data,
)
from mosaicvi.cli.parts import cells_of, is_part, own_share
from mosaicvi.cli.say import note, progress, warning
from mosaicvi.errors import InputError
from mosaicvi.ranks import place
from mosaicvi.store.files import atomic_path, check_output, shown

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from mosaicvi.infer.output import ImputedModality
    from mosaicvi.model import MosaicVI


TABLES = (".csv", ".tsv")


@reads_data
def command(
    reading: Reading,
    model: Model,
    data: Data,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="An .h5mu; or, for one modality, an .h5ad, or a .csv or .tsv of the values alone.",
            show_default=False,
        ),
    ],
    modality: Annotated[
        list[str] | None,
        typer.Option(metavar="MOD", help="Which modality; may be repeated. [default: all]"),
    ] = None,
    cells: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHICH",
            help="`all`; `missing` for those of each modality that did not measure it; I/N for part I of N, "
            "as the jobs of an array share them; may be repeated. [default: all]",
        ),
    ] = None,
    n_samples: Annotated[
        int | None,
        typer.Option(help="Average over so many draws of the latent. [default: decode its mean]", min=1),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[MOD=]SCALE",
            help="What to give the expected values of: counts, log1p_cp10k, or clr, the "
            "centred log ratios of such as proteins. "
            "[default: counts; with --interval log1p_cp10k]",
        ),
    ] = None,
    library: Annotated[
        float | None,
        typer.Option(
            help="For counts: the library of every cell. [default: the training data's median, of "
            "proteins about that]"
        ),
    ] = None,
    as_batch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BATCH",
            help="As if every cell were of this batch, or `mean` for halfway between all that measured the "
            "modality; repeated, the average. [default: each cell's own]",
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            metavar="LEVEL",
            help="Also write the ends between which this share of the values lies, such as 0.9. All values "
            "are then log1p_cp10k, over the cell's own total, unless --scale is counts.",
        ),
    ] = None,
    take_as: TakeAs = None,
    accuracy: Annotated[
        bool,
        typer.Option(
            "--accuracy/--no-accuracy",
            help="Add to var how well each feature is imputed, by hiding it where it was measured.",
        ),
    ] = True,
    accuracy_table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv", help="Write that as a table too, a row for each feature and set of inputs."
        ),
    ] = None,
    allow_missing: AllowMissing = False,
    batch_size: BatchSize = 512,
    on_disk: OnDisk = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write expected values, for cells that measured a modality and for those that did not.

        mosaicvi impute model mosaic.h5mu --output imputed.h5mu
        mosaicvi impute model mosaic.h5mu --modality adt --cells missing --output adt.h5ad
        mosaicvi impute model mosaic.h5mu --scale rna=log1p_cp10k --output imputed.h5mu
        mosaicvi impute model mosaic.h5mu --cells missing --cells 2/8 --output part2.h5mu
        mosaicvi impute model mosaic.h5mu --as-batch mean --output corrected.h5mu
        mosaicvi impute model mosaic.h5mu --interval 0.9 --output sure.h5mu
        mosaicvi impute model mosaic.h5mu --modality adt --output adt.csv --accuracy-table accuracy.csv

    Of each modality: `X` the expected values, `obs["measured"]` whether the cell measured any of it,
    `var["believe"]` (yes, partly, no) and `var["accuracy_from_..."]` how well each feature is imputed, and in
    `uns["mosaicvi"]` what the values mean, `scale`, and as which batch they are given, `batch`; with
    `--interval` layers `lower` and `upper`. A .csv or .tsv has the values, a row a cell; with `--interval`
    its ends are in adt.lower.csv and adt.upper.csv. Values are written as they are computed, so that memory
    never holds more than one minibatch of them.
    """
    check_data_output(output, overwrite=overwrite, suffixes=(H5MU, H5AD, *TABLES))
    as_table = output.suffix.lower() in TABLES
    if accuracy_table is not None:
        check_data_output(accuracy_table, overwrite=overwrite, suffixes=(".csv",))
    if as_table and place().size > 1:
        raise InputError(f"{shown(output)}: one process writes a table; name an .h5mu, or start one")
    one_scale = one_or_mapping(scale, "--scale")
    share = _part_of(cells)
    import numpy as np

    from mosaicvi.infer.output import interval_notes, with_accuracy, write_imputed
    from mosaicvi.infer.table import tables_of, write_tables

    for path in tables_of(output, with_interval=interval is not None) if as_table else ():
        check_output(path, overwrite=overwrite)
    reading = replace(reading, on_disk=on_disk)
    loaded = load_for(model, data, reading, take_as=mapping(take_as, "--take-as"), quiet=quiet)
    loaded = prepared(model, loaded) if allow_missing else loaded
    trained = load_model(model, loaded, quiet=quiet)
    names = list(dict.fromkeys(modality or trained.config.uni_block_names))
    for name in names:
        trained.imputed_features(name)
    if output.suffix.lower() != H5MU and len(names) > 1:
        raise InputError(
            f"{shown(output)}: {'a table' if as_table else 'an .h5ad'} holds one modality; choose it with "
            "--modality, or name an .h5mu"
        )
    scales = _scales(one_scale, names)
    chosen = _Chosen(part=cells_of(share, trained.mosaic.n_cells), only_missing="missing" in (cells or ()))
    asked = {
        "n_samples": n_samples,
        "library": library,
        "transform_batch": as_batch[0] if as_batch and len(as_batch) == 1 else as_batch,
        "batch_size": batch_size,
    }
    found = [_part(trained, loaded, name, chosen, scales[name], interval, asked) for name in names]
    parts = [part for part in found if part is not None]
    if not parts:
        raise InputError(
            f"--cells {' '.join(cells or ())}: every cell measured {' and '.join(names)}; use --cells all"
        )
    if accuracy_table is not None or (accuracy and not as_table):
        table = trained.imputation_accuracy(modality=[part.name for part in parts])
        if accuracy:
            parts = [with_accuracy(part, table, trained.mosaic.modality(part.name)) for part in parts]
        for part in parts if accuracy else ():
            if part.name not in set(table["modality"]):
                note(
                    f"{part.name}: no accuracy of features: nothing is missing, or too few cells measured it",
                    quiet=quiet,
                )
        if accuracy_table is not None and place().is_first:
            with atomic_path(accuracy_table, overwrite=overwrite) as temporary:
                table.to_csv(temporary, index=False)
    total = -(-sum(part.n_rows for part in parts) // place().size)
    written = [output]
    with progress("imputing", total, quiet=quiet) as (bar, task):
        if as_table:
            written = write_tables(
                output, parts[0], overwrite=overwrite, advance=lambda n: bar.advance(task, n)
            )
        else:
            write_imputed(
                output,
                parts,
                _obs(loaded),
                uns=_note(model, n_samples),
                overwrite=overwrite,
                group=own_share(np.arange(0))[0],
                advance=lambda n: bar.advance(task, n),
            )
    for part in parts:
        n, d = part.shape
        note(f"{part.name}: {n:,} cells × {d:,} features, {part.scale}", quiet=quiet)
        if part.interval is not None and scales[part.name] is None and part.scale.kind == "log1p_cp10k":
            note(f"{part.name}: that is the scale of intervals; counts by --scale counts", quiet=quiet)
    for words in interval_notes(parts):
        warning(words)
    written += [] if accuracy_table is None else [accuracy_table]
    note(f"Wrote {', '.join(map(shown, written))}", quiet=quiet)


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """A part of the cells, and whether only those of it that did not measure a modality."""

    part: slice
    only_missing: bool


def _part_of(said: list[str] | None) -> str | None:
    """The part of the cells that `--cells` names, if it does."""
    parts = [text for text in said or () if is_part(text)]
    words = {text for text in said or () if not is_part(text)}
    if len(parts) > 1 or len(words) > 1 or words - {"all", "missing"}:
        raise InputError(
            f"--cells {' '.join(said or ())}: write all, missing or I/N such as 2/8, each at most once"
        )
    return parts[0] if parts else None


def _part(
    model: MosaicVI,
    loaded: Loaded,
    name: str,
    cells: _Chosen,
    scale: Any,
    level: float | None,
    asked: Mapping[str, Any],
) -> ImputedModality | None:
    """One modality still to be imputed; None if no cell is wanted."""
    import numpy as np
    import pandas as pd

    from mosaicvi.infer.covariates import batches_of, level_in_words
    from mosaicvi.infer.intervals import not_promised
    from mosaicvi.infer.output import ImputedModality

    names = model.mosaic.names()
    source = _source(loaded, name, first=model.config.uni_block_names[0])
    measured = model.mosaic.modality(name).has_any()
    chosen = np.arange(len(names))[cells.part]
    chosen = chosen[~measured[chosen]] if cells.only_missing else chosen
    if not len(chosen):
        return None
    _, first, own = own_share(chosen)
    features = model.imputed_features(name)
    var = pd.DataFrame(index=features) if source is None else source.var.loc[features]
    panels = None if source is None else source.varm.get("measured")
    if level is not None:
        scale = model.interval_scale(name, scale=scale, library=asked["library"]).kind
        if scale == "counts" and asked["library"] is None:
            asked = {**asked, "library": model.registry.median_library[name]}

    def placed(stream: Iterable[Any]) -> Iterator[Any]:
        return ((slice(first + rows.start, first + rows.stop), *rest) for rows, *rest in stream)

    without_draws = {key: value for key, value in asked.items() if key != "n_samples"}
    choice = {"modality": name, "indices": own, "scale": scale}
    return ImputedModality(
        name=name,
        cells=names[chosen],
        measured=measured[chosen],
        var=var,
        varm={"measured": panels.loc[features]} if isinstance(panels, pd.DataFrame) else {},
        scale=model.imputed_scale(name, scale=scale, library=asked["library"]),
        batch=batches_of(model.registry, name, asked["transform_batch"]).said_of(model.mosaic, name),
        staining=level_in_words(model.mosaic, name),
        values=placed(model.iter_imputed_values(**choice, **asked)),
        interval=None
        if level is None
        else placed(model.iter_imputed_intervals(level=level, **choice, **without_draws)),
        level=level,
        interval_note=None if level is None else not_promised(model.registry, model.mosaic, chosen, name),
    )


def _scales(found: str | Mapping[str, str] | None, names: list[str]) -> dict[str, str | None]:
    """The scale of each modality; one without a modality's name is for all of them."""
    if not isinstance(found, Mapping):
        return dict.fromkeys(names, found)
    for name in found:
        if name not in names:
            raise InputError(f"--scale: {name!r} is not imputed; imputed are {', '.join(names)}")
    return {name: found.get(name) for name in names}


def _source(loaded: Loaded, name: str, *, first: str) -> AnnData | None:
    """The modality in the data; data that name none hold the model's first."""
    from mudata import MuData

    data = loaded.to_register
    if isinstance(data, MuData):
        mods: Mapping[str, AnnData] = data.mod
        return mods.get(name)
    return data if name == first else None


def _obs(loaded: Loaded) -> pd.DataFrame:
    """Columns of all cells, without the copies that MuData prefixes."""
    obs: pd.DataFrame = loaded.to_register.obs
    return obs.loc[:, [column for column in obs if ":" not in str(column) and column != "measured"]]


def _note(model: Path, n_samples: int | None) -> dict[str, str | int]:
    said: dict[str, str | int] = {"version": __version__, "model": shlex.quote(str(model))}
    return said if n_samples is None else said | {"n_samples": n_samples}
