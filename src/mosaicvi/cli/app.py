"""All commands in one application."""

from __future__ import annotations

from typing import Annotated

import typer

from mosaicvi._version import __version__
from mosaicvi.cli import (
    combine,
    compare,
    demo,
    describe,
    embed,
    impute,
    inspect,
    label,
    mapping,
    report,
    train,
)
from mosaicvi.cli.help import Command, Commands

app = typer.Typer(
    name="mosaicvi",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=Commands,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mosaicvi {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One latent space and all values, from single-cell datasets that measured different things.

    See what it does on data that it makes itself:

        mosaicvi demo

    From files to answers:

        mosaicvi inspect mosaic.h5mu --batch-key batch
        mosaicvi train mosaic.h5mu --batch-key batch --output model
        mosaicvi embed model mosaic.h5mu --output embedded.h5mu
        mosaicvi impute model mosaic.h5mu --output imputed.h5mu
        mosaicvi label model mosaic.h5mu --label-key cell_type --output labels.csv
        mosaicvi compare model mosaic.h5mu --groupby cell_type --output de.csv

    New cells on a model:

        mosaicvi map model query.h5ad --output mapped.h5mu --report mapped.html

    Exit codes: 0 done; 2 something given cannot be used (one line says what, and the remedy); 1 the loss
    was not a number or memory ran out; 130 or 143 stopped by a signal.
    """


app.command("demo", cls=Command)(demo.command)
app.command("inspect", cls=Command)(inspect.command)
app.command("combine", cls=Command)(combine.command)
app.command("train", cls=Command)(train.command)
app.command("describe", cls=Command)(describe.command)
app.command("embed", cls=Command)(embed.command)
app.command("impute", cls=Command)(impute.command)
app.command("label", cls=Command)(label.command)
app.command("compare", cls=Command)(compare.command)
app.command("map", cls=Command)(mapping.command)
app.command("report", cls=Command)(report.command)
