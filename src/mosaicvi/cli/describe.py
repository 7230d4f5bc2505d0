"""`mosaicvi describe`: what a saved model knows, without its data."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mosaicvi.cli.options import Model


def command(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Say what a model knows: modalities, panels, batches, training, versions.

        mosaicvi describe model
        mosaicvi describe model --json | jq .modalities

    It needs the model alone, not the data that it was trained on.
    """
    from mosaicvi.model import MosaicVI

    reference = MosaicVI.load(model).reference
    typer.echo(json.dumps(reference.to_dict(), indent=1) if as_json else repr(reference))
