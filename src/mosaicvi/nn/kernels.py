"""Compiled likelihoods: what they are given, that of accessibility, and the choice of one for a tile.

They do the arithmetic of `counts` and `likelihoods`, which other devices and precisions use, in one pass over
a tile in place of a dozen; the gradient is that of the loss, with the weight of each row. Rows are worked
through one by one, so that intermediate values stay in the first-level cache; Python's lock is not held.
Loops touch few arrays each: with more, the compiler would have too much to check before it could use vector
instructions.

Legend: r rows and d columns of a job, A covariate rows, n cells, G blocks, Z non-zeros of the modality, z of
a tile. A tile is `o`, whose first row and column in the job are `first` and `lo`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.compiled import (
    Bools,
    Floats,
    Ints,
    any_order,
    between,
    exp,
    f32,
    log,
)
from mosaicvi.config import Distribution
from mosaicvi.nn.count_kernels import nb_bounded, nb_softmax, poisson_softmax
from mosaicvi.nn.masks import View

BERNOULLI, POISSON_SOFTMAX, NB_SOFTMAX, NB_BOUNDED = range(4)


class Job(NamedTuple):
    """What a likelihood is given of a job; arrays that it does not need are empty.

    Attributes
    ----------
    low, high
        Bounds of the mean, or of the logit for Bernoulli, (d,).
    library
        Of each row, where the mean is library x softmax, (r,).
    alpha
        Dispersion by covariate row, (A, d).
    code, weight
        Covariate row, and factor in the loss, of each row, (r,).
    small
        Whether some dispersion is below `counts.SMALL_DISPERSION`.
    wanted, of_wanted
        Distinct choices of the entries that count (T, d), and the choice of each row, -1 for all, (r,).
    measured, of_measured
        The same of the entries that the softmax is normalised over.
    """

    low: Floats
    high: Floats
    library: Floats
    alpha: Floats
    code: Ints
    weight: Floats
    small: bool
    wanted: Bools
    of_wanted: Ints
    measured: Bools
    of_measured: Ints


class Values(NamedTuple):
    """Non-zeros of the job's modality, block-major.

    Attributes
    ----------
    pick
        The cell of each row, (r,).
    n
        Cells.
    ends
        Where each block * n + cell begins, (G * n + 1,).
    col, x
        Column and value, (Z,) each.
    """

    pick: Ints
    n: int
    ends: Ints
    col: Ints
    x: Floats


class Counts(NamedTuple):
    """The non-zero targets of a tile: row and column of the job, and value, (z,) each."""

    row: Ints
    col: Ints
    x: Floats


def job_of(
    dist: Distribution,
    *,
    low: Tensor,
    high: Tensor,
    code: Tensor,
    weight: Tensor,
    wanted: View | None,
    measured: View | None,
    small: bool,
    library: Tensor | None = None,
    alpha: Tensor | None = None,
) -> Job:
    """A `Job` of tensors, which share its memory; `low` and `high` are those of the mean."""
    if dist == "Bernoulli":
        low, high = torch.logit(low), torch.logit(high)
    return Job(
        low=array(low),
        high=array(high),
        library=array(library),
        alpha=array(alpha, 2),
        code=array(code),
        weight=array(weight),
        small=small,
        wanted=_NO_TABLE if wanted is None else array(wanted.table),
        of_wanted=np.full(len(code), -1) if wanted is None else array(wanted.index),
        measured=_NO_TABLE if measured is None else array(measured.table),
        of_measured=_NO_INDEX if measured is None else array(measured.index),
    )


def array(tensor: Tensor | None, n_axes: int = 1) -> NDArray[Any]:
    """The tensor as a contiguous array, without a copy where it is one; for None an empty one of floats."""
    if tensor is None:
        return np.zeros((0,) * n_axes, np.float32)
    return np.ascontiguousarray(tensor.detach().numpy())


_NO_TABLE, _NO_INDEX = np.zeros((0, 0), np.bool_), np.zeros(0, np.int64)


# --- accessibility ------------------------------------------------------------------------------


@any_order
def bernoulli(o: Floats, first: int, lo: int, nz: Counts, job: Job, value: Floats) -> None:
    """Bernoulli of a probability that is clipped to its bounds, where it has no gradient."""
    r, d = o.shape
    low, high = job.low[lo : lo + d], job.high[lo : lo + d]
    seen = np.empty(len(nz.x), np.float32)  # what a non-zero takes off the gradient
    for z in range(len(nz.x)):
        i, j, x = nz.row[z] - first, nz.col[z] - lo, nz.x[z]
        bounded = between(low[j], o[i, j], high[j])
        value[first + i] += x * bounded  # log p - log(1 - p)
        seen[z] = f32(0) if o[i, j] < low[j] or o[i, j] > high[j] else x * job.weight[first + i]
    total = np.empty(d, np.float32)
    n = d // 4
    for i in range(r):
        w = job.weight[first + i]
        for j in range(d):
            bounded = between(low[j], o[i, j], high[j])
            odds = exp(bounded)
            total[j] = f32(1) + odds
            o[i, j] = f32(0) if o[i, j] < low[j] or o[i, j] > high[j] else w * odds / total[j]
        sum_log = f32(0)
        choice = job.of_wanted[first + i]
        if choice >= 0:
            mask = job.wanted[choice, lo : lo + d]
            for j in range(d):
                keep = f32(mask[j])
                o[i, j] *= keep
                total[j] = keep * log(total[j])
            for j in range(d):
                sum_log += total[j]
        else:  # four factors, 1e7 at most, share a logarithm
            for j in range(n):
                sum_log += log(total[j] * total[j + n] * total[j + 2 * n] * total[j + 3 * n])
            for j in range(4 * n, d):
                sum_log += log(total[j])
        value[first + i] -= sum_log
    for z in range(len(nz.x)):
        o[nz.row[z] - first, nz.col[z] - lo] -= seen[z]


# --- tile by tile -------------------------------------------------------------------------------


@any_order
def _targets(values: Values, job: Job, rows: tuple[int, int], blocks: tuple[int, int]) -> Counts:
    """The non-zero targets in some rows and blocks."""
    size, n, ends = 0, values.n, values.ends
    for b in range(blocks[0], blocks[1]):
        for i in range(rows[0], rows[1]):
            size += ends[b * n + values.pick[i] + 1] - ends[b * n + values.pick[i]]
    row, col, x = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.float32)
    k = 0
    for b in range(blocks[0], blocks[1]):
        for i in range(rows[0], rows[1]):
            for z in range(ends[b * n + values.pick[i]], ends[b * n + values.pick[i] + 1]):
                if job.of_wanted[i] < 0 or job.wanted[job.of_wanted[i], values.col[z]]:
                    row[k], col[k], x[k] = i, values.col[z], values.x[z]
                    k += 1
    return Counts(row[:k], col[:k], x[:k])


@any_order
def tile(
    kind: int, o: Floats, first: int, lo: int, blocks: tuple[int, int], values: Values, job: Job,
    value: Floats, d_alpha: Floats,
) -> None:  # fmt: skip
    """Turn the output into the gradient of the loss; adds to `value` (r,) and `d_alpha` (A, d) of the job.

    The tile is rows of the job from `first` on, and all columns of some blocks, the first of them `lo`.
    """
    nz = _targets(values, job, (first, first + len(o)), blocks)
    if kind == BERNOULLI:
        bernoulli(o, first, lo, nz, job, value)
    elif kind == POISSON_SOFTMAX:
        poisson_softmax(o, first, nz, job, value)
    elif kind == NB_SOFTMAX:
        nb_softmax(o, first, nz, job, value, d_alpha)
    else:
        nb_bounded(o, first, lo, nz, job, value, d_alpha)


def kind_of(dist: Distribution, *, aware: bool) -> int | None:
    """Which compiled likelihood to `run`, or None where there is none."""
    if dist == "NB":
        return NB_SOFTMAX if aware else NB_BOUNDED
    if dist == "Poisson":
        return POISSON_SOFTMAX if aware else None
    return BERNOULLI if dist == "Bernoulli" else None
