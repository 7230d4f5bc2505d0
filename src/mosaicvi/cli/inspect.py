"""`mosaicvi inspect`: what was measured where, before any training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mosaicvi.cli.data import DATASET_KEY, check_data_output, read_all, suggest_batch
from mosaicvi.cli.options import Data, Overwrite, Reading, reads_data
from mosaicvi.cli.say import for_terminal, note
from mosaicvi.store.files import atomic_path, shown

PICTURES = (".png", ".pdf", ".svg")


@reads_data
def command(
    reading: Reading,
    data: Data,
    batch_key: Annotated[
        str | None,
        typer.Option(
            help="Column of obs with the batches. [default: none; the file's name if there are several]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw it as well (.png, .pdf or .svg).")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show what each batch measured: cells, panels, libraries, bridges, and what nothing connects.

        mosaicvi inspect mosaic.h5mu --batch-key batch
        mosaicvi inspect donor1.h5ad donor2.h5mu tenx_folder/ --plot mosaic.png
        mosaicvi inspect mosaic.h5mu --json | jq .warnings

    What is suspicious in the values is said as well, before any training.
    """
    from mosaicvi.inspect.describe import describe
    from mosaicvi.inspect.picture import plot as draw
    from mosaicvi.inspect.tables import render

    if plot is not None:
        check_data_output(plot, overwrite=overwrite, suffixes=PICTURES)
    loaded = read_all(data, reading, batch_key=batch_key, quiet=as_json).with_names()
    key = DATASET_KEY if loaded.combined and batch_key is None else batch_key
    layers = {} if loaded.combined else reading.layers
    summary = describe(loaded.as_mudata(), batch_key=key, layers=layers)
    summary = replace(summary, warnings=tuple(map(for_terminal, summary.warnings)))
    if as_json:
        typer.echo(json.dumps(summary.to_dict(), indent=1))
    else:
        render(summary, Console())
        suggest_batch(loaded.to_register, key)
    if plot is not None:
        with atomic_path(plot, overwrite=overwrite) as temporary:
            draw(summary).savefig(temporary, dpi=150)
        note(f"Wrote {shown(plot)}", quiet=as_json)
