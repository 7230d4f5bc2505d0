"""The training loop, top to bottom.

One `FitState` is everything that training is: weights, optimiser, generator, position, history, the best
weights so far and the balance of modalities. It can be saved at any step and goes on bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import record_function

from mosaicvi import engine
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.sampling import drawn_features, shuffled, split
from mosaicvi.device import would_wait
from mosaicvi.engine.threads import without_threads_of_torch
from mosaicvi.errors import NonFiniteLossError
from mosaicvi.fit.ending import Ending, rate_share
from mosaicvi.fit.frozen import Frozen
from mosaicvi.fit.optimizer import Optimizer
from mosaicvi.nn.losses import Losses
from mosaicvi.nn.masks import MaskSampler
from mosaicvi.nn.vae import MosaicVAE

PATIENCE = 20  # epochs without a lower loss before early stopping
BALANCE_EPOCHS = 3  # over which beta_modal="auto" is found
READ_EVERY = 20  # steps between two readings of the losses on a device, which has to wait for each


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How to train.

    Parameters
    ----------
    max_epochs
        Epochs to reach in all; None until the held-out loss has stopped falling.
    lr, weight_decay
        Of AdamW.
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
    weight_decay: float = 1e-4
    batch_size: int = 512
    train_size: float = 0.9
    early_stopping: bool = False
    patience: int | None = None
    seed: int = 0
    max_grad_norm: float = 1e4
    precision: Literal["float32", "bf16"] = "float32"


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
        self.ending = Ending(**saved["ending"]) if "ending" in saved else Ending(first_epoch=self.epoch)
        self.pending, self.log_prob = [], []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a listener is told after a step or an epoch; `last_epoch` is the last one, once that is known."""

    epoch: int
    step: int
    n_steps: int
    n_cells: int
    log_prob: list[float]
    last_epoch: int | None = None
    row: dict[str, float] | None = None


def start(net: MosaicVAE, config: FitConfig) -> FitState:
    """State before the first step."""
    device = next(net.parameters()).device
    optimizer = Optimizer(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    return FitState(net=net, optimizer=optimizer, generator=torch.Generator(device).manual_seed(config.seed))


def fit(
    state: FitState,
    loader: MinibatchLoader,
    config: FitConfig,
    *,
    listen: Callable[[Report], None] = lambda report: None,
    interrupted: Callable[[], bool] = lambda: False,
    checkpoint: Callable[[FitState, bool], None] = lambda state, is_best: None,
    names: tuple[str, ...] | None = None,
) -> bool:
    """Train until `max_epochs`, the held-out loss has stopped falling, a stop, or an interruption.

    Parameters
    ----------
    state
        Where to begin; it is advanced in place.
    loader
        The data, on the network's device.
    config
        How to train.
    listen
        Called after each step and, with the row of the history, after each epoch.
    interrupted
        Asked after each step; True ends training there.
    checkpoint
        Called after each step and each epoch (then with whether it is the best so far).
    names
        Names of the modalities, for messages.

    Returns
    -------
    Whether training ran to its end.

    Raises
    ------
    NonFiniteLossError
        Before the weights are touched, naming the modality.
    """
    is_shared = engine.serves(
        device=loader.device.type,
        likelihoods=state.net.config.distributions,
        mixed_precision=config.precision != "float32",
    )
    with without_threads_of_torch() if is_shared else nullcontext():  # else torch has work of its own
        return _fit(state, loader, config, listen, interrupted, checkpoint, names)


def _fit(
    state: FitState,
    loader: MinibatchLoader,
    config: FitConfig,
    listen: Callable[[Report], None],
    interrupted: Callable[[], bool],
    checkpoint: Callable[[FitState, bool], None],
    names: tuple[str, ...] | None,
) -> bool:
    net, names = state.net, names or state.net.config.uni_block_names
    sampler = MaskSampler(net.config)
    train, valid = split(loader.n_cells, config.train_size, config.seed)
    steps_per_epoch = max(1, -(-len(train) // config.batch_size))
    while not _is_over(state, config):
        last_epoch = config.max_epochs or (state.ending.last_epoch if state.ending.is_falling else None)
        gamma = net.config.gamma(state.epoch)
        minibatches = shuffled(train, config.batch_size, config.seed, state.epoch)
        net.train()
        for cells in minibatches[state.step :]:
            losses, norm = _step(state, loader, sampler, cells, gamma, config, steps_per_epoch, names)
            _count(state, losses, norm, config, len(cells))
            state.step += 1
            state.steps_done += 1
            listen(
                Report(
                    epoch=state.epoch,
                    step=state.step,
                    n_steps=len(minibatches),
                    n_cells=len(cells),
                    log_prob=state.log_prob,
                    last_epoch=last_epoch,
                )
            )
            checkpoint(state, False)
            if interrupted():
                add_pending_terms(state)
                return False
        row = _finish_epoch(state, loader, sampler, valid, gamma, config, names)
        improved = _remember_best(state, row, config)
        if config.max_epochs is None:
            _see_whether_flat(state, config, steps_per_epoch)
        listen(
            Report(
                epoch=state.epoch,
                step=0,
                n_steps=len(minibatches),
                n_cells=0,
                log_prob=[],
                last_epoch=last_epoch,
                row=row,
            )
        )
        checkpoint(state, improved)
    if _keeps_best(config) and state.best:
        net.load_state_dict(state.best)
    return True


def _keeps_best(config: FitConfig) -> bool:
    """Whether training ends with the weights of the lowest validation loss."""
    return config.early_stopping or config.max_epochs is None


def _is_over(state: FitState, config: FitConfig) -> bool:
    if config.max_epochs is None:
        return state.ending.is_falling and state.epoch >= state.ending.last_epoch
    patience = PATIENCE if config.patience is None else config.patience
    out_of_patience = config.early_stopping and state.epoch - 1 - state.best_epoch >= patience
    return state.epoch >= config.max_epochs or out_of_patience


def _see_whether_flat(state: FitState, config: FitConfig, steps_per_epoch: int) -> None:
    """Let the rate fall, from the best weights, once the validation loss has stopped falling."""
    losses = [row["validation_loss"] for row in state.rows[state.ending.first_epoch :]]
    moving = max(0, BALANCE_EPOCHS - state.ending.first_epoch) if state.net.config.beta_modal == "auto" else 0
    begins_to_fall = state.ending.after_epoch(
        losses[moving:],
        epoch=state.epoch,
        steps_done=state.steps_done,
        steps_per_epoch=steps_per_epoch,
        patience=config.patience,
    )
    if begins_to_fall and state.best:
        state.net.load_state_dict(state.best)


def _step(
    state: FitState,
    loader: MinibatchLoader,
    sampler: MaskSampler,
    cells: NDArray[np.int64],
    gamma: float,
    config: FitConfig,
    steps_per_epoch: int,
    names: tuple[str, ...],
) -> tuple[Losses, Tensor]:
    """One update; returns the terms of the loss and the gradient's norm."""
    net, optimizer = state.net, state.optimizer
    with record_function("slice"):
        minibatch = loader.take(cells, features_of(net, loader, (config.seed, 2, state.steps_done)))
    with record_function("mask"):
        masks = sampler.draw(minibatch, state.generator)
    noise = torch.randn(
        net.n_passes() * len(cells), net.config.dim_latent, generator=state.generator, device=loader.device
    )
    before = [(b, b.clone()) for b in net.statistics()]
    with torch.autocast(loader.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        losses: Losses = net(minibatch, masks, gamma=gamma, noise=noise)
    if not would_wait(losses.total) and not math.isfinite(losses.total.item()):
        _restore(before)
        _raise_non_finite(losses, names, cells)
    with record_function("backward"):
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        if state.frozen is not None:
            state.frozen.hide()
    with record_function("optimiser"):
        norm = optimizer.norm()
        if would_wait(norm):  # without reading it, put back what the step must not change
            for buffer, value in before:
                buffer.copy_(torch.where(torch.isfinite(norm), buffer, value))
        elif not math.isfinite(norm.item()):
            _restore(before)
            raise NonFiniteLossError("the gradient is not finite", cells=cells.tolist())
        rate = config.lr * rate_share(state.steps_done, _progress(state, config, steps_per_epoch))
        optimizer.advance(norm, limit=config.max_grad_norm, lr=rate)
        if state.frozen is not None:
            state.frozen.restore()
    return dataclasses.replace(losses, total=losses.total.detach()), norm  # without what backward held


def features_of(
    net: MosaicVAE, loader: MinibatchLoader, seed: tuple[int, ...]
) -> list[NDArray[np.int64] | None]:
    """Features of each modality whose likelihood a step computes; a function of the data and the seed."""
    return drawn_features([s.by_total for s in loader.stores], net.config.likelihood_share, seed)


def _restore(before: list[tuple[Tensor, Tensor]]) -> None:
    """Put running statistics back to what they were before the step."""
    for buffer, value in before:
        buffer.copy_(value)


def _progress(state: FitState, config: FitConfig, steps_per_epoch: int) -> float:
    """How far the fall of the learning rate has come, from 0 to 1."""
    if config.max_epochs is not None:
        return state.steps_done / (config.max_epochs * steps_per_epoch)
    ending = state.ending
    return (state.steps_done - ending.fall_at) / ending.fall_steps if ending.is_falling else 0.0


def _raise_non_finite(losses: Losses, names: tuple[str, ...], cells: NDArray[np.int64]) -> NoReturn:
    bad = [n for n, v in zip(names, losses.log_prob.T, strict=True) if not bool(torch.isfinite(v).all())]
    terms = [name for name, term in losses.terms.items() if not bool(torch.isfinite(term).all())]
    what = f"loss of modality {bad[0]!r}" if bad else f"{terms[0].upper()} term"
    raise NonFiniteLossError(
        f"the {what} is not finite", modality=bad[0] if bad else None, cells=cells.tolist()
    )


def _count(state: FitState, losses: Losses, norm: Tensor, config: FitConfig, n_cells: int) -> None:
    """Note a step's terms, and balance the modalities in the first epochs."""
    terms = losses.by_name(state.net.config.uni_block_names)
    terms |= {"grad_norm": norm, "clipped": (norm > config.max_grad_norm).to(norm.dtype)}
    state.pending.append((n_cells, terms))
    if not would_wait(norm) or len(state.pending) >= READ_EVERY or not state.log_prob:
        add_pending_terms(state)
    if state.net.config.beta_modal == "auto" and state.epoch < BALANCE_EPOCHS:
        size = [abs(v) for v in losses.log_prob[0].tolist()]
        keep = min(0.95, state.steps_done / (state.steps_done + 1))
        old = state.scale or size
        if all(map(math.isfinite, size)):
            state.scale = [keep * a + (1 - keep) * b for a, b in zip(old, size, strict=True)]
            state.net.set_beta_modal(balanced(state.scale))


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


def balanced(scale: list[float]) -> list[float]:
    """Weights that make the modalities' log-likelihoods equal in size, and that sum to one.

    Parameters
    ----------
    scale
        Size of each modality's log-likelihood, mean over cells.
    """
    inverse = [1 / max(s, 1e-6) for s in scale]
    return [v / sum(inverse) for v in inverse]


def _finish_epoch(
    state: FitState,
    loader: MinibatchLoader,
    sampler: MaskSampler,
    valid: NDArray[np.int64],
    gamma: float,
    config: FitConfig,
    names: tuple[str, ...],
) -> dict[str, float]:
    add_pending_terms(state)
    n = state.sums.pop("cells", 1.0)
    row = {f"train_{k}" if k not in ("clipped", "grad_norm") else k: v / n for k, v in state.sums.items()}
    row |= {f"beta_{name}": b for name, b in zip(names, state.net.beta_modal.tolist(), strict=True)}
    row["balanced"] = float(state.net.config.beta_modal == "auto" and state.epoch == BALANCE_EPOCHS - 1)
    row["keeps_best"] = float(_keeps_best(config))
    row |= {"gamma": gamma, "lr": float(state.optimizer.param_groups[0]["lr"])}
    if len(valid):
        row |= {
            f"validation_{k}": v
            for k, v in validate(state.net, loader, sampler, valid, gamma, config, names).items()
        }
    state.rows.append(row)
    state.sums, state.step = {}, 0
    state.epoch += 1
    return row


def validate(
    net: MosaicVAE,
    loader: MinibatchLoader,
    sampler: MaskSampler,
    cells: NDArray[np.int64],
    gamma: float,
    config: FitConfig,
    names: tuple[str, ...],
) -> dict[str, float]:
    """Terms of the loss on held-out cells; masks, features and noise are the same in every epoch."""
    generator = torch.Generator(loader.device).manual_seed(config.seed + 1)
    sums: dict[str, Tensor] = {}
    net.eval()
    with torch.no_grad():
        size = config.batch_size
        if not would_wait(loader.group):  # it goes tile by tile: parts may be larger than minibatches
            size = 5 * config.batch_size // 2
        for k, part in enumerate(np.array_split(cells, max(1, -(-len(cells) // size)))):
            minibatch = loader.take(part, features_of(net, loader, (config.seed, 3, k)))
            masks = sampler.draw(minibatch, generator)
            shape = (net.n_passes() * len(part), net.config.dim_latent)
            noise = torch.randn(shape, generator=generator, device=loader.device)
            losses: Losses = net(minibatch, masks, gamma=gamma, noise=noise)
            for name, value in losses.by_name(names).items():
                sums[name] = sums.get(name, 0) + value.double() * len(part) / len(cells)
    net.train()
    return dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))


def _remember_best(state: FitState, row: dict[str, float], config: FitConfig) -> bool:
    loss = row.get("validation_loss", math.inf)
    if state.epoch <= BALANCE_EPOCHS and state.net.config.beta_modal == "auto":
        state.best_epoch = state.epoch - 1  # the weights of the terms still move: patience begins later
        return False
    if not loss < state.best_loss:
        return False
    state.best_loss, state.best_epoch = loss, state.epoch - 1
    if _keeps_best(config):
        state.best = {k: v.clone() for k, v in state.net.state_dict().items()}
    return True
