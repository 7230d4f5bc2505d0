"""`mosaicvi combine`: files of different features, modalities and cells -> one mosaic."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mosaicvi.cli.data import (
    DATASET_KEY,
    H5MU,
    ZARR,
    check_data_output,
    combine_files,
    combine_for_store,
    write,
)
from mosaicvi.cli.naming import name_datasets
from mosaicvi.cli.options import Data, Overwrite, Quiet, Reading, by_name, mapping, one_or_mapping, reads_data
from mosaicvi.cli.say import next_steps, note, progress, warning
from mosaicvi.cli.unmeasured import assembled_without, say, unmeasured, unmeasured_in_files
from mosaicvi.errors import InputError
from mosaicvi.store.files import atomic_directory, check_output_directory, shown

if TYPE_CHECKING:
    from mudata import MuData

    from mosaicvi.data.combine.assemble import Assembled

SHOWN = 20  # matches in the table


class Join(StrEnum):
    """Which features to keep."""

    outer = "outer"
    inner = "inner"


@reads_data
def command(
    reading: Reading,
    data: Data,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.h5mu|OUT.zarr",
            help="The mosaic to be. A .zarr is written in constant memory, from .h5ad, .h5mu and .zarr.",
            show_default=False,
        ),
    ],
    join: Annotated[
        Join, typer.Option(help="Keep the features of any dataset, or only those of every one.")
    ] = Join.outer,
    match: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MOD=RULE[,RULE]",
            help="Names that are written differently: ensembl, version, case, adt, overlap (peaks).",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="New names of modalities, such as prot=adt.")
    ] = None,
    panel_key: Annotated[
        list[str] | None,
        typer.Option(metavar="[FILE=]COLUMN", help="Column of obs that names each cell's own panel."),
    ] = None,
    dataset_key: Annotated[str, typer.Option(help="Column of obs for the dataset's name.")] = DATASET_KEY,
    shuffle: Annotated[
        bool,
        typer.Option("--shuffle", help="Of a .zarr: put the cells in random order, as training reads them."),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Combine datasets into one mosaic that says what was measured where.

        mosaicvi combine donor1.h5ad donor2.h5mu tenx_folder/ --output mosaic.h5mu
        mosaicvi combine blood=a/x.h5ad liver=b/x.h5ad --output mosaic.h5mu
        mosaicvi combine d1.h5 d2.h5 --match adt=adt --match rna=version,case --output mosaic.h5mu
        mosaicvi combine donor*.h5ad --output atlas.zarr --shuffle

    Features are matched by their exact names, and by rules only where asked; every match is listed. What a
    dataset did not measure stays unmeasured: it never becomes a zero.
    """
    from mosaicvi.data.combine.assemble import Assembled
    from mosaicvi.inspect.describe import unconnected

    as_store = output.suffix.lower() == ZARR
    if as_store:
        check_output_directory(output, overwrite=overwrite)
    else:
        check_data_output(output, overwrite=overwrite, suffixes=(H5MU, ZARR))
    if shuffle and not as_store:
        raise InputError(f"--shuffle: {shown(output)} is no .zarr; name one, such as --output atlas.zarr")
    how: dict[str, Any] = {
        "quiet": quiet,
        "join": join.value,
        "dataset_key": dataset_key,
        "panel_key": by_name(one_or_mapping(panel_key, "--panel-key"), name_datasets(data)),
        "rename": mapping(rename, "--rename"),
        "match": _rules(match),
    }
    if as_store:
        together = combine_for_store(data, reading, **how)
    else:
        together = Assembled(mdata=combine_files(data, reading, **how), stored={})
    names = unmeasured(together.mdata, None) | unmeasured_in_files(together)
    if names:
        say(names)
        together = assembled_without(together, names)
    mdata = together.mdata
    if not quiet:
        _show_matches(mdata)
    if as_store:
        _write_store(together, output, shuffle=shuffle, overwrite=overwrite, quiet=quiet)
    else:
        write(mdata, output, overwrite=overwrite)
    sizes = ", ".join(f"{name} {a.n_obs:,} × {a.n_vars:,}" for name, a in mdata.mod.items())
    note(f"Wrote {shown(output)}: {mdata.n_obs:,} cells; {sizes}", quiet=quiet)
    for words in unconnected(mdata, batch_key=dataset_key):
        warning(words)
    next_steps(
        [
            f"mosaicvi inspect {shown(output)} --batch-key {dataset_key}",
            f"mosaicvi train {shown(output)} --batch-key {dataset_key} --output model",
        ],
        quiet=quiet,
    )


def _write_store(together: Assembled, output: Path, *, shuffle: bool, overwrite: bool, quiet: bool) -> None:
    from mosaicvi.store.atlas import write_atlas

    total = sum(x.shape[0] for x in together.stored.values())
    with (
        atomic_directory(output, overwrite=overwrite) as folder,
        progress("writing", total, quiet=quiet) as (bar, task),
    ):
        write_atlas(folder, together, shuffle=shuffle, advance=lambda n: bar.advance(task, n))


def _rules(pairs: Sequence[str] | None) -> dict[str, list[str]]:
    return {name: rules.split(",") for name, rules in mapping(pairs, "--match").items()}


def _show_matches(mdata: MuData) -> None:
    """What was matched to what, and what was left alone."""
    matches = mdata.uns["mosaicvi"].get("matches")
    if matches is None or not len(matches):
        return
    table = Table(title=f"{len(matches):,} names looked at", title_justify="left")
    for column in matches.columns:
        table.add_column(str(column))
    for row in matches.head(SHOWN).itertuples(index=False):
        table.add_row(*(str(value) or "–" for value in row))
    if len(matches) > SHOWN:
        table.caption = f"and {len(matches) - SHOWN:,} more, in uns['mosaicvi']['matches'] of the output"
    Console().print(table)
