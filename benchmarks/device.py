"""Training and answering on a GPU, beside the CPU of the same machine.

For each place of the work and of the values, and each precision: milliseconds a step and how many of them the
device works, cells a second, peak memory of the device, and the validation loss at the end. Then some steps
are watched for waits of the host for the device, and the same weights answer on both, which must agree.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import common
from benchmarks.common import Table, say

WARM_UP = 10  # steps that compile, and fill caches
NOTE = """\
ms a step: mean over the steps after the first ones. Busy: for how many of these ms the device works. Loss: on
held-out cells after the last epoch. Peak GiB: what torch took of the device. Waits: steps of 10 in which the
host waited for the device."""


def main() -> None:
    parser = common.parser(__doc__, "device")
    common.add_data(parser)
    parser.add_argument("--epochs", type=int, help="of each training [12; 2 with --quick]")
    options = parser.parse_args()
    common.begin(options)
    import torch

    if options.epochs is None:
        options.epochs = 2 if options.quick else 12
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        say("torch sees no GPU: the CPU alone is measured")
    common.show("device", _tables(options, has_gpu), options)


def _tables(options: argparse.Namespace, has_gpu: bool) -> list[Table]:
    from benchmarks.tasks import registered, simulated_sparse
    from mosaicvi import MosaicVI

    places = [("cpu", "cpu", "float32")]
    if has_gpu:
        places += [("cuda", "cuda", "float32"), ("cuda", "cpu", "float32"), ("cuda", "cuda", "bf16")]
    columns = (
        "task", "device", "values on", "precision", "ms a step", "busy", "cells a second", "peak GiB", "loss",
        "waits",
    )  # fmt: skip
    table = Table(name="device", title="Training on a device", columns=columns, note=NOTE)
    answers = Table(
        name="answers",
        title="The same weights on both",
        columns=("task", "answer", "largest difference", "typical value"),
    )
    for task in common.tasks(options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if task == "simulated":
                small: dict[str, int] = {"genes": 200, "peaks": 1_000} if options.quick else {}
                mdata = simulated_sparse(300 if options.quick else 10_000, **small)
                mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
            else:
                mosaic = registered(options.data, task)
        for device, home, precision in places:
            found = _train(mosaic, device, home, precision, options)
            table.add(task=task, device=device, precision=precision, **{"values on": home}, **found)
        if has_gpu:
            for row in _compared(mosaic):
                answers.add(task=task, **row)
    return [table, answers] if has_gpu else [table]


def _train(
    mosaic: Any, device: str, home: str, precision: str, options: argparse.Namespace
) -> dict[str, Any]:
    import torch

    from benchmarks.ours import set_up
    from mosaicvi.data import loader as loading
    from mosaicvi.fit.loop import Report, fit

    with mock.patch.object(loading, "room_on", return_value=np.inf if home == device else 0.0):
        state, loader, config = set_up(mosaic, "default", options.epochs, device)
    config = dataclasses.replace(config, precision=precision)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    ends, cells, waits, busy = [time.perf_counter()], [], 0, 0.0

    def listen(report: Report) -> None:
        if report.row is None:
            ends.append(time.perf_counter())
            cells.append(report.n_cells)

    fit(state, loader, config, listen=listen)
    steps = [b - a for a, b in itertools.pairwise(ends)][min(WARM_UP, len(cells) // 2) :]
    if device == "cuda":
        waits, busy = _waits(state, loader, config), _busy(state, loader, config)
    return {
        "ms a step": 1000 * sum(steps) / len(steps),
        "busy": 1000 * busy,
        "cells a second": sum(cells[-len(steps) :]) / sum(steps),
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0,
        "loss": state.rows[-1]["validation_loss"],
        "waits": waits,
    }


def _one_more(state: Any, loader: Any, config: Any) -> Callable[[], None]:
    """A function that makes a step, without reading its losses."""
    from mosaicvi.data.sampling import split
    from mosaicvi.fit.step import update
    from mosaicvi.nn.masks import MaskSampler

    train, _ = split(loader.n_cells, config.train_size, config.seed)
    sampler = MaskSampler(state.net.config)
    gamma = state.net.config.gamma(state.epoch)

    def step() -> None:
        update(state, loader, sampler, train[: config.batch_size], gamma, config, 1, ("",) * 9)

    return step


def _busy(state: Any, loader: Any, config: Any) -> float:
    """Seconds that the device works in a step, mean of 10."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    step = _one_more(state, loader, config)
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        for _ in range(10):
            step()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in watched.key_averages()) / 10 / 1e6


def _waits(state: Any, loader: Any, config: Any) -> int:
    """How many of 10 more steps made the host wait for the device."""
    import torch

    step, found = _one_more(state, loader, config), 0
    said: set[str] = set()
    for _ in range(10):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
        torch.cuda.set_sync_debug_mode("default")
        said = {str(w.message).splitlines()[0] for w in caught if "synchron" in str(w.message)}
        found += bool(said)
    if found:
        say(f"waits in {found} of 10 steps: {'; '.join(sorted(said))[:300]}")
    return found


def _compared(mosaic: Any) -> list[dict[str, Any]]:
    """Latent and imputed values of the same weights on the CPU and on the device."""
    from mosaicvi import MosaicVI

    model = MosaicVI(mosaic, seed=0).train(1, accelerator="cpu", progress=False)
    some = np.arange(min(512, mosaic.n_cells))

    def ask() -> dict[str, np.ndarray]:
        found = {"latent": np.asarray(model.get_latent_representation(indices=some))}
        for data in mosaic.modalities:
            found[data.name] = model.get_imputed_values(modality=data.name, indices=some).to_numpy()
        return found

    here = ask()
    model.net.to("cuda")
    there = ask()
    return [
        {
            "answer": name,
            "largest difference": float(np.abs(here[name] - there[name]).max()),
            "typical value": float(np.abs(here[name]).mean()),
        }
        for name in here
    ]


if __name__ == "__main__":
    main()
