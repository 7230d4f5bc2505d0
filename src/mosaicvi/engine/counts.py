"""What compiled likelihoods of counts share, and Poisson.

Legend: r rows and d columns of a part, A covariate rows, z non-zeros of a tile. A tile is `o`, whose first
row and column in the part are `first` and `lo`; see `likelihoods` for what it is given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicvi.engine.jit import Floats, any_order, between, exp, f32, in_order, log, log1p

if TYPE_CHECKING:
    from mosaicvi.engine.likelihoods import Counts, Likelihood

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
def exponentials(
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
    exponentials(o, first, nz, part, rate, log_rate, log_m)
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
