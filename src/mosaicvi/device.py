"""Where tensors are: in the host's memory, or on a device that works while the host goes on."""

from __future__ import annotations

from torch import Tensor


def would_wait(tensor: Tensor) -> bool:
    """Whether to look at a number of the tensor, or to ask how many there are, would make the host wait."""
    return tensor.device.type != "cpu"
