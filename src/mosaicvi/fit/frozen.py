"""Weights that training leaves as they are, to the bit, whatever the engine and the optimiser do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mosaicvi.nn.vae import MosaicVAE


class Frozen:
    """The entries of a network's weights that are not to be trained.

    Parameters
    ----------
    net
        The network, whose present weights are kept; its norms keep their statistics, and of weights that are
        frozen as a whole no gradient is computed.
    free
        Which entries of each weight may be trained, boolean, by name.
    """

    def __init__(self, net: MosaicVAE, free: Mapping[str, Tensor]) -> None:
        net.fixed_statistics = True
        # a weight, where it is frozen, what it is there
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for name, weight in net.named_parameters():
            is_free = free[name].to(weight.device)
            weight.requires_grad_(bool(is_free.any()))
            if weight.requires_grad and not is_free.all():
                self._parts.append((weight, ~is_free, weight.detach()[~is_free].clone()))

    def hide(self) -> None:
        """Leave no gradient where nothing is to be trained."""
        for weight, frozen, _ in self._parts:
            if weight.grad is not None:
                weight.grad[frozen] = 0

    def restore(self) -> None:
        """Undo what the decay of weights did."""
        with torch.no_grad():
            for weight, frozen, kept in self._parts:
                weight[frozen] = kept
