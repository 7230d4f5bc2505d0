"""Batch norm over each pass alone, and its running statistics.

Legend: P passes, B cells, so P * B rows in pass-major order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mosaicvi.engine.jit import Floats, any_order, f32


class Running(NamedTuple):
    """Running statistics (width,), which follow those of each pass, and what the norm is done with."""

    mean: Tensor
    var: Tensor
    updates: Tensor
    eps: float
    momentum: float


def batch_norm(h: Tensor, weight: Tensor, bias: Tensor, running: Running, n_passes: int) -> Tensor:
    """Normalise (P * B, width), and bring the running statistics up to date."""
    out: Tensor = _BatchNorm.apply(h, weight, bias, running, n_passes)  # type: ignore[no-untyped-call]
    return out


class _BatchNorm(torch.autograd.Function):
    """The norm of each pass with its own statistics, a dozen small operations in one."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, running: Running, n_passes: int) -> Tensor:
        normal, inverse = np.empty(h.shape, np.float32), np.empty((n_passes, h.shape[1]), np.float32)
        out = np.empty_like(normal)
        _norm_by_pass(
            np.ascontiguousarray(h.numpy()), weight.numpy(), bias.numpy(), running.eps, running.momentum,
            running.mean.numpy(), running.var.numpy(), running.updates[None].numpy(), normal, inverse, out,
        )  # fmt: skip
        ctx.save_for_backward(torch.from_numpy(normal), torch.from_numpy(inverse), weight)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normal, inverse, weight = ctx.saved_tensors
        d_h, d_weight, d_bias = torch.empty_like(normal), torch.zeros_like(weight), torch.zeros_like(weight)
        _norm_by_pass_back(
            np.ascontiguousarray(grad.numpy()), normal.numpy(), inverse.numpy(), weight.numpy(), d_h.numpy(),
            d_weight.numpy(), d_bias.numpy(),
        )  # fmt: skip
        return d_h, d_weight, d_bias, None, None


@any_order
def _norm_by_pass(
    h: Floats, weight: Floats, bias: Floats, eps: float, momentum: float, running_mean: Floats,
    running_var: Floats, updates: Floats, normal: Floats, inverse: Floats, out: Floats,
) -> None:  # fmt: skip
    """Batch norm of each pass (P * B, width), its running statistics, and inverse deviations (P, width)."""
    n_passes, width = inverse.shape
    n = len(h) // n_passes
    for p in range(n_passes):
        rows = h[p * n : (p + 1) * n]
        mean, var = np.zeros(width, np.float64), np.zeros(width, np.float64)
        for i in range(n):
            for j in range(width):
                mean[j] += rows[i, j]
        mean /= n
        for i in range(n):
            for j in range(width):
                var[j] += (rows[i, j] - mean[j]) * (rows[i, j] - mean[j])
        var /= n
        keep = min(updates[0] / (updates[0] + 1), momentum)
        updates[0] += 1
        for j in range(width):
            running_mean[j] += (1 - keep) * (mean[j] - running_mean[j])
            running_var[j] += (1 - keep) * (var[j] - running_var[j])
            inverse[p, j] = 1 / np.sqrt(var[j] + eps)
        for i in range(n):
            row, to = rows[i], normal[p * n + i]
            for j in range(width):
                to[j] = f32(row[j] - f32(mean[j])) * inverse[p, j]
            for j in range(width):
                out[p * n + i, j] = to[j] * weight[j] + bias[j]


@any_order
def _norm_by_pass_back(
    d: Floats, normal: Floats, inverse: Floats, weight: Floats, d_h: Floats, d_weight: Floats, d_bias: Floats
) -> None:
    """The gradients of `_norm_by_pass`."""
    n_passes, width = inverse.shape
    n = len(d) // n_passes
    for p in range(n_passes):
        along, whole = np.zeros(width, np.float64), np.zeros(width, np.float64)
        for i in range(p * n, (p + 1) * n):
            for j in range(width):
                along[j] += d[i, j] * normal[i, j]
                whole[j] += d[i, j]
        for j in range(width):
            d_weight[j] += f32(along[j])
            d_bias[j] += f32(whole[j])
        for i in range(p * n, (p + 1) * n):
            for j in range(width):
                rest = d[i, j] - f32(whole[j] / n) - normal[i, j] * f32(along[j] / n)
                d_h[i, j] = weight[j] * inverse[p, j] * rest
