"""Whether new batches should be brought to the reference's level: several left out, with and without it.

The model of the other batches is trained once. It answers for each left-out batch as it comes, and brought to
the level of the others (`mosaicvi.data.staining`): accuracy of labels carried to it, and the correlation of
imputed with hidden values, beside a model that was trained on all.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import Table, say
from benchmarks.mapping import Left, correlations, of_cells, transfer
from benchmarks.models import add_models, at_defaults
from benchmarks.mosaics import read_seen, task_of
from mosaicvi import MosaicVI, MosaicWarning
from mosaicvi.model.registering import read_as

TASK = "adt13"
LEFT_OUT = "buus_2021_T,granja_2019_bmmc,kotliarov_2020,10X_malt_10k"


def main() -> None:
    parser = common.parser(__doc__, "staining")
    parser.add_argument("--data", type=Path, default=common.DATA, metavar="DIR", help="folder of mosaics")
    parser.add_argument("--task", default=TASK, help="[%(default)s]")
    parser.add_argument("--left-out", default=LEFT_OUT, metavar="BATCH[,BATCH]", help="[%(default)s]")
    parser.add_argument("--epochs", type=int, help="of training without them [the library's own]")
    parser.add_argument("--seed", type=int, default=0, help="of training [0]")
    add_models(parser)
    options = parser.parse_args()
    common.begin(options)
    table = Table(
        name="staining",
        title="Batches that were left out of training together",
        columns=("left_out", "cells", "how", "label_transfer", "imputation_r"),
        note="How: as they come, brought to the level of the reference, or trained on as well. Labels are "
        "carried from the batches that are not left out.",
    )
    for row in _rows(options):
        table.add(**row)
        say(str(row))
    common.show("staining", [table], options)


def _rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    seen, truth, obs, names = read_seen(options.data, options.task)
    task = task_of(options.task, options.data, seen, truth, obs, names)
    out = options.left_out.split(",")
    is_out = obs.batch.isin(out).to_numpy()
    rest = of_cells(seen, ~is_out)
    whole = _model(options.task, seen, options)
    model = _model(f"{options.task}-without-{len(out)}", rest, options)
    everywhere = np.asarray(whole.get_latent_representation())
    around = np.asarray(model.get_latent_representation())
    for name in out:
        which = (obs.batch == name).to_numpy()
        query = of_cells(seen, which)
        left = Left(task=task, seen=seen, rest=rest, query=query, is_query=which)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MosaicWarning)
            prepared = MosaicVI.prepare_query(query, model)
            ways = {
                "as they come": (model, read_as(prepared, model.registry)),
                "at the level": (model, model.registered(prepared)),
                "trained on": (whole, None),
            }
            for how, (asked, data) in ways.items():
                latent = everywhere
                if data is not None:
                    latent = np.empty((len(obs), around.shape[1]), np.float32)
                    latent[~is_out], latent[which] = around, asked.get_latent_representation(data)
                found = correlations(left, asked, data, which)
                yield {
                    "left_out": name,
                    "cells": int(which.sum()),
                    "how": how,
                    "label_transfer": transfer(task.label, latent, ~is_out, which),
                    "imputation_r": ", ".join(f"{m} {r:.3f}" for m, r in found.items()) or "–",
                }


def _model(name: str, data: Any, options: argparse.Namespace) -> MosaicVI:
    mosaic = MosaicVI.setup_mudata(data, batch_key="batch")
    epochs = 2 if options.quick else options.epochs
    if epochs is not None and name != options.task:
        return MosaicVI(mosaic, seed=options.seed).train(epochs, progress=False, accelerator="cpu")
    model: MosaicVI = at_defaults(name, mosaic, options.seed, options.models)[0]
    return model


if __name__ == "__main__":
    main()
