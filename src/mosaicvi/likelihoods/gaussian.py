"""The normal distribution: fractional values of any sign."""

from __future__ import annotations

import math

import numpy as np
import scipy.special
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mosaicvi.likelihoods.base import Bounds, Evidence, Family, Floats, Parameters, clipped, needed


class Gaussian(Family):
    """Normal of a mean between bounds; the dispersion is its standard deviation."""

    name = "Gaussian"
    has_dispersion = True
    standardised = True

    def recognises(self, evidence: Evidence) -> bool:
        """Whatever are no counts."""
        return not evidence.whole

    def link(self, output: Tensor, bounds: Bounds) -> Tensor:
        """Mean: the output plus the centre, between the bounds."""
        return clipped(output + bounds.centre, bounds.low, bounds.high)

    def mean(self, parameters: Parameters) -> Tensor:
        """The mean."""
        return parameters.location

    def log_prob(self, x: Tensor, parameters: Parameters) -> Tensor:
        """-((x - m) / s)^2 / 2 - log s - log(2 pi) / 2."""
        sd = needed(parameters.dispersion)
        error = (x - parameters.location) / sd
        return -0.5 * error * error - torch.log(sd) - 0.5 * math.log(2 * math.pi)

    def cdf(self, x: ArrayLike, parameters: Parameters) -> Floats:
        """Error function."""
        mean, sd, _ = parameters.arrays()
        found: Floats = scipy.special.ndtr((np.asarray(x, np.float64) - mean) / sd)
        return found

    def quantile(self, q: ArrayLike, parameters: Parameters) -> Floats:
        """Inverse error function."""
        mean, sd, _ = parameters.arrays()
        found: Floats = mean + sd * scipy.special.ndtri(np.asarray(q, np.float64))
        return found
