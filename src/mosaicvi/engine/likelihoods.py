"""Compiled likelihoods: what they are given, those of values that are no counts, and the choice of one.

They do the arithmetic of `mosaicvi.likelihoods` in one pass over a tile in place of a dozen, with the
gradient of the loss on the way. Rows are worked through one by one, so that intermediate values stay in the
first-level cache; Python's lock is not held. Loops touch few arrays each: with more, the compiler would have
too much to check before it could use vector instructions.

Legend: r rows and d columns of a part, A covariate rows, n cells, G blocks, Z non-zeros of the modality, z of
a tile. A tile is `o`, whose first row and column in the part are `first` and `lo`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.engine.counts import poisson_bounded, poisson_softmax
from mosaicvi.engine.jit import Bools, Floats, Ints, any_order, between, exp, f32, log
from mosaicvi.engine.nb import nb_bounded, nb_softmax

BERNOULLI, GAUSSIAN, POISSON_BOUNDED, NB_BOUNDED, POISSON_SOFTMAX, NB_SOFTMAX = range(6)
HALF_LOG_2_PI = f32(0.5 * math.log(2 * math.pi))


class Likelihood(NamedTuple):
    """What a likelihood is given of a part; arrays that it does not need are empty.

    Attributes
    ----------
    low, high, centre
        Bounds of the location (of Bernoulli the logit, of Poisson the logarithm, else the mean), and what is
        added to the output, (d,).
    library
        Of each row, where the mean is library x softmax, (r,).
    alpha, pi
        Dispersion by covariate row, (A, d), and zero inflation, (d,).
    code, weight
        Covariate row, and factor in the loss, of each row, (r,).
    small
        Whether some dispersion is below `SMALL_DISPERSION`.
    wanted, of_wanted
        Distinct choices of the entries that count (T, d), and the choice of each row, -1 for all, (r,).
    measured, of_measured
        The same of the entries that the softmax is normalised over.
    """

    low: Floats
    high: Floats
    centre: Floats
    library: Floats
    alpha: Floats
    pi: Floats
    code: Ints
    weight: Floats
    small: bool
    wanted: Bools
    of_wanted: Ints
    measured: Bools
    of_measured: Ints


class Values(NamedTuple):
    """Values of a part's columns, block-major non-zeros or dense.

    Attributes
    ----------
    pick
        The cell of each row, (r,).
    n
        Cells.
    ends
        Where each block * n + cell begins, (G * n + 1,); zeros if dense.
    col, x
        Column and value, (Z,) each.
    dense
        In place of them, (n, d).
    """

    pick: Ints
    n: int
    ends: Ints
    col: Ints
    x: Floats
    dense: Floats


class Slopes(NamedTuple):
    """Gradients of the loss by dispersion (A, d) and zero inflation (d,), which likelihoods add to."""

    alpha: Floats
    pi: Floats


class Counts(NamedTuple):
    """The non-zero targets of a tile: row and column of the part, and value, (z,) each."""

    row: Ints
    col: Ints
    x: Floats


SMALL_DISPERSION = 1e-3  # below it a difference of two logarithms would cancel in float32
_NO_TABLE, _NO_INDEX = np.zeros((0, 0), np.bool_), np.zeros(0, np.int64)
Choice = tuple[Tensor, Tensor]  # distinct choices of columns, and the choice of each row


def likelihood_of(
    kind: int,
    *,
    low: Tensor,
    high: Tensor,
    centre: Tensor,
    code: Tensor,
    weight: Tensor,
    wanted: Choice | None,
    measured: Choice | None,
    library: Tensor | None = None,
    alpha: Tensor | None = None,
    pi: Tensor | None = None,
) -> Likelihood:
    """A `Likelihood` of tensors, which share its memory; `low` and `high` are those of the mean."""
    if kind == BERNOULLI:
        low, high = torch.logit(low), torch.logit(high)
    if kind == POISSON_BOUNDED:
        low, high = torch.log(low), torch.log(high)
    return Likelihood(
        low=array(low),
        high=array(high),
        centre=array(centre),
        library=array(library),
        alpha=array(alpha, 2),
        pi=array(pi),
        code=array(code),
        weight=array(weight),
        small=alpha is not None and alpha.numel() > 0 and bool(alpha.min() < SMALL_DISPERSION),
        wanted=_NO_TABLE if wanted is None else array(wanted[0]),
        of_wanted=np.full(len(code), -1) if wanted is None else array(wanted[1]),
        measured=_NO_TABLE if measured is None else array(measured[0]),
        of_measured=_NO_INDEX if measured is None else array(measured[1]),
    )


def array(tensor: Tensor | None, n_axes: int = 1) -> NDArray[Any]:
    """The tensor as a contiguous array, without a copy where it is one; for None an empty one of floats."""
    if tensor is None:
        return np.zeros((0,) * n_axes, np.float32)
    return np.ascontiguousarray(tensor.detach().numpy())


def kind_of(name: str, *, library_aware: bool) -> int:
    """Which compiled likelihood does the named one."""
    if library_aware:
        return POISSON_SOFTMAX if name == "Poisson" else NB_SOFTMAX
    return {"Bernoulli": BERNOULLI, "Gaussian": GAUSSIAN, "Poisson": POISSON_BOUNDED}.get(name, NB_BOUNDED)


# --- no counts ------------------------------------------------------------------------------------


@any_order
def gaussian(
    o: Floats, first: int, lo: int, values: Values, part: Likelihood, value: Floats, slopes: Slopes
) -> None:
    """Normal of a mean that is clipped to its bounds, where it has no gradient."""
    r, d = o.shape
    low, high, centre = part.low[lo : lo + d], part.high[lo : lo + d], part.centre[lo : lo + d]
    cost, inside = np.empty(d, np.float32), np.empty(d, np.float32)
    for i in range(r):
        k = first + i
        w, c = part.weight[k], part.code[k]
        x, sd, d_sd = (
            values.dense[values.pick[k], lo : lo + d],
            part.alpha[c, lo : lo + d],
            slopes.alpha[c, lo : lo + d],
        )
        row = o[i]
        for j in range(d):
            mean = row[j] + centre[j]
            bounded = between(low[j], mean, high[j])
            inside[j] = w if mean == bounded else f32(0)
            row[j] = (x[j] - bounded) / sd[j]
            inside[j] = inside[j] if mean == mean else mean  # NaN stays NaN
        for j in range(d):
            cost[j] = log(sd[j]) + f32(0.5) * row[j] * row[j] + HALF_LOG_2_PI
        choice = part.of_wanted[k]
        total = f32(0)
        if choice >= 0:
            mask = part.wanted[choice, lo : lo + d]
            for j in range(d):
                keep = f32(mask[j])
                total += cost[j] * keep
                inside[j] *= keep
                d_sd[j] += keep * w * (f32(1) - row[j] * row[j]) / sd[j]
        else:
            for j in range(d):
                total += cost[j]
                d_sd[j] += w * (f32(1) - row[j] * row[j]) / sd[j]
        value[k] -= total
        for j in range(d):
            row[j] = -inside[j] * row[j] / sd[j]


@any_order
def bernoulli(o: Floats, first: int, lo: int, nz: Counts, part: Likelihood, value: Floats) -> None:
    """Bernoulli of a probability that is clipped to its bounds, where it has no gradient."""
    r, d = o.shape
    low, high = part.low[lo : lo + d], part.high[lo : lo + d]
    seen = np.empty(len(nz.x), np.float32)  # what a non-zero takes off the gradient
    for z in range(len(nz.x)):
        i, j, x = nz.row[z] - first, nz.col[z] - lo, nz.x[z]
        bounded = between(low[j], o[i, j], high[j])
        value[first + i] += x * bounded  # log p - log(1 - p)
        seen[z] = f32(0) if o[i, j] < low[j] or o[i, j] > high[j] else x * part.weight[first + i]
    total = np.empty(d, np.float32)
    n = d // 4
    for i in range(r):
        w = part.weight[first + i]
        for j in range(d):
            bounded = between(low[j], o[i, j], high[j])
            odds = exp(bounded)
            total[j] = f32(1) + odds
            o[i, j] = f32(0) if o[i, j] < low[j] or o[i, j] > high[j] else w * odds / total[j]
        sum_log = f32(0)
        choice = part.of_wanted[first + i]
        if choice >= 0:
            mask = part.wanted[choice, lo : lo + d]
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
def _targets(values: Values, part: Likelihood, rows: tuple[int, int], blocks: tuple[int, int]) -> Counts:
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
                if part.of_wanted[i] < 0 or part.wanted[part.of_wanted[i], values.col[z]]:
                    row[k], col[k], x[k] = i, values.col[z], values.x[z]
                    k += 1
    return Counts(row[:k], col[:k], x[:k])


@any_order
def tile(
    kind: int, o: Floats, first: int, lo: int, blocks: tuple[int, int], values: Values, part: Likelihood,
    value: Floats, slopes: Slopes,
) -> None:  # fmt: skip
    """Turn the output into the gradient of the loss; adds to `value` (r,) and `slopes` of the part.

    The tile is rows of the part from `first` on, and all columns of some blocks, the first of them `lo`.
    """
    if kind == GAUSSIAN:
        gaussian(o, first, lo, values, part, value, slopes)
        return
    nz = _targets(values, part, (first, first + len(o)), blocks)
    if kind == BERNOULLI:
        bernoulli(o, first, lo, nz, part, value)
    elif kind == POISSON_BOUNDED:
        poisson_bounded(o, first, lo, nz, part, value)
    elif kind == NB_BOUNDED:
        nb_bounded(o, first, lo, nz, part, value, slopes)
    elif kind == POISSON_SOFTMAX:
        poisson_softmax(o, first, nz, part, value)
    else:
        nb_softmax(o, first, nz, part, value, slopes)
