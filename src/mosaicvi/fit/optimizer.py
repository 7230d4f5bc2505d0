"""AdamW by gradients of limited length, by the compiled engine where it serves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from mosaicvi import engine

BETAS = (0.9, 0.99)  # a run has too few steps for AdamW's own 0.999


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
        group = self.param_groups[0]
        group["lr"] = lr
        pairs = self._pairs()
        weights, grads = [p for p, _ in pairs], [grad for _, grad in pairs]
        states = [self._state_of(p) for p in weights]
        means, squares = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq"))
        steps = [s["step"] for s in states]
        if not pairs:
            return
        if _is_compiled([*weights, *grads]) and all(p.is_contiguous() for p in weights):
            if not math.isfinite(length := float(norm)):
                return
            from mosaicvi.engine import optimizer

            for step in steps:
                step += 1
            optimizer.adamw(
                weights, grads, means, squares, np.array([float(step) for step in steps]),
                factor=1 / max(1.0, length / limit), lr=lr, betas=group["betas"], eps=group["eps"],
                weight_decay=group["weight_decay"],
            )  # fmt: skip
            return
        beta_1, beta_2 = group["betas"]
        # the fused update divides gradients by grad_scale, so clipping costs no pass of its own
        with torch.no_grad():
            adamw(
                weights, grads, means, squares, [], steps, fused=True, amsgrad=False, beta1=beta_1,
                beta2=beta_2, lr=lr, weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
                grad_scale=torch.clamp(norm / limit, min=1.0), found_inf=(~torch.isfinite(norm)).float(),
            )  # fmt: skip

    def moments(self) -> list[Tensor]:
        """What is remembered of earlier gradients, in the order of the parameters."""
        states = (self.state.get(p, {}) for p in self.param_groups[0]["params"])
        return [state[name] for state in states for name in ("exp_avg", "exp_avg_sq") if name in state]

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """What has a gradient, and that."""
        return [(p, p.grad) for p in self.param_groups[0]["params"] if p.grad is not None]

    def _state_of(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return state


def _is_compiled(tensors: Sequence[Tensor]) -> bool:
    kinds = {(t.device.type, t.dtype) for t in tensors}
    return len(kinds) == 1 and all(engine.serves(device=device, dtype=dtype) for device, dtype in kinds)


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together, 0-d."""
    if grads and _is_compiled(grads):
        from mosaicvi.engine import optimizer

        return torch.tensor(optimizer.norm(grads))
    return torch.nn.utils.get_total_norm(grads, foreach=True)
