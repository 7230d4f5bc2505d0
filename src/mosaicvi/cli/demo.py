"""`mosaicvi demo`: what the tool is for, in a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mosaicvi.cli.options import Overwrite, Quiet


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "mosaicvi_demo"
    ),
    max_epochs: Annotated[
        int | None, typer.Option(help="Passes over the data. [default: about a minute's worth]", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same data and model.", min=0)] = 0,
    n_cells: Annotated[int, typer.Option(help="Cells to simulate.", min=200)] = 2000,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a mosaic whose truth is known, train on it, and show how well it was recovered.

        mosaicvi demo
        mosaicvi demo --output try --max-epochs 20

    Writes demo.png, mosaic.h5mu, truth.h5mu and the model into the output folder.
    """
    from mosaicvi.demo import run_demo

    stopped = run_demo(
        output, max_epochs=max_epochs, seed=seed, n_cells=n_cells, overwrite=overwrite, quiet=quiet
    )
    if stopped is not None:
        raise typer.Exit(128 + stopped)
