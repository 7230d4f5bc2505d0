"""Data on disk: memory and time to write, register, train and embed, from 200,000 to 10,000,000 cells.

Simulated cells (RNA and ATAC, RNA, ATAC; 30,000 features, as sparse as real ones) are written piece by piece
into a zarr store, which is removed afterwards. Every step is a process of its own. Training is timed in the
processor time of all its threads, which other work on the machine does not change much, and beside it as a
clock would: over so many steps that the buffer is read once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common
from benchmarks.common import GIB, Child, Table, child_env, last_line, read_json, run, say

if TYPE_CHECKING:
    from mosaicvi.data.loader import MinibatchLoader
    from mosaicvi.fit.state import FitConfig, FitState

SIZES = (200_000, 1_000_000, 10_000_000)
COLUMNS = (
    "cells",
    "values",
    "store_GiB",
    "write_s",
    "where",
    "register_s",
    "cpu_us_per_cell",
    "us_per_cell",
    "read_cells_per_s",
    "embed_us_per_cell",
    "peak_GiB",
)
NOTE = """\
write: seconds of the process that simulates the cells and writes the store.
register: MosaicVI.setup_mudata(STORE, in_memory=...), seconds.
cpu us/cell: processor time of all threads for a cell in training, {steps} steps after 10; us/cell: clock.
read cells/s: the loader alone, buffer after buffer in random order, by processor time.
embed us/cell: the latent of {embedded:,} cells, processor time.
peak: of the process that registers, trains and embeds; the buffer for values on disk is of {memory:g} GiB."""


def main() -> None:
    options = _options()
    if options.child is not None:
        _child(options)
        return
    common.begin(options)
    note = NOTE.format(steps=options.steps, embedded=options.embedded, memory=options.memory)
    table = Table(name="disk", title="Training from disk", columns=COLUMNS, note=note)
    with tempfile.TemporaryDirectory(prefix="mosaicvi-disk-", dir=options.scratch) as folder:
        work = Path(folder)
        for cells in sorted(options.cells):
            _measure(table, cells, options, work)
    common.show("disk", [table], options)


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__, "disk")
    parser.add_argument("--cells", type=int, action="append", help="a size [200,000; 1 and 10 million]")
    parser.add_argument("--steps", type=int, help="training steps to time [160; 4 with --quick]")
    parser.add_argument("--memory", type=float, default=0.25, help="GiB of the buffer [%(default)s]")
    parser.add_argument("--in-memory", type=int, default=200_000, help="cells up to which also in memory")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="for the stores")
    parser.add_argument("--child", choices=("write", "train"), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--on-disk", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.steps = options.steps or (4 if options.quick else 160)
    options.cells = options.cells or ((300, 600) if options.quick else SIZES)
    options.embedded = 200 if options.quick else 50_000
    return options


def _measure(table: Table, cells: int, options: argparse.Namespace, work: Path) -> None:
    store = work / "atlas.zarr"
    written = _child_of(options, work, "write", store, cells)
    if not written.ok:
        return
    size = sum(f.stat().st_size for f in store.rglob("*") if f.is_file()) / GIB
    for on_disk in (False, True) if cells <= options.in_memory else (True,):
        child = _child_of(options, work, "train", store, on_disk=on_disk)
        if not child.ok:
            say(f"{cells:,} cells: training failed: {last_line(child.said)}")
            continue
        found = read_json(work / "found.json")
        where = "disk" if on_disk else "memory"
        table.add(
            store_GiB=size,
            write_s=written.seconds,
            where=where,
            peak_GiB=child.peak_gib,
            **found,
        )
        cost = found["cpu_us_per_cell"]
        say(f"{found['cells']:,} cells, {where}: {cost:.0f} us per cell, {child.peak_gib:.2f} GiB")
    shutil.rmtree(store)


def _child_of(
    options: argparse.Namespace, work: Path, what: str, path: Path, cells: int = 0, *, on_disk: bool = False
) -> Child:
    args = [sys.executable, "-m", "benchmarks.disk", "--child", what, "--path", path, "--write", str(cells)]
    args += ["--out", work / "found.json", "--steps", str(options.steps), "--memory", str(options.memory)]
    args += ["--threads", str(options.threads), *["--quick"] * options.quick, *["--on-disk"] * on_disk]
    child = run(args, work / f"{what}.log", env=child_env(ours=True))
    if not child.ok:
        say(child.said)
    return child


# --- in the child ---------------------------------------------------------------------------------


def _child(options: argparse.Namespace) -> None:
    import warnings

    warnings.simplefilter("ignore")
    if options.child == "write":
        from benchmarks.large import write_large

        small = {"genes": 200, "peaks": 1_000} if options.quick else {}
        write_large(options.path, options.write, **small)
        return
    import torch

    torch.set_num_threads(options.threads)
    options.out.write_text(json.dumps(_trained(options)))


def _trained(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.ours import set_up
    from mosaicvi import MosaicVI
    from mosaicvi.data.loader import MinibatchLoader

    began = time.perf_counter()
    mosaic = MosaicVI.setup_mudata(options.path, batch_key="batch", in_memory=not options.on_disk)
    registered = time.perf_counter() - began
    state, loader, config = set_up(mosaic, "default", 1_000_000, "cpu")
    loader = MinibatchLoader(mosaic, memory=options.memory)
    state.buffer = loader.buffer
    cpu, wall = _steps(state, loader, config, options.steps)
    return {
        "cells": mosaic.n_cells,
        "values": int(sum(m.x.n_bytes if options.on_disk else 0 for m in mosaic.modalities) // 8),
        "register_s": registered,
        "cpu_us_per_cell": cpu * 1e6,
        "us_per_cell": wall * 1e6,
        "read_cells_per_s": _reading(loader) if options.on_disk else None,
        "embed_us_per_cell": _embedding(state, loader, options.embedded) * 1e6,
    }


def _steps(state: FitState, loader: MinibatchLoader, config: FitConfig, n: int) -> tuple[float, float]:
    """Seconds per cell of so many steps after some, of the processor and of the clock."""
    import dataclasses

    from mosaicvi.fit.loop import fit

    config = dataclasses.replace(config, train_size=1.0)
    began: tuple[float, float] = (0.0, 0.0)

    def stop() -> bool:
        nonlocal began
        if state.steps_done == WARM_UP:
            began = time.process_time(), time.perf_counter()
        return state.steps_done == WARM_UP + n

    fit(state, loader, config, interrupted=stop)
    cells = n * loader.n_cells / -(-loader.n_cells // config.batch_size)
    return (time.process_time() - began[0]) / cells, (time.perf_counter() - began[1]) / cells


WARM_UP = 10


def _reading(loader: MinibatchLoader) -> float:
    """Cells a second of processor time, read into buffers and gathered as minibatches."""
    from itertools import islice

    import numpy as np

    from mosaicvi.data.sampling import buffered

    buffers = islice(buffered(np.arange(loader.n_cells), 512, 1, 0, loader.buffer), 3)
    began, n = time.process_time(), 0
    for cells in loader.ahead(buffers):
        n += loader.take(cells).n_cells
    return n / (time.process_time() - began)


def _embedding(state: FitState, loader: MinibatchLoader, n: int) -> float:
    """Seconds of the processor for the latent of a cell."""
    import numpy as np

    from mosaicvi.infer.latent import latent

    cells = np.arange(min(n, loader.n_cells))
    began = time.process_time()
    latent(state.net, loader, cells)
    return (time.process_time() - began) / len(cells)


if __name__ == "__main__":
    main()
