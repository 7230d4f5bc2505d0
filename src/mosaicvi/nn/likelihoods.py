"""Likelihoods in closed form: value and gradient together, on one tile that fits the cache.

A tile is r rows x d features of the decoder's output. Each likelihood overwrites the output `o` with
the gradient of the log-likelihood with respect to it, and returns the value summed over the targets.
Special functions are evaluated at the non-zeros only. For counts, with mean m and dispersion a
(variance m + a m^2):

    log NB(x) = f(x, a) - log x! + x log m - (x + 1/a) log(1 + a m),
    f(x, a)   = sum_{k<x} log(1 + k a) = log G(x + 1/a) - log G(1/a) + x log a,

which stays exact when a tends to 0 (Poisson). Legend: r rows, d features, z non-zeros of the tile.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mosaicvi.config import Distribution

MIN_DISPERSION = 1e-8
SMALL_DISPERSION = 1e-3  # below it a difference of two logarithms would cancel in float32
LARGE_OUTPUT = 60.0  # exp of it still sums without overflow
MAX_LOGIT = 17.0  # exp of it is 2e7: far beyond any bound, and four of them still multiply
MIN_ZERO_INFLATION = 1e-3
_SHIFT = 5  # Stirling's series from here on is exact to 1e-9


@dataclasses.dataclass(kw_only=True)
class Tile:
    """Inputs of a likelihood over r rows x d features.

    Attributes
    ----------
    o
        Decoder output (r, d); becomes the gradient.
    target
        1 where an entry counts, else 0, (r, d); None when all count.
    row, at, x
        Row, flat position row * d + column and value of the non-zero targets, (z,) each.
    rise, d_rise, constant
        Of the non-zeros: f(x, a), its derivative by a, and -log x!, (z,) each.
    dense
        In place of them for Gaussian: all values (r, d).
    library
        Library of each row (r, 1) for a mean of library x softmax, else None.
    panel
        With `library`: 1 for the features that the softmax is normalised over, (r, d); None for all.
    low, high, centre
        Bounds and centre of the mean, (d,).
    alpha, small
        Dispersion or standard deviation (r, d); whether some dispersion is below `SMALL_DISPERSION`.
    pi
        Zero inflation (d,).
    scratch
        Memory for intermediate values (r, d).
    """

    o: Tensor
    target: Tensor | None = None
    row: Tensor | None = None
    at: Tensor | None = None
    x: Tensor | None = None
    rise: Tensor | None = None
    d_rise: Tensor | None = None
    constant: Tensor | None = None
    dense: Tensor | None = None
    library: Tensor | None = None
    panel: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    centre: Tensor | None = None
    alpha: Tensor | None = None
    small: bool = True
    pi: Tensor | None = None
    scratch: Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TileResult:
    """Log-likelihood of each row, and its gradients besides the one left in ``Tile.o``."""

    value: Tensor  # (r,)
    d_alpha: Tensor | None = None  # (r, d)
    d_pi: Tensor | None = None  # (r, d)


def _need(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def rising_log(x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """f(x, a) = log G(x + 1/a) - log G(1/a) + x log a, and its derivative with respect to a.

    Stirling's series at 1/a + 5, corrected by five factors, so that nothing cancels for any a > 0;
    float64 inside. Shapes broadcast.
    """
    x, a = x.double(), alpha.double()
    r = 1 / a
    s = r + _SHIFT
    z = x + s
    log_ratio = torch.log1p(x / s)
    product = torch.ones_like(z)
    slope = torch.zeros_like(z)
    for k in range(_SHIFT):
        rk = r + k
        q = x / rk
        product.mul_(q + 1)
        slope.add_(q.div_(rk.add_(x)))
    f = (z - 0.5) * log_ratio + x * torch.log1p(_SHIFT * a) - x - product.log()
    f = f + _stirling(z) - _stirling(s)
    d_r = log_ratio - (z - 0.5) * x / (s * z) + _stirling_slope(z) - _stirling_slope(s) + slope
    return f, -r * r * d_r + _SHIFT * x / (1 + _SHIFT * a)


def _stirling(z: Tensor) -> Tensor:
    w = 1 / (z * z)
    return (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w / 1680))) / z


def _stirling_slope(z: Tensor) -> Tensor:
    w = 1 / (z * z)
    return -w * (1 / 12 - w * (1 / 120 - w * (1 / 252 - w / 240)))


# --- means --------------------------------------------------------------------------------------


def softmax_mean(o: Tensor, library: Tensor, panel: Tensor | None) -> Tensor:
    """Library x softmax over the panel's features; features outside the panel on the same scale."""
    if panel is None:
        return torch.softmax(o, dim=1) * library
    shift = o.masked_fill(panel == 0, -math.inf).amax(1, keepdim=True)
    weight = torch.exp((o - shift).clamp_(max=60.0))
    return weight * (library / (weight * panel).sum(1, keepdim=True))


def _exp_(t: Tile) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the output into exp(output), zero outside the panel.

    Returns
    -------
    It, its row sums (r, 1), and the logarithms of its entries at the non-zeros (z,), which do not underflow.
    """
    o = t.o
    least, most = torch.aminmax(o)
    if o.is_cuda or bool(most > LARGE_OUTPUT) or bool(least < -LARGE_OUTPUT):
        inside = o if t.panel is None else o.masked_fill(t.panel == 0, -math.inf)
        o.sub_(inside.amax(1, keepdim=True)).clamp_(max=LARGE_OUTPUT)
    log_z = o.view(-1)[_need(t.at)]
    o.exp_()  # otherwise nothing overflows or vanishes, and a pass is saved
    if t.panel is not None:
        o.mul_(t.panel)
    return o, o.sum(1, keepdim=True).clamp_(min=torch.finfo(o.dtype).tiny), log_z


def _softmax_mean_(t: Tile) -> tuple[Tensor, Tensor]:
    """Turn the output into library x softmax over the panel; it, and its logarithm at the non-zeros (z,)."""
    weight, total, log_z = _exp_(t)
    rate = _need(t.library) / total
    return weight.mul_(rate), log_z + _log_rate(rate).view(-1)[_need(t.row)]


def _log_rate(rate: Tensor) -> Tensor:
    return rate.clamp(min=torch.finfo(rate.dtype).tiny).log()


def _through_softmax_(t: Tile, mean: Tensor, score: Tensor) -> None:
    """Turn score = m dL/dm (zero outside the targets) into the gradient of the logits."""
    total = score.sum(1, keepdim=True) / _need(t.library).clamp(min=torch.finfo(score.dtype).tiny)
    inside = mean if t.panel is None else mean * t.panel
    torch.addcmul(score, inside, total, value=-1, out=t.o)


def _bounded_mean(o: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Mean between the bounds and its derivative, both (r, d)."""
    p = o.sigmoid()
    width = high - low
    slope = torch.addcmul(p, p, p, value=-1).mul_(width)
    return torch.addcmul(low, p, width), slope


# --- counts -------------------------------------------------------------------------------------


def _nb_zero(mean: Tensor, alpha: Tensor, *, small: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Log NB(0), 1 / (1 + a m), and d log NB(0) / d a; all (r, d)."""
    t = alpha * mean
    inverse = (t + 1).reciprocal_()
    if small:
        zero = torch.log1p(t).div_(alpha).neg_()
        return zero, inverse, _slope_by_series(t, zero, inverse, mean, alpha)
    zero = t.log1p_().div_(alpha).neg_()
    d_alpha = torch.addcmul(zero, mean, inverse).div_(alpha).neg_()
    return zero, inverse, d_alpha


def _slope_by_series(t: Tensor, zero: Tensor, inverse: Tensor, mean: Tensor, alpha: Tensor) -> Tensor:
    """Slope of log NB(0) by a, m^2 (log(1 + t) - t / (1 + t)) / t^2, by its series where that cancels."""
    series = 0.5 + t * (-2 / 3 + t * (0.75 + t * (-0.8 + t * (5 / 6))))
    return torch.where(t < 0.05, mean * mean * series, -(zero + mean * inverse) / alpha)


def _nb(t: Tile) -> TileResult:
    return _negative_binomial(t, inflated=False)


def _zinb(t: Tile) -> TileResult:
    return _negative_binomial(t, inflated=True)


def _negative_binomial(t: Tile, *, inflated: bool) -> TileResult:
    alpha, at, x = _need(t.alpha), _need(t.at), _need(t.x)
    slope: Tensor | None = None
    log_m: Tensor | None = None
    if t.library is not None:
        mean, log_m = _softmax_mean_(t)
    else:
        mean, slope = _bounded_mean(t.o, _need(t.low), _need(t.high))
    zero, inverse, d_alpha = _nb_zero(mean, alpha, small=t.small)
    m_z, inverse_z, zero_z = mean.view(-1)[at], inverse.view(-1)[at], zero.view(-1)[at]
    m_safe = m_z.clamp(min=torch.finfo(m_z.dtype).tiny)
    log_m = m_safe.log() if log_m is None else log_m
    log_p = _need(t.rise) + _need(t.constant) + x * (log_m + inverse_z.log()) + zero_z
    d_alpha_z = _need(t.d_rise) - x * m_z * inverse_z
    # score = m dL/dm for a softmax, dL/dm between bounds; gain is what a count adds to it
    score = mean.mul(inverse).neg_() if slope is None else inverse.neg()
    gain = x * inverse_z if slope is None else x * inverse_z / m_safe
    d_pi: Tensor | None = None
    if inflated:
        zero, log_p, score, gain, d_alpha, d_alpha_z, d_pi = _inflate(
            t, zero, log_p, score, gain, d_alpha, d_alpha_z
        )
    zero.view(-1)[at] = log_p
    score.view(-1)[at] += gain
    d_alpha.view(-1)[at] += d_alpha_z
    if t.target is not None:
        zero, score, d_alpha = zero * t.target, score * t.target, d_alpha * t.target
    value = zero.sum(1)
    if slope is None:
        _through_softmax_(t, mean, score)
    else:
        torch.mul(score, slope, out=t.o)
    return TileResult(value=value, d_alpha=d_alpha, d_pi=d_pi)


def _inflate(
    t: Tile, zero: Tensor, log_p: Tensor, score: Tensor, gain: Tensor, d_alpha: Tensor, d_alpha_z: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mix the zeros with a point mass pi; what is left at a count is the count's own."""
    pi, at, x = _need(t.pi), _need(t.at), _need(t.x)
    seen = (x > 0).to(x.dtype)
    p0 = torch.exp(zero)
    mixture = pi + (1 - pi) * p0
    weight = (1 - pi) * p0 / mixture
    value0, d_pi = torch.log(mixture), (1 - p0) / mixture
    column = at % t.o.shape[1]
    log_p = torch.where(x > 0, log_p + torch.log1p(-pi)[column], value0.view(-1)[at])
    back = (1 - weight.view(-1)[at]) * seen
    gain = gain * seen + score.view(-1)[at] * back
    d_alpha_z = d_alpha_z * seen + d_alpha.view(-1)[at] * back
    d_pi.view(-1)[at] -= seen * (1 / (1 - pi)[column] + d_pi.view(-1)[at])
    d_pi = d_pi if t.target is None else d_pi * t.target
    return value0, log_p, score * weight, gain, d_alpha * weight, d_alpha_z, d_pi


def rising(x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """`rising_log` in the dtype of `x`; both are 0 at x = 0 and x = 1, the most frequent counts."""
    if x.is_cuda:
        f, d = rising_log(x, alpha)
        return f.to(x.dtype), d.to(x.dtype)
    f, d = torch.zeros_like(x), torch.zeros_like(x)
    more = ((x != 1) & (x != 0)).nonzero().squeeze(1)
    f_more, d_more = rising_log(x[more], alpha[more])
    f[more], d[more] = f_more.to(x.dtype), d_more.to(x.dtype)
    return f, d


def _by_row(t: Tile, entries: Tensor) -> Tensor:
    """Sum of what belongs to the non-zeros, by row, (r,)."""
    return entries.new_zeros(len(t.o)).index_add_(0, _need(t.row), entries)


def _poisson(t: Tile) -> TileResult:
    if t.library is not None:
        return _multinomial(t)
    at, x = _need(t.at), _need(t.x)
    low, high = _need(t.low).log(), _need(t.high).log()
    inside = ((t.o >= low) & (t.o <= high)).to(t.o.dtype)
    log_rate = torch.maximum(torch.minimum(t.o, high), low)
    score = -torch.exp(log_rate)
    log_p = _by_row(t, x * log_rate.view(-1)[at] + _need(t.constant))
    value = log_p + (score if t.target is None else score * t.target).sum(1)
    score.view(-1)[at] += x
    torch.mul(score, inside if t.target is None else inside * t.target, out=t.o)
    return TileResult(value=value)


def _multinomial(t: Tile) -> TileResult:
    """Poisson with mean library x softmax: with every target, the gradient is a multinomial's."""
    at, x, library = _need(t.at), _need(t.x), _need(t.library)
    tiny = torch.finfo(x.dtype).tiny
    weight, total, log_z = _exp_(t)
    rate = library / total  # (r, 1)
    log_mean = log_z + _log_rate(rate).view(-1)[_need(t.row)]
    value = _by_row(t, x * log_mean + _need(t.constant))
    seen = _by_row(t, x)[:, None]
    if t.target is None:
        value = value - library.squeeze(1)
        weight.mul_(-seen / total)
    else:
        expected = torch.einsum("rd,rd->r", weight, t.target.expand_as(weight))[:, None] * rate
        value = value - expected.squeeze(1)
        share = (seen - expected) / library.clamp(min=tiny)
        weight.mul_(t.target.add(share).mul_(-rate))
    weight.view(-1)[at] += x
    return TileResult(value=value)


def multinomial_block(t: Tile, rate: Tensor, share: Tensor) -> Tensor:
    """One block of a Poisson with mean library x softmax whose row sums are known.

    Parameters
    ----------
    t
        The block; its output becomes the gradient.
    rate
        Library over the sum of exp(output), (r, 1).
    share
        (Counts - means of all targets) over the library, (r, 1).

    Returns
    -------
    Log-likelihood of each row without the means of the targets, (r,).
    """
    at, x = _need(t.at), _need(t.x)
    log_mean = t.o.view(-1)[at] + _log_rate(rate).view(-1)[_need(t.row)]
    weight = t.o.exp_()
    if t.panel is not None:
        weight.mul_(t.panel)
    if t.target is None:
        weight.mul_(-rate * (1 + share))
    else:
        weight.mul_(t.target.add(share).mul_(-rate))
    weight.view(-1)[at] += x
    return _by_row(t, x * log_mean + _need(t.constant))


# --- binary and continuous ----------------------------------------------------------------------


def _bernoulli(t: Tile) -> TileResult:
    at, x, low, high = _need(t.at), _need(t.x), _need(t.low), _need(t.high)
    odds = t.o.clamp_(max=MAX_LOGIT).exp_()
    least, most = torch.aminmax(odds)
    if odds.is_cuda or bool(least < (low / (1 - low)).max()) or bool(most > (high / (1 - high)).min()):
        return _clipped_bernoulli(t, odds)
    odds_z = odds.view(-1)[at]
    total = torch.add(odds, 1, out=_scratch(t, odds))
    value = _by_row(t, x * torch.log(odds_z)) - _log_sum(total, t.target)
    gradient = torch.div(odds, total, out=t.o).neg_()
    gradient.view(-1)[at] += x
    if t.target is not None:
        gradient.mul_(t.target)
    return TileResult(value=value)


def _clipped_bernoulli(t: Tile, odds: Tensor) -> TileResult:
    """The same where some probability is beyond its bounds, and so has no gradient."""
    at, x, low, high = _need(t.at), _need(t.x), _need(t.low), _need(t.high)
    raw = odds / (1 + odds)
    p = torch.maximum(torch.minimum(raw, high), low)
    p_z = p.view(-1)[at]
    log_q = torch.log1p(-p)
    value = (log_q if t.target is None else log_q * t.target).sum(1)
    value = value + _by_row(t, x * (torch.log(p_z) - torch.log1p(-p_z)))
    inside = ((raw >= low) & (raw <= high)).to(p.dtype)
    p.neg_()
    p.view(-1)[at] += x
    torch.mul(p, inside if t.target is None else inside * t.target, out=t.o)
    return TileResult(value=value)


def _scratch(t: Tile, like: Tensor) -> Tensor:
    """A second buffer of the tile's size; fresh memory would cost more than the arithmetic."""
    return torch.empty_like(like) if t.scratch is None else t.scratch


def _log_sum(total: Tensor, target: Tensor | None) -> Tensor:
    """Sum of log(total) over the targets of each row; four factors share a logarithm (total <= 3e7)."""
    if target is not None:
        return (total.log() * target).sum(1)
    n = total.shape[1] // 4
    product = total[:, :n] * total[:, n : 2 * n]
    product.mul_(total[:, 2 * n : 3 * n]).mul_(total[:, 3 * n : 4 * n])
    return product.log_().sum(1) + total[:, 4 * n :].log().sum(1)


def _gaussian(t: Tile) -> TileResult:
    x, sd, centre = _need(t.dense), _need(t.alpha), _need(t.centre)
    low, high = _need(t.low), _need(t.high)
    raw = t.o + centre
    inside = ((raw >= low) & (raw <= high)).to(raw.dtype)
    mean = torch.maximum(torch.minimum(raw, high), low)
    inverse = 1 / sd
    error = (x - mean) * inverse
    value = -0.5 * error * error - torch.log(sd) - 0.5 * math.log(2 * math.pi)
    d_alpha = (error * error - 1) * inverse
    gradient = error * inverse * inside
    if t.target is not None:
        value, d_alpha, gradient = value * t.target, d_alpha * t.target, gradient * t.target
    t.o.copy_(gradient)
    return TileResult(value=value.sum(1), d_alpha=d_alpha)


TILE: dict[Distribution, Callable[[Tile], TileResult]] = {
    "NB": _nb,
    "ZINB": _zinb,
    "Poisson": _poisson,
    "Bernoulli": _bernoulli,
    "Gaussian": _gaussian,
}


# --- answers ------------------------------------------------------------------------------------


def dispersion(covariates: Tensor, kernel: Tensor, max_disp: float) -> Tensor:
    """clip(softplus(c S), 0, max_disp), whose clip passes gradients through; (A, d)."""
    raw = functional.softplus(covariates @ kernel)
    return raw + (raw.clamp(MIN_DISPERSION, max_disp) - raw).detach()


def zero_inflation(logit: Tensor) -> Tensor:
    """Probability of an extra zero, kept within [1e-3, 1 - 1e-3]; (d,)."""
    return torch.sigmoid(logit).clamp(MIN_ZERO_INFLATION, 1 - MIN_ZERO_INFLATION)


def mean(
    dist: Distribution,
    o: Tensor,
    *,
    low: Tensor,
    high: Tensor,
    centre: Tensor,
    library: Tensor | None = None,
    panel: Tensor | None = None,
    pi: Tensor | None = None,
) -> Tensor:
    """Mean of the likelihood, (r, d); the arguments are those of `Tile`."""
    if dist == "Bernoulli":
        return torch.maximum(torch.minimum(torch.sigmoid(o), high), low)
    if dist == "Gaussian":
        return torch.maximum(torch.minimum(o + centre, high), low)
    if library is not None:
        rate = softmax_mean(o, library, panel)
    elif dist == "Poisson":
        rate = torch.exp(torch.maximum(torch.minimum(o, high.log()), low.log()))
    else:
        rate = _bounded_mean(o, low, high)[0]
    return rate * (1 - pi) if dist == "ZINB" and pi is not None else rate
