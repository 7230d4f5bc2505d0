"""Weights are the same with an empty cache of compiled loops, a full one, and one that cannot be used."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from numba.core.dispatcher import Dispatcher
from tests import processes
from tests.conformance.test_promises import disk_of, each_step

from mosaicvi import MosaicVI
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.engine import loop_cache
from mosaicvi.store.temporaries import temporary_name

KILLED_AT = 9  # a step of the second epoch


def trained(**training: Any) -> str:
    """Train on features enough for sums by vectors; return the checksum of the weights."""
    data = simulated_mosaic(200, n_genes=120, n_proteins=20, n_peaks=200, n_types=4, seed=0)
    model = MosaicVI(MosaicVI.setup_mudata(data.mdata, batch_key="batch"), seed=0)
    model.train(2, batch_size=32, progress=False, **training)
    checksum = hashlib.sha256()
    for name, value in sorted(model.net.state_dict().items()):
        checksum.update(name.encode() + value.numpy().tobytes())
    return checksum.hexdigest()


def trained_until_killed(run: Path) -> None:
    def kill(step: int) -> None:
        if step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    with each_step(kill):
        trained(checkpoint_dir=run, checkpoint_every=0)


def trained_on_full_disk() -> str:
    with disk_of(4096):
        return trained()


def run(cache: Path, work: str) -> subprocess.CompletedProcess[str]:
    """Do some work of this file in a process with a cache of its own."""
    code = f"""
import warnings
warnings.simplefilter("always")
from pathlib import Path
from tests.engine.test_jit import *
print({work})
"""
    return processes.run(["-c", code], env=os.environ | {"NUMBA_CACHE_DIR": str(cache)})


def done(process: subprocess.CompletedProcess[str]) -> tuple[str, list[str]]:
    """What a process printed, and its warnings."""
    assert process.returncode == 0, process.stderr
    return process.stdout.strip(), [line for line in process.stderr.splitlines() if "MosaicWarning" in line]


@pytest.fixture(scope="module")
def expected() -> str:
    """The weights of this process, which has the cache of all tests."""
    return trained()


def keep(cache: Path) -> None:
    """Put the loops of a cache into that of all tests, where they are missing."""
    here = loop_cache.folder()
    here.mkdir(parents=True, exist_ok=True)
    for path in (cache / here.name).iterdir():
        if not (here / path.name).exists():
            shutil.copy(path, temporary := temporary_name(here / path.name))
            temporary.replace(here / path.name)


def copy_of_cache(to: Path) -> Path:
    """The folder in a copy of this process's cache that holds the files, but those just being written."""
    here = loop_cache.folder()
    return Path(shutil.copytree(here, to / here.name, ignore=shutil.ignore_patterns(".*")))


def damaged_cache(to: Path) -> Path:
    """A cache with files that are cut off, overwritten or empty."""
    folder = copy_of_cache(to)
    files = [path for name in ("optimizer", "small", "runs") for path in folder.glob(f"*.{name}.*")]
    assert len(files) >= 4
    for k, path in enumerate(files):
        content = path.read_bytes()
        path.write_bytes((content[: len(content) // 2], bytes(len(content)), b"")[k % 3])
    return to


def partial_cache(to: Path) -> Path:
    """A cache as a process leaves it that is killed while it compiles: not all loops are there.

    Those of the encoder are missing, but not what they consist of.
    """
    missing = list(copy_of_cache(to).glob("*.engine.encoder.*"))
    assert len(missing) >= 3
    for path in missing:
        path.unlink()
    return to


@pytest.mark.slow
def test_a_first_run_that_is_killed_and_resumed(tmp_path: Path, expected: str) -> None:
    cache, kept = partial_cache(tmp_path / "cache"), tmp_path / "run"
    training = run(cache, f"trained_until_killed(Path({str(kept)!r}))")
    assert training.returncode == -signal.SIGKILL
    assert done(run(cache, f"trained(checkpoint_dir=Path({str(kept)!r}), resume=True)")) == (expected, [])


def loops() -> Iterator[Any]:
    """All compiled loops of the package."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mosaicvi"):
            yield from (v for v in vars(module).values() if isinstance(v, Dispatcher))


@pytest.mark.usefixtures("expected")
def test_no_loop_calls_another() -> None:
    """So that nothing depends on which copy of a function a process has loaded first."""
    n_compiled = 0
    for loop in loops():
        for result in loop.overloads.values():
            names = {f.name for f in result.library._get_module_for_linking().functions}
            of_functions = {name for name in names if name.startswith("_ZN") and "7cpython" not in name[:12]}
            assert of_functions == {result.fndesc.llvm_func_name}
            n_compiled += 1
    assert n_compiled > 20
