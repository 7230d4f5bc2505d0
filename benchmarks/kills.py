"""Kill training at random moments, resume, and compare with a run that was left alone.

``python -m benchmarks.kills --n 50`` prints how many of the killed runs ended with the same weights,
optimiser, generator and history, to the bit, and how many were killed while a checkpoint was written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mosaicvi import MosaicVI, datasets
from mosaicvi.errors import MosaicWarning
from mosaicvi.store.state import flatten

EPOCHS = 3
RESULT = "result"


def make_model() -> MosaicVI:
    mdata = datasets.simulated_mosaic(160, n_genes=40, n_proteins=6, n_peaks=80, seed=1).mdata
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
    return MosaicVI(mosaic, dimensions=(32, 16), dim_latent=6, dim_block_enc=16, dim_block_dec=16, gamma=0.1)


def train(model: MosaicVI, folder: Path, *, every: float, resume: bool) -> None:
    """Train to the end and write down what came out."""
    model.train(
        EPOCHS,
        batch_size=36,
        seed=3,
        early_stopping=True,
        checkpoint_dir=folder / "run",
        checkpoint_every=every,
        resume=resume,
        progress=False,
    )
    assert model._state is not None
    (folder / f"{RESULT}.part").write_text(digest(model._state.to_dict()))
    os.replace(folder / f"{RESULT}.part", folder / RESULT)


def digest(state: dict[str, Any]) -> str:
    """Hash of everything that training is."""
    tensors, document = flatten(state)
    h = hashlib.sha256(json.dumps(document).encode())
    for name in sorted(tensors):
        t = tensors[name].detach().contiguous().reshape(-1)
        h.update(name.encode() + t.view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def start(work: Callable[[], None]) -> int:
    """Work in a process of its own, a copy of this one, in which everything is imported already."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def finished(pid: int) -> bool:
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 0


def half_written(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    run = folder / "run"
    return run.is_dir() and any(".mosaicvi-" in name for name in os.listdir(run))


def whole(model: MosaicVI, folder: Path, every: float) -> tuple[str, float]:
    """The result of a run that nobody kills, and its seconds."""
    folder.mkdir()
    began = time.monotonic()
    if not finished(start(lambda: train(model, folder, every=every, resume=False))):
        raise RuntimeError("training failed")
    return (folder / RESULT).read_text(), time.monotonic() - began


def killed(
    model: MosaicVI, folder: Path, *, every: float, seconds: float, aimed: bool, rng: random.Random
) -> tuple[str, bool]:
    """The result of a run that is killed once and resumed, and whether a checkpoint was being written.

    With `aimed` the kill waits for a checkpoint to be under way.
    """
    folder.mkdir()
    pid = start(lambda: train(model, folder, every=every, resume=False))
    time.sleep(rng.uniform(0, seconds))
    while aimed and not half_written(folder) and not (folder / RESULT).exists():
        time.sleep(rng.uniform(0, 2e-3))
    os.kill(pid, signal.SIGKILL)
    if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):  # it was done before
        again = folder.with_name(f"{folder.name}x")
        return killed(model, again, every=every, seconds=0.8 * seconds, aimed=aimed, rng=rng)
    writing = half_written(folder)
    if not finished(start(lambda: train(model, folder, every=every, resume=True))):
        return "failed to resume", writing
    if half_written(folder):
        return "left a temporary behind", writing
    return (folder / RESULT).read_text(), writing


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=50, help="runs to kill")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rng = random.Random(options.seed)
    model = make_model()
    make_model().train(1, batch_size=36, progress=False)  # what is loaded and set up once, is
    same = writing = 0
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        # a checkpoint after every step, or now and then
        expected = {every: whole(model, top / f"whole-{every}", every) for every in (0.0, 0.1)}
        for i in range(options.n):
            every = 0.0 if i % 3 else 0.1
            result, seconds = expected[every]
            got, was_writing = killed(
                model, top / f"run-{i}", every=every, seconds=seconds, aimed=i % 3 == 1, rng=rng
            )
            same += got == result
            writing += was_writing
            if got != result:
                print(f"run {i}: {got}", file=sys.stderr)
    print(f"{same} of {options.n} killed runs ended with the same bits")
    print(f"{writing} of {options.n} were killed while a checkpoint was written")
    return 0 if same == options.n else 1


if __name__ == "__main__":
    sys.exit(main())
