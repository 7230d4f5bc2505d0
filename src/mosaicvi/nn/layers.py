"""Layers: sparse rows times a matrix, and norms whose statistics stay within a pass.

Legend: P passes (observed, masked, reverse), B cells, so P * B rows in pass-major order.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from mosaicvi import device
from mosaicvi.compiled import Floats, any_order, f32

SLOPE = 0.3  # of every LeakyReLU in the published network


def leaky(h: Tensor) -> Tensor:
    """LeakyReLU as in the published network."""
    return functional.leaky_relu(h, SLOPE)


def glorot_(weight: Tensor, fan_in: int, fan_out: int, generator: Generator) -> None:
    """Fill with uniform numbers of Glorot & Bengio's width (AISTATS 2010)."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    with torch.no_grad():
        weight.uniform_(-limit, limit, generator=generator)


class Csr(NamedTuple):
    """A sparse matrix: row pointers (N + 1,), columns and values (Z,)."""

    crow: Tensor
    col: Tensor
    value: Tensor

    @classmethod
    def of_rows(cls, row: Tensor, col: Tensor, value: Tensor, n_rows: int) -> Csr:
        """From the ascending row of each non-zero."""
        ends = torch.bincount(row, minlength=n_rows).cumsum(0)
        return cls(torch.cat([ends.new_zeros(1), ends]), col, value)

    def tensor(self, n_columns: int) -> Tensor:
        """As torch's own."""
        shape = (len(self.crow) - 1, n_columns)
        if not Csr.tensor.__dict__.get("said"):  # torch announces that its CSR support is in beta, once
            Csr.tensor.__dict__["said"] = True
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.sparse_csr_tensor(*self, size=shape, check_invariants=False)
        return torch.sparse_csr_tensor(*self, size=shape, check_invariants=False)

    def transposed(self, n_columns: int) -> Csr:
        """CSR of the transpose."""
        row = torch.repeat_interleave(self.crow.diff(), output_size=len(self.col))
        order = torch.argsort(self.col, stable=True)
        return Csr.of_rows(self.col[order], row[order], self.value[order], n_columns)


class _SparseProduct(torch.autograd.Function):
    """Sparse (N x D) times dense (D x H), with a gradient for the dense matrix alone."""

    @staticmethod
    def forward(ctx: Any, matrix: Csr, weight: Tensor) -> Tensor:
        ctx.save_for_backward(*matrix)
        ctx.n_columns = len(weight)
        with torch.autocast(weight.device.type, enabled=False):
            return torch.mm(matrix.tensor(len(weight)), weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        matrix = Csr(*ctx.saved_tensors).transposed(ctx.n_columns)
        return None, torch.mm(matrix.tensor(len(grad)), grad.contiguous())


def sparse_product(matrix: Csr, weight: Tensor) -> Tensor:
    """Product of a sparse matrix and (D, H): (N, H)."""
    if len(matrix.col) == 0:
        return weight[:1].expand(len(matrix.crow) - 1, -1) * 0
    out: Tensor = _SparseProduct.apply(matrix, weight)  # type: ignore[no-untyped-call]
    return out


class PassBatchNorm(nn.Module):
    """Batch norm over each pass alone, with fixed statistics at inference.

    As the reference: epsilon 1e-3, biased variance, running statistics with momentum 0.99 (reached
    through a plain average over the first hundred updates).

    Parameters
    ----------
    width
        Number of columns.
    """

    running_mean: Tensor
    running_var: Tensor
    updates: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("updates", torch.zeros((), dtype=torch.float32))
        self.eps, self.momentum = 1e-3, 0.99

    def forward(self, h: Tensor, n_passes: int) -> Tensor:
        """Normalise (P * B, width)."""
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            return h * scale + (self.bias - self.running_mean * scale)
        if not device.is_apart(h):
            return _BatchNorm.apply(h.float(), self.weight, self.bias, self, n_passes)  # type: ignore[no-untyped-call, no-any-return]
        parts = [
            torch.native_batch_norm(part.float(), self.weight, self.bias, None, None, True, 0.0, self.eps)
            for part in h.chunk(n_passes)
        ]
        with torch.no_grad():
            for _, mean, inverse_sd in parts:
                self._remember(mean, inverse_sd.pow(-2) - self.eps)  # biased variance, as the reference's
        return torch.cat([part for part, _, _ in parts])

    def _remember(self, mean: Tensor, var: Tensor) -> None:
        keep = torch.clamp(self.updates / (self.updates + 1), max=self.momentum)
        self.running_mean.lerp_(mean, 1 - keep)
        self.running_var.lerp_(var, 1 - keep)
        self.updates.add_(1)


class _BatchNorm(torch.autograd.Function):
    """The norm of each pass with its own statistics, at hand: a dozen small operations in one."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, norm: PassBatchNorm, n_passes: int
    ) -> Tensor:
        normal, inverse = np.empty(h.shape, np.float32), np.empty((n_passes, h.shape[1]), np.float32)
        out = np.empty_like(normal)
        _norm_by_pass(
            np.ascontiguousarray(h.numpy()), weight.numpy(), bias.numpy(), norm.eps, norm.momentum,
            norm.running_mean.numpy(), norm.running_var.numpy(), norm.updates[None].numpy(), normal, inverse,
            out,
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


def make_linear(n_in: int, n_out: int, generator: Generator) -> nn.Linear:
    """Dense layer with Glorot weights and zero bias."""
    layer = nn.Linear(n_in, n_out, device="meta").to_empty(device=generator.device)
    glorot_(layer.weight, n_in, n_out, generator)
    nn.init.zeros_(layer.bias)
    return layer
