"""Peak memory of combining eight files, over the size of the sparse result.

Run with ``python -m benchmarks.combine_memory``; ``--cells 20000`` for a quick look.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import psutil
from scipy import sparse

from mosaicvi.data.combine import combine

N_FILES = 8


def write_file(path: Path, n_cells: int, n_features: int, density: float, seed: int) -> None:
    """Counts with a share of the features dropped, so that every file has a panel of its own."""
    rng = np.random.default_rng(seed)
    panel = np.sort(rng.choice(n_features, size=int(0.9 * n_features), replace=False))
    per_row = rng.binomial(len(panel), density, size=n_cells)
    indptr = np.concatenate([[0], np.cumsum(per_row)]).astype(np.int32)
    step = rng.integers(1, int(2 / density) - 1, size=indptr[-1], dtype=np.int32)
    row = np.repeat(np.arange(n_cells), per_row)
    total = np.cumsum(step, dtype=np.int64)
    before = np.concatenate([[0], total])[indptr[:-1]]
    indices = ((total - before[row]) % len(panel)).astype(np.int32)
    x = sparse.csr_matrix((np.ones(indptr[-1], np.float32), indices, indptr), (n_cells, len(panel)))
    x.sum_duplicates()
    obs = pd.DataFrame({"donor": f"donor{seed}"}, index=[f"cell{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"gene{i}" for i in panel])
    anndata.AnnData(x, obs=obs, var=var).write_h5ad(path)


def measure(paths: list[Path], answers: multiprocessing.Queue) -> None:
    """Combine in this process and report bytes of the result, of the peak and of the start, and seconds."""
    warnings.simplefilter("ignore")
    process = psutil.Process()
    start, peak, stop = process.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    mdata = combine({path.stem: path for path in paths}, progress=True)
    seconds = time.perf_counter() - began
    stop.set()
    watcher.join()
    x = mdata["rna"].X
    size = x.data.nbytes + x.indices.nbytes + x.indptr.nbytes
    answers.put((mdata["rna"].shape, x.nnz, size, peak[0] - start, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=30_000)
    parser.add_argument("--density", type=float, default=0.02)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"file{i}.h5ad" for i in range(N_FILES)]
        for i, path in enumerate(paths):
            write_file(path, options.cells // N_FILES, options.features, options.density, i)
        answers = context.Queue()
        worker = context.Process(target=measure, args=(paths, answers))
        worker.start()
        shape, nnz, size, peak, seconds = answers.get()
        worker.join()
    gib = 2**30
    print("cells | features | values | result GiB | peak GiB | peak / result | seconds")
    print(
        f"{shape[0]:,} | {shape[1]:,} | {nnz:,} | {size / gib:.2f} | {peak / gib:.2f} | "
        f"{peak / size:.2f} | {seconds:.1f}"
    )


if __name__ == "__main__":
    main()
