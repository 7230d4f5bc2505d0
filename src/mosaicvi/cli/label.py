"""`mosaicvi label`: a model and data of which some cells are labelled -> labels of all cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicvi.cli.data import (
    H5AD,
    H5MU,
    Loaded,
    add_note,
    as_anndata,
    check_data_output,
    check_h5ad_fits,
    write,
)
from mosaicvi.cli.for_model import load_for, load_model, prepared
from mosaicvi.cli.options import (
    AllowMissing,
    BatchSize,
    Data,
    Model,
    Overwrite,
    Quiet,
    Reading,
    TakeAs,
    Unlabeled,
    mapping,
    reads_data,
)
from mosaicvi.cli.parts import own_share
from mosaicvi.cli.say import note
from mosaicvi.ranks import place
from mosaicvi.store.files import atomic_path, shown

if TYPE_CHECKING:
    import pandas as pd

    from mosaicvi.model import MosaicVI

PREFIX = "predicted_"


@reads_data
def command(
    reading: Reading,
    model: Model,
    data: Data,
    label_key: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", help="Column of obs with the labels of some cells.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="A .csv, or an .h5mu or .h5ad with the data.", show_default=False
        ),
    ],
    unlabeled: Unlabeled = None,
    take_as: TakeAs = None,
    allow_missing: AllowMissing = False,
    batch_size: BatchSize = 1024,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Label cells as the labelled cells near them, with calibrated probabilities.

        mosaicvi label model mosaic.h5mu --label-key cell_type --output labels.csv
        mosaicvi label model reference.h5ad query.h5ad --label-key cell_type --output labelled.h5mu

    Of each cell: `label`, `probability`, `second_label`, `second_probability`, `distance` to the nearest
    label, `typicality` and `none_of_these`, which is true of cells unlike any labelled ones. In an .h5mu
    or .h5ad the columns of obs are called `predicted_label` and so on.
    """
    check_data_output(output, overwrite=overwrite, suffixes=(".csv", H5MU, H5AD))
    loaded = load_for(model, data, reading, take_as=mapping(take_as, "--take-as"), quiet=quiet)
    check_h5ad_fits(output, loaded)
    # kept in a variable: the labels are read from these data
    asked = prepared(model, loaded) if allow_missing else loaded
    trained = load_model(model, asked, quiet=quiet)
    labels = _labels(trained, label_key, unlabeled=unlabeled or "unknown", batch_size=batch_size)
    if not place().is_first:
        return
    if output.suffix.lower() == ".csv":
        with atomic_path(output, overwrite=overwrite) as temporary:
            labels.rename_axis("cell").to_csv(temporary)
    else:
        _write(loaded, labels, output, model=model, overwrite=overwrite)
    new, far = labels["given"].isna(), int(labels["none_of_these"].sum())
    note(
        f"Labelled {int(new.sum()):,} cells without one, and {int((~new).sum()):,} to compare; "
        f"{far:,} are unlike any label",
        quiet=quiet,
    )
    note(f"Wrote {shown(output)}", quiet=quiet)


def _labels(trained: MosaicVI, label_key: str, **how: Any) -> pd.DataFrame:
    """Labels of all cells; of several processes the first has them, and the others those of their share."""
    import numpy as np
    import pandas as pd
    import torch

    group, _, own = own_share(np.arange(trained.mosaic.n_cells))
    found = trained.predict_labels(label_key, indices=own, **how)
    if group is None:
        return found
    names = pd.Index(found.attrs["labels"])
    is_label = {c: c in ("label", "second_label", "given") for c in found}
    coded = np.stack([names.get_indexer(found[c]) if is_label[c] else found[c] for c in found], 1)
    rows = group.rows_to_first(torch.from_numpy(coded.astype(np.float64))).numpy()
    if not group.is_first:
        return found
    of_code = np.array([*names, None], object)
    columns = {
        c: of_code[rows[:, i].astype(int)] if is_label[c] else rows[:, i].astype(found[c].to_numpy().dtype)
        for i, c in enumerate(found)
    }
    whole = pd.DataFrame(columns, index=trained.mosaic.names())
    whole.attrs.update(found.attrs)
    return whole


def label_columns(labels: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Names and values of the columns of obs that say which labels were predicted."""
    for column in labels.drop(columns="given"):
        values = labels[column]
        yield f"{PREFIX}{column}", values.astype("category") if values.dtype == object else values


def _write(loaded: Loaded, labels: pd.DataFrame, output: Path, *, model: Path, overwrite: bool) -> None:
    out = as_anndata(loaded.original) if output.suffix.lower() == H5AD else loaded.as_mudata()
    for column, values in label_columns(labels.reindex(out.obs_names)):
        out.obs[column] = values
    add_note(out, {"model": str(model), "labels": {k: v for k, v in labels.attrs.items() if k != "labels"}})
    write(out, output, overwrite=overwrite)
