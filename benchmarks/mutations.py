"""Mutate a saved model at random: each mutation is refused in one line or loads to exactly what was saved.

``python -m benchmarks.mutations --n 2000`` loads the mutants in a process of limited memory and
prints, for each kind of mutation, how many were refused and how many changed nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.mutants import ACCIDENTS, ATTACKS, DOCUMENT, WEIGHTS

MEMORY_BYTES = 1 << 30
SECONDS_EACH = 10


@dataclass
class Counts:
    refused: Counter[str] = field(default_factory=Counter)
    same: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def save_sample(folder: Path) -> None:
    import torch

    from mosaicvi.store.format import save_bundle

    generator = torch.Generator().manual_seed(0)
    tensors = {
        "encoder.weight": torch.randn(16, 24, generator=generator),
        "encoder.bias": torch.randn(16, generator=generator),
        "decoder.weight": torch.randn(24, 16, generator=generator),
        "decoder.scale": torch.randn(24, generator=generator).double(),
        "decoder.half": torch.randn(8, generator=generator).bfloat16(),
        "step": torch.tensor(17),
        "state": torch.arange(20, dtype=torch.uint8),
        "measured": torch.tensor([True, False, True]),
        "none": torch.empty(0, 4),
    }
    document: dict[str, Any] = {
        "params": {"n_latent": 16, "dropout": 0.1, "layers": [64, 32]},
        "features": {"rna": ["CD3", "CD4"]},
    }
    save_bundle(folder, tensors, document, kind="model")


def work(folder: Path, n: int, seed: int) -> Counts:
    """Load `n` mutants of the sample, in `folder`."""
    from mosaicvi.store.format import load_bundle

    sample, mutant = folder / "sample", folder / "mutant"
    save_sample(sample)
    whole = load_bundle(sample, kind="model")
    files = {name: (sample / name).read_bytes() for name in (WEIGHTS, DOCUMENT)}
    limit_memory()
    counts = Counts()
    mutations = ACCIDENTS + ATTACKS
    for index in range(n):
        mutate = mutations[index % len(mutations)]
        changed = mutate(files, random.Random(f"{seed}-{index}"))
        if changed == files:
            changed = {**files, DOCUMENT: files[DOCUMENT] + b" "}
        shutil.rmtree(mutant, ignore_errors=True)
        mutant.mkdir()
        for name, data in changed.items():
            (mutant / name).write_bytes(data)
        before = listing(folder)
        started = time.perf_counter()
        signal.alarm(SECONDS_EACH)
        outcome = attempt(mutant, whole)
        signal.alarm(0)
        counts.slowest_s = max(counts.slowest_s, time.perf_counter() - started)
        if listing(folder) != before:
            outcome = "a file was written"
        if outcome in ("refused", "same"):
            (counts.refused if outcome == "refused" else counts.same)[mutate.__name__] += 1
        else:
            counts.failures.append(f"{mutate.__name__} {seed}-{index}: {outcome}")
    return counts


def attempt(mutant: Path, whole: Any) -> str:
    """Load a mutant and say what came of it; "refused" and "same" are the good answers."""
    import torch

    from mosaicvi.errors import ModelFileError
    from mosaicvi.store.format import load_bundle

    try:
        found = load_bundle(mutant, kind="model")
    except ModelFileError as error:
        message = str(error)
        return (
            "refused" if message.isprintable() and len(message) < 1000 else f"not one line: {message!a:.200}"
        )
    except BaseException as error:
        return f"crashed with {error!a:.200}"
    same = (
        list(found.tensors) == list(whole.tensors)
        and all(
            found.tensors[name].dtype == tensor.dtype and torch.equal(found.tensors[name], tensor)
            for name, tensor in whole.tensors.items()
        )
        and json.dumps(found.document) == json.dumps(whole.document)
    )
    return "same" if same else "loaded something else"


def listing(folder: Path) -> list[tuple[str, int, int]]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found]


def limit_memory() -> None:
    """Allow as much more memory as makes 1 GiB with what is resident now."""
    import resource

    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = mapped + MEMORY_BYTES - resident
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def worker(n: int, seed: int) -> int:
    import resource

    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        counts = work(Path(name), n, seed)
    print(f"{'mutation':<24}{'refused':>9}{'same':>7}")
    for mutate in ACCIDENTS + ATTACKS:
        print(f"{mutate.__name__:<24}{counts.refused[mutate.__name__]:>9}{counts.same[mutate.__name__]:>7}")
    good = counts.refused.total() + counts.same.total()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'sum':<24}{counts.refused.total():>9}{counts.same.total():>7}")
    print(f"{good} of {n} refused in one line or loaded to exactly what was saved")
    print(f"slowest {counts.slowest_s:.2f} s, peak memory {peak:.0f} MiB")
    for failure in counts.failures[:20]:
        print(f"FAILED {failure}")
    return 0 if good == n else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--n", type=int, default=2000, help="number of mutations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.n, arguments.seed)
    command = [
        sys.executable,
        "-m",
        "benchmarks.mutations",
        "--worker",
        "--n",
        arguments.n,
        "--seed",
        arguments.seed,
    ]
    return subprocess.run([str(part) for part in command]).returncode


if __name__ == "__main__":
    sys.exit(main())
