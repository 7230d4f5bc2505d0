"""The negative binomial with a point mass at zero: a count that is lost with a probability of its feature."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mosaicvi.likelihoods.base import Evidence, Floats, Parameters, needed, smallest_whole
from mosaicvi.likelihoods.nb import NegativeBinomial, cost_of_zero


class ZeroInflated(NegativeBinomial):
    """ZINB; never chosen by itself."""

    name = "ZINB"
    has_inflation = True

    def recognises(self, evidence: Evidence) -> bool:
        """Only the user can know."""
        return False

    def mean(self, parameters: Parameters) -> Tensor:
        """Mean of the counts that are not lost, times their share."""
        return super().mean(parameters) * (1 - needed(parameters.inflation))

    def log_prob(self, x: Tensor, parameters: Parameters) -> Tensor:
        """Mixture at zero, and the count's share elsewhere."""
        pi, alpha = needed(parameters.inflation), needed(parameters.dispersion)
        log_zero = torch.logaddexp(torch.log(pi), torch.log1p(-pi) - cost_of_zero(parameters.location, alpha))
        return torch.where(x > 0, torch.log1p(-pi) + super().log_prob(x, parameters), log_zero)

    def cdf(self, x: ArrayLike, parameters: Parameters) -> Floats:
        """Mixture of 1 from zero on with that of the count."""
        pi = parameters.arrays()[2]
        below = super().cdf(x, parameters)
        found: Floats = np.where(np.asarray(x) < 0, 0.0, pi + (1 - pi) * below)
        return found

    def quantile(self, q: ArrayLike, parameters: Parameters) -> Floats:
        """Near that of the count, of the probability beyond the point mass."""
        pi = parameters.arrays()[2]
        beyond = np.clip((np.asarray(q, np.float64) - pi) / (1 - pi), 0, 1)
        return smallest_whole(lambda k: self.cdf(k, parameters), q, super().quantile(beyond, parameters))
