"""The Bernoulli distribution: what is there or not, such as accessible peaks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from mosaicvi.likelihoods.base import Bounds, Evidence, Family, Floats, Parameters, Summary, clipped

MARGIN = 1e-5  # default bounds stay this far from 0 and 1
EDGE = 1e-7  # and those of the user this far


class Bernoulli(Family):
    """Bernoulli of a probability between bounds."""

    name = "Bernoulli"
    whole, least, most = True, 0.0, 1.0
    of_peaks = True

    def recognises(self, evidence: Evidence) -> bool:
        """Peaks that are 0 or 1."""
        return evidence.whole and evidence.peaks and not evidence.any_above_one()

    def transform(self, *, whole: bool, filled: bool = False) -> str:
        """Whether a value is above 0."""
        return "binarize"

    def scale(self, *, library_aware: bool, transform: str) -> str:
        """A probability."""
        return "probability"

    def bounds(self, seen: Summary) -> Bounds:
        """All but certain."""
        one = np.ones_like(seen.mean)
        return Bounds(centre=0 * one, low=one * MARGIN, high=one * (1 - MARGIN))

    def possible(self, bounds: Bounds) -> Bounds:
        """Never certain."""
        low, high = (np.clip(v, EDGE, 1 - EDGE) for v in (bounds.low, bounds.high))
        return Bounds(centre=bounds.centre, low=low, high=high)

    def first_output(self, seen: Summary, *, library_aware: bool) -> Floats | None:
        """Logit of the share of ones."""
        p = (seen.total + 0.5) / (seen.n_measured + 1)
        logit: Floats = np.log(p) - np.log1p(-p)
        return logit

    def link(self, output: Tensor, bounds: Bounds) -> Tensor:
        """Logit: the output, between the logits of the bounds."""
        return clipped(output, torch.logit(bounds.low), torch.logit(bounds.high))

    def mean(self, parameters: Parameters) -> Tensor:
        """The probability."""
        return torch.sigmoid(parameters.location)

    def log_prob(self, x: Tensor, parameters: Parameters) -> Tensor:
        """X log p + (1 - x) log(1 - p), of the logit."""
        return x * parameters.location - functional.softplus(parameters.location)

    def cdf(self, x: ArrayLike, parameters: Parameters) -> Floats:
        """Two steps, at 0 and 1."""
        x, zero = np.asarray(x, np.float64), _zero(parameters)
        found: Floats = np.where(np.isnan(x), np.nan, np.where(x < 0, 0.0, np.where(x < 1, zero, 1.0)))
        return found

    def quantile(self, q: ArrayLike, parameters: Parameters) -> Floats:
        """0 up to the probability of 0."""
        q, zero = np.asarray(q, np.float64), _zero(parameters)
        found: Floats = np.where((q >= 0) & (q <= 1), np.where(q <= zero, 0.0, 1.0), np.nan)
        return found


def _zero(parameters: Parameters) -> Floats:
    logit = parameters.arrays()[0]
    zero: Floats = 1 / (1 + np.exp(logit))
    return zero
