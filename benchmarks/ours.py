"""One training of ours in a process of its own, with a time.json like those of the peers' scripts.

Used by `benchmarks.speed`: ``python -m benchmarks.ours DIR TASK RUN_DIR EPOCHS --settings default``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.tasks import like_for_like, registered, write_simulated
from mosaicvi import Mosaic, MosaicVI
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.fit.loop import Report, fit
from mosaicvi.fit.state import FitConfig, FitState, start
from mosaicvi.fit.usual import default_batch_size, default_rate

SETTINGS = ("like", "default")


def set_up(
    mosaic: Mosaic, settings: str, epochs: int, device: str, batch_size: int | None = None
) -> tuple[FitState, MinibatchLoader, FitConfig]:
    """A network with fresh weights, its data and how to train it.

    Like for like trains on all cells in minibatches of 512, as the reference does; our defaults hold a
    tenth of the cells out and validate on them after each epoch.
    """
    like = settings == "like"
    model = MosaicVI(mosaic, **(like_for_like(mosaic) if like else {}))
    model.net.to(device)
    n_features = sum(m.n_features for m in mosaic.modalities)
    size = batch_size or (512 if like else default_batch_size(mosaic.n_cells, n_features))
    size = min(size, mosaic.n_cells)
    config = FitConfig(
        max_epochs=epochs,
        batch_size=size,
        lr=1e-3 if like else default_rate(size),
        train_size=1.0 if like else FitConfig.train_size,
    )
    return start(model.net, config), MinibatchLoader(model.mosaic, device=device), config


def epoch_seconds(state: FitState, loader: MinibatchLoader, config: FitConfig) -> list[float]:
    """Train to the end; seconds of each epoch."""
    ends = [time.perf_counter()]

    def listen(report: Report) -> None:
        if report.row is not None:
            ends.append(time.perf_counter())

    fit(state, loader, config, listen=listen)
    return [b - a for a, b in itertools.pairwise(ends)]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train as asked and report time and memory."""
    device = "cuda" if options.accelerator == "gpu" else "cpu"
    mosaic = registered(options.folder, options.task)
    state, loader, config = set_up(mosaic, options.settings, options.epochs, device)
    seconds = epoch_seconds(state, loader, config)
    later = seconds[1:] or seconds
    return {
        "method": "mosaicvi",
        "epochs": options.epochs,
        "batch": config.batch_size,
        "first_epoch_s": seconds[0],
        "epoch_s": statistics.median(later),
        "all_epoch_s": seconds,
        "train_s": sum(seconds),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("task")
    parser.add_argument("run", type=Path)
    parser.add_argument("epochs", type=int)
    parser.add_argument("--settings", choices=SETTINGS, default="default")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--phases", type=int, default=0, metavar="STEPS", help="profile so many steps instead"
    )
    parser.add_argument("--simulate", choices=("quick", "full"), help="write simulated.h5mu and end")
    options = parser.parse_args()
    if options.simulate:
        write_simulated(options.folder, quick=options.simulate == "quick")
        return
    options.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if options.phases:
        from benchmarks.phases import profile_task

        found = profile_task(options)
    else:
        found = measure(options)
    (options.run / "time.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
