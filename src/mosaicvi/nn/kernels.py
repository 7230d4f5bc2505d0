"""The likelihoods of counts and of accessibility, compiled: one pass over a tile in place of a dozen.

The same arithmetic as `counts` and `likelihoods`, which other devices and precisions use. Rows of a tile
are worked through one by one, so that intermediate values stay in the first-level cache; Python's lock is
not held. Loops touch few arrays each: with more, the compiler would have too much to check before it could
use vector instructions.

Legend: r rows and d columns of a job, A covariate rows, z non-zeros. A tile is `o`, whose first row and
column in the job are `first` and `lo`; its non-zeros are `start` to `stop` of the job's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.config import Distribution
from mosaicvi.nn.compiled import (
    Bools,
    Floats,
    Ints,
    any_order,
    between,
    exp,
    f32,
    in_order,
    log,
    log1p,
)
from mosaicvi.nn.masks import View

TINY = f32(np.finfo(np.float32).tiny)
MOST, LEAST = f32(1e30), f32(1e-20)  # sums of exponentials between them are exact enough


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
    nothing = x.new_zeros(0)
    named = {
        "low": low, "high": high, "library": library, "code": code, "weight": weight,
        "row": row, "col": col, "x": x, "constant": constant, "rise": rise, "d_rise": d_rise,
    }  # fmt: skip
    arrays: dict[str, Any] = {k: _array(nothing if v is None else v) for k, v in named.items()}
    arrays["alpha"] = _array(nothing[None] if alpha is None else alpha)
    arrays["wanted"], arrays["of_wanted"] = view_arrays(wanted)
    arrays["measured"], arrays["of_measured"] = view_arrays(measured)
    return Job(small=small, **arrays)


def view_arrays(view: View | None) -> tuple[Bools, Ints]:
    """Table and index; an empty table for None."""
    if view is None:
        return _NO_TABLE, _NO_INDEX
    return _array(view.table), _array(view.index)


def _array(tensor: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().numpy())


_NO_TABLE, _NO_INDEX = np.zeros((0, 0), np.bool_), np.zeros(0, np.int64)


@in_order
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


# --- accessibility ------------------------------------------------------------------------------


@any_order
def bernoulli(
    o: Floats, first: int, lo: int, start: int, stop: int, job: Job, value: Floats, d_alpha: Floats
) -> None:
    """Bernoulli of a probability that is clipped to its bounds, where it has no gradient."""
    r, d = o.shape
    low, high = job.low[lo : lo + d], job.high[lo : lo + d]
    seen = np.empty(stop - start, np.float32)  # what a non-zero takes off the gradient
    for z in range(start, stop):
        i, j, x = job.row[z] - first, job.col[z] - lo, job.x[z]
        bounded = between(low[j], o[i, j], high[j])
        value[first + i] += x * bounded  # log p - log(1 - p)
        seen[z - start] = f32(0) if o[i, j] < low[j] or o[i, j] > high[j] else x
    total = np.empty(d, np.float32)
    n = d // 4
    for i in range(r):
        for j in range(d):
            bounded = between(low[j], o[i, j], high[j])
            odds = exp(bounded)
            total[j] = f32(1) + odds
            o[i, j] = f32(0) if o[i, j] < low[j] or o[i, j] > high[j] else odds / total[j]
        sum_log = f32(0)
        if len(job.wanted):
            mask = job.wanted[job.of_wanted[first + i], lo : lo + d]
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
    for z in range(start, stop):
        o[job.row[z] - first, job.col[z] - lo] -= seen[z - start]


# --- Poisson ------------------------------------------------------------------------------------


@any_order
def add_sums(o: Floats, first: int, lo: int, job: Job, total: Floats, expected: Floats) -> None:
    """Add the sums of exp(output) of each row, over what was measured and over the targets, (r,) each."""
    r, d = o.shape
    e = np.empty(d, np.float32)
    for i in range(r):
        sum_all, sum_wanted = f32(0), f32(0)
        for j in range(d):
            e[j] = exp(o[i, j])
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


@any_order
def multinomial(
    o: Floats,
    first: int,
    lo: int,
    start: int,
    stop: int,
    job: Job,
    rate: Floats,
    share: Floats,
    value: Floats,
) -> None:
    """Poisson of mean rate * exp(output), without the means of the targets in its value.

    `rate` is the library over the sum of exp(output), `share` is (counts - means of all targets) over the
    library, (r,) each.
    """
    r, d = o.shape
    log_rate = np.empty(r, np.float32)
    for i in range(r):
        log_rate[i] = log(max(rate[first + i], TINY))
    for z in range(start, stop):
        i = job.row[z] - first
        value[first + i] += job.x[z] * (o[i, job.col[z] - lo] + log_rate[i]) + job.constant[z]
    for i in range(r):
        inside, outside = rate[first + i], rate[first + i] * share[first + i]
        for j in range(d):
            o[i, j] = exp(o[i, j])
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


@any_order
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


@any_order
def _at_counts(log_m: Floats, alpha: Floats, x: Floats, gain: Floats, value: Floats) -> None:
    """At the non-zeros: gain = x / (1 + a m), and x log m - x log(1 + a m), (z,) each."""
    for z in range(len(x)):
        t = alpha[z] * exp(log_m[z])
        gain[z] = x[z] / (f32(1) + t)
        value[z] = x[z] * (log_m[z] - log1p(t))


@any_order
def _add_counts(
    job: Job, start: int, log_m: Floats, gain: Floats, of_counts: Floats, value: Floats, d_alpha: Floats
) -> None:
    """Add what the non-zeros give to the value of their rows and to the slope by dispersion."""
    for z in range(len(gain)):
        log_m[z] = exp(log_m[z]) * gain[z]
    for z in range(len(gain)):
        k = job.row[start + z]
        value[k] += of_counts[z] + job.rise[start + z] + job.constant[start + z]
        d_alpha[job.code[k], job.col[start + z]] -= job.weight[k] * (job.d_rise[start + z] - log_m[z])


@any_order
def _largest(values: Floats) -> Any:
    """Largest of some values, which are lost: halves against each other, as one by one is no vector loop."""
    n = len(values)
    while n > 1:
        half = (n + 1) // 2
        for j in range(n - half):
            values[j] = max(values[j], values[j + half])
        n = half
    return values[0]


@any_order
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
        for j in range(d):
            score[j] = o[i, j]
        if len(job.measured):
            mask = job.measured[job.of_measured[first + i], lo : lo + d]
            for j in range(d):
                score[j] = score[j] if mask[j] else f32(-np.inf)
        top[i] = _largest(score)
    for z in range(start, stop):
        i = job.row[z] - first
        log_m[z - start] = o[i, job.col[z] - lo] - top[i]
        a[z - start] = job.alpha[job.code[first + i], job.col[z]]
    for i in range(r):
        total, most = f32(0), top[i]
        for j in range(d):
            o[i, j] = exp(o[i, j] - most)
        if len(job.measured):
            mask = job.measured[job.of_measured[first + i], lo : lo + d]
            for j in range(d):
                o[i, j] *= f32(mask[j])
        for j in range(d):
            total += o[i, j]
        rate[i] = job.library[first + i] / max(total, TINY)
        log_rate[i] = log(max(rate[i], TINY))
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
            cost[j] = log1p(t) / alpha[j]  # -log NB(0)
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


@any_order
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
        p[z] = f32(1) / (f32(1) + exp(-p[z]))
    for z in range(n):
        log_m[z] = log(max(log_m[z] + p[z] * width[z], TINY))
    _at_counts(log_m, a, job.x[start:stop], gain, of_counts)
    for z in range(n):
        p[z] = (p[z] - p[z] * p[z]) * width[z] * gain[z] * exp(-log_m[z])  # what a count takes off
    _add_counts(job, start, log_m, gain, of_counts, value, d_alpha)
    for i in range(r):
        c = job.code[first + i]
        alpha = job.alpha[c, lo : lo + d]
        for j in range(d):
            o[i, j] = f32(1) / (f32(1) + exp(-o[i, j]))
        for j in range(d):
            mean[j] = low[j] + o[i, j] * (high[j] - low[j])
        for j in range(d):
            t = alpha[j] * mean[j]
            score[j] = f32(1) / (f32(1) + t)
            cost[j] = log1p(t) / alpha[j]
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
    """The compiled likelihood, or None where there is none; a Poisson has `add_sums` and `multinomial`."""
    if dist == "NB":
        return nb_softmax if aware else nb_bounded
    return bernoulli if dist == "Bernoulli" else None
