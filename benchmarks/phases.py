"""Where a step's time goes, and how far each phase is from its floor.

The floor of a phase is the time that its dense and sparse products need at the rate of one big product
on this machine, plus what else it cannot avoid: one exponential per output of the decoder, and the
bytes that AdamW and the norm of the gradient move.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import Table
from benchmarks.ours import set_up
from benchmarks.tasks import registered
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.engine import decoder, embedding, encoder, rows, stack
from mosaicvi.fit.loop import Report, fit
from mosaicvi.fit.state import FitConfig, FitState

PHASES = ("slice", "mask", "encode", "decode", "likelihood", "backward", "optimiser")
COMPILED = ("encode", "decode", "likelihood", "backward")  # with products that torch does not see
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")
WARM_UP = 5
COUNTED = 3  # steps over which operations are counted
# float32 arrays of the parameters' size that AdamW and the norm of the gradient move: the norm reads the
# gradient; the update reads weight, gradient and two moments, and writes all but the gradient
PASSES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The best of this machine: products in FLOP/s, copies in bytes/s (read + written), exponentials/s."""

    flops: float
    bandwidth: float
    exps: float

    def __str__(self) -> str:
        return (
            f"a {SIDE}² product runs at {self.flops / 1e9:.0f} GFLOP/s, a copy moves "
            f"{self.bandwidth / 1e9:.1f} GB/s, exponentials in the cache {self.exps / 1e9:.2f} G/s"
        )


SIDE = 1536


def measured_rates() -> Rates:
    """Measure them with torch at its present number of threads."""
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    out = torch.empty(SIDE, SIDE)
    long, copy = torch.ones(32_000_000), torch.empty(32_000_000)
    short, result = torch.randn(1 << 18), torch.empty(1 << 18)
    return Rates(
        flops=2 * SIDE**3 / _best(lambda: torch.mm(a, b, out=out), 7),
        bandwidth=2 * long.nbytes / _best(lambda: copy.copy_(long), 7),
        exps=len(short) / _best(lambda: torch.exp(short, out=result), 50),
    )


def _best(call: Callable[[], Any], times: int) -> float:
    call()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


# --- counting and timing --------------------------------------------------------------------------


def advance(state: FitState, loader: MinibatchLoader, config: FitConfig, steps: int) -> list[float]:
    """Train for so many steps; seconds of each."""
    ends = [time.perf_counter()]

    def listen(report: Report) -> None:
        if report.row is None:
            ends.append(time.perf_counter())

    fit(state, loader, config, listen=listen, interrupted=lambda: len(ends) > steps)
    return [b - a for a, b in itertools.pairwise(ends)]


def profile_task(options: argparse.Namespace) -> dict[str, Any]:
    """Phases of one task with one set of settings, as plain numbers."""
    mosaic = registered(options.folder, options.task)
    state, loader, config = set_up(mosaic, options.settings, 1_000_000, "cpu")
    config = dataclasses.replace(config, train_size=1.0)  # validation has no phases of its own
    advance(state, loader, config, WARM_UP)
    plain = advance(state, loader, config, options.phases)
    seconds = _phase_seconds(state, loader, config, options.phases)
    flops, outputs = _operations(state, loader, config)
    parameters = sum(p.numel() for p in state.net.parameters() if p.requires_grad)
    rates = measured_rates()
    return {
        "batch": config.batch_size,
        "step_s": sorted(plain)[len(plain) // 2],
        "seconds": seconds,
        "flops": flops,
        "outputs": outputs,
        "parameters": parameters,
        "rates": dataclasses.asdict(rates),
    }


def _phase_seconds(
    state: FitState, loader: MinibatchLoader, config: FitConfig, steps: int
) -> dict[str, float]:
    """Seconds a step in each phase, and in all others together."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        total = sum(advance(state, loader, config, steps))
    spent = dict.fromkeys(PHASES, 0.0)
    for event in recorded.events():
        if event.name in spent:
            spent[event.name] += event.time_range.elapsed_us() * 1e-6 / steps
    return spent | {"other": total / steps - sum(spent.values())}


def _operations(
    state: FitState, loader: MinibatchLoader, config: FitConfig
) -> tuple[dict[str, float], float]:
    """Operations of the products of a step by phase, and outputs of the decoder that have a target."""
    flops: dict[str, float] = defaultdict(float)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products of other threads are not recorded
    try:
        with (
            _counters() as counts,
            profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded,
        ):
            advance(state, loader, config, COUNTED)
    finally:
        torch.set_num_threads(threads)
    for event in recorded.events():
        if event.name in PRODUCTS:
            phase = _phase_of_dense(event)
            if phase is not None:
                flops[phase] += _flops(event.input_shapes) / COUNTED
    for phase in COMPILED:
        flops[phase] += counts[phase] / COUNTED
    return dict(flops), counts["outputs"] / COUNTED


@contextlib.contextmanager
def _counters() -> Iterator[dict[str, float]]:
    """Count what is compiled, by phase, and the outputs with a target."""
    counts = dict.fromkeys((*COMPILED, "outputs"), 0.0)
    encode, first_layer, hidden = encoder.encode, rows.first_layer, stack.hidden
    add_features, log_prob = embedding._add_features, decoder.log_prob

    def counted_encode(
        first: rows.FirstLayer, layers: Sequence[Tensor], last: Sequence[Tensor], n_passes: int
    ) -> tuple[Tensor, Tensor]:
        distinct = encoder.rows_of(first.shown, n_passes, len(first.rest) // n_passes)
        weights = first.mix.numel() + sum(w.numel() for w in (*layers, *last) if w.ndim == 2)
        once = 2 * len(distinct.source) * weights + _operations_of_values(first)
        counts["encode"] += once
        counts["backward"] += 2 * once - _operations_of_values(first)
        return encode(first, layers, last, n_passes)

    def counted_hidden(x: Tensor, layers: Sequence[Tensor]) -> Tensor:
        once = 2 * len(x) * sum(w.numel() for w in layers if w.ndim == 2)
        counts["decode"] += once
        counts["backward"] += 2 * once
        return hidden(x, layers)

    def counted_features(of: Any, weight: Any, first: int, last: int, out: Any) -> None:
        counts["encode"] += (last - first) * weight.shape[1]  # additions; what comes back is a copy
        add_features(of, weight, first, last, out)

    def counted_first_layer(first: rows.FirstLayer, n_passes: int) -> Tensor:
        counts["encode"] += _operations_of_values(first)
        counts["backward"] += _operations_of_values(first)
        return first_layer(first, n_passes)

    def counted_log_prob(modalities: list[decoder.Modality], weight: Tensor) -> Tensor:
        for part in (part for modality in modalities for part in modality.parts):
            weights, n_rows = part.layers.inner.size + part.layers.last.size, len(part.layers.at)
            counts["likelihood"] += 3 * 2 * n_rows * weights  # there, and back to rows and weights
            counts["outputs"] += n_rows * part.layers.ends[-1]
        return log_prob(modalities, weight)

    with (
        patch.object(encoder, "encode", counted_encode),
        patch.object(rows, "first_layer", counted_first_layer),
        patch.object(stack, "hidden", counted_hidden),
        patch.object(embedding, "_add_features", counted_features),
        patch.object(decoder, "log_prob", counted_log_prob),
    ):
        yield counts


def _operations_of_values(first: rows.FirstLayer) -> float:
    """Twice the multiplications of values: all of a cell's for the passes that see most of it, and lists."""
    total = 0.0
    for one in first.shown:
        is_listed = (one.how == rows.SOME) | (one.how == rows.MOST)
        whole, shares = (one.how >= rows.MOST).any(0), one.table.mean(1) if len(one.table) else np.zeros(1)
        if isinstance(one, rows.Dense):
            values = np.full(one.how.shape[1], one.ends[-1])
        else:
            blocks = np.diff(one.ends).reshape(-1, max(one.n, 1))
            values = blocks.sum(0) if one.n else np.zeros(0)
        listed = (shares[one.choice] * is_listed).sum(0) if one.how.size else np.zeros(0)
        total += 2 * one.width * float((values * (whole + listed)).sum())
    return total


def _phase_of_dense(event: Any) -> str | None:
    """The phase of a dense product; None for a sparse one, and for a call that another has counted."""
    parent = event.cpu_parent
    phase = None
    while parent is not None:
        if parent.name in PRODUCTS or parent.name.startswith("aten::embedding_bag"):
            return None
        if parent.name in PHASES:
            phase = parent.name
        parent = parent.cpu_parent
    return phase or "other"


def _flops(shapes: list[list[int]]) -> float:
    """Twice the multiplications of a product; addmm and baddbmm have the sum as their first argument."""
    matrices = [s for s in shapes if len(s) >= 2]
    first = matrices[0] if len(matrices) < 3 or matrices[0][-1] == matrices[1][-2] else matrices[1]
    second = matrices[matrices.index(first) + 1]
    rows = 1
    for n in first[:-1]:
        rows *= n
    return 2.0 * rows * first[-1] * second[-1]


# --- the table ------------------------------------------------------------------------------------

COLUMNS = (
    "task",
    "settings",
    "phase",
    "ms_per_step",
    "share_%",
    "products_GFLOP",
    "besides",
    "floor_ms",
    "times_floor",
)
NOTE = """\
ms/step: torch.profiler over {steps} steps, without validation; "all" in brackets: the same steps without it.
Floor: products at the rate of one big product, plus what stands under "besides": one exponential for each
output of the decoder that has a target, {passes} arrays of the parameters' size moved by AdamW and the norm.
On this machine {rates}."""


def phase_table(found: list[tuple[str, str, dict[str, Any]]], steps: int) -> Table:
    """Phases of several tasks and settings, with the floor of each."""
    table = Table(name="phases", title="Where a step's time goes", columns=COLUMNS)
    rates = Rates(**{name: max(one["rates"][name] for *_, one in found) for name in found[0][2]["rates"]})
    table.note = NOTE.format(steps=steps, passes=PASSES, rates=rates)
    for task, settings, one in found:
        total = sum(one["seconds"].values())
        floors = 0.0
        for phase, seconds in one["seconds"].items():
            flops = one["flops"].get(phase, 0.0)
            besides, extra = _besides(phase, one, rates)
            floor = flops / rates.flops + extra
            floors += floor
            table.add(
                **_row(task, settings, phase, seconds, total, flops, floor),
                besides=besides,
            )
        plain = f"all (unprofiled {one['step_s'] * 1e3:.1f})"
        table.add(**_row(task, settings, plain, total, total, sum(one["flops"].values()), floors), besides="")
    return table


def _besides(phase: str, one: dict[str, Any], rates: Rates) -> tuple[str, float]:
    if phase == "likelihood":
        return f"{one['outputs'] / 1e6:.2f} M exponentials", one["outputs"] / rates.exps
    if phase == "optimiser":
        size = 4 * one["parameters"]
        return f"{PASSES} × {size / 1e6:.1f} MB", PASSES * size / rates.bandwidth
    return "", 0.0


def _row(
    task: str, settings: str, phase: str, seconds: float, total: float, flops: float, floor: float
) -> dict[str, Any]:
    return {
        "task": task,
        "settings": "like for like" if settings == "like" else settings,
        "phase": phase,
        "ms_per_step": seconds * 1e3,
        "share_%": 100 * seconds / total,
        "products_GFLOP": flops / 1e9 if flops else None,
        "floor_ms": floor * 1e3 if floor else None,
        "times_floor": seconds / floor if floor else None,
    }
