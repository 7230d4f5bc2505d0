"""`mosaicvi compare`: a model and data -> which features differ between groups of cells."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mosaicvi.cli.data import check_data_output
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
from mosaicvi.cli.say import note
from mosaicvi.store.files import atomic_path, shown


class Mode(StrEnum):
    """What is asked of an effect."""

    change = "change"
    vanilla = "vanilla"


@reads_data
def command(
    reading: Reading,
    model: Model,
    data: Data,
    groupby: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of obs with the groups.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .csv.", show_default=False)],
    modality: Annotated[
        list[str] | None,
        typer.Option(metavar="MOD", help="Whose features; may be repeated. [default: all]"),
    ] = None,
    group1: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP", help="A group to compare; may be repeated. [default: each]"),
    ] = None,
    group2: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="What to compare with: a group, or `pairs` for every other group. [default: all others]",
        ),
    ] = None,
    unlabeled: Unlabeled = None,
    mode: Annotated[
        Mode, typer.Option(help="Ask for effects of more than --delta, or (vanilla) for any.")
    ] = Mode.change,
    delta: Annotated[
        float | None, typer.Option(help="Effects up to this size count as none. [default: 0.25]", min=0)
    ] = None,
    fdr: Annotated[
        float, typer.Option(help="False discovery rate of what is called different, within a comparison.")
    ] = 0.05,
    batch_correction: Annotated[
        bool,
        typer.Option("--batch-correction/--no-batch-correction", help="Compare cells within batches."),
    ] = True,
    take_as: TakeAs = None,
    allow_missing: AllowMissing = False,
    batch_size: BatchSize = 512,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compare groups of cells: which features differ, by how much, and how sure that is.

        mosaicvi compare model mosaic.h5mu --groupby cell_type --output de.csv
        mosaicvi compare model mosaic.h5mu --groupby cell_type --group1 NK --group2 B --output nk_b.csv

    A row for each feature and comparison, with the columns of `MosaicVI.differential_expression` and
    `modality`. `evidence` is `imputed` where no batch has cells of both groups that measured the feature.
    """
    import pandas as pd

    from mosaicvi.infer.labels import UNLABELED

    check_data_output(output, overwrite=overwrite, suffixes=(".csv",))
    loaded = load_for(model, data, reading, take_as=mapping(take_as, "--take-as"), quiet=quiet)
    # kept in a variable: the groups are read from these data
    asked = prepared(model, loaded) if allow_missing else loaded
    trained = load_model(model, asked, quiet=quiet)
    tables: list[pd.DataFrame] = []
    for name in dict.fromkeys(modality or trained.config.uni_block_names):
        table = trained.differential_expression(
            modality=name,
            groupby=groupby,
            group1=group1 or None,
            group2=group2,
            unlabeled=unlabeled or UNLABELED,
            mode=mode.value,
            delta=delta,
            fdr_target=fdr,
            batch_correction=batch_correction,
            batch_size=batch_size,
        )
        called = int(table[f"is_de_fdr_{fdr:g}"].sum())
        if not tables and (left_out := table.attrs["cells_without_a_group"]):
            note(f"{left_out:,} cells have no group in {groupby} and are left out", quiet=quiet)
        note(f"{name}: {called:,} of {len(table):,} differ; effect: {table.attrs['effect']}", quiet=quiet)
        table.insert(0, "modality", name)
        tables.append(table.rename_axis("feature"))
    with atomic_path(output, overwrite=overwrite) as temporary:
        pd.concat(tables).to_csv(temporary)
    note(f"Wrote {shown(output)}", quiet=quiet)
