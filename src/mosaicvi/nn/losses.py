"""The loss, and its terms besides the likelihood: how far passes and groups of cells are from others.

Legend: P passes, B cells, K latent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

EXPONENT = 6.0  # the reference clips exponents of the KL term
WIDTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Losses:
    """Loss of a minibatch; all but `total` are detached.

    Attributes
    ----------
    total
        What is minimised, 0-d.
    terms
        What it is the sum of, by name: weighted terms, 0-d, or (M,), one of each modality.
    log_prob
        Plain log-likelihood, mean over cells, of each pass and modality, (P, M).
    """

    total: Tensor
    terms: dict[str, Tensor]
    log_prob: Tensor

    def by_name(self, modalities: Sequence[str]) -> dict[str, Tensor]:
        """The loss, its terms and what was observed of each modality, under the names of the history."""
        found = {"loss": self.total.detach()}
        for name, term in (self.terms | {"log_prob": self.log_prob[0]}).items():
            named = [name] if term.ndim == 0 else [f"{name}_{m}" for m in modalities]
            found |= dict(zip(named, term.reshape(-1), strict=True))
        return found


def sample_and_kl(
    mean: Tensor, log_var: Tensor, noise: Tensor, weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Draw z = mean + exp(log_var / 2) noise, (P * B, K), and the weighted KL(pass || first pass), 0-d.

    Parameters
    ----------
    mean, log_var, noise
        (P * B, K) each.
    weights
        Of the passes after the first.
    """
    z = mean + torch.exp(0.5 * log_var) * noise
    means, log_vars = (v.view(len(weights) + 1, -1, v.shape[1]) for v in (mean, log_var))
    kl = mean.new_zeros(())
    for w, m, v in zip(weights, means[1:], log_vars[1:], strict=True):
        kl = kl + w * diagonal_kl(m, v, means[0], log_vars[0])
    return z, kl


def diagonal_kl(mean_1: Tensor, log_var_1: Tensor, mean_0: Tensor, log_var_0: Tensor) -> Tensor:
    """KL(N_1 || N_0) of diagonal Gaussians (B, K), exponents clipped: summed over K, mean over cells."""
    ratio = torch.exp((log_var_1 - log_var_0).clamp(-EXPONENT, EXPONENT))
    shift = (mean_0 - mean_1).square() / torch.exp(log_var_0.clamp(-EXPONENT, EXPONENT))
    return 0.5 * (ratio + shift - 1 + log_var_0 - log_var_1).sum(1).mean()


def mmd(mean: Tensor, group: Tensor, *, unbiased: bool) -> Tensor:
    """Squared maximum mean discrepancy (Gretton et al., JMLR 2012) between groups of cells, 0-d.

    The kernel is the mean of Gaussian kernels of 19 widths.

    Parameters
    ----------
    mean
        Latent means (B, K).
    group
        Group of each cell, 0 for none, (B,).
    unbiased
        The unbiased estimate, as a mean over pairs of groups that weighs each by the product of their sizes:
        small groups, which differ by chance, count little. Otherwise the biased estimate, as a sum over pairs
        (the published one).
    """
    distance = torch.cdist(mean, mean, compute_mode="donot_use_mm_for_euclid_dist").square()
    kernel = torch.stack([torch.exp(distance * (-0.5 / s)) for s in WIDTHS]).mean(0)
    return (pair_weights(group, unbiased=unbiased).to(mean.dtype) * kernel).sum()


def pair_weights(group: Tensor, *, unbiased: bool) -> Tensor:
    """Weight of each pair of cells in either estimate, (B, B): both are a weighted sum of the kernel."""
    same = ((group[:, None] == group[None, :]) & (group > 0)).double()
    size = same.sum(1)  # of each cell's group, 0 for none
    if not unbiased:
        share = torch.where(size > 0, 1 / size, 0)
        n_groups = share.sum().round()
        return share[:, None] * share[None, :] * (n_groups * same - 1)
    counts = (size > 1).double()  # one cell says nothing of the spread of its group
    n = counts.sum()
    pairs = (n * n - (counts * size).sum()) / 2  # of cells of different groups
    within = (n - size) / (size - 1).clamp(min=1)  # the weight of a group, over its pairs of cells
    found = counts[:, None] * counts[None, :] * (same * (within[:, None] + 1) - 1)
    return found.fill_diagonal_(0) / pairs.clamp(min=1)
