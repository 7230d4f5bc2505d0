"""Likelihoods of counts in closed form: negative binomial, with or without extra zeros, and Poisson.

With mean m and dispersion a (variance m + a m^2):

    log NB(x) = f(x, a) - log x! + x log m - (x + 1/a) log(1 + a m),
    f(x, a)   = sum_{k<x} log(1 + k a) = log G(x + 1/a) - log G(1/a) + x log a,

which stays exact when a tends to 0 (Poisson). Special functions are evaluated at the non-zeros only.
Legend: r rows, d features, z non-zeros of the tile, A covariate rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mosaicvi import device
from mosaicvi.nn.tile import Tile, TileResult, need

SMALL_DISPERSION = 1e-3  # below it a difference of two logarithms would cancel in float32
LARGE_OUTPUT = 60.0  # exp of it still sums without overflow
_SHIFT = 5  # Stirling's series from here on is exact to 1e-9


# --- means --------------------------------------------------------------------------------------


def softmax_mean(o: Tensor, library: Tensor, panel: Tensor | None) -> Tensor:
    """Library x softmax over the panel's features; features outside the panel on the same scale."""
    if panel is None:
        return torch.softmax(o, dim=1) * library
    shift = o.masked_fill(panel == 0, -math.inf).amax(1, keepdim=True)
    weight = torch.exp((o - shift).clamp_(max=LARGE_OUTPUT))
    return weight * (library / (weight * panel).sum(1, keepdim=True))


def _exp_(t: Tile) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the output into exp(output), zero outside the panel.

    Returns
    -------
    It, its row sums (r, 1), and the logarithms of its entries at the non-zeros (z,), which do not underflow.
    """
    o, panel = t.o, t.panel()
    inside = o if panel is None else o.masked_fill(panel == 0, -math.inf)
    o.sub_(inside.amax(1, keepdim=True)).clamp_(max=LARGE_OUTPUT)
    log_z = _at_nonzeros(t, o)
    o.exp_()
    if panel is not None:
        o.mul_(panel)
    return o, o.sum(1, keepdim=True).clamp_(min=torch.finfo(o.dtype).tiny), log_z


def _softmax_mean_(t: Tile) -> tuple[Tensor, Tensor]:
    """Turn the output into library x softmax over the panel; it, and its logarithm at the non-zeros (z,)."""
    weight, total, log_z = _exp_(t)
    rate = need(t.library) / total
    return weight.mul_(rate), log_z + _log_rate(t, rate)


def _log_rate(t: Tile, rate: Tensor) -> Tensor:
    """Logarithm of a rate (r, 1) at the non-zeros, (z,)."""
    log = rate.clamp(min=torch.finfo(rate.dtype).tiny).log()
    return log.view(-1).index_select(0, need(t.row))


def _at_nonzeros(t: Tile, dense: Tensor) -> Tensor:
    """Entries of a contiguous (r, d) at the non-zeros, (z,)."""
    return dense.view(-1).index_select(0, t.at())


def _through_softmax_(t: Tile, mean: Tensor, score: Tensor) -> None:
    """Turn score = m dL/dm (zero outside the targets) into the gradient of the logits."""
    total = score.sum(1, keepdim=True) / need(t.library).clamp(min=torch.finfo(score.dtype).tiny)
    torch.addcmul(score, mean, total, value=-1, out=t.o)


def bounded_mean(o: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Mean between the bounds, (r, d)."""
    return torch.addcmul(low, torch.sigmoid(o), high - low)


def _bounded_mean_(t: Tile) -> tuple[Tensor, Tensor, Tensor]:
    """Mean between the bounds, its logarithm at the non-zeros (z,), and its slope in place of the output."""
    low, high = t.low, t.high
    width = high - low
    p = t.o.sigmoid_()
    mean = torch.addcmul(low, p, width, out=t.buffer(4))
    slope = p.addcmul_(p, p, value=-1).mul_(width)
    log_m = _at_nonzeros(t, mean).clamp_(min=torch.finfo(mean.dtype).tiny).log_()
    return mean, log_m, slope


# --- negative binomial --------------------------------------------------------------------------


def negative_binomial(t: Tile) -> TileResult:
    """NB; the mean is library x softmax where the tile has a library, else between the bounds."""
    x = need(t.x)
    slope: Tensor | None = None
    if t.library is not None:
        mean, log_m = _softmax_mean_(t)
    else:
        mean, log_m, slope = _bounded_mean_(t)
    alpha, target = t.alpha_of_rows(1), t.target()
    d_alpha0 = _slope_by_series(mean, alpha) if t.small else None
    log_t, inverse = _log1p_and_inverse(t, mean, alpha)
    log_t_z, mean_z = _at_nonzeros(t, log_t), torch.exp(log_m)
    gain = x * torch.exp(-log_t_z)  # x / (1 + a m): what a count takes off m dL/dm
    value = t.by_row(need(t.rise) + need(t.constant) + x * (log_m - log_t_z))
    cost = log_t.div_(alpha)  # -log NB(0)
    if slope is None:
        score = by_mean = inverse.mul_(mean)  # m dL/dm of a zero
    else:
        score, by_mean = mean.mul_(inverse), inverse
    if target is not None:
        cost.mul_(target)
        score.mul_(target)
    value = value - cost.sum(1)
    if d_alpha0 is None:
        d_alpha = t.by_code(score).sub_(t.by_code(cost)).div_(t.alpha_table())
    else:
        d_alpha = t.by_code(d_alpha0 if target is None else d_alpha0.mul_(target))
    d_alpha.sub_(t.by_code_at(need(t.d_rise) - mean_z * gain))
    if slope is None:
        score.view(-1).index_add_(0, t.at(), gain, alpha=-1)
        _through_softmax_(t, mean, score)
    else:
        if target is not None:
            by_mean.mul_(target)
        by_mean.view(-1).index_add_(0, t.at(), gain / mean_z, alpha=-1)
        slope.mul_(by_mean)
    return TileResult(value=value, d_alpha=d_alpha)


def _log1p_and_inverse(t: Tile, mean: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Log(1 + a m) and 1 / (1 + a m), (r, d) each."""
    product = torch.mul(mean, alpha, out=t.buffer(2))
    log = torch.log1p(product, out=t.buffer(3))
    return log, product.add_(1).reciprocal_()


def _slope_by_series(mean: Tensor, alpha: Tensor) -> Tensor:
    """m^2 (t / (1 + t) - log(1 + t)) / t^2 for t = a m, by its series where that cancels."""
    t = alpha * mean
    series = -0.5 + t * (2 / 3 + t * (-0.75 + t * (0.8 - t * (5 / 6))))
    return torch.where(t < 0.05, mean * mean * series, (mean / (1 + t) - torch.log1p(t) / alpha) / alpha)


def zero_inflated(t: Tile) -> TileResult:
    """NB whose zeros are mixed with a point mass pi."""
    x, pi, at, target = need(t.x), need(t.pi), t.at(), t.target()
    slope: Tensor | None = None
    if t.library is not None:
        mean, log_m = _softmax_mean_(t)
    else:
        mean, log_m, slope = _bounded_mean_(t)
    alpha = t.alpha_of_rows(1)
    log_t, inverse = _log1p_and_inverse(t, mean, alpha)
    log_t_z, mean_z = _at_nonzeros(t, log_t), torch.exp(log_m)
    p0 = torch.exp(-log_t / alpha)
    mixture = pi + (1 - pi) * p0
    share = (1 - pi) * p0 / mixture  # of the count's own zero among the zeros
    column, seen = at % t.o.shape[1], x > 0
    value0, d_pi0 = torch.log(mixture), (1 - p0) / mixture
    log_p = need(t.rise) + need(t.constant) + x * (log_m - log_t_z) - _at_nonzeros(t, log_t / alpha)
    log_p = log_p + torch.log1p(-pi)[column]
    _replace_(t, value0, seen, log_p)
    _replace_(t, d_pi0, seen, -1 / (1 - pi)[column])
    # a count has its own slopes: the zero's share is 1 there, less what the count adds
    _replace_(t, share, seen, torch.ones_like(x))
    d_alpha0 = _slope_by_series(mean, alpha) * share
    by_mean = inverse * share
    gain = torch.where(seen, x * torch.exp(-log_t_z), 0.0)
    if target is not None:
        value0, d_pi0 = value0 * target, d_pi0 * target
        d_alpha0, by_mean = d_alpha0 * target, by_mean * target
    if slope is None:
        score = (by_mean * mean).contiguous()
        score.view(-1).index_add_(0, at, gain, alpha=-1)
        _through_softmax_(t, mean, score)
    else:
        by_mean.view(-1).index_add_(0, at, gain / mean_z, alpha=-1)
        slope.mul_(by_mean)
    d_rise = torch.where(seen, need(t.d_rise) - mean_z * gain, 0.0)
    return TileResult(
        value=value0.sum(1),
        d_alpha=t.by_code(d_alpha0).sub_(t.by_code_at(d_rise)),
        d_pi=-(t.weight @ d_pi0),
    )


def _replace_(t: Tile, dense: Tensor, seen: Tensor, values: Tensor) -> None:
    """Put values (z,) where a count was seen; of the other non-zeros several may stand at one entry."""
    change = torch.where(seen, values - _at_nonzeros(t, dense), 0.0)
    dense.view(-1).index_add_(0, t.at(), change)


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


def rising(x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """`rising_log` in the dtype of `x`; both are 0 at x = 0 and x = 1, the most frequent counts."""
    if device.is_apart(x):
        f, d = rising_log(x, alpha)
        return f.to(x.dtype), d.to(x.dtype)
    f, d = torch.zeros_like(x), torch.zeros_like(x)
    more = ((x != 1) & (x != 0)).nonzero().squeeze(1)
    f_more, d_more = rising_log(x[more], alpha[more])
    f[more], d[more] = f_more.to(x.dtype), d_more.to(x.dtype)
    return f, d


# --- Poisson ------------------------------------------------------------------------------------


def poisson(t: Tile) -> TileResult:
    """Poisson; the mean is library x softmax where the tile has a library, else exp(output) in the bounds."""
    if t.library is not None:
        return _multinomial(t)
    x, target = need(t.x), t.target()
    low, high = t.low.log(), t.high.log()
    inside = ((t.o >= low) & (t.o <= high)).to(t.o.dtype)
    log_rate = torch.maximum(torch.minimum(t.o, high), low)
    log_p = t.by_row(x * _at_nonzeros(t, log_rate) + need(t.constant))
    rate = log_rate.exp_()
    value = log_p - (rate if target is None else rate * target).sum(1)
    rate.view(-1).index_add_(0, t.at(), x, alpha=-1)
    torch.mul(rate, inside if target is None else inside * target, out=t.o)
    return TileResult(value=value)


def _multinomial(t: Tile) -> TileResult:
    """Poisson with mean library x softmax: with every target, the gradient is a multinomial's."""
    x, library, target = need(t.x), need(t.library), t.target()
    weight, total, log_z = _exp_(t)
    rate = library / total  # (r, 1)
    value = t.by_row(x * (log_z + _log_rate(t, rate)) + need(t.constant))
    seen = t.by_row(x)[:, None]
    if target is None:
        value = value - library.squeeze(1)
        weight.mul_(seen / total)
    else:
        expected = torch.einsum("rd,rd->r", weight, target.expand_as(weight))[:, None] * rate
        value = value - expected.squeeze(1)
        share = (seen - expected) / library.clamp(min=torch.finfo(x.dtype).tiny)
        weight.mul_(target.add(share).mul_(rate))
    weight.view(-1).index_add_(0, t.at(), x, alpha=-1)
    return TileResult(value=value)
