"""Compiled likelihoods of counts: Poisson and negative binomial, with or without extra zeros.

Legend: r rows and d columns of a part, A covariate rows, z non-zeros of a tile. A tile is `o`, whose first
row and column in the part are `first` and `lo`; see `likelihoods` for what it is given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicvi.engine.jit import Bools, Floats, any_order, between, exp, f32, in_order, log, log1p

if TYPE_CHECKING:
    from mosaicvi.engine.likelihoods import Counts, Likelihood, Slopes

TINY = f32(np.finfo(np.float32).tiny)
FEW = 8  # counts up to this are summed term by term
_LOG_FACTORIALS = np.array([math.lgamma(k + 1) for k in range(2048)], np.float32)


@in_order
def log_factorial(x: Any) -> Any:
    """Logarithm of x!, or of gamma(x + 1) for what is no count."""
    k = int(x)
    if 0 <= k < len(_LOG_FACTORIALS) and x == k:
        return _LOG_FACTORIALS[k]
    return f32(math.lgamma(np.float64(x) + 1))


@in_order
def rising(x: Any, alpha: Any) -> tuple[Any, Any]:
    """`likelihoods.nb.rising_log` of a value; both are 0 at x = 0 and x = 1."""
    if x == f32(0) or x == f32(1):
        return f32(0), f32(0)
    v, a = np.float64(x), np.float64(alpha)
    if v <= FEW and v == np.floor(v):  # term by term
        product, d_product = 1.0, 0.0
        for k in range(1, int(v)):
            d_product = d_product * (1 + k * a) + k * product
            product *= 1 + k * a
        f = np.float64(log1p(f32(product - 1))) if product < 1e30 else np.log(product)
        return f32(f), f32(d_product / product)
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
    return f32(f), f32(-r * r * d_r + 5 * v / (1 + 5 * a))


# --- Poisson ------------------------------------------------------------------------------------


@any_order
def _largest(values: Floats) -> Any:
    """Largest of some values; by eight at a time, as the compiler makes no vector loop of one by one."""
    none = f32(-np.inf)
    a, b, c, d, e, f, g, h = none, none, none, none, none, none, none, none
    n = len(values) - len(values) % 8
    for j in range(0, n, 8):
        s, t, u, v = values[j], values[j + 1], values[j + 2], values[j + 3]
        w, x, y, z = values[j + 4], values[j + 5], values[j + 6], values[j + 7]
        a = s if s > a else a
        b = t if t > b else b
        c = u if u > c else c
        d = v if v > d else d
        e = w if w > e else e
        f = x if x > f else f
        g = y if y > g else g
        h = z if z > h else h
    for j in range(n, len(values)):
        a = values[j] if values[j] > a else a
    return max(max(max(a, b), max(c, d)), max(max(e, f), max(g, h)))


@any_order
def _exponentials(
    o: Floats, first: int, nz: Counts, part: Likelihood, rate: Floats, log_rate: Floats, log_m: Floats
) -> None:
    """Turn the output into exp(output) up to a factor of each row, zero outside the panel.

    Rows must be whole. `rate` (r,) times the result is the mean library x softmax; `log_rate` (r,) is its
    logarithm, and `log_m` (z,) that of the mean at the non-zeros.
    """
    r, d = o.shape
    top, score = np.empty(r, np.float32), np.empty(d, np.float32)
    for i in range(r):
        if len(part.measured):
            mask = part.measured[part.of_measured[first + i]]
            for j in range(d):
                score[j] = o[i, j] if mask[j] else f32(-np.inf)
            top[i] = _largest(score)
        else:
            top[i] = _largest(o[i])
    for z in range(len(nz.x)):
        i = nz.row[z] - first
        log_m[z] = o[i, nz.col[z]] - top[i]
    for i in range(r):
        total, most = f32(0), top[i]
        if len(part.measured):
            mask = part.measured[part.of_measured[first + i]]
            for j in range(d):
                o[i, j] = exp(o[i, j] - most) * f32(mask[j])
                total += o[i, j]
        else:
            for j in range(d):
                o[i, j] = exp(o[i, j] - most)
                total += o[i, j]
        rate[i] = part.library[first + i] / max(total, TINY)
        log_rate[i] = log(max(rate[i], TINY))
    for z in range(len(nz.x)):
        log_m[z] += log_rate[nz.row[z] - first]


@any_order
def poisson_softmax(o: Floats, first: int, nz: Counts, part: Likelihood, value: Floats) -> None:
    """Poisson of mean library x softmax; rows must be whole."""
    r, d = o.shape
    rate, log_rate, log_m = np.empty(r, np.float32), np.empty(r, np.float32), np.empty(len(nz.x), np.float32)
    seen = np.zeros(r, np.float32)
    _exponentials(o, first, nz, part, rate, log_rate, log_m)
    for z in range(len(nz.x)):
        value[nz.row[z]] += nz.x[z] * log_m[z] - log_factorial(nz.x[z])
        seen[nz.row[z] - first] += nz.x[z]
    for i in range(r):
        library, w = part.library[first + i], part.weight[first + i]
        expected = library
        choice = part.of_wanted[first + i]
        if choice >= 0:
            mask = part.wanted[choice]
            expected = f32(0)
            for j in range(d):
                expected += o[i, j] * f32(mask[j])
            expected *= rate[i]
        value[first + i] -= expected
        inside = w * rate[i]
        outside = inside * (seen[i] - expected) / max(library, TINY)
        choice = part.of_wanted[first + i]
        if choice >= 0:
            mask = part.wanted[choice]
            for j in range(d):
                o[i, j] *= inside * f32(mask[j]) + outside
        else:
            for j in range(d):
                o[i, j] *= inside + outside
    for z in range(len(nz.x)):
        o[nz.row[z] - first, nz.col[z]] -= part.weight[nz.row[z]] * nz.x[z]


@any_order
def poisson_bounded(o: Floats, first: int, lo: int, nz: Counts, part: Likelihood, value: Floats) -> None:
    """Poisson of a rate between bounds, whose logarithms `part` has; outside there is no gradient."""
    r, d = o.shape
    low, high = part.low[lo : lo + d], part.high[lo : lo + d]
    seen = np.empty(len(nz.x), np.float32)  # what a count takes off the gradient
    for z in range(len(nz.x)):
        k, j = nz.row[z], nz.col[z] - lo
        output = o[k - first, j]
        bounded = between(low[j], output, high[j])
        value[k] += nz.x[z] * bounded - log_factorial(nz.x[z])
        seen[z] = f32(0) if output < low[j] or output > high[j] else nz.x[z] * part.weight[k]
    rate = np.empty(d, np.float32)
    for i in range(r):
        w, row = part.weight[first + i], o[i]
        for j in range(d):
            rate[j] = exp(between(low[j], row[j], high[j]))
        choice = part.of_wanted[first + i]
        if choice >= 0:
            mask = part.wanted[choice, lo : lo + d]
            for j in range(d):
                rate[j] *= f32(mask[j])
        total = f32(0)
        for j in range(d):
            total += rate[j]
        value[first + i] -= total
        for j in range(d):
            row[j] = f32(0) if row[j] < low[j] or row[j] > high[j] else w * rate[j]
    for z in range(len(nz.x)):
        o[nz.row[z] - first, nz.col[z] - lo] -= seen[z]


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
    _exponentials(o, first, nz, part, rate, log_rate, log_m)
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
