"""Likelihoods in closed form: value and gradient together, on one tile, on any device and in any precision.

Each overwrites the tile's output with the gradient of -log L with respect to it and returns log L summed
over the targets of each row. Counts are in `counts`; here are binary and continuous values, the table of
all, and the mean that an imputed value is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mosaicvi.config import Distribution
from mosaicvi.nn.counts import bounded_mean, negative_binomial, poisson, softmax_mean, zero_inflated
from mosaicvi.nn.tile import Tile, TileResult, need

MIN_DISPERSION = 1e-8
MIN_ZERO_INFLATION = 1e-3


def bernoulli(t: Tile) -> TileResult:
    """Bernoulli of a probability that is clipped to its bounds, where it has no gradient."""
    x, low, high, target = need(t.x), torch.logit(t.low), torch.logit(t.high), t.target()
    logit = torch.maximum(torch.minimum(t.o, high), low)
    inside = (logit == t.o).to(logit.dtype)
    log_rest = functional.logsigmoid(-logit)  # log(1 - p); log p - log(1 - p) is the logit
    value = (log_rest if target is None else log_rest * target).sum(1)
    value = value + t.by_row(x * logit.view(-1).index_select(0, t.at()))
    p = logit.sigmoid_()
    p.view(-1).index_add_(0, t.at(), x, alpha=-1)
    torch.mul(p, inside if target is None else inside * target, out=t.o)
    return TileResult(value=value)


def gaussian(t: Tile) -> TileResult:
    """Normal of a mean that is clipped to its bounds, where it has no gradient."""
    x, target = need(t.dense), t.target()
    raw = t.o + t.centre
    inside = ((raw >= t.low) & (raw <= t.high)).to(raw.dtype)
    mean = torch.maximum(torch.minimum(raw, t.high), t.low)
    sd = t.alpha_of_rows(1)
    inverse = 1 / sd
    error = (x - mean) * inverse
    value = -0.5 * error * error - torch.log(sd) - 0.5 * math.log(2 * math.pi)
    d_alpha = (1 - error * error) * inverse
    gradient = error * inverse * inside
    if target is not None:
        value, d_alpha, gradient = value * target, d_alpha * target, gradient * target
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


def dispersion(covariates: Tensor, kernel: Tensor, max_disp: float, features: Tensor | None = None) -> Tensor:
    """clip(softplus(c S), 0, max_disp) of all or some features, (A, d); the clip passes gradients through."""
    alpha: Tensor = _Dispersion.apply(covariates, kernel, max_disp, features)  # type: ignore[no-untyped-call]
    return alpha


class _Dispersion(torch.autograd.Function):
    """In one operation in place of seven small ones."""

    @staticmethod
    def forward(
        ctx: Any, covariates: Tensor, kernel: Tensor, max_disp: float, features: Tensor | None
    ) -> Tensor:
        raw = covariates @ (kernel if features is None else kernel.index_select(1, features))
        ctx.save_for_backward(covariates, raw, features)
        ctx.shape = kernel.shape
        return functional.softplus(raw).clamp_(MIN_DISPERSION, max_disp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        covariates, raw, features = ctx.saved_tensors
        some = covariates.T @ (grad * torch.sigmoid(raw))
        if features is None:
            return None, some, None, None
        return None, some.new_zeros(ctx.shape).index_copy_(1, features, some), None, None


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
