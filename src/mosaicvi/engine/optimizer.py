"""AdamW and the length of a gradient, over many tensors as if they were one.

Loops are given addresses: a list of arrays of differing shapes would be compiled anew for each network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.engine.jit import Floats, Ints, any_order, f32, floats_at
from mosaicvi.engine.threads import in_shares, n_workers, share_of

CHUNK = 1024  # numbers that are added up in float32
LEAST_MOMENT = f32(1e-30)  # far above the denormal numbers, which slow arithmetic down tenfold


class _Tensors:
    """Float32 tensors as compiled loops take them: the address of each and where it ends if they were one."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.kept = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        self.at = np.array([t.data_ptr() for t in self.kept], np.int64)
        self.ends = np.cumsum([t.numel() for t in self.kept], dtype=np.int64)


def norm(grads: Sequence[Tensor]) -> float:
    """Euclidean norm of all gradients together."""
    tensors, sums = _Tensors(grads), np.zeros(n_workers())

    def share(k: int, n: int) -> None:
        sums[k] = _squares(tensors.at, tensors.ends, *share_of(tensors.ends[-1], k, n))

    in_shares(share)
    return float(np.sqrt(sums.sum()))


def adamw(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    steps: NDArray[np.float64],
    *,
    factor: float,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """One update in place (Loshchilov & Hutter, ICLR 2019).

    Parameters
    ----------
    weights, grads, means, squares
        Contiguous tensors, and what belongs to them.
    steps
        Number of the update of each tensor, from 1.
    factor
        Of the gradients.
    lr, betas, eps, weight_decay
        As torch has them.
    """
    size = (lr / (1 - betas[0] ** steps)).astype(np.float32)
    root = (1 / np.sqrt(1 - betas[1] ** steps)).astype(np.float32)
    numbers = np.array((factor, 1 - betas[0], betas[1], 1 - lr * weight_decay, eps), np.float32)
    w, g, m, v = (_Tensors(tensors) for tensors in (weights, grads, means, squares))

    def share(k: int, n: int) -> None:
        first, last = share_of(w.ends[-1], k, n)
        _update(w.at, g.at, m.at, v.at, w.ends, first, last, numbers, size, root)

    in_shares(share)


@any_order
def _squares(at: Ints, ends: Ints, first: int, last: int) -> Any:
    """Sum of squares of numbers `first` to `last` of all tensors."""
    total = np.float64(0)
    for t in range(len(at)):
        start = ends[t - 1] if t else 0
        a, b = max(first, start) - start, min(last, ends[t]) - start
        values = floats_at(at[t], ends[t] - start)
        for c in range(a, b, CHUNK):
            part = values[c : min(c + CHUNK, b)]
            some = f32(0)
            for j in range(len(part)):
                some += part[j] * part[j]
            total += some
    return total


@any_order
def _update(
    weights: Ints, grads: Ints, means: Ints, squares: Ints, ends: Ints, first: int, last: int,
    numbers: Floats, size: Floats, root: Floats,
) -> None:  # fmt: skip
    """Numbers `first` to `last` of all tensors; moments that have all but vanished become 0.

    `numbers` are the factor of the gradients, the weight of the new one in the mean, of the old mean of
    squares, of the weights, and epsilon; `size` and `root` the rate and the root of the squares' factor of
    each tensor, both corrected for the moments' start at 0.
    """
    shorten, newer, older, shrink, eps = numbers
    for t in range(len(ends)):
        start = ends[t - 1] if t else 0
        a, b, n = max(first, start) - start, min(last, ends[t]) - start, ends[t] - start
        if a >= b:
            continue
        weight, grad = floats_at(weights[t], n)[a:b], floats_at(grads[t], n)[a:b]
        mean, square = floats_at(means[t], n)[a:b], floats_at(squares[t], n)[a:b]
        step, unbias = size[t], root[t]
        for j in range(b - a):
            g = grad[j] * shorten
            m = mean[j] + newer * (g - mean[j])
            m = f32(0) if abs(m) < LEAST_MOMENT else m
            v = older * square[j] + (f32(1) - older) * g * g
            v = f32(0) if v < LEAST_MOMENT else v
            mean[j], square[j] = m, v
            weight[j] = weight[j] * shrink - step * m / (np.sqrt(v) * unbias + eps)
