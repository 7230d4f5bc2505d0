"""AdamW by gradients of limited length; where the numbers are at hand, by compiled loops and all workers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mosaicvi import device
from mosaicvi.compiled import Floats, any_order, f32
from mosaicvi.nn.workers import in_shares, n_workers, share_of

BETAS = (0.9, 0.99)  # a run has too few steps for AdamW's own 0.999
CHUNK = 1024  # numbers that are added up in float32
LEAST_MOMENT = f32(1e-30)  # far above the denormal numbers, which slow arithmetic down tenfold


class Optimizer(torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter, ICLR 2019), whose state is torch's.

    Parameters
    ----------
    parameters
        What to train.
    lr, weight_decay
        As torch has them.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, betas=BETAS, weight_decay=weight_decay, fused=True)

    def norm(self) -> Tensor:
        """Length of the gradient, 0-d."""
        return gradient_norm([grad for _, grad in self._pairs()])

    def advance(self, norm: Tensor, *, limit: float, lr: float) -> None:
        """One update by gradients of this length, shortened to the limit if they are longer.

        A length that is not finite changes nothing, and on a device nobody has to look at it.
        """
        self.param_groups[0]["lr"] = lr
        if all(_at_hand(p) and _at_hand(grad) and p.is_contiguous() for p, grad in self._pairs()):
            length = float(norm)
            if math.isfinite(length):
                self._advance(1 / max(1.0, length / limit), lr)
            return
        # the fused update divides gradients by grad_scale, so clipping costs no pass of its own
        self.grad_scale = torch.clamp(norm / limit, min=1.0)
        self.found_inf = (~torch.isfinite(norm)).float()
        self.step()

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """What has a gradient, and that."""
        return [(p, p.grad) for p in self.param_groups[0]["params"] if p.grad is not None]

    def _advance(self, shorten: float, lr: float) -> None:
        group = self.param_groups[0]
        beta_1, beta_2 = group["betas"]
        given = []
        for p, grad in self._pairs():
            moments = self.state[p]
            if not moments:
                moments["step"] = torch.zeros(())
                moments["exp_avg"], moments["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            moments["step"] += 1
            t = moments["step"].item()
            sizes = lr / (1 - beta_1**t), 1 / np.sqrt(1 - beta_2**t)
            arrays = _flat(p), _flat(grad), _flat(moments["exp_avg"]), _flat(moments["exp_avg_sq"])
            given.append((arrays, tuple(map(f32, sizes))))
        steady = (shorten, 1 - beta_1, beta_2, 1 - lr * group["weight_decay"], group["eps"])
        numbers = tuple(map(f32, steady))

        def share(k: int, n: int) -> None:
            for arrays, sizes in given:
                _update(*arrays, *share_of(len(arrays[0]), k, n), *numbers, *sizes)

        in_shares(share)


def _at_hand(tensor: Tensor) -> bool:
    return not device.is_apart(tensor) and tensor.dtype == torch.float32


def _flat(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().contiguous().numpy().reshape(-1)
    return array


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together, 0-d."""
    if not all(map(_at_hand, grads)):
        return torch.nn.utils.get_total_norm(grads, foreach=True)
    arrays = [_flat(g) for g in grads]
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


@any_order
def _update(
    weight: Floats, grad: Floats, mean: Floats, square: Floats, first: int, last: int, shorten: Any,
    newer: Any, older: Any, shrink: Any, eps: Any, size: Any, root: Any,
) -> None:  # fmt: skip
    """Numbers `first` to `last` of a tensor; moments that have all but vanished become 0.

    `newer` and `older` are the weight of the new gradient in the mean and of the old mean of squares, `size`
    and `root` the rate and the root of the squares' factor, both corrected for the moments' start at 0.
    """
    weight, grad, mean, square = weight[first:last], grad[first:last], mean[first:last], square[first:last]
    for j in range(len(weight)):
        g = grad[j] * shorten
        m = mean[j] + newer * (g - mean[j])
        m = f32(0) if abs(m) < LEAST_MOMENT else m
        v = older * square[j] + (f32(1) - older) * g * g
        v = f32(0) if v < LEAST_MOMENT else v
        mean[j], square[j] = m, v
        weight[j] = weight[j] * shrink - size * m / (np.sqrt(v) * root + eps)
