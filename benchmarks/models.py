"""Models of the tasks at the defaults, trained once and asked by several benchmarks."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.common import say


def add_models(parser: argparse.ArgumentParser) -> None:
    """The option that says where trained models lie."""
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="where trained models lie, DIR/TASK.SEED; one that is not there is trained and put there",
    )


def at_defaults(name: str, mosaic: Any, seed: int, folder: Path | None) -> tuple[Any, float]:
    """The model of a task, read if it is in the folder and trained if not; seconds that its training took."""
    from mosaicvi import MosaicVI
    from mosaicvi.store.saved import read_model

    place = None if folder is None else folder / f"{name}.{seed}"
    if place is not None and place.exists():
        said = json.loads(place.with_name(f"{place.name}.json").read_text())
        return MosaicVI._of_saved(read_model(place), mosaic, place), float(said["seconds"])
    say(f"{name}: training, seed {seed}")
    began = time.perf_counter()
    model = MosaicVI(mosaic, seed=seed)
    model.train(seed=seed, accelerator="cpu", progress=False)
    seconds = time.perf_counter() - began
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_name(f"{place.name}.json").write_text(json.dumps({"seconds": seconds}))
        model.save(place)
    return model, seconds
