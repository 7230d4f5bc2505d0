"""What the likelihoods of counts share: values, bounds, links.

Legend: n rows, d features.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mosaicvi.likelihoods.base import Bounds, Family, Floats, Parameters, Summary

LARGEST_OUTPUT = 60.0  # of a feature outside the panel, over the panel's largest: its exponential is finite


class Counts(Family):
    """A likelihood of counts."""

    whole, least = True, 0.0

    def transform(self, *, whole: bool, filled: bool = False) -> str:
        """Counts per 10,000 on a logarithmic scale, or centred log ratios, unless they are so already.

        Ratios to the geometric mean need counts that are often above 0, such as those of proteins, of which
        a few abundant ones would decide on the total.
        """
        if not whole:
            return "none"
        return "clr" if filled and not self.of_peaks else "log1p_cp10k"

    def bounds(self, seen: Summary) -> Bounds:
        """From 0 to the largest value of the block."""
        zero = np.zeros_like(seen.mean)
        return Bounds(centre=zero, low=zero, high=np.maximum(seen.most_of_block, 1e-6))

    def at(self, uniform: Floats, parameters: Parameters) -> Floats:
        """The quantile, looked for only where it is above 0, as few are."""
        exact = parameters.each(Tensor.double)
        zero = torch.exp(self.log_prob(torch.zeros_like(exact.location), exact)).cpu().numpy()
        above = uniform > zero
        at = torch.from_numpy(above).to(exact.location.device)
        out = np.zeros(uniform.shape)
        out[above] = self.quantile(uniform[above], exact.each(lambda part: part.expand(at.shape)[at]))
        return out

    def first_output(self, seen: Summary, *, library_aware: bool) -> Floats | None:
        """With a library, the logarithm of the feature's share of it."""
        if not library_aware:
            return None
        share: Floats = np.log((seen.total + 0.5) / np.maximum(seen.exposure, 1.0))
        return share


def log_of_share(output: Tensor, library: Tensor, panel: Tensor | None) -> Tensor:
    """Logarithm of library x softmax over the panel; features outside it are on the same scale.

    Parameters
    ----------
    output
        Of the decoder, (..., n, d).
    library
        Of each row, (n, 1).
    panel
        Which features were measured, boolean (n, d); None for all.
    """
    log_library = torch.log(library.clamp(min=torch.finfo(output.dtype).tiny))
    if panel is None:
        return torch.log_softmax(output, -1) + log_library
    inside = output.masked_fill(~panel, -math.inf)
    top = inside.amax(-1, keepdim=True).clamp(min=torch.finfo(output.dtype).min)
    total = torch.logsumexp(inside.where(panel.any(-1, keepdim=True), top), -1, keepdim=True)
    return torch.minimum(output, top + LARGEST_OUTPUT) - total + log_library


def log_between(output: Tensor, bounds: Bounds) -> Tensor:
    """Logarithm of the published mean, min + sigmoid(output) (max - min)."""
    mean = bounds.low + torch.sigmoid(output) * (bounds.high - bounds.low)
    return torch.log(mean.clamp(min=torch.finfo(mean.dtype).tiny))


def log_factorial(x: Tensor) -> Tensor:
    """Logarithm of x!."""
    return torch.lgamma(x + 1)
