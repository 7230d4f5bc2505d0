"""How far groups of cells lie apart: squared maximum mean discrepancies (Gretton et al., JMLR 2012).

Both estimates below are one sum over pairs of cells, of a kernel times a coefficient that depends on their
groups; they differ in the coefficients.

Legend: B cells, K latent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosaicvi.compiled import Floats, any_order, exp, f32

WIDTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)
RATES = np.array([-0.5 / s for s in WIDTHS], np.float32)
NOTHING = f32(-87.0)  # exponentials of less are 0


def mmd(mean: Tensor, group: Tensor, *, unbiased: bool) -> Tensor:
    """Squared maximum mean discrepancy between groups, 0-d.

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
    coefficient = _unbiased(group) if unbiased else _biased(group)
    coefficient = coefficient.to(mean.dtype)
    if mean.device.type == "cpu" and mean.dtype == torch.float32:
        found: Tensor = _Compiled.apply(mean, coefficient)  # type: ignore[no-untyped-call]
        return found
    distance = torch.cdist(mean, mean, compute_mode="donot_use_mm_for_euclid_dist").square()
    kernel = torch.stack([torch.exp(distance * (-0.5 / s)) for s in WIDTHS]).mean(0)
    return (coefficient * kernel).sum()


def _same(group: Tensor) -> tuple[Tensor, Tensor]:
    """Which cells share a group (B, B), and the size of each cell's group (B,), 0 for none."""
    same = ((group[:, None] == group[None, :]) & (group > 0)).double()
    return same, same.sum(1)


def _biased(group: Tensor) -> Tensor:
    """Coefficients of the sum over pairs of the biased estimate, (B, B)."""
    same, size = _same(group)
    share = torch.where(size > 0, 1 / size, 0)
    n_groups = share.sum().round()
    return share[:, None] * share[None, :] * (n_groups * same - 1)


def _unbiased(group: Tensor) -> Tensor:
    """Coefficients of the weighted mean over pairs of the unbiased estimate, (B, B); the diagonal is 0."""
    same, size = _same(group)
    counts = (size > 1).double()  # one cell says nothing of the spread of its group
    n = counts.sum()
    pairs = (n * n - (counts * size).sum()) / 2  # of cells of different groups
    within = (n - size) / (size - 1).clamp(min=1)  # the weight of a group, over its pairs of cells
    found = counts[:, None] * counts[None, :] * (same * (within[:, None] + 1) - 1)
    return found.fill_diagonal_(0) / pairs.clamp(min=1)


class _Compiled(torch.autograd.Function):
    """The sum and its gradient in one go."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, coefficient: Tensor) -> Tensor:
        z = np.ascontiguousarray(mean.detach().numpy())
        d_z = np.zeros_like(z)
        total = _sum(z, np.ascontiguousarray(z.T), coefficient.numpy(), RATES, d_z)
        ctx.save_for_backward(torch.from_numpy(d_z))
        return mean.new_tensor(total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * grad, None


@any_order
def _sum(z: Floats, z_t: Floats, coefficient: Floats, rates: Floats, d_z: Floats) -> Any:
    """Sum over pairs of cells of coefficient (symmetric) * kernel; its gradient goes to `d_z` (B, K)."""
    n, width = z.shape
    total = np.float64(0)
    distance, kernel, slope = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    for i in range(n):
        distance[:] = f32(0)
        for k in range(width):
            for j in range(n):
                distance[j] += (z[i, k] - z_t[k, j]) * (z[i, k] - z_t[k, j])
        nearest = f32(np.inf)
        for j in range(n):
            if j != i:
                nearest = min(nearest, distance[j])
        kernel[:], slope[:] = f32(0), f32(0)
        for rate in rates:
            if rate * nearest < NOTHING:
                continue
            for j in range(n):
                e = exp(distance[j] * rate)
                kernel[j] += e
                slope[j] += rate * e
        kernel[i], slope[i] = f32(len(rates)), f32(0)
        row = f32(0)
        for j in range(n):
            row += coefficient[i, j] * kernel[j]
            slope[j] *= coefficient[i, j] * (f32(4) / f32(len(rates)))
        total += np.float64(row / f32(len(rates)))
        for k in range(width):
            pull = f32(0)
            for j in range(n):
                pull += slope[j] * (z[i, k] - z_t[k, j])
            d_z[i, k] = pull
    return total
