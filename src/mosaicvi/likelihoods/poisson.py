"""The Poisson distribution: counts whose variance is their mean, such as fragments in peaks."""

from __future__ import annotations

import numpy as np
import scipy.special
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mosaicvi.likelihoods.base import Bounds, Evidence, Floats, Parameters, clipped, smallest_whole
from mosaicvi.likelihoods.counts import Counts, log_factorial


class Poisson(Counts):
    """Poisson of a rate between bounds, or of a library times a softmax."""

    name = "Poisson"
    of_peaks, published_as = True, "Bernoulli"

    def recognises(self, evidence: Evidence) -> bool:
        """Counts of peaks."""
        return evidence.whole and evidence.peaks and evidence.any_above_one()

    def link(self, output: Tensor, bounds: Bounds) -> Tensor:
        """Logarithm of the rate: the output, between the logarithms of the bounds."""
        return clipped(output, torch.log(bounds.low), torch.log(bounds.high))

    def mean(self, parameters: Parameters) -> Tensor:
        """The rate."""
        return torch.exp(parameters.location)

    def log_prob(self, x: Tensor, parameters: Parameters) -> Tensor:
        """Log Poisson(x) = x log m - m - log x!."""
        log_m = parameters.location
        of_count = torch.where(x > 0, x * log_m, torch.zeros_like(x))
        return of_count - torch.exp(log_m) - log_factorial(x)

    def cdf(self, x: ArrayLike, parameters: Parameters) -> Floats:
        """Regularised incomplete gamma function."""
        return _cdf(np.floor(np.asarray(x, np.float64)), np.exp(parameters.arrays()[0]))

    def quantile(self, q: ArrayLike, parameters: Parameters) -> Floats:
        """Smallest count that reaches q."""
        q, m = np.broadcast_arrays(np.asarray(q, np.float64), np.exp(parameters.arrays()[0]))
        return smallest_whole(lambda k: _cdf(k, m), q, scipy.special.pdtrik(q, m))


def _cdf(k: Floats, m: Floats) -> Floats:
    below = scipy.special.gammaincc(np.maximum(k, 0) + 1, m)
    return np.where(np.isnan(k), np.nan, np.where(k < 0, 0.0, np.where(np.isposinf(k), 1.0, below)))
