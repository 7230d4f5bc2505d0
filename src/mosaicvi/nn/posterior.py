"""What is done with the posterior of each row: a draw of the latent, and how far passes are from the first.

Legend: P passes, B cells, K latent. Rows are (P * B), one pass after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosaicvi import device
from mosaicvi.compiled import Floats, any_order, between, exp, f32

EXPONENT = 6.0  # the reference clips exponents of the KL term


def draw_and_compare(
    mean: Tensor, log_var: Tensor, noise: Tensor, weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The latent mean + exp(log_var / 2) noise, (P * B, K), and the weighted KL(pass || first pass), 0-d.

    Parameters
    ----------
    mean, log_var, noise
        (P * B, K) each.
    weights
        Of the passes after the first.
    """
    mean, log_var = mean.float(), log_var.float()
    if not device.is_apart(mean):
        return _Compiled.apply(mean, log_var, noise, weights)  # type: ignore[no-untyped-call, no-any-return]
    z = mean + torch.exp(0.5 * log_var) * noise
    means, log_vars = (v.view(len(weights) + 1, -1, v.shape[1]) for v in (mean, log_var))
    kl = mean.new_zeros(())
    for w, m, v in zip(weights, means[1:], log_vars[1:], strict=True):
        kl = kl + w * diagonal_kl(m, v, means[0], log_vars[0])
    return z, kl


def diagonal_kl(mean_1: Tensor, log_var_1: Tensor, mean_0: Tensor, log_var_0: Tensor) -> Tensor:
    """KL(N_1 || N_0) of diagonal Gaussians, summed over latent, mean over cells, clipped (docs/model.md).

    Parameters
    ----------
    mean_1, log_var_1, mean_0, log_var_0
        (B, K) each.
    """
    ratio = torch.exp((log_var_1 - log_var_0).clamp(-EXPONENT, EXPONENT))
    shift = (mean_0 - mean_1).square() / torch.exp(log_var_0.clamp(-EXPONENT, EXPONENT))
    return 0.5 * (ratio + shift - 1 + log_var_0 - log_var_1).sum(1).mean()


class _Compiled(torch.autograd.Function):
    """Both with their gradients, in one pass."""

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, log_var: Tensor, noise: Tensor, weights: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        m, v, e = (np.ascontiguousarray(t.numpy()) for t in (mean, log_var, noise))
        z, half, d_mean, d_log_var = (np.empty(mean.shape, np.float32) for _ in range(4))
        total = _draw_and_compare(m, v, e, np.array(weights, np.float32), z, half, d_mean, d_log_var)
        ctx.save_for_backward(*(torch.from_numpy(v) for v in (half, d_mean, d_log_var)))
        return torch.from_numpy(z), mean.new_tensor(total)

    @staticmethod
    def backward(ctx: Any, d_z: Tensor, d_kl: Tensor) -> tuple[Tensor, Tensor, None, None]:
        half, d_mean, d_log_var = ctx.saved_tensors
        return torch.addcmul(d_z, d_mean, d_kl), torch.addcmul(d_z * half, d_log_var, d_kl), None, None


@any_order
def _draw_and_compare(
    mean: Floats, log_var: Floats, noise: Floats, weights: Floats, z: Floats, half: Floats, d_mean: Floats,
    d_log_var: Floats,
) -> Any:  # fmt: skip
    """The KL terms; `half` is the slope of z by the log variance, the last are gradients of the KL terms."""
    n_rows, width = mean.shape
    n, edge = n_rows // (len(weights) + 1), f32(EXPONENT)
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
