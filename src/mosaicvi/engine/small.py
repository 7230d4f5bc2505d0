"""Terms of the loss on the latent: each value with its gradient in one pass.

Legend: P passes, B cells, K latent. Rows of the first are (P * B), one pass after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosaicvi.engine.jit import Floats, any_order, between, exp, f32

NOTHING = f32(-87.0)  # exponentials of less are 0


def sample_and_kl(
    mean: Tensor, log_var: Tensor, noise: Tensor, weights: Sequence[float], exponent: float
) -> tuple[Tensor, Tensor]:
    """The latent mean + exp(log_var / 2) noise, (P * B, K), and the weighted KL(pass || first pass), 0-d.

    Parameters
    ----------
    mean, log_var, noise
        (P * B, K) each.
    weights
        Of the passes after the first.
    exponent
        To which exponents of the KL terms are clipped.
    """
    z, kl = _SampleAndKl.apply(mean, log_var, noise, weights, exponent)  # type: ignore[no-untyped-call]
    return z, kl


def pair_sum(mean: Tensor, coefficient: Tensor, widths: Sequence[float]) -> Tensor:
    """Sum over pairs of cells of a coefficient (B, B), symmetric, times the mean of Gaussian kernels, 0-d."""
    rates = np.array([-0.5 / width for width in widths], np.float32)
    found: Tensor = _PairSum.apply(mean, coefficient, rates)  # type: ignore[no-untyped-call]
    return found


class _SampleAndKl(torch.autograd.Function):
    """Both with their gradients, in one pass."""

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, log_var: Tensor, noise: Tensor, weights: Sequence[float], exponent: float
    ) -> tuple[Tensor, Tensor]:
        m, v, e = (np.ascontiguousarray(t.numpy()) for t in (mean, log_var, noise))
        z, half, d_mean, d_log_var = (np.empty(mean.shape, np.float32) for _ in range(4))
        total = _sample_and_kl(
            m, v, e, np.array(weights, np.float32), f32(exponent), z, half, d_mean, d_log_var
        )
        ctx.save_for_backward(*(torch.from_numpy(v) for v in (half, d_mean, d_log_var)))
        return torch.from_numpy(z), mean.new_tensor(total)

    @staticmethod
    def backward(ctx: Any, d_z: Tensor, d_kl: Tensor) -> tuple[Tensor | None, ...]:
        half, d_mean, d_log_var = ctx.saved_tensors
        return torch.addcmul(d_z, d_mean, d_kl), torch.addcmul(d_z * half, d_log_var, d_kl), None, None, None


@any_order
def _sample_and_kl(
    mean: Floats, log_var: Floats, noise: Floats, weights: Floats, edge: Any, z: Floats, half: Floats,
    d_mean: Floats, d_log_var: Floats,
) -> Any:  # fmt: skip
    """The KL terms; `half` is the slope of z by the log variance, the last are gradients of the KL terms."""
    n_rows, width = mean.shape
    n = n_rows // (len(weights) + 1)
    for i in range(n_rows):
        for j in range(width):
            step = exp(f32(0.5) * log_var[i, j]) * noise[i, j]
            z[i, j] = mean[i, j] + step
            half[i, j] = f32(0.5) * step
    d_mean[:n], d_log_var[:n] = f32(0), f32(0)
    total = 0.0
    for p in range(1, len(weights) + 1):
        w = weights[p - 1] / f32(n)
        for i in range(n):
            k, row = p * n + i, f32(0)
            for j in range(width):
                apart, v0 = log_var[k, j] - log_var[i, j], log_var[i, j]
                clipped, bounded = between(-edge, apart, edge), between(-edge, v0, edge)
                ratio, precision = exp(clipped), exp(-bounded)
                away = mean[i, j] - mean[k, j]
                row += ratio + away * away * precision - f32(1) - apart
                by_ratio = ratio if clipped == apart else f32(0)
                by_precision = away * away * precision if bounded == v0 else f32(0)
                d_mean[i, j] += w * away * precision
                d_mean[k, j] = -w * away * precision
                d_log_var[i, j] += f32(0.5) * w * (f32(1) - by_ratio - by_precision)
                d_log_var[k, j] = f32(0.5) * w * (by_ratio - f32(1))
            total += 0.5 * w * row
    return total


class _PairSum(torch.autograd.Function):
    """The sum and its gradient in one go."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, coefficient: Tensor, rates: Floats) -> Tensor:
        z = np.ascontiguousarray(mean.detach().numpy())
        d_z = np.zeros_like(z)
        total = _pair_sum(z, np.ascontiguousarray(z.T), coefficient.numpy(), rates, d_z)
        ctx.save_for_backward(torch.from_numpy(d_z))
        return mean.new_tensor(total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad, None, None


@any_order
def _pair_sum(z: Floats, z_t: Floats, coefficient: Floats, rates: Floats, d_z: Floats) -> Any:
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
