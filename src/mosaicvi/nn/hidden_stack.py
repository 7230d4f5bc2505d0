"""The dense layers between the blocks and the latent.

Legend: P passes, B cells.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn

from mosaicvi import device
from mosaicvi.nn.compiled_stack import hidden
from mosaicvi.nn.layers import PassBatchNorm, leaky, make_linear
from mosaicvi.nn.products import linear


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
        if self._is_compiled(h):
            return hidden(h.float(), self.layers())
        for layer, norm in zip(self.linear, self.norm, strict=True):
            h = leaky(linear(h, *layer.parameters()))
            h = norm(h, n_passes) if isinstance(norm, PassBatchNorm) else norm(h)
        return h

    def layers(self) -> list[Tensor]:
        """Weights (out, in), bias, scale and shift of each layer."""
        pairs = zip(self.linear, self.norm, strict=True)
        return [p for pair in pairs for layer in pair for p in layer.parameters()]

    def _is_compiled(self, h: Tensor) -> bool:
        plain = all(isinstance(norm, nn.LayerNorm) for norm in self.norm) and len(self.norm) > 0
        single = all(p.dtype == torch.float32 for p in self.parameters())
        return plain and single and not device.is_apart(h) and not torch.is_autocast_enabled(h.device.type)
