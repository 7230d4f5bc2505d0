"""Odd files, valid and mutated: each is read as its own library reads it, or refused in one line.

``python -m benchmarks.files --valid 300 --mutated 1000`` reads every file with mosaicvi, and with anndata,
mudata, pandas, or scanpy for what Cell Ranger writes. It compares all that both hold, describes and registers
it, and where values may stay on disk compares them once more. A process of its own does so, and is started
again behind a file that kills it.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import odd_files

SECONDS_EACH, MEMORY = 60, 1 << 30
GOOD = ("refused in one line", "read equal")


# --- one file --------------------------------------------------------------------------------------


def outcome(path: Path) -> str:
    """What comes of a file; see `GOOD`."""
    from mosaicvi.data.read import read, to_mudata
    from mosaicvi.data.register import register
    from mosaicvi.data.registry import Setup
    from mosaicvi.errors import InputError
    from mosaicvi.inspect.describe import describe

    try:
        ours = read(path)
    except InputError as error:
        return _in_one_line(error.problems)
    except Exception as error:
        return f"raised {error!r:.200}"
    try:
        theirs = read_by_its_library(path)
    except ImportError as error:
        return f"not compared: {error}"  # without scanpy
    except Exception as error:
        return f"read, but its library refuses it: {error!r:.120}"
    unlike = differences(ours, theirs)
    if unlike:
        return f"differs: {unlike}"
    try:
        mdata = to_mudata(ours)
        describe(mdata)
        in_memory = register(mdata, Setup())
    except InputError as error:
        if _in_one_line(error.problems) != GOOD[0]:
            return _in_one_line(error.problems)
        in_memory = None
    except Exception as error:
        return f"raised on registering {error!r:.200}"
    return _from_disk(path, in_memory)


def _from_disk(path: Path, in_memory: Any) -> str:
    """Whether values that stay on disk are those in memory; of files that both can register."""
    from mosaicvi.data.register import register
    from mosaicvi.data.register.source import source_of
    from mosaicvi.data.registry import Setup
    from mosaicvi.errors import InputError

    try:
        source = source_of(path, Setup(), False)
        stored = register(source.data, Setup(), stored=source.stored)
    except InputError as error:
        return GOOD[1] if _in_one_line(error.problems) == GOOD[0] else _in_one_line(error.problems)
    except Exception as error:
        return f"raised on disk {error!r:.200}"
    if in_memory is None:
        return "refused in memory, but registered on disk"
    if list(stored.registry.features) != list(in_memory.registry.features):
        return f"on disk {list(stored.registry.features)}, in memory {list(in_memory.registry.features)}"
    for name in stored.registry.features:
        theirs, ours = in_memory.modality(name), stored.modality(name)
        rows = np.arange(ours.x.shape[0])
        if ours.x.shape != theirs.x.shape or _unlike(ours.x[rows], theirs.x[rows]):
            return f"values of {name} differ on disk"
    return GOOD[1]


def _in_one_line(problems: list[str]) -> str:
    is_one = all(problem.isprintable() and 0 < len(problem) < 1000 for problem in problems)
    return GOOD[0] if is_one and problems else f"not one line: {problems!r:.300}"


# --- as its own library reads it ---------------------------------------------------------------------


def read_by_its_library(path: Path) -> Any:
    """The same file, by the library whose format it is, as nearly the same object."""
    import anndata
    import h5py
    import mudata

    from mosaicvi.data.read import mudata_as_it_is

    with mudata_as_it_is():
        if path.suffix == ".zarr":
            return mudata.read_zarr(str(path))
        if path.is_dir():
            return _cell_ranger(path)
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                keys = set(file)
            if "mod" in keys:
                return mudata.read_h5mu(path)
            return anndata.read_h5ad(path) if {"obs", "var"} <= keys else _cell_ranger(path)
        return _table(path)


def _cell_ranger(path: Path) -> Any:
    import scanpy

    if path.is_file():
        return scanpy.read_10x_h5(path, gex_only=False)
    return scanpy.read_10x_mtx(path, gex_only=False, cache=False)


def _table(path: Path) -> Any:
    import pandas as pd
    from anndata import AnnData

    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
    else:
        frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index_col=0)
    if frame.index.name == "gene":
        frame = frame.T
    frame.index, frame.columns = frame.index.astype(str), frame.columns.astype(str)
    obs, var = pd.DataFrame(index=list(frame.index)), pd.DataFrame(index=list(frame.columns))
    return AnnData(frame.to_numpy(np.float32), obs=obs, var=var)


# --- compared ----------------------------------------------------------------------------------------


def differences(ours: Any, theirs: Any) -> str:
    """The first thing in which two objects differ; empty if there is none."""
    from mudata import MuData

    if isinstance(theirs, MuData):
        if not isinstance(ours, MuData) or list(ours.mod) != list(theirs.mod):
            return "modalities"
        for name in theirs.mod:
            if unlike := _of_anndata(ours[name], theirs[name]):
                return f"{name}: {unlike}"
        return _tables(ours, theirs, ("obs", "obsm", "obsp", "uns"))
    if "gene_ids" in theirs.var:
        return _of_cell_ranger(ours, theirs)
    return _of_anndata(ours, theirs)


def _of_cell_ranger(ours: Any, theirs: Any) -> str:
    """Features of several types are parts of ours, and one table of scanpy's; columns are not the same."""
    from mudata import MuData

    for part in ours.mod.values() if isinstance(ours, MuData) else [ours]:
        at = theirs.var["gene_ids"].isin(part.var["gene_ids"]).to_numpy()
        if list(part.var_names) != list(theirs.var_names[at]) or _unlike(part.X, theirs.X[:, at]):
            return "features or values"
        if list(part.obs_names) != list(theirs.obs_names):
            return "cells"
    return "" if ours.n_vars == theirs.n_vars else "number of features"


def _of_anndata(ours: Any, theirs: Any) -> str:
    if list(ours.obs_names) != list(theirs.obs_names) or list(ours.var_names) != list(theirs.var_names):
        return "names"
    if (ours.X is None) != (theirs.X is None) or (theirs.X is not None and _unlike(ours.X, theirs.X)):
        return "X"
    if (ours.raw is None) != (theirs.raw is None):
        return "raw"
    if theirs.raw is not None and (
        list(ours.raw.var_names) != list(theirs.raw.var_names) or _unlike(ours.raw.X, theirs.raw.X)
    ):
        return "raw"
    return _tables(ours, theirs, ("obs", "var", "layers", "obsm", "varm", "obsp", "varp", "uns"))


def _tables(ours: Any, theirs: Any, names: tuple[str, ...]) -> str:
    return next((name for name in names if _unlike(getattr(ours, name), getattr(theirs, name))), "")


def _unlike(a: Any, b: Any) -> bool:
    """Whether two values differ, whatever they are."""
    import pandas as pd

    if isinstance(b, pd.DataFrame):
        return not (isinstance(a, pd.DataFrame) and a.equals(b) and list(a.dtypes) == list(b.dtypes))
    if hasattr(b, "keys"):
        return not hasattr(a, "keys") or set(a) != set(b) or any(_unlike(a[key], b[key]) for key in b)
    a, b = (_dense(x) for x in (a, b))
    if a.shape != b.shape:
        return True
    if a.dtype.kind in "fc" and b.dtype.kind in "biufc":
        return not np.array_equal(a, b, equal_nan=b.dtype.kind in "fc")
    return not all(p == q or (p != p and q != q) for p, q in zip(a.ravel(), b.ravel(), strict=True))


def _dense(x: Any) -> Any:
    """An array of what is in a value; of a sparse matrix that is not sound, the text of its parts."""
    from scipy import sparse

    from mosaicvi.data.sparse import sparse_fault

    if sparse.issparse(x) and sparse_fault(x) is not None:
        return np.array([str([part.tolist() for part in (x.indptr, x.indices, x.data)])])
    return np.asarray(x.toarray() if sparse.issparse(x) else x)


# --- many --------------------------------------------------------------------------------------------


def worker(kind: str, first: int, n: int, seed: int) -> None:
    """Lines ``number, seconds, MiB, outcome``; a number alone before each file."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also within compiled code
    for i in range(first, n):
        rng = np.random.default_rng([seed, i, kind == "mutated"])
        with tempfile.TemporaryDirectory() as name:
            path = odd_files.write(rng, Path(name))
            done = odd_files.mutate(rng, path) if kind == "mutated" else ""
            print(
                f"{i} {path.suffix or path.name} {done.encode('ascii', 'replace').decode()!r:.80}", flush=True
            )
            _forget_peak()
            before, began = _memory("VmRSS"), time.perf_counter()
            signal.alarm(SECONDS_EACH)
            what = outcome(path)
            signal.alarm(0)
            more = _memory("VmHWM") - before - odd_files.size(path)
            what = f"took {more >> 20} MiB: {what}" if more > MEMORY else what
            spent = time.perf_counter() - began
            print(f"= {spent:.3f} {max(0, more) >> 20} {' '.join(what.split())}", flush=True)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def run(kind: str, n: int, seed: int) -> bool:
    """Read `n` files and print what came of them; whether all ended well."""
    counts: Counter[str] = Counter()
    slowest, most, first = 0.0, 0, 0
    while first < n:
        command = [sys.executable, "-m", "benchmarks.files", "--worker", kind, "--first", str(first)]
        command += ["--seed", str(seed), f"--{kind}", str(n)]
        about = ""
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                if not line.startswith("= "):
                    about = line.strip()
                    continue
                _, seconds, more, what = line.strip().split(" ", 3)
                slowest, most = max(slowest, float(seconds)), max(most, int(more))
                counts[what if what in GOOD else what.split(":")[0][:40]] += 1
                if what not in GOOD:
                    print(f"  {about}: {what}", flush=True)
                first, about = int(about.split()[0]) + 1, ""
        if process.returncode and not about:
            raise SystemExit(f"no file was read: the worker ended with {process.returncode}")
        if about:
            counts["ended the process"] += 1
            print(f"  {about}: the process ended with {process.returncode}", flush=True)
            first = int(about.split()[0]) + 1
    print(f"{n} {kind} files: " + ", ".join(f"{count} {what}" for what, count in counts.most_common()))
    print(
        f"slowest {slowest:.1f} s, at most {most} MiB beyond the file and what was there before it",
        flush=True,
    )
    good = counts[GOOD[1]] + counts["not compared"] + (counts[GOOD[0]] if kind == "mutated" else 0)
    return good == n


def main() -> int:
    """Run both, or be the worker of one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--valid", type=int, default=300, help="files as they are")
    parser.add_argument("--mutated", type=int, default=1000, help="files of which something was changed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=("valid", "mutated"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.first, getattr(options, options.worker), options.seed)
        return 0
    results = [run("valid", options.valid, options.seed), run("mutated", options.mutated, options.seed)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
