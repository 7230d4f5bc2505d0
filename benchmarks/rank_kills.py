"""Kill one of several processes that train together at random moments, resume, and compare.

``python -m benchmarks.rank_kills --n 20`` prints how many of the killed runs ended with the same weights,
optimiser, generator and history in all processes, to the bit, as a run that was left alone.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.kills import EPOCHS, digest, finished, make_model, start
from mosaicvi import MosaicVI
from mosaicvi.errors import LostRankError

EVERY = 0.1  # seconds between checkpoints


def train(model: MosaicVI, folder: Path, rank: int, size: int, port: int) -> None:
    """Train to the end as one of several, from a checkpoint if there is one, and write down what came out."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(size)} | where)
    try:
        model.train(
            EPOCHS,
            batch_size=36,
            seed=3,
            checkpoint_dir=folder / "run",
            checkpoint_every=EVERY,
            resume=True,
            progress=False,
        )
    except LostRankError as error:
        (folder / "said").write_text(str(error))
        os._exit(1)
    assert model._state is not None
    (folder / f"result{rank}").write_text(digest(model._state.to_dict()))


def together(model: MosaicVI, folder: Path, size: int) -> list[int]:
    """Processes of a group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return [start(lambda rank=rank: train(model, folder, rank, size, port)) for rank in range(size)]


def results(folder: Path, size: int) -> set[str]:
    """What came out in each process."""
    found = [folder / f"result{rank}" for rank in range(size)]
    return {path.read_text() if path.exists() else "nothing" for path in found}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=20, help="runs of which a process is killed [%(default)s]")
    parser.add_argument("--ranks", type=int, default=2, help="processes [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, model = random.Random(options.seed), make_model()
    make_model().train(1, batch_size=36, progress=False)  # what is loaded and set up once, is
    same = in_training = 0
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name, "whole")
        whole.mkdir()
        began = time.monotonic()
        if not all([finished(pid) for pid in together(model, whole, options.ranks)]):
            raise RuntimeError("training failed")
        seconds, expected = time.monotonic() - began, results(whole, options.ranks)
        assert len(expected) == 1
        for i in range(options.n):
            folder = Path(name, str(i))
            folder.mkdir()
            pids = together(model, folder, options.ranks)
            time.sleep(rng.uniform(0, 0.9 * seconds))
            os.kill(rng.choice(pids), signal.SIGKILL)
            for pid in pids:
                os.waitpid(pid, 0)
            in_training += (folder / "said").exists()
            resumed = [finished(pid) for pid in together(model, folder, options.ranks)]
            got = results(folder, options.ranks)
            same += all(resumed) and got == expected
            if got != expected:
                print(f"run {i}: {got}", file=sys.stderr)
    print(f"{same} of {options.n} killed runs ended with the same bits in all {options.ranks} processes")
    print(f"in {in_training} of them training was under way, and the others said that one had ended")
    return 0 if same == options.n else 1


if __name__ == "__main__":
    sys.exit(main())
