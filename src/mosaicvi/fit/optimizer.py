"""AdamW by gradients of limited length; where the numbers are at hand, by compiled loops and all workers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mosaicvi import device
from mosaicvi.compiled import Floats, Ints, any_order, f32, floats_at
from mosaicvi.workers import in_shares, n_workers, share_of

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

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for p in self.param_groups[0]["params"]:
            p.grad = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to what `state_dict` described.

        Raises
        ------
        ValueError
            The moments of a parameter are not of its shape: compiled loops do not look again.
        """
        super().load_state_dict(state_dict)
        for p, state in self.state.items():
            for name, shape in (("step", ()), ("exp_avg", p.shape), ("exp_avg_sq", p.shape)):
                value = state.get(name)
                if not isinstance(value, Tensor) or value.shape != shape:
                    raise ValueError(f"{name} of a parameter of shape {tuple(p.shape)} does not fit it")
                state[name] = value.contiguous()

    def norm(self) -> Tensor:
        """Length of the gradient, 0-d."""
        return gradient_norm([grad for _, grad in self._pairs()])

    def advance(self, norm: Tensor, *, limit: float, lr: float) -> None:
        """One update by gradients of this length, shortened to the limit if they are longer.

        A length that is not finite changes nothing, and on a device nobody has to look at it.
        """
        self.param_groups[0]["lr"] = lr
        pairs = self._pairs()
        if all(_at_hand(p) and _at_hand(grad) and p.is_contiguous() for p, grad in pairs):
            length = float(norm)
            if pairs and math.isfinite(length):
                self._advance(pairs, 1 / max(1.0, length / limit), lr)
            return
        # the fused update divides gradients by grad_scale, so clipping costs no pass of its own
        self.grad_scale = torch.clamp(norm / limit, min=1.0)
        self.found_inf = (~torch.isfinite(norm)).float()
        self.step()

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """What has a gradient, and that."""
        return [(p, p.grad) for p in self.param_groups[0]["params"] if p.grad is not None]

    def _advance(self, pairs: list[tuple[Tensor, Tensor]], shorten: float, lr: float) -> None:
        group = self.param_groups[0]
        beta_1, beta_2 = group["betas"]
        states = [self.state[p] for p, _ in pairs]
        for (p, _), state in zip(pairs, states, strict=True):
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        torch._foreach_add_([state["step"] for state in states], 1)
        t = np.array([float(state["step"]) for state in states])
        size, root = (v.astype(np.float32) for v in (lr / (1 - beta_1**t), 1 / np.sqrt(1 - beta_2**t)))
        weights, grads = _Tensors([p for p, _ in pairs]), _Tensors([grad for _, grad in pairs])
        means, squares = (_Tensors([state[name] for state in states]) for name in ("exp_avg", "exp_avg_sq"))
        steady = (shorten, 1 - beta_1, beta_2, 1 - lr * group["weight_decay"], group["eps"])
        numbers = np.array(steady, np.float32)
        arrays = weights.at, grads.at, means.at, squares.at, weights.ends

        def share(k: int, n: int) -> None:
            first, last = share_of(weights.ends[-1], k, n)
            _update(*arrays, first, last, numbers, size, root)

        in_shares(share)


class _Tensors:
    """Float32 tensors as compiled loops take them: the address of each and where it ends if they were one."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.kept = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        self.at = np.array([t.data_ptr() for t in self.kept], np.int64)
        self.ends = np.cumsum([t.numel() for t in self.kept], dtype=np.int64)


def _at_hand(tensor: Tensor) -> bool:
    return not device.is_apart(tensor) and tensor.dtype == torch.float32


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together, 0-d."""
    if not grads or not all(map(_at_hand, grads)):
        return torch.nn.utils.get_total_norm(grads, foreach=True)
    tensors, sums = _Tensors(grads), np.zeros(n_workers())

    def share(k: int, n: int) -> None:
        sums[k] = _squares(tensors.at, tensors.ends, *share_of(tensors.ends[-1], k, n))

    in_shares(share)
    return torch.tensor(np.sqrt(sums.sum()), dtype=torch.float32)


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
