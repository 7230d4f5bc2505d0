"""`mosaicvi report`: a model and data -> one page to send to a colleague."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mosaicvi.cli.data import check_data_output
from mosaicvi.cli.for_model import load_for, load_model, prepared
from mosaicvi.cli.options import (
    AllowMissing,
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
from mosaicvi.cli.say import note
from mosaicvi.store.files import shown


@reads_data
def command(
    reading: Reading,
    model: Model,
    data: Data,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.html", help="The page to be.", show_default=False)
    ],
    label_key: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of obs with cell types, to be scored.")
    ] = None,
    unlabeled: Unlabeled = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Show its imputed values; may be repeated. [default: the most variable]"
        ),
    ] = None,
    take_as: TakeAs = None,
    allow_missing: AllowMissing = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained HTML page: the mosaic, the training, the cells, the accuracy.

        mosaicvi report model mosaic.h5mu --output report.html
        mosaicvi report model mosaic.h5mu --label-key cell_type --feature CD4 --output report.html

    It needs no network to be read.
    """
    from mosaicvi.infer.labels import UNLABELED
    from mosaicvi.report.page import write_report

    check_data_output(output, overwrite=overwrite, suffixes=(".html",))
    loaded = load_for(model, data, reading, take_as=mapping(take_as, "--take-as"), quiet=quiet)
    loaded = prepared(model, loaded) if allow_missing else loaded
    trained = load_model(model, loaded, quiet=quiet)
    write_report(
        trained,
        loaded.to_register,
        output,
        features=feature or None,
        label_key=label_key,
        unlabeled=unlabeled or UNLABELED,
        command=command_again(),
        overwrite=overwrite,
    )
    note(f"Wrote {shown(output)}", quiet=quiet)
