"""Loaders alone: cells a second from one zarr store, ours beside annbatch and rows of a backed AnnData.

A simulated mosaic is written (or `--store` names one), and minibatches of its RNA are drawn in random order:
by our loader, by annbatch with the same runs of neighbours and the same buffer, and by asking a backed
AnnData for as many random rows. Each is a process of its own; they take turns. annbatch runs by
the interpreter that `--annbatch` names, of Python 3.12 or later, which needs annbatch[torch,zarrs] and rich.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import common
from benchmarks.common import Table, child_env, last_line, read_json, run, say

RUN, MINIBATCH = 256, 512
COLUMNS = ("loader", "cells_per_s_of_CPU", "cells_per_s", "times_annbatch", "peak_GiB")
NOTE = """\
cells/s of CPU: by the processor time of all threads; cells/s: by the clock; medians of {rounds} rounds.
{cells:,} cells of {features:,} features in minibatches of 512, from runs of 256 neighbours in a buffer of
{buffer:,} cells."""


def main() -> None:
    options = _options()
    if options.child is not None:
        _child(options)
        return
    common.begin(options)
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="mosaicvi-loaders-", dir=options.scratch) as folder:
        work = Path(folder)
        store = options.store or work / "atlas.zarr"
        if options.store is None:
            from benchmarks.large import write_large

            small = {"genes": 200, "peaks": 1_000} if options.quick else {}
            write_large(store, options.cells, **small)
        _in_child("convert", store, options, work)
        for _ in range(options.rounds):
            for loader in ("ours", "ours from .h5ad", "annbatch", "anndata"):
                one = _in_child(loader, store, options, work)
                if one is not None:
                    found.setdefault(loader, []).append(one)
    common.show("loaders", [_table(found, options)], options)


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__, "loaders")
    parser.add_argument("--cells", type=int, help="of the store to write [1,000,000; 3,000 with --quick]")
    parser.add_argument("--store", type=Path, metavar="DIR", help="a store of benchmarks.large instead")
    parser.add_argument("--annbatch", type=Path, metavar="PYTHON", help="an interpreter that has annbatch")
    parser.add_argument("--read", type=int, help="cells to read [200,000; 600 with --quick]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="for the store")
    parser.add_argument("--child", choices=(*READ, "convert"), help=argparse.SUPPRESS)
    for name in ("--out", "--h5ad"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.cells = options.cells or (3_000 if options.quick else 1_000_000)
    options.read = options.read or (600 if options.quick else 200_000)
    options.buffer = 512 if options.quick else 64 * 1024
    return options


def _in_child(loader: str, store: Path, options: argparse.Namespace, work: Path) -> dict[str, float] | None:
    python = options.annbatch if loader == "annbatch" else sys.executable
    if python is None:
        return None
    program = [Path(__file__)] if loader == "annbatch" else ["-m", "benchmarks.loaders"]
    args = [python, *program, "--child", loader, "--store", store, "--read", str(options.read)]
    args += ["--out", work / "found.json", "--h5ad", work / "rna.h5ad", "--threads", str(options.threads)]
    args += ["--quick"] * options.quick
    env = child_env(ours=True) | {"PYTHONPATH": os.pathsep.join([str(common.ROOT), str(common.ROOT / "src")])}
    child = run(args, work / "child.log", env=env)
    if not child.ok:
        say(f"{loader}: {last_line(child.said)}")
        return None
    if loader == "convert":
        return None
    found: dict[str, float] = read_json(work / "found.json") | {"peak": child.peak_gib}
    say(f"{loader}: {found['cpu']:,.0f} cells/s of CPU, {found['clock']:,.0f} by the clock")
    return found


def _table(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> Table:
    first = next(iter(found.values()))[0]
    note = NOTE.format(
        rounds=options.rounds, cells=options.read, features=int(first["features"]), buffer=options.buffer
    )
    table = Table(name="loaders", title="Loaders alone", columns=COLUMNS, note=note)
    middle = {
        loader: {key: statistics.median(run[key] for run in runs) for key in ("cpu", "clock", "peak")}
        for loader, runs in found.items()
    }
    for loader, of in middle.items():
        other = middle.get("annbatch")
        table.add(
            loader=loader,
            cells_per_s_of_CPU=of["cpu"],
            cells_per_s=of["clock"],
            times_annbatch=None if other is None else of["cpu"] / other["cpu"],
            peak_GiB=of["peak"],
        )
    return table


# --- in the child ---------------------------------------------------------------------------------


def _child(options: argparse.Namespace) -> None:
    import warnings

    warnings.simplefilter("ignore")
    if options.child == "convert":
        _convert(options.store / "mod" / "rna", options)
        return
    read = READ[options.child]
    began: tuple[float, float] | None = None
    n = features = 0
    for minibatch in read(options.store / "mod" / "rna", options):
        if began is None:  # what is opened or compiled once does not count
            began = time.process_time(), time.perf_counter()
            features = minibatch[1]
            continue
        n += minibatch[0]
        if n >= options.read:
            break
    assert began is not None
    cpu, clock = time.process_time() - began[0], time.perf_counter() - began[1]
    options.out.write_text(json.dumps({"cpu": n / cpu, "clock": n / clock, "features": features}))
    os._exit(0)  # threads that read ahead are not waited for


def _ours(store, options):  # type: ignore[no-untyped-def]
    import numpy as np
    import torch

    from mosaicvi import MosaicVI
    from mosaicvi.data.loader import COPIES, MinibatchLoader
    from mosaicvi.data.sampling import buffered

    torch.set_num_threads(options.threads)
    mosaic = MosaicVI.setup_anndata(store, in_memory=False)
    x = mosaic.modalities[0].x
    loader = MinibatchLoader(mosaic, memory=COPIES * options.buffer / mosaic.n_cells * x.n_bytes / 2**30)
    buffers = buffered(np.arange(mosaic.n_cells), MINIBATCH, 0, 0, options.buffer)
    for cells in loader.ahead(buffers):
        yield loader.take(cells).n_cells, mosaic.modalities[0].n_features


def _from_h5ad(store, options):  # type: ignore[no-untyped-def]
    yield from _ours(options.h5ad, options)


def _annbatch(store, options):  # type: ignore[no-untyped-def]
    import zarr
    from annbatch import Loader
    from anndata.io import sparse_dataset

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 2})
    loader = Loader(
        batch_size=MINIBATCH,
        chunk_size=RUN,
        preload_nchunks=options.buffer // RUN,
        shuffle=True,
        preload_to_gpu=False,
        to="torch",
    )
    data = sparse_dataset(zarr.open_group(str(store), mode="r")["X"])
    loader.add_dataset(data)
    for batch in loader:
        yield batch["X"].shape


def _anndata(store, options):  # type: ignore[no-untyped-def]
    import numpy as np
    import zarr
    from anndata.io import sparse_dataset

    data = sparse_dataset(zarr.open_group(str(store), mode="r")["X"])
    rng = np.random.default_rng(0)
    options.read = min(options.read, 8 * MINIBATCH)  # it is slow
    while True:
        yield data[np.sort(rng.choice(data.shape[0], MINIBATCH, replace=False))].shape


def _convert(store, options):  # type: ignore[no-untyped-def]
    """The first cells as an .h5ad."""
    import zarr
    from anndata import AnnData
    from anndata.io import sparse_dataset

    data = sparse_dataset(zarr.open_group(str(store), mode="r")["X"])
    AnnData(data[: options.read]).write_h5ad(options.h5ad)


READ = {"ours": _ours, "ours from .h5ad": _from_h5ad, "annbatch": _annbatch, "anndata": _anndata}

if __name__ == "__main__":
    main()
