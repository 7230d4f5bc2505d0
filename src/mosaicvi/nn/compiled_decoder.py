"""The last layers and likelihoods of a task, compiled: those of counts and of accessibility, at hand.

A tile of the output stays in the cache from the product that makes it to the products that carry its gradient
back; Python's lock is not held.

Legend: R rows of a task, r of a job, d features of it in G blocks, K = `dim_block_dec`, N rows of the trunk
of width W, A covariate rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mosaicvi import blas, device
from mosaicvi.blas import product, product_of_transpose, product_with_transpose
from mosaicvi.compiled import Floats, Ints, any_order, f32
from mosaicvi.nn import kernels
from mosaicvi.nn.counts import SMALL_DISPERSION
from mosaicvi.nn.kernels import Job as TileJob
from mosaicvi.nn.kernels import Values, array, tile
from mosaicvi.nn.layers import SLOPE
from mosaicvi.nn.targets import Job
from mosaicvi.nn.task import Task, values_of
from mosaicvi.workers import share_of

TILE = 3 << 17  # entries of a tile, whose buffers together fit a core's second-level cache of 2 MiB
LEAST_ROWS, MOST_ROWS = 8, 256  # of a tile
EVERY = np.zeros(0, np.int64)  # columns, where none is left out


class Layers(NamedTuple):
    """What leads from the trunk to the output, of W, G * K and d columns.

    Attributes
    ----------
    routine
        Address of the library's product.
    trunk, at
        Rows of the last shared layer (N, W), and which of them each row of the job comes from, (r,).
    inner, bias
        Of the blocks' hidden layers, (G * K, W) and (G * K,).
    skip
        What is added to the hidden rows, (N, G * K), or empty.
    last, ends
        Weights of the last layers with the bias as last row, (K + 1, d), and where the columns of each block
        begin, (G + 1,).
    """

    routine: int
    trunk: Floats
    at: Ints
    inner: Floats
    bias: Floats
    skip: Floats
    last: Floats
    ends: Ints


class Gradients(NamedTuple):
    """What a worker adds up, shaped like the fields of `Layers` of these names, and `Job.alpha`.

    Rows of `trunk` and `skip` are those of the job, which no other worker has.
    """

    trunk: Floats
    inner: Floats
    bias: Floats
    skip: Floats
    last: Floats
    alpha: Floats


def can(task: Task) -> bool:
    """Whether the task can be done here: its blocks must be of one group, with a sub-network."""
    known = kernels.kind_of(task.head.dist, aware=task.aware) is not None
    sparse = all(job.rows.sparse is not None for job in task.jobs)
    one = len(task.head.groups) == 1 and task.head.groups[0].dec > 0
    return (
        known and sparse and one and not device.is_apart(task.weight) and task.weight.dtype == torch.float32
    )


class Compiled:
    """A task for n workers; `want` gradients."""

    def __init__(self, task: Task, n: int, *, want: bool) -> None:
        kind = kernels.kind_of(task.head.dist, aware=task.aware)
        assert kind is not None
        self.task, self.kind, self.want, given = task, kind, want, task.given
        self.value = np.zeros(len(task.weight), np.float32)
        self.parts, first = [], 0
        for job in task.jobs:
            self.parts.append(_Part(task, job, first))
            first += job.n_rows
        self.d_trunk = np.zeros(given.trunk.shape if want else (0, 0), np.float32)
        skip = given.skip[0]
        self.d_skip = np.zeros((0, 0) if skip is None or not want else skip.shape, np.float32)
        self.sums: list[list[Gradients]] = [[] for _ in range(n)]

    def share(self, k: int, n: int) -> None:
        """Do the share of worker k of n."""
        for part in self.parts:
            first, last = share_of(part.n_rows, k, n)
            inner, bias, last_layer = (
                np.zeros(v.shape if self.want else (0,) * v.ndim, np.float32)
                for v in (part.layers.inner, part.layers.bias, part.layers.last)
            )
            own = Gradients(
                trunk=self.d_trunk,
                inner=inner,
                bias=bias,
                skip=self.d_skip,
                last=last_layer,
                alpha=np.zeros_like(part.job.alpha),
            )
            self.sums[k].append(own)
            if last > first:
                given = (self.kind, part.job, part.values, part.layers, first, last, TILE, self.want)
                run(*given, self.value[part.first : part.first + part.n_rows], own)

    def found(self) -> tuple[Tensor, list[Tensor | None]]:
        """Log-likelihood of each row (R,), and gradients of the loss in the order of `Given.tensors`."""
        given, value = self.task.given, torch.from_numpy(self.value)
        if not self.want:
            return value, [None] * len(given.tensors())
        alpha = None if given.alpha is None else np.zeros(given.alpha.shape, np.float32)
        inner, bias = (_zeros(v[0]) for v in (given.weight, given.bias))
        last = np.empty(given.last[0].shape, np.float32) if self.parts else _zeros(given.last[0])
        for i, (part, *sums) in enumerate(zip(self.parts, *self.sums, strict=True)):
            total = sums[0]
            for own in sums[1:]:
                for mine, other in zip(total, own, strict=True):
                    if mine is not other:  # rows of trunk and skip are one array, not sums
                        mine += other
            inner += total.inner
            bias += total.bias
            _put(last, part.columns, total.last, add=i > 0)
            if alpha is not None:
                _put(alpha, part.of_step, total.alpha, add=True)
        skip = None if given.skip[0] is None else self.d_skip
        found = [self.d_trunk, alpha, None, inner, bias, skip, last]
        return value, [None if v is None else torch.from_numpy(v) for v in found]


def _zeros(like: Tensor | None) -> Floats:
    assert like is not None
    return np.zeros(like.shape, np.float32)


@any_order
def _put(out: Floats, columns: Ints, part: Floats, add: bool) -> None:
    """Put into some columns, or all if none is named, and 0 into others; or `add` to what is there."""
    for i in range(len(part)):
        to, row = out[i], part[i]
        if not add:
            for j in range(len(to)):
                to[j] = f32(0)
        if len(columns):
            for j in range(len(row)):
                to[columns[j]] += row[j]
        else:
            for j in range(len(row)):
                to[j] += row[j]


class _Part:
    """A job, whose first row is `first` of the task's, as `run` is given it."""

    def __init__(self, task: Task, job: Job, first: int) -> None:
        here, (group,) = slice(first, first + job.n_rows), task.head.groups
        self.first, self.n_rows = first, job.n_rows
        self.of_step = EVERY if job.columns is None else job.columns
        self.columns = EVERY if job.rows.features is None else job.rows.features
        head, alpha = task.head.only(job.columns), task.given.alpha
        if job.columns is not None and alpha is not None:
            alpha = alpha.index_select(1, torch.from_numpy(job.columns))
        self.job = kernels.job_of(
            task.head.dist,
            low=head.low,
            high=head.high,
            code=task.code.index_select(0, job.pick),
            weight=task.weight[here],
            wanted=job.view,
            measured=job.panel,
            small=alpha is not None and bool(alpha.min() < SMALL_DISPERSION),
            library=job.rows.library.index_select(0, job.pick) if task.aware else None,
            alpha=alpha,
        )
        sparse = job.rows.sparse
        assert sparse is not None
        self.values = Values(
            pick=array(job.pick),
            n=len(job.rows.cells),
            ends=array(sparse.indptr),
            col=array(sparse.col),
            x=array(values_of(task, job)),
        )
        given, last, features = task.given, task.given.last[0], job.rows.features
        ends = np.array([group.lo, *(hi for _, hi in group.spans)])
        if features is not None:
            ends = np.searchsorted(features, ends)
            last = last.index_select(1, torch.from_numpy(features))
        self.layers = Layers(
            routine=blas.routine(),
            trunk=array(given.trunk),
            at=array(task.at)[here],
            inner=array(given.weight[0]),
            bias=array(given.bias[0]),
            skip=array(given.skip[0], 2),
            last=array(last),
            ends=ends,
        )


# --- rows -----------------------------------------------------------------------------------------


@any_order
def run(
    kind: int, job: TileJob, values: Values, layers: Layers, first: int, last: int, entries: int, want: bool,
    value: Floats, grads: Gradients,
) -> None:  # fmt: skip
    """Rows `first` to `last` of a job: inner and last layers, the likelihood, and the way back.

    A tile has about so many `entries`. Adds to `value` (r,) and, if they are wanted, to `grads`.
    """
    whole = kind in (kernels.POISSON_SOFTMAX, kernels.NB_SOFTMAX)  # a tile holds whole rows
    n_blocks, depth, routine = len(layers.ends) - 1, len(layers.last), layers.routine
    widest = layers.ends[-1] if whole else np.diff(layers.ends).max()
    step = min(MOST_ROWS, max(LEAST_ROWS, entries // max(widest, 1)))
    step = -(-(last - first) // -(-(last - first) // step))  # of equal size
    memory = np.empty(max(entries, step * widest), np.float32)
    all_x = np.empty((step, layers.trunk.shape[1]), np.float32)
    all_inner = np.empty((step, len(layers.inner)), np.float32)
    all_hidden = np.empty((step, n_blocks * depth), np.float32)
    all_d = np.empty_like(all_inner)  # the 1 that goes with the bias needs none
    for a in range(first, last, step):
        r = min(step, last - a)
        x, inner, hidden, d_hidden = all_x[:r], all_inner[:r], all_hidden[:r], all_d[:r]
        for i in range(r):
            x[i] = layers.trunk[layers.at[a + i]]
        product_with_transpose(routine, x, layers.inner, inner, 0.0)
        _bend(inner, layers, a, hidden)
        left = 0
        while left < n_blocks:
            right = left + 1
            while right < n_blocks and (whole or (layers.ends[right + 1] - layers.ends[left]) * r <= entries):
                right += 1
            lo, hi = layers.ends[left], layers.ends[right]
            o = memory[: r * (hi - lo)].reshape(r, hi - lo)
            for b in range(left, right):
                start, stop = layers.ends[b], layers.ends[b + 1]
                if stop > start:
                    part, h = o[:, start - lo : stop - lo], hidden[:, b * depth : (b + 1) * depth]
                    product(routine, h, layers.last[:, start:stop], part, 0.0)
            tile(kind, o, a, lo, (left, right), values, job, value, grads.alpha)
            if want:
                for b in range(left, right):
                    start, stop = layers.ends[b], layers.ends[b + 1]
                    part, h = o[:, start - lo : stop - lo], hidden[:, b * depth : (b + 1) * depth]
                    d_h = d_hidden[:, b * (depth - 1) : (b + 1) * (depth - 1)]
                    if stop > start:
                        product_of_transpose(routine, h, part, grads.last[:, start:stop], 1.0)
                        product_with_transpose(routine, part, layers.last[:-1, start:stop], d_h, 0.0)
                    else:
                        d_h[:] = f32(0)
            left = right
        if want:
            _unbend(d_hidden, layers, a, inner, grads)
            product_of_transpose(routine, inner, x, grads.inner, 1.0)
            product(routine, inner, layers.inner, x, 0.0)
            for i in range(r):
                grads.trunk[layers.at[a + i]] = x[i]


@any_order
def _bend(inner: Floats, layers: Layers, first: int, hidden: Floats) -> None:
    """Hidden rows with a 1 after each block, (r, G * (K + 1)), from inner layers without bias (r, G * K)."""
    depth, slope = len(layers.last), f32(SLOPE)
    k = depth - 1
    for i in range(len(inner)):
        row = inner[i]
        for j in range(len(row)):
            row[j] += layers.bias[j]
        for b in range(len(layers.ends) - 1):
            out, h = hidden[i, b * depth : (b + 1) * depth], row[b * k : (b + 1) * k]
            for j in range(k):
                out[j] = h[j] * slope if h[j] < f32(0) else h[j]
            out[k] = f32(1)
            if len(layers.skip):
                added = layers.skip[layers.at[first + i], b * k : (b + 1) * k]
                for j in range(k):
                    out[j] += added[j]


@any_order
def _unbend(d_hidden: Floats, layers: Layers, first: int, inner: Floats, grads: Gradients) -> None:
    """Put in place of inner layers their gradient, given that of the hidden rows; add that of the bias."""
    k, slope = len(layers.last) - 1, f32(SLOPE)
    for i in range(len(inner)):
        for b in range(len(layers.ends) - 1):
            d, h = d_hidden[i, b * k : (b + 1) * k], inner[i, b * k : (b + 1) * k]
            if len(layers.skip):
                d_added = grads.skip[layers.at[first + i], b * k : (b + 1) * k]
                for j in range(k):
                    d_added[j] = d[j]
            for j in range(k):
                h[j] = d[j] * slope if h[j] < f32(0) else d[j]
        for j in range(inner.shape[1]):
            grads.bias[j] += inner[i, j]
