"""Length of the gradient: read once, by all workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosaicvi import device
from mosaicvi.compiled import Floats, any_order, f32
from mosaicvi.nn.workers import in_shares, n_workers, share_of

CHUNK = 1024  # numbers that are added up in float32


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together, 0-d."""
    if any(device.is_apart(g) or g.dtype != torch.float32 for g in grads):
        return torch.nn.utils.get_total_norm(grads, foreach=True)
    arrays = [g.contiguous().view(-1).numpy() for g in grads]
    sums = np.zeros(n_workers())

    def share(k: int, n: int) -> None:
        for array in arrays:
            first, last = share_of(len(array), k, n)
            sums[k] += _squares(array[first:last])

    in_shares(share)
    return torch.tensor(np.sqrt(sums.sum()), dtype=torch.float32)


@any_order
def _squares(values: Floats) -> Any:
    """Sum of squares."""
    total = np.float64(0)
    for a in range(0, len(values), CHUNK):
        part = values[a : a + CHUNK]
        some = f32(0)
        for j in range(len(part)):
            some += part[j] * part[j]
        total += some
    return total
