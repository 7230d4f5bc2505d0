"""Where tensors are: in the host's memory, or on a device that works while the host goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def would_wait(tensor: Tensor) -> bool:
    """Whether to look at a number of the tensor, or to ask how many there are, would make the host wait."""
    return tensor.device.type != "cpu"


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor: on the CPU the same memory; to a GPU it is on its way while the host goes on."""
    return moved(torch.from_numpy(array), device)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on another device; to a GPU through memory that the host does not swap out."""
    if tensor.device.type == device.type:
        return tensor
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def numbers(values: list[float], like: Tensor) -> Tensor:
    """A few numbers, of the dtype and on the device of another tensor."""
    return moved(torch.tensor(values, dtype=like.dtype), like.device)


def room_on(device: torch.device) -> float:
    """Bytes that are free on a device; infinite where it is the host."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else np.inf
