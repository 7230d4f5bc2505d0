"""How to train, and everything that training is: it can be saved at any step and goes on bit for bit."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from mosaicvi.errors import ModelFileError, NonFiniteLossError
from mosaicvi.fit.ending import Ending
from mosaicvi.fit.frozen import Frozen
from mosaicvi.fit.optimizer import Optimizer
from mosaicvi.nn.vae import MosaicVAE


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How to train.

    Parameters
    ----------
    max_epochs
        Epochs to reach in all; None until the held-out loss has stopped falling.
    lr, weight_decay
        Of AdamW.
    lr_schedule
        How the rate moves: up over the first steps and down along a cosine, or not at all.
    batch_size
        Cells of a minibatch.
    train_size
        Share of the cells that train; the rest validate.
    early_stopping
        Stop when the validation loss has not fallen for `patience` epochs, and go back to the best weights.
    patience
        None for 20, or without `max_epochs` for a number that suits the steps of an epoch.
    seed
        Decides the split, the order, the masks and the noise.
    max_grad_norm
        Gradients longer than this are shortened to it.
    precision
        ``"float32"``, or ``"bf16"`` for the dense layers.
    """

    max_epochs: int | None
    lr: float = 4e-3
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 1e-4
    batch_size: int = 512
    train_size: float = 0.9
    early_stopping: bool = False
    patience: int | None = None
    seed: int = 0
    max_grad_norm: float = 1e4
    precision: Literal["float32", "bf16"] = "float32"

    @property
    def keeps_best(self) -> bool:
        """Whether training ends with the weights of the lowest validation loss."""
        return self.early_stopping or self.max_epochs is None


NOT_SAVED = ("pending", "log_prob", "frozen")  # fields of a state


@dataclasses.dataclass(kw_only=True)
class FitState:
    """Where training stands.

    Attributes
    ----------
    epoch, step
        Epochs finished, and steps of the present one.
    sums
        Of the terms over the present epoch's steps.
    rows
        History, one row an epoch.
    buffer
        Cells that are shuffled together, 0 for all.
    best
        Validation loss, epoch and weights of the best epoch.
    ending
        Where a run without a number of epochs stands.
    scale
        Running size of each modality's log-likelihood, for the balance.
    pending
        Cells and terms of the steps whose terms are not in `sums` yet.
    log_prob
        Log-likelihood of each modality in the step that was read last.
    frozen
        Weights that are not to be trained; None where all are.
    """

    net: MosaicVAE
    optimizer: Optimizer
    generator: torch.Generator
    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    buffer: int = 0
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = -1
    best: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    ending: Ending = dataclasses.field(default_factory=Ending)
    scale: list[float] = dataclasses.field(default_factory=list)
    steps_done: int = 0
    stopped_by: int | None = None
    pending: list[tuple[int, dict[str, Tensor]]] = dataclasses.field(default_factory=list)
    log_prob: list[float] = dataclasses.field(default_factory=list)
    frozen: Frozen | None = None

    def history(self) -> pd.DataFrame:
        """One row an epoch, indexed by epoch from 0."""
        return pd.DataFrame(self.rows).rename_axis("epoch")

    def to_dict(self) -> dict[str, Any]:
        """Everything, as nested tensors, numbers and strings."""
        add_pending_terms(self)
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in NOT_SAVED}
        return plain | {
            "net": dict(self.net.state_dict()),
            "ending": dataclasses.asdict(self.ending),
            "beta_modal": self.net.beta_modal.tolist(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_dict(self, saved: dict[str, Any]) -> None:
        """Go back to what `to_dict` described."""
        self.net.load_state_dict(saved["net"])
        self.net.set_beta_modal(saved["beta_modal"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        for name in (
            "epoch",
            "step",
            "sums",
            "rows",
            "best_loss",
            "best_epoch",
            "best",
            "scale",
            "steps_done",
        ):
            setattr(self, name, saved[name])
        self.buffer = saved.get("buffer", 0)  # older states have none
        self.ending = (
            Ending.from_dict(saved["ending"]) if "ending" in saved else Ending(first_epoch=self.epoch)
        )
        self.pending, self.log_prob = [], []


def start(net: MosaicVAE, config: FitConfig) -> FitState:
    """State before the first step."""
    device = next(net.parameters()).device
    optimizer = Optimizer(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    return FitState(net=net, optimizer=optimizer, generator=torch.Generator(device).manual_seed(config.seed))


def take_up(state: FitState, saved: dict[str, Any], config: FitConfig, where: str) -> None:
    """Go back to a saved state; a generator of another kind of device is seeded anew.

    Raises
    ------
    ModelFileError
        It does not fit this network; `where` says whose it is.
    """
    try:
        generator = torch.Generator(state.generator.device)
        try:
            generator.set_state(saved["generator"])
        except (RuntimeError, TypeError):
            generator.manual_seed(config.seed + int(saved["steps_done"]))
        state.load_dict(saved | {"generator": generator.get_state()})
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{where}: its training does not fit this network ({reason}).") from None


def add_pending_terms(state: FitState) -> None:
    """Add the terms of the steps since the last reading to the epoch's sums.

    Raises
    ------
    NonFiniteLossError
        On a device, where a step with a non-finite loss changed nothing but could not stop there and then.
    """
    if not state.pending:
        return
    names = state.net.config.uni_block_names
    keys = list(state.pending[0][1])
    lines = torch.stack([torch.stack(list(terms.values())) for _, terms in state.pending]).tolist()
    cells, state.pending = [n for n, _ in state.pending], []
    for n, line in zip(cells, lines, strict=True):
        if all(map(math.isfinite, line)):
            for key, value in zip(keys, line, strict=True):
                state.sums[key] = state.sums.get(key, 0.0) + value * n
            state.sums["cells"] = state.sums.get("cells", 0.0) + n
    bad = {key for line in lines for key, value in zip(keys, line, strict=True) if not math.isfinite(value)}
    if bad:
        first = next((n for n in names if f"log_prob_{n}" in bad), None)
        what = "loss or its gradient" if first is None else f"loss of modality {first!r}"
        raise NonFiniteLossError(f"the {what} is not finite", modality=first)
    last = dict(zip(keys, lines[-1], strict=True))
    state.log_prob = [last[f"log_prob_{n}"] for n in names]
