"""Dense products whose rows the workers share.

While a model trains, torch itself has one thread (`threads.without_threads_of_torch`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mosaicvi.engine.threads import in_shares, share_of

WORTH_SHARING = 1 << 23  # multiplications, which one core does in the time of some hand-offs


def products(*pairs: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Products a b of some pairs (n, m) and (m, p), where no gradients are recorded."""
    size = sum(a.shape[0] * a.shape[1] * b.shape[1] for a, b in pairs)
    if size < WORTH_SHARING:
        return [a @ b for a, b in pairs]
    found = [a.new_empty(a.shape[0], b.shape[1]) for a, b in pairs]

    def share(k: int, n_shares: int) -> None:
        for (a, b), out in zip(pairs, found, strict=True):
            rows = slice(*share_of(a.shape[0], k, n_shares))
            torch.mm(a[rows], b, out=out[rows])

    in_shares(share)
    return found


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Inputs (N, in) times weights (out, in), and a bias (out,): (N, out)."""
    out: Tensor = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]
    return out if bias is None else out + bias


class _Linear(torch.autograd.Function):
    """The product, and its gradients side by side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        (out,) = products((x, weight.T))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        pairs = ((grad, weight), (grad.T, x))
        wanted = [i for i in (0, 1) if ctx.needs_input_grad[i]]
        found = dict(zip(wanted, products(*(pairs[i] for i in wanted)), strict=True))
        return found.get(0), found.get(1)
