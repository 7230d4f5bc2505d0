"""Cost and memory per cell from 5,000 to 200,000 simulated cells: both should stay flat.

Every size is a sparse mosaic of three groups of cells (RNA and ATAC, RNA, ATAC) as sparse as real ones, in
a process of its own. Sizes take turns, up and down again, so that a drift of the machine hits all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common
from benchmarks.common import Table, child_env, last_line, read_json, run, say

if TYPE_CHECKING:
    from mosaicvi.data.loader import MinibatchLoader
    from mosaicvi.fit.state import FitConfig, FitState

SIZES = (5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
QUICK = (300, 600)
WARM_UP = 10  # steps before the clock starts
FLAT = 1.15
COLUMNS = (
    "cells",
    "nonzeros",
    "us_per_cell",
    "times_smallest",
    "flat",
    "CSR_bytes_per_cell",
    "state_bytes_per_cell",
    "state_over_CSR",
    "peak_GiB",
    "peak_over_import_GiB",
)
NOTE = """\
us/cell: microseconds of training per cell, {what}; median of {rounds} runs.
flat: at most 15 % more than at the smallest size. CSR: values, columns, row pointers of all modalities.
state: every array that the registered mosaic and the loader keep, each piece of memory counted once.
peak: of the whole process, which also makes the data; over import: less what Python and torch take."""


def main() -> None:
    options = _options()
    if options.child is not None:
        _child(options)
        return
    common.begin(options)
    sizes = sorted(options.cells or (QUICK if options.quick else SIZES))
    runs: dict[int, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="mosaicvi-scaling-") as folder:
        for i in range(options.rounds):
            for cells in sizes if i % 2 == 0 else reversed(sizes):
                found = _in_child(cells, options, Path(folder))
                if found is not None:
                    runs[cells].append(found)
                    say(f"round {i + 1}: {cells:,} cells, {found['us_per_cell']:.3g} us per cell")
    common.show("scaling", [_table(runs, options)], options)


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__, "scaling")
    parser.add_argument("--cells", type=int, action="append", help="a size; may be repeated [5,000–200,000]")
    parser.add_argument("--steps", type=int, help="steps to time [60; 4 with --quick]")
    parser.add_argument("--whole-epoch", action="store_true", help="time an epoch with validation instead")
    parser.add_argument("--settings", choices=("like", "default"), default="default", help="[%(default)s]")
    parser.add_argument("--rounds", type=int, help="runs of each size [2; 1 with --quick]")
    parser.add_argument("--child", type=int, metavar="CELLS", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, quick, full in (("steps", 4, 60), ("rounds", 1, 2)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options


def _in_child(cells: int, options: argparse.Namespace, work: Path) -> dict[str, Any] | None:
    out = work / f"{cells}.json"
    args = [sys.executable, "-m", "benchmarks.scaling", "--child", str(cells), "--out", out]
    args += ["--steps", str(options.steps), "--settings", options.settings]
    args += ["--threads", str(options.threads)]
    args += [flag for flag in ("--quick", "--whole-epoch") if getattr(options, flag[2:].replace("-", "_"))]
    child = run(args, work / f"{cells}.log", env=child_env(ours=True))
    if not child.ok:
        say(f"{cells:,} cells failed: {last_line(child.said)}")
        return None
    return read_json(out) | {"peak_gib": child.peak_gib}


def _table(runs: dict[int, list[dict[str, Any]]], options: argparse.Namespace) -> Table:
    warm = f"{options.steps} steps after {WARM_UP}"
    what = "an epoch after the first, with validation" if options.whole_epoch else warm
    note = NOTE.format(what=what, rounds=options.rounds)
    table = Table(name="scaling", title="Cost and memory per cell", columns=COLUMNS, note=note)
    first = None
    for cells in sorted(runs):
        one, cost = runs[cells][0], statistics.median(r["us_per_cell"] for r in runs[cells])
        first = first or cost
        peak = max(r["peak_gib"] for r in runs[cells])
        table.add(
            cells=cells,
            nonzeros=one["nonzeros"],
            us_per_cell=cost,
            times_smallest=cost / first,
            flat=cost / first <= FLAT,
            CSR_bytes_per_cell=one["csr"] / cells,
            state_bytes_per_cell=one["state"] / cells,
            state_over_CSR=one["state"] / one["csr"],
            peak_GiB=peak,
            peak_over_import_GiB=peak - one["import_gib"],
        )
    return table


# --- in the child ---------------------------------------------------------------------------------


def _child(options: argparse.Namespace) -> None:
    import resource

    import torch

    from benchmarks.ours import set_up
    from benchmarks.tasks import simulated_sparse
    from mosaicvi import MosaicVI

    torch.set_num_threads(options.threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    small = {"genes": 200, "peaks": 1_000} if options.quick else {}
    mosaic = MosaicVI.setup_mudata(simulated_sparse(options.child, **small), batch_key="batch")
    state, loader, config = set_up(mosaic, options.settings, 1_000_000, "cpu")
    csr: list[Any] = [m.x for m in mosaic.modalities]
    found = {
        "us_per_cell": _cost(state, loader, config, options) * 1e6,
        "nonzeros": sum(x.nnz for x in csr),
        "csr": sum(x.data.nbytes + x.indices.nbytes + x.indptr.nbytes for x in csr),
        "state": state_bytes(mosaic, loader),
        "import_gib": before,
    }
    options.out.write_text(json.dumps(found))


def _cost(state: FitState, loader: MinibatchLoader, config: FitConfig, options: argparse.Namespace) -> float:
    """Seconds per cell of an epoch, or of so many steps."""
    import dataclasses

    from benchmarks.ours import epoch_seconds
    from benchmarks.phases import advance

    if options.whole_epoch:
        seconds = epoch_seconds(state, loader, dataclasses.replace(config, max_epochs=2))
        return seconds[-1] / loader.n_cells
    config = dataclasses.replace(config, train_size=1.0)
    advance(state, loader, config, WARM_UP)
    steps_per_epoch = -(-loader.n_cells // config.batch_size)
    cells_per_step = loader.n_cells / steps_per_epoch  # minibatches are equal to within one cell
    return sum(advance(state, loader, config, options.steps)) / (int(options.steps) * cells_per_step)


def state_bytes(*things: object) -> int:
    """Bytes of all arrays and tensors that some objects hold, each piece of memory counted once."""
    spans = sorted({span for span in _spans(things, set()) if span[1] > span[0]})
    total, reached = 0, 0
    for start, stop in spans:
        total += max(0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def _spans(thing: Any, seen: set[int]) -> Iterator[tuple[int, int]]:
    """Where in memory the arrays within a thing begin and end."""
    import numpy as np
    import torch

    if id(thing) in seen or isinstance(thing, str | bytes | int | float | bool | type(None)):
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing.data_ptr(), thing.data_ptr() + thing.nbytes
    elif isinstance(thing, np.ndarray):
        at = thing.__array_interface__["data"][0]
        yield at, at + thing.nbytes
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from _spans(value, seen)
    elif isinstance(thing, list | tuple | set):
        if not (thing and isinstance(next(iter(thing)), str)):
            for value in thing:
                yield from _spans(value, seen)
    elif hasattr(thing, "__dict__"):
        yield from _spans(vars(thing), seen)


if __name__ == "__main__":
    main()
