"""Dense layers, and norms whose statistics stay within a pass.

Legend: P passes (observed, masked, reverse), B cells, so P * B rows in pass-major order; w width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from mosaicvi.ranks.group import Share

SLOPE = 0.3  # of every LeakyReLU in the published network


def leaky(h: Tensor) -> Tensor:
    """LeakyReLU as in the published network."""
    return functional.leaky_relu(h, SLOPE)


def glorot_(weight: Tensor, fan_in: int, fan_out: int, generator: Generator) -> None:
    """Fill with uniform numbers of Glorot & Bengio's width (AISTATS 2010)."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    with torch.no_grad():
        weight.uniform_(-limit, limit, generator=generator)


def make_linear(n_in: int, n_out: int, generator: Generator) -> nn.Linear:
    """Dense layer with Glorot weights and zero bias."""
    layer = nn.Linear(n_in, n_out, device="meta").to_empty(device=generator.device)
    glorot_(layer.weight, n_in, n_out, generator)
    nn.init.zeros_(layer.bias)
    return layer


class PassBatchNorm(nn.Module):
    """Batch norm over each pass alone, with fixed statistics at inference.

    As the reference: epsilon 1e-3, biased variance, running statistics with momentum 0.99 (reached
    through a plain average over the first hundred updates).

    Parameters
    ----------
    width
        Number of columns.

    Attributes
    ----------
    share
        What this process has of the minibatch whose statistics count; None for all of it.
    """

    share: Share | None = None
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
        """Normalise (P * B, w)."""
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            return h * scale + (self.bias - self.running_mean * scale)
        h_pbw = h.to(self.weight.dtype).reshape(n_passes, -1, h.shape[1])
        mean_p1w, var_p1w = self._moments(h_pbw)
        with torch.no_grad():
            for mean_1w, var_1w in zip(mean_p1w, var_p1w, strict=True):
                keep = torch.clamp(self.updates / (self.updates + 1), max=self.momentum)
                self.running_mean.lerp_(mean_1w[0], 1 - keep)
                self.running_var.lerp_(var_1w[0], 1 - keep)
                self.updates.add_(1)
        normal = (h_pbw - mean_p1w) * torch.rsqrt(var_p1w + self.eps)
        out: Tensor = (normal * self.weight + self.bias).flatten(0, 1)
        return out

    def _moments(self, h_pbw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over the cells of each pass, (P, 1, w)."""
        if self.share is None:
            mean_p1w = h_pbw.mean(1, keepdim=True)
            return mean_p1w, (h_pbw - mean_p1w).square().mean(1, keepdim=True)
        near = self.running_mean.clone()  # the squares lose no digits around it, and all processes have it
        away = h_pbw - near
        sums = self.share.summed(torch.stack([away.sum(1), away.square().sum(1)]))
        mean, square = (sums / self.share.n_all)[:, :, None]
        return mean + near, (square - mean.square()).clamp(min=0)


class HiddenStack(nn.Module):
    """For each width: h = norm(LeakyReLU(W h + b)).

    Parameters
    ----------
    n_in
        Width of the input.
    widths
        Hidden widths, in order.
    norm
        ``"layer"`` or ``"batch"``.
    generator
        Decides the first weights.
    """

    def __init__(
        self, n_in: int, widths: tuple[int, ...], norm: Literal["layer", "batch"], generator: Generator
    ) -> None:
        super().__init__()
        self.linear = nn.ModuleList()
        self.norm = nn.ModuleList()
        for width in widths:
            self.linear.append(make_linear(n_in, width, generator))
            self.norm.append(nn.LayerNorm(width) if norm == "layer" else PassBatchNorm(width))
            n_in = width
        self.n_out = n_in

    def forward(self, h: Tensor, n_passes: int) -> Tensor:
        """Map (P * B, n_in) to (P * B, n_out)."""
        for linear, norm in zip(self.linear, self.norm, strict=True):
            h = leaky(linear(h))
            h = norm(h, n_passes) if isinstance(norm, PassBatchNorm) else norm(h)
        return h
