"""The negative binomial: whole counts whose variance is mean + dispersion * mean^2.

With mean m and dispersion a,

    log NB(x) = f(x, a) - log x! + x log m - (x + 1/a) log(1 + a m),
    f(x, a)   = sum_{k<x} log(1 + k a) = log G(x + 1/a) - log G(1/a) + x log a,

which stays exact when a tends to 0 (Poisson).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.special
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mosaicvi.likelihoods.base import Bounds, Evidence, Floats, Parameters, needed, smallest_whole
from mosaicvi.likelihoods.counts import Counts, log_between, log_factorial

SHIFT = 5  # Stirling's series from here on is exact to 1e-9
SERIES_BELOW = 0.05


class NegativeBinomial(Counts):
    """NB of a mean between bounds, or of a library times a softmax."""

    name = "NB"
    has_dispersion = True

    def recognises(self, evidence: Evidence) -> bool:
        """Whole numbers of other features than peaks."""
        return evidence.whole and not evidence.peaks

    def link(self, output: Tensor, bounds: Bounds) -> Tensor:
        """Logarithm of a mean between the bounds."""
        return log_between(output, bounds)

    def mean(self, parameters: Parameters) -> Tensor:
        """Mean count."""
        return torch.exp(parameters.location)

    def log_prob(self, x: Tensor, parameters: Parameters) -> Tensor:
        """As above."""
        alpha, log_m = needed(parameters.dispersion), parameters.location
        t = alpha * torch.exp(log_m)
        of_count = rising(x, alpha) - log_factorial(x)
        return of_count + x * (log_m - torch.log1p(t)) - cost_of_zero(log_m, alpha)

    def cdf(self, x: ArrayLike, parameters: Parameters) -> Floats:
        """Regularised incomplete beta function."""
        log_m, alpha, _ = parameters.arrays()
        return _cdf(np.floor(np.asarray(x, np.float64)), np.exp(log_m), alpha)

    def quantile(self, q: ArrayLike, parameters: Parameters) -> Floats:
        """Smallest count that reaches q."""
        log_m, alpha, _ = parameters.arrays()
        q, m, alpha = np.broadcast_arrays(np.asarray(q, np.float64), np.exp(log_m), alpha)
        guess = scipy.special.nbdtrik(q, 1 / alpha, 1 / (1 + alpha * m))
        return smallest_whole(lambda k: _cdf(k, m, alpha), q, guess)


def _cdf(k: Floats, m: Floats, alpha: Floats) -> Floats:
    # the complement, whose second argument does not round to 1 where a m is small
    t = alpha * m
    below = scipy.special.betaincc(np.maximum(k, 0) + 1, 1 / alpha, t / (1 + t))
    return np.where(np.isnan(k), np.nan, np.where(k < 0, 0.0, np.where(np.isposinf(k), 1.0, below)))


def cost_of_zero(log_m: Tensor, alpha: Tensor) -> Tensor:
    """-log NB(0) = log(1 + a m) / a, by its series where the slope by a would cancel."""
    m = torch.exp(log_m)
    t = alpha * m
    low, high = t.clamp(max=SERIES_BELOW), t.clamp(min=SERIES_BELOW)
    series = 1 - low * (1 / 2 - low * (1 / 3 - low * (1 / 4 - low * (1 / 5 - low / 6))))
    return m * torch.where(t < SERIES_BELOW, series, torch.log1p(high) / high)


def rising(x: Tensor, alpha: Tensor) -> Tensor:
    """f(x, a) of above, with its slope by a."""
    f: Tensor = _Rising.apply(x, alpha)  # type: ignore[no-untyped-call]
    return f


class _Rising(torch.autograd.Function):
    """Function and slope share most of their terms, and autograd would keep all of them in float64."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        f, slope = rising_log(x, alpha)
        ctx.save_for_backward(slope.to(x.dtype))
        ctx.shape = alpha.shape
        return f.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (slope,) = ctx.saved_tensors
        return None, (grad * slope).sum_to_size(ctx.shape)


def rising_log(x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """f(x, a) and its derivative with respect to a, in float64.

    Stirling's series at 1/a + 5, corrected by five factors, so that nothing cancels for any a > 0.
    """
    x, a = x.double(), alpha.double()
    r = 1 / a
    s = r + SHIFT
    z = x + s
    log_ratio = torch.log1p(x / s)
    product, slope = torch.ones_like(z), torch.zeros_like(z)
    for k in range(SHIFT):
        q = x / (r + k)
        product = product * (q + 1)
        slope = slope + q / (r + k + x)
    f = (z - 0.5) * log_ratio + x * torch.log1p(SHIFT * a) - x - product.log()
    f = f + _stirling(z) - _stirling(s)
    d_r = log_ratio - (z - 0.5) * x / (s * z) + _stirling_slope(z) - _stirling_slope(s) + slope
    return f, -r * r * d_r + SHIFT * x / (1 + SHIFT * a)


def _stirling(z: Tensor) -> Tensor:
    w = 1 / (z * z)
    return (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w / 1680))) / z


def _stirling_slope(z: Tensor) -> Tensor:
    w = 1 / (z * z)
    return -w * (1 / 12 - w * (1 / 120 - w * (1 / 252 - w / 240)))
