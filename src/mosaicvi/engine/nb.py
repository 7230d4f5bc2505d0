"""Compiled negative binomial, with or without extra zeros.

Legend: r rows and d columns of a part, A covariate rows, z non-zeros of a tile. A tile is `o`, whose first
row and column in the part are `first` and `lo`; see `likelihoods` for what it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicvi.engine.counts import TINY, exponentials, log_factorial, rising
from mosaicvi.engine.jit import Bools, Floats, any_order, exp, f32, log, log1p

if TYPE_CHECKING:
    from mosaicvi.engine.likelihoods import Counts, Likelihood, Slopes


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
    nz: Counts, part: Likelihood, log_m: Floats, alpha: Floats, gain: Floats, of_counts: Floats,
    value: Floats, slopes: Slopes,
) -> None:  # fmt: skip
    """Add what the non-zeros give to the value of their rows and to the slope by dispersion."""
    for z in range(len(gain)):
        log_m[z] = exp(log_m[z]) * gain[z]
    for z in range(len(gain)):
        k = nz.row[z]
        rise, d_rise = rising(nz.x[z], alpha[z])
        value[k] += of_counts[z] + rise - log_factorial(nz.x[z])
        slopes.alpha[part.code[k], nz.col[z]] -= part.weight[k] * (d_rise - log_m[z])


@any_order
def _sum(values: Floats) -> Any:
    total = f32(0)
    for j in range(len(values)):
        total += values[j]
    return total


@any_order
def _mask(score: Floats, cost: Floats, k: int, lo: int, part: Likelihood) -> None:
    """Leave only the targets of row k."""
    choice = part.of_wanted[k]
    if choice >= 0:
        mask = part.wanted[choice, lo : lo + len(cost)]
        for j in range(len(cost)):
            keep = f32(mask[j])
            score[j] *= keep
            cost[j] *= keep


@any_order
def _add_inflated_counts(
    first: int, lo: int, nz: Counts, part: Likelihood, log_m: Floats, alpha: Floats, value: Floats,
    slopes: Slopes, is_count: Bools,
) -> None:  # fmt: skip
    """What a count has besides: a share 1 - pi, and -log NB(0), which `_mix` leaves out; mark it for that."""
    for z in range(len(log_m)):
        k, j = nz.row[z], nz.col[z]
        if nz.x[z] > f32(0):
            rest = f32(1) - part.pi[j]
            value[k] += log(rest) - log1p(alpha[z] * exp(log_m[z])) / alpha[z]
            slopes.pi[j] += part.weight[k] / rest
            is_count[k - first, j - lo] = True


@any_order
def _mix(
    score: Floats, cost: Floats, is_count: Bools, k: int, lo: int, part: Likelihood, mean: Floats,
    slopes: Slopes,
) -> Any:  # fmt: skip
    """Log-likelihood of row k's zeros; weighs the scores of all targets by the share of the count's own zero.

    Given are m / (1 + a m) and -log NB(0); slopes by dispersion and zero inflation are added up.
    """
    d, w, c = len(score), part.weight[k], part.code[k]
    pi, alpha = part.pi[lo : lo + d], part.alpha[c, lo : lo + d]
    d_pi, d_alpha = slopes.pi[lo : lo + d], slopes.alpha[c, lo : lo + d]
    share, mixture, keep = (np.empty(d, np.float32), np.empty(d, np.float32), np.empty(d, np.float32))
    for j in range(d):
        keep[j] = f32(1) - f32(is_count[j])
    choice = part.of_wanted[k]
    if choice >= 0:
        mask = part.wanted[choice, lo : lo + d]
        for j in range(d):
            keep[j] *= f32(mask[j])
    for j in range(d):
        zero = exp(-cost[j])
        own = (f32(1) - pi[j]) * zero
        inverse = keep[j] / (pi[j] + own)
        d_pi[j] -= w * inverse * (f32(1) - zero)
        mixture[j] = keep[j] * (pi[j] + own) + (f32(1) - keep[j])
        share[j] = own * inverse + f32(is_count[j])
    for j in range(d):
        m = mean[j]
        t = alpha[j] * m
        series = f32(2 / 3) + t * (f32(-0.75) + t * (f32(0.8) - t * f32(5 / 6)))
        series = m * m * (f32(-0.5) + t * series)
        d_alpha[j] += w * share[j] * (series if t < f32(0.05) else (score[j] - cost[j]) / alpha[j])
        score[j] *= share[j]
    total = f32(0)
    n = d // 4
    for j in range(n):  # four factors, 1e-3 at least, share a logarithm
        total += log(mixture[j] * mixture[j + n] * mixture[j + 2 * n] * mixture[j + 3 * n])
    for j in range(4 * n, d):
        total += log(mixture[j])
    return total


@any_order
def nb_softmax(o: Floats, first: int, nz: Counts, part: Likelihood, value: Floats, slopes: Slopes) -> None:
    """Negative binomial of mean library x softmax; adds to `value` (r,) and `slopes`."""
    r, d = o.shape
    n = len(nz.x)
    rate, log_rate = np.empty(r, np.float32), np.empty(r, np.float32)
    scores = np.zeros(r, np.float32)  # sum over targets of m dL/dm
    log_m, a = np.empty(n, np.float32), np.empty(n, np.float32)
    gain, of_counts = np.empty(n, np.float32), np.empty(n, np.float32)
    score, cost = np.empty(d, np.float32), np.empty(d, np.float32)
    exponentials(o, first, nz, part, rate, log_rate, log_m)
    for z in range(n):
        a[z] = part.alpha[part.code[nz.row[z]], nz.col[z]]
    _at_counts(log_m, a, nz.x, gain, of_counts)
    n_inflated = len(part.pi)
    is_count = np.zeros((r if n_inflated else 0, d), np.bool_)
    if n_inflated:
        _add_inflated_counts(first, 0, nz, part, log_m, a, value, slopes, is_count)
    _add_counts(nz, part, log_m, a, gain, of_counts, value, slopes)
    for z in range(n):
        scores[nz.row[z] - first] -= gain[z]
    for i in range(r):
        c, k, library, w = part.code[first + i], rate[i], part.library[first + i], part.weight[first + i]
        alpha = part.alpha[c]
        for j in range(d):
            o[i, j] *= k  # the mean
        for j in range(d):
            t = alpha[j] * o[i, j]
            score[j] = o[i, j] / (f32(1) + t)
            cost[j] = log1p(t) / alpha[j]  # -log NB(0)
        if n_inflated:
            value[first + i] += _mix(score, cost, is_count[i], first + i, 0, part, o[i], slopes)
        else:
            _mask(score, cost, first + i, 0, part)
            value[first + i] -= _sum(cost)
            _add_slope(slopes.alpha[c], alpha, w, o[i], score, cost, part.small)
        sum_score = scores[i] + _sum(score)
        total = sum_score / max(library, TINY)
        for j in range(d):
            o[i, j] = w * (score[j] - o[i, j] * total)
    for z in range(n):
        o[nz.row[z] - first, nz.col[z]] -= part.weight[nz.row[z]] * gain[z]


@any_order
def nb_bounded(
    o: Floats, first: int, lo: int, nz: Counts, part: Likelihood, value: Floats, slopes: Slopes
) -> None:
    """Negative binomial of a mean between bounds; adds to `value` (r,) and `slopes`."""
    r, d = o.shape
    low, high = part.low[lo : lo + d], part.high[lo : lo + d]
    n = len(nz.x)
    p, width = np.empty(n, np.float32), np.empty(n, np.float32)
    log_m, a = np.empty(n, np.float32), np.empty(n, np.float32)
    gain, of_counts = np.empty(n, np.float32), np.empty(n, np.float32)
    mean, score, cost = np.empty(d, np.float32), np.empty(d, np.float32), np.empty(d, np.float32)
    for z in range(n):
        k, j = nz.row[z], nz.col[z]
        p[z] = o[k - first, j - lo]
        width[z] = part.high[j] - part.low[j]
        log_m[z] = part.low[j]  # the mean at p = 0
        a[z] = part.alpha[part.code[k], j]
    for z in range(n):
        p[z] = f32(1) / (f32(1) + exp(-p[z]))
    for z in range(n):
        log_m[z] = log(max(log_m[z] + p[z] * width[z], TINY))
    _at_counts(log_m, a, nz.x, gain, of_counts)
    for z in range(n):
        p[z] = (p[z] - p[z] * p[z]) * width[z] * gain[z] * exp(-log_m[z])  # what a count takes off
    n_inflated = len(part.pi)
    is_count = np.zeros((r if n_inflated else 0, d), np.bool_)
    if n_inflated:
        _add_inflated_counts(first, lo, nz, part, log_m, a, value, slopes, is_count)
    _add_counts(nz, part, log_m, a, gain, of_counts, value, slopes)
    for i in range(r):
        c, w = part.code[first + i], part.weight[first + i]
        alpha = part.alpha[c, lo : lo + d]
        for j in range(d):
            o[i, j] = f32(1) / (f32(1) + exp(-o[i, j]))
        for j in range(d):
            mean[j] = low[j] + o[i, j] * (high[j] - low[j])
        for j in range(d):
            t = alpha[j] * mean[j]
            score[j] = mean[j] / (f32(1) + t)
            cost[j] = log1p(t) / alpha[j]
        if n_inflated:
            value[first + i] += _mix(score, cost, is_count[i], first + i, lo, part, mean, slopes)
        else:
            _mask(score, cost, first + i, lo, part)
            value[first + i] -= _sum(cost)
            _add_slope(slopes.alpha[c, lo : lo + d], alpha, w, mean, score, cost, part.small)
        for j in range(d):  # m dL/dm, by the mean and times its slope
            steep = (o[i, j] - o[i, j] * o[i, j]) * (high[j] - low[j])
            o[i, j] = w * steep * score[j] / max(mean[j], TINY)
    for z in range(n):
        o[nz.row[z] - first, nz.col[z] - lo] -= part.weight[nz.row[z]] * p[z]
