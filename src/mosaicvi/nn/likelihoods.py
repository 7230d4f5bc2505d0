"""Likelihoods in closed form: value and gradient together, on one tile that fits the cache.

Each overwrites the tile's output with the gradient of -log L with respect to it and returns log L summed
over the targets of each row. Counts are in `counts`; here are binary and continuous values, the table of
all, and the mean that an imputed value is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mosaicvi.config import Distribution
from mosaicvi.nn.counts import bounded_mean, negative_binomial, poisson, softmax_mean, zero_inflated
from mosaicvi.nn.tile import Tile, TileResult, at_nonzeros, need

MIN_DISPERSION = 1e-8
MIN_ZERO_INFLATION = 1e-3
MAX_LOGIT = 8.0  # 1 - p is exact to 2e-4 of itself up to here, and eight of them still multiply


def bernoulli(t: Tile) -> TileResult:
    """Bernoulli of a probability that is clipped to its bounds, where it has no gradient."""
    x, low, high = need(t.x), need(t.low), need(t.high)
    if t.o.is_cuda:
        return _clipped_bernoulli(t)
    least, most = (float(v) for v in torch.aminmax(t.o))
    if most > min(MAX_LOGIT, float(torch.logit(high.min()))) or least < float(torch.logit(low.max())):
        return _clipped_bernoulli(t)
    value = t.by_row(x * at_nonzeros(t, t.o))  # log p - log(1 - p) is the output
    p = t.o.sigmoid_()
    value = value + _log_of_rest(p, t.target, t.buffer(1))
    if t.target is not None:
        p.mul_(t.target)
    p.view(-1).index_add_(0, need(t.at), x, alpha=-1)
    return TileResult(value=value)


def _log_of_rest(p: Tensor, target: Tensor | None, memory: Tensor) -> Tensor:
    """Sum of log(1 - p) over the targets of each row; eight factors share a logarithm."""
    rest = torch.sub(1, p, out=memory)
    if target is not None:
        return rest.log_().mul_(target).sum(1)
    n = rest.shape[1] // 8
    product = rest[:, :n]
    for k in range(1, 8):
        product.mul_(rest[:, k * n : (k + 1) * n])
    return product.log_().sum(1) + rest[:, 8 * n :].log().sum(1)


def _clipped_bernoulli(t: Tile) -> TileResult:
    """The same where some probability is beyond its bounds or near one."""
    x, low, high = need(t.x), need(t.low), need(t.high)
    raw = torch.sigmoid(t.o)
    p = torch.maximum(torch.minimum(raw, high), low)
    log_q = torch.log1p(-p)
    value = (log_q if t.target is None else log_q * t.target).sum(1)
    p_z = at_nonzeros(t, p)
    value = value + t.by_row(x * (torch.log(p_z) - torch.log1p(-p_z)))
    inside = ((raw >= low) & (raw <= high)).to(p.dtype)
    p.view(-1).index_add_(0, need(t.at), x, alpha=-1)
    torch.mul(p, inside if t.target is None else inside * t.target, out=t.o)
    return TileResult(value=value)


def gaussian(t: Tile) -> TileResult:
    """Normal of a mean that is clipped to its bounds, where it has no gradient."""
    x, centre = need(t.dense), need(t.centre)
    low, high = need(t.low), need(t.high)
    raw = t.o + centre
    inside = ((raw >= low) & (raw <= high)).to(raw.dtype)
    mean = torch.maximum(torch.minimum(raw, high), low)
    sd = t.alpha_of_rows(1)
    inverse = 1 / sd
    error = (x - mean) * inverse
    value = -0.5 * error * error - torch.log(sd) - 0.5 * math.log(2 * math.pi)
    d_alpha = (1 - error * error) * inverse
    gradient = error * inverse * inside
    if t.target is not None:
        value, d_alpha, gradient = value * t.target, d_alpha * t.target, gradient * t.target
    torch.neg(gradient, out=t.o)
    return TileResult(value=value.sum(1), d_alpha=t.by_code(d_alpha))


TILE: dict[Distribution, Callable[[Tile], TileResult]] = {
    "NB": negative_binomial,
    "ZINB": zero_inflated,
    "Poisson": poisson,
    "Bernoulli": bernoulli,
    "Gaussian": gaussian,
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
        rate = bounded_mean(o, low, high)
    return rate * (1 - pi) if dist == "ZINB" and pi is not None else rate
