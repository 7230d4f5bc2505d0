"""Compiled loops: the indices of sparse rows, and the likelihoods of counts and of accessibility.

The same as `layers`, `targets`, `counts` and `likelihoods` do by tensors on other devices and in other
precisions; a likelihood is one pass over a tile in place of a dozen. Rows of a tile are worked through one by one, so that intermediate values
stay in the first-level cache; Python's lock is not held. Loops touch few arrays each: with more, the
compiler would have too much to check before it could use vector instructions.

Legend: r rows and d columns of a job, A covariate rows, z non-zeros. A tile is `o`, whose first row and
column in the job are `first` and `lo`; its non-zeros are `start` to `stop` of the job's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.config import Distribution
from mosaicvi.nn.masks import View

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
F = TypeVar("F", bound=Callable[..., Any])

f32, i32 = np.float32, np.int32
TINY = f32(np.finfo(np.float32).tiny)
MOST, LEAST = f32(1e30), f32(1e-20)  # sums of exponentials between them are exact enough


def _jit(f: F, **options: Any) -> F:
    try:
        return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", **options)(f))
    except RuntimeError:  # there is nowhere to keep what was compiled
        return cast(F, numba.njit(nogil=True, error_model="numpy", **options)(f))


def _function(f: F) -> F:
    """Compile arithmetic that must be done in the order in which it is written."""
    return _jit(f, fastmath={"contract", "nsz"})


def _kernel(f: F) -> F:
    """Compile loops whose sums may be taken in any order."""
    return _jit(f, fastmath={"contract", "nsz", "reassoc"})


def _finite(f: F) -> F:
    """Compile a loop over numbers that are not NaN."""
    return _jit(f, fastmath={"nnan", "nsz", "reassoc"})


@_function
def _exp(x: Any) -> Any:
    """Exponential to 1e-7 of itself (Cephes), between e^-87 and e^88."""
    x = min(max(x, f32(-87.3)), f32(88.3))
    k = np.floor(x * f32(1.44269504) + f32(0.5))
    r = x - k * f32(0.693359375)
    r = r - k * f32(-2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * r * r + r + f32(1)
    return p * i32((i32(k) + i32(127)) << i32(23)).view(f32)


@_function
def _log_of_sum(u: Any, t: Any) -> Any:
    """Logarithm of u to 1e-7 of itself (Cephes); u is 1 + t if t < 0.41, which may be all that is left of it."""
    i = i32(f32(u).view(i32) - i32(0x3F3504F3))
    e = f32(i32(i >> i32(23)))
    m = i32(i32(i & i32(0x007FFFFF)) + i32(0x3F3504F3)).view(f32)
    f = m - f32(1)
    f = t if t < f32(0.41) else f
    z = f * f
    p = f32(7.0376836292e-2)
    p = p * f + f32(-1.1514610310e-1)
    p = p * f + f32(1.1676998740e-1)
    p = p * f + f32(-1.2420140846e-1)
    p = p * f + f32(1.4249322787e-1)
    p = p * f + f32(-1.6668057665e-1)
    p = p * f + f32(2.0000714765e-1)
    p = p * f + f32(-2.4999993993e-1)
    p = p * f + f32(3.3333331174e-1)
    y = f * z * p + e * f32(-2.12194440e-4) - f32(0.5) * z
    return f + y + e * f32(0.693359375)


@_function
def _log(u: Any) -> Any:
    """Logarithm of a positive number."""
    return _log_of_sum(u, f32(1))


@_function
def _log1p(t: Any) -> Any:
    """log(1 + t) for t >= 0."""
    return _log_of_sum(f32(1) + t, t)


# --- sparse rows --------------------------------------------------------------------------------

Indices = NDArray[np.int32]


@_kernel
def visible_rows(
    row: Ints, col: Ints, value: Floats, n: int, n_rows: int, first: int, table: Bools, index: Ints
) -> tuple[Indices, Indices, Floats]:
    """CSR of the non-zeros that each pass sees, one pass after another: row pointers, columns, values.

    `row` is block * n + cell, ascending, below `n_rows`; columns are counted from `first`. `index` (P, n) is
    the row of `table` (T, D_m) that says what a pass sees of a cell, -1 for everything.
    """
    n_passes = index.shape[0]
    crow = np.zeros(n_passes * n_rows + 1, np.int32)
    out_col = np.empty(n_passes * len(row), np.int32)
    out_value = np.empty(n_passes * len(row), value.dtype)
    k = 0
    for p in range(n_passes):
        for z in range(len(row)):
            seen = index[p, row[z] % n]
            if seen < 0 or table[seen, col[z]]:
                out_col[k], out_value[k] = col[z] - first, value[z]
                crow[p * n_rows + row[z] + 1] += 1
                k += 1
    for i in range(len(crow) - 1):
        crow[i + 1] += crow[i]
    return crow, out_col[:k], out_value[:k]


@_kernel
def transposed(crow: Indices, col: Indices, value: Floats, n_columns: int) -> tuple[Indices, Indices, Floats]:
    """CSR of the transpose of a CSR matrix."""
    out_crow = np.zeros(n_columns + 1, np.int32)
    for z in range(len(col)):
        out_crow[col[z] + 1] += 1
    for j in range(n_columns):
        out_crow[j + 1] += out_crow[j]
    at = out_crow[:-1].copy()
    out_row, out_value = np.empty(len(col), np.int32), np.empty(len(col), value.dtype)
    for i in range(len(crow) - 1):
        for z in range(crow[i], crow[i + 1]):
            k = at[col[z]]
            out_row[k], out_value[k] = i, value[z]
            at[col[z]] += 1
    return out_crow, out_row, out_value


@_kernel
def targets_of_rows(
    indptr: Ints, col: Ints, n: int, pick: Ints, table: Bools, index: Ints, column: Ints
) -> tuple[Ints, Ints, Ints]:
    """Non-zero targets of some rows, block-major: block * r + row, column and position, (Z,) each.

    `indptr` (G * n + 1) says where each block * n + cell begins. `table` (T, D_m) and `index` (r,) say which
    entries count, an empty table all; `column` (D_m,) is the new number of a column, empty for its own.
    """
    r, n_blocks = len(pick), (len(indptr) - 1) // max(n, 1)
    size = 0
    for b in range(n_blocks):
        for i in range(r):
            size += indptr[b * n + pick[i] + 1] - indptr[b * n + pick[i]]
    row, out_col, position = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    k = 0
    for b in range(n_blocks):
        for i in range(r):
            for z in range(indptr[b * n + pick[i]], indptr[b * n + pick[i] + 1]):
                if len(table) == 0 or table[index[i], col[z]]:
                    row[k], position[k] = b * r + i, z
                    out_col[k] = column[col[z]] if len(column) else col[z]
                    k += 1
    return row[:k], out_col[:k], position[:k]


@_function
def rising(x: Floats, alpha: Floats) -> tuple[Floats, Floats]:
    """`counts.rising_log`, (z,) each; both are 0 at x = 0 and x = 1."""
    out, d_out = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    for z in range(len(x)):
        if x[z] == f32(0) or x[z] == f32(1):
            continue
        v, a = np.float64(x[z]), np.float64(alpha[z])
        r = 1 / a
        s, t = r + 5, v + r + 5
        log_ratio = np.log1p(v / s)
        product, slope = 1.0, 0.0
        for k in range(5):
            q = v / (r + k)
            product *= q + 1
            slope += q / (r + k + v)
        w, y = 1 / (s * s), 1 / (t * t)
        f = (t - 0.5) * log_ratio + v * np.log1p(5 * a) - v - np.log(product)
        f += (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y / 1680))) / t
        f -= (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w / 1680))) / s
        d_r = log_ratio - (t - 0.5) * v / (s * t) + slope
        d_r += w * (1 / 12 - w * (1 / 120 - w * (1 / 252 - w / 240)))
        d_r -= y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y / 240)))
        out[z] = f
        d_out[z] = -r * r * d_r + 5 * v / (1 + 5 * a)
    return out, d_out


# --- likelihoods --------------------------------------------------------------------------------


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
        Distinct choices of the entries that count (T, d), and the choice of each row (r,).
    measured, of_measured
        The same of the entries that the softmax is normalised over.
    row, col, x, constant, rise, d_rise
        Of the non-zeros: row, column, value, -log x!, f(x, a) and its derivative by a, (z,).
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
    row: Ints
    col: Ints
    x: Floats
    constant: Floats
    rise: Floats
    d_rise: Floats


def job_of(
    dist: Distribution,
    *,
    low: Tensor,
    high: Tensor,
    code: Tensor,
    weight: Tensor,
    wanted: View | None,
    measured: View | None,
    row: Tensor,
    col: Tensor,
    x: Tensor,
    small: bool,
    library: Tensor | None = None,
    alpha: Tensor | None = None,
    constant: Tensor | None = None,
    rise: Tensor | None = None,
    d_rise: Tensor | None = None,
) -> Job:
    """A `Job` of tensors, which share its memory; `low` and `high` are those of the mean."""
    if dist == "Bernoulli":
        low, high = torch.logit(low), torch.logit(high)
    empty = x.new_zeros(0)
    return Job(
        *_arrays(low, high, _or(library, empty), _or(alpha, empty[None]), code, weight),
        small,
        *view_arrays(wanted),
        *view_arrays(measured),
        *_arrays(row, col, x, _or(constant, empty), _or(rise, empty), _or(d_rise, empty)),
    )


def _or(value: Tensor | None, other: Tensor) -> Tensor:
    return other if value is None else value


def view_arrays(view: View | None) -> tuple[Bools, Ints]:
    """Table and index; an empty table for None."""
    if view is None:
        return _NO_TABLE, _NO_INDEX
    return _array(view.table), _array(view.index)


def _array(tensor: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().numpy())


def _arrays(*tensors: Tensor) -> list[NDArray[Any]]:
    return [_array(t) for t in tensors]


_NO_TABLE, _NO_INDEX = np.zeros((0, 0), np.bool_), np.zeros(0, np.int64)


# --- accessibility ------------------------------------------------------------------------------


@_kernel
def bernoulli(
    o: Floats, first: int, lo: int, start: int, stop: int, job: Job, value: Floats, d_alpha: Floats
) -> None:
    """Bernoulli of a probability that is clipped to its bounds, where it has no gradient."""
    r, d = o.shape
    low, high = job.low[lo : lo + d], job.high[lo : lo + d]
    seen = np.empty(stop - start, np.float32)  # what a non-zero takes off the gradient
    for z in range(start, stop):
        i, j, x = job.row[z] - first, job.col[z] - lo, job.x[z]
        bounded = min(max(o[i, j], low[j]), high[j])
        value[first + i] += x * bounded  # log p - log(1 - p)
        seen[z - start] = x if bounded == o[i, j] else f32(0)
    total = np.empty(d, np.float32)
    n = d // 4
    for i in range(r):
        for j in range(d):
            bounded = min(max(o[i, j], low[j]), high[j])
            odds = _exp(bounded)
            total[j] = f32(1) + odds
            o[i, j] = odds / total[j] if bounded == o[i, j] else f32(0)
        sum_log = f32(0)
        if len(job.wanted):
            mask = job.wanted[job.of_wanted[first + i], lo : lo + d]
            for j in range(d):
                keep = f32(mask[j])
                o[i, j] *= keep
                total[j] = keep * _log(total[j])
            for j in range(d):
                sum_log += total[j]
        else:  # four factors, 1e7 at most, share a logarithm
            for j in range(n):
                sum_log += _log(total[j] * total[j + n] * total[j + 2 * n] * total[j + 3 * n])
            for j in range(4 * n, d):
                sum_log += _log(total[j])
        value[first + i] -= sum_log
    for z in range(start, stop):
        o[job.row[z] - first, job.col[z] - lo] -= seen[z - start]


# --- Poisson ------------------------------------------------------------------------------------


@_kernel
def add_sums(o: Floats, first: int, lo: int, job: Job, total: Floats, expected: Floats) -> None:
    """Add the sums of exp(output) of each row, over what was measured and over the targets, (r,) each."""
    r, d = o.shape
    e = np.empty(d, np.float32)
    for i in range(r):
        sum_all, sum_wanted = f32(0), f32(0)
        for j in range(d):
            e[j] = _exp(o[i, j])
        if len(job.measured):
            mask = job.measured[job.of_measured[first + i], lo : lo + d]
            for j in range(d):
                e[j] *= f32(mask[j])
        for j in range(d):
            sum_all += e[j]
        if len(job.wanted):
            mask = job.wanted[job.of_wanted[first + i], lo : lo + d]
            for j in range(d):
                sum_wanted += e[j] * f32(mask[j])
        total[first + i] += sum_all
        expected[first + i] += sum_wanted


def in_range(total: Floats) -> bool:
    """Whether sums of exponentials neither overflow nor lose their small terms."""
    return bool(((total > LEAST) & (total < MOST)).all())


@_kernel
def multinomial(
    o: Floats, first: int, lo: int, start: int, stop: int, job: Job, rate: Floats, share: Floats, value: Floats
) -> None:
    """Poisson of mean rate * exp(output), without the means of the targets in its value.

    `rate` is the library over the sum of exp(output), `share` is (counts - means of all targets) over the
    library, (r,) each.
    """
    r, d = o.shape
    log_rate = np.empty(r, np.float32)
    for i in range(r):
        log_rate[i] = _log(max(rate[first + i], TINY))
    for z in range(start, stop):
        i = job.row[z] - first
        value[first + i] += job.x[z] * (o[i, job.col[z] - lo] + log_rate[i]) + job.constant[z]
    for i in range(r):
        inside, outside = rate[first + i], rate[first + i] * share[first + i]
        for j in range(d):
            o[i, j] = _exp(o[i, j])
        if len(job.measured):
            mask = job.measured[job.of_measured[first + i], lo : lo + d]
            for j in range(d):
                o[i, j] *= f32(mask[j])
        if len(job.wanted):
            mask = job.wanted[job.of_wanted[first + i], lo : lo + d]
            for j in range(d):
                o[i, j] *= inside * f32(mask[j]) + outside
        else:
            for j in range(d):
                o[i, j] *= inside + outside
    for z in range(start, stop):
        o[job.row[z] - first, job.col[z] - lo] -= job.x[z]


# --- negative binomial --------------------------------------------------------------------------


@_kernel
def _add_slope(
    d_alpha: Floats, alpha: Floats, weight: Any, mean: Floats, score: Floats, cost: Floats, small: bool
) -> None:
    """Add a row's weight * d(-log NB(0)) / da; by its series where differences would cancel."""
    if not small:
        for j in range(len(alpha)):
            d_alpha[j] += weight * (score[j] - cost[j]) / alpha[j]
        return
    for j in range(len(alpha)):
        m = mean[j]
        t = alpha[j] * m
        series = f32(2 / 3) + t * (f32(-0.75) + t * (f32(0.8) - t * f32(5 / 6)))
        series = m * m * (f32(-0.5) + t * series)
        by_series = t < f32(0.05) and cost[j] != f32(0)  # a cost of 0 is no target, or no mean
        d_alpha[j] += weight * (series if by_series else (score[j] - cost[j]) / alpha[j])


@_kernel
def _at_counts(log_m: Floats, alpha: Floats, x: Floats, gain: Floats, value: Floats) -> None:
    """At the non-zeros: gain = x / (1 + a m), and x log m - x log(1 + a m), (z,) each."""
    for z in range(len(x)):
        t = alpha[z] * _exp(log_m[z])
        gain[z] = x[z] / (f32(1) + t)
        value[z] = x[z] * (log_m[z] - _log1p(t))


@_kernel
def _add_counts(
    job: Job, start: int, log_m: Floats, gain: Floats, of_counts: Floats, value: Floats, d_alpha: Floats
) -> None:
    """Add what the non-zeros give to the value of their rows and to the slope by dispersion."""
    for z in range(len(gain)):
        log_m[z] = _exp(log_m[z]) * gain[z]
    for z in range(len(gain)):
        k = job.row[start + z]
        value[k] += of_counts[z] + job.rise[start + z] + job.constant[start + z]
        d_alpha[job.code[k], job.col[start + z]] -= job.weight[k] * (job.d_rise[start + z] - log_m[z])


@_finite
def _largest(o: Floats) -> Any:
    most = f32(-np.inf)
    for j in range(len(o)):
        most = max(most, o[j])
    return most


@_finite
def _largest_of(o: Floats, mask: Bools) -> Any:
    most = f32(-np.inf)
    for j in range(len(o)):
        most = max(most, o[j] if mask[j] else f32(-np.inf))
    return most


@_kernel
def nb_softmax(
    o: Floats, first: int, lo: int, start: int, stop: int, job: Job, value: Floats, d_alpha: Floats
) -> None:
    """Negative binomial of mean library x softmax; adds to `value` (r,) and `d_alpha` (A, d)."""
    r, d = o.shape
    n = stop - start
    top, rate, log_rate = np.empty(r, np.float32), np.empty(r, np.float32), np.empty(r, np.float32)
    scores = np.zeros(r, np.float32)  # sum over targets of m dL/dm
    log_m, a = np.empty(n, np.float32), np.empty(n, np.float32)
    gain, of_counts = np.empty(n, np.float32), np.empty(n, np.float32)
    score, cost = np.empty(d, np.float32), np.empty(d, np.float32)
    for i in range(r):
        if len(job.measured):
            top[i] = _largest_of(o[i], job.measured[job.of_measured[first + i], lo : lo + d])
        else:
            top[i] = _largest(o[i])
    for z in range(start, stop):
        i = job.row[z] - first
        log_m[z - start] = o[i, job.col[z] - lo] - top[i]
        a[z - start] = job.alpha[job.code[first + i], job.col[z]]
    for i in range(r):
        total, most = f32(0), top[i]
        for j in range(d):
            o[i, j] = _exp(o[i, j] - most)
        if len(job.measured):
            mask = job.measured[job.of_measured[first + i], lo : lo + d]
            for j in range(d):
                o[i, j] *= f32(mask[j])
        for j in range(d):
            total += o[i, j]
        rate[i] = job.library[first + i] / max(total, TINY)
        log_rate[i] = _log(max(rate[i], TINY))
    for z in range(n):
        log_m[z] += log_rate[job.row[start + z] - first]
    _at_counts(log_m, a, job.x[start:stop], gain, of_counts)
    _add_counts(job, start, log_m, gain, of_counts, value, d_alpha)
    for z in range(n):
        scores[job.row[start + z] - first] -= gain[z]
    for i in range(r):
        c, k, library = job.code[first + i], rate[i], job.library[first + i]
        alpha = job.alpha[c, lo : lo + d]
        for j in range(d):
            o[i, j] *= k  # the mean
        for j in range(d):
            t = alpha[j] * o[i, j]
            score[j] = o[i, j] / (f32(1) + t)
            cost[j] = _log1p(t) / alpha[j]  # -log NB(0)
        if len(job.wanted):
            mask = job.wanted[job.of_wanted[first + i], lo : lo + d]
            for j in range(d):
                keep = f32(mask[j])
                score[j] *= keep
                cost[j] *= keep
        sum_score, sum_cost = scores[i], f32(0)
        for j in range(d):
            sum_score += score[j]
            sum_cost += cost[j]
        value[first + i] -= sum_cost
        _add_slope(d_alpha[c, lo : lo + d], alpha, job.weight[first + i], o[i], score, cost, job.small)
        total = sum_score / max(library, TINY)
        for j in range(d):
            o[i, j] = score[j] - o[i, j] * total
    for z in range(start, stop):
        o[job.row[z] - first, job.col[z] - lo] -= gain[z - start]


@_kernel
def nb_bounded(
    o: Floats, first: int, lo: int, start: int, stop: int, job: Job, value: Floats, d_alpha: Floats
) -> None:
    """Negative binomial of a mean between bounds; adds to `value` (r,) and `d_alpha` (A, d)."""
    r, d = o.shape
    low, high = job.low[lo : lo + d], job.high[lo : lo + d]
    n = stop - start
    p, width = np.empty(n, np.float32), np.empty(n, np.float32)
    log_m, a = np.empty(n, np.float32), np.empty(n, np.float32)
    gain, of_counts = np.empty(n, np.float32), np.empty(n, np.float32)
    mean, score, cost = np.empty(d, np.float32), np.empty(d, np.float32), np.empty(d, np.float32)
    for z in range(n):
        k, j = job.row[start + z], job.col[start + z]
        p[z] = o[k - first, j - lo]
        width[z] = job.high[j] - job.low[j]
        log_m[z] = job.low[j]  # the mean at p = 0
        a[z] = job.alpha[job.code[k], j]
    for z in range(n):
        p[z] = f32(1) / (f32(1) + _exp(-p[z]))
    for z in range(n):
        log_m[z] = _log(max(log_m[z] + p[z] * width[z], TINY))
    _at_counts(log_m, a, job.x[start:stop], gain, of_counts)
    for z in range(n):
        p[z] = (p[z] - p[z] * p[z]) * width[z] * gain[z] * _exp(-log_m[z])  # what a count takes off
    _add_counts(job, start, log_m, gain, of_counts, value, d_alpha)
    for i in range(r):
        c = job.code[first + i]
        alpha = job.alpha[c, lo : lo + d]
        for j in range(d):
            o[i, j] = f32(1) / (f32(1) + _exp(-o[i, j]))
        for j in range(d):
            mean[j] = low[j] + o[i, j] * (high[j] - low[j])
        for j in range(d):
            t = alpha[j] * mean[j]
            score[j] = f32(1) / (f32(1) + t)
            cost[j] = _log1p(t) / alpha[j]
        for j in range(d):
            o[i, j] = score[j] * (o[i, j] - o[i, j] * o[i, j]) * (high[j] - low[j])
        for j in range(d):
            score[j] *= mean[j]
        if len(job.wanted):
            mask = job.wanted[job.of_wanted[first + i], lo : lo + d]
            for j in range(d):
                keep = f32(mask[j])
                score[j] *= keep
                cost[j] *= keep
                o[i, j] *= keep
        sum_cost = f32(0)
        for j in range(d):
            sum_cost += cost[j]
        value[first + i] -= sum_cost
        _add_slope(d_alpha[c, lo : lo + d], alpha, job.weight[first + i], mean, score, cost, job.small)
    for z in range(start, stop):
        o[job.row[z] - first, job.col[z] - lo] -= p[z - start]


Kernel = Callable[[Floats, int, int, int, int, Job, Floats, Floats], None]


def kernel_of(dist: Distribution, *, aware: bool) -> Kernel | None:
    """The compiled likelihood, or None where there is none: a Poisson's goes by `add_sums` and `multinomial`."""
    if dist == "NB":
        return nb_softmax if aware else nb_bounded
    return bernoulli if dist == "Bernoulli" else None
