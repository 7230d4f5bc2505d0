"""The training loop: epochs of steps, validation, and when it ends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from mosaicvi import engine
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.sampling import buffered, run_of, split
from mosaicvi.engine.threads import without_threads_of_torch
from mosaicvi.fit.state import FitConfig, FitState, add_pending_terms
from mosaicvi.fit.step import BALANCE_EPOCHS, count, shared, update
from mosaicvi.fit.validation import validate
from mosaicvi.nn.masks import MaskSampler
from mosaicvi.ranks.group import Group

PATIENCE = 20  # epochs without a lower loss before early stopping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a listener is told after a step or an epoch.

    Attributes
    ----------
    last_epoch
        The last one, once that is known.
    news
        What is to be said of the epoch, if anything.
    """

    epoch: int
    step: int
    n_steps: int
    n_cells: int
    log_prob: list[float]
    last_epoch: int | None = None
    row: dict[str, float] | None = None
    news: str | None = None


def fit(
    state: FitState,
    loader: MinibatchLoader,
    config: FitConfig,
    *,
    listen: Callable[[Report], None] = lambda report: None,
    interrupted: Callable[[], bool] = lambda: False,
    checkpoint: Callable[[FitState, bool], None] = lambda state, is_best: None,
    names: tuple[str, ...] | None = None,
    group: Group | None = None,
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
    group
        The processes that train together, each of which calls this with the same state and data; None alone.

    Returns
    -------
    Whether training ran to its end.

    Raises
    ------
    NonFiniteLossError
        Before the weights are touched, naming the modality.
    LostRankError
        Another process of the group is gone; the state is that after the last step.
    """
    is_shared = engine.serves(
        device=loader.device.type,
        likelihoods=state.net.config.distributions,
        mixed_precision=config.precision != "float32",
    )
    with without_threads_of_torch() if is_shared else nullcontext():  # else torch has work of its own
        return _fit(state, loader, config, listen, interrupted, checkpoint, names, group)


def _fit(
    state: FitState,
    loader: MinibatchLoader,
    config: FitConfig,
    listen: Callable[[Report], None],
    interrupted: Callable[[], bool],
    checkpoint: Callable[[FitState, bool], None],
    names: tuple[str, ...] | None,
    group: Group | None,
) -> bool:
    net, names = state.net, names or state.net.config.uni_block_names
    sampler = MaskSampler(net.config)
    run = run_of(state.buffer)
    train, valid = split(loader.n_cells, config.train_size, config.seed, run=run)
    steps_per_epoch = max(1, -(-len(train) // config.batch_size))
    while not _is_over(state, config):
        last_epoch = config.max_epochs or (state.ending.last_epoch if state.ending.is_falling else None)
        gamma = net.config.gamma(state.epoch)
        buffers = buffered(
            train, config.batch_size, config.seed, state.epoch, state.buffer, in_order=loader.in_order
        )
        net.train()
        for cells in loader.ahead(buffers, skip=state.step, own=lambda part: shared(part, group, run)[0]):
            losses, norm = update(state, loader, sampler, cells, gamma, config, steps_per_epoch, names, group)
            count(state, losses, norm, config, len(cells))
            state.step += 1
            state.steps_done += 1
            listen(
                Report(
                    epoch=state.epoch,
                    step=state.step,
                    n_steps=steps_per_epoch,
                    n_cells=len(cells),
                    log_prob=state.log_prob,
                    last_epoch=last_epoch,
                )
            )
            checkpoint(state, False)
            if interrupted() if group is None else group.most(int(interrupted())):
                add_pending_terms(state)
                return False
        row = _finish_epoch(state, loader, sampler, valid, gamma, config, names, group)
        if group is not None:
            group.as_first([*net.state_dict().values(), *state.optimizer.moments()])
        improved = _remember_best(state, row, config)
        news = None
        if config.max_epochs is None and _see_whether_flat(state, config, steps_per_epoch):
            news = state.ending.in_words()
        listen(
            Report(
                epoch=state.epoch,
                step=0,
                n_steps=steps_per_epoch,
                n_cells=0,
                log_prob=[],
                last_epoch=last_epoch,
                row=row,
                news=news,
            )
        )
        checkpoint(state, improved)
    if config.keeps_best and state.best:
        net.load_state_dict(state.best)
    return True


def _is_over(state: FitState, config: FitConfig) -> bool:
    if config.max_epochs is None:
        return state.ending.is_falling and state.epoch >= state.ending.last_epoch
    patience = PATIENCE if config.patience is None else config.patience
    out_of_patience = config.early_stopping and state.epoch - 1 - state.best_epoch >= patience
    return state.epoch >= config.max_epochs or out_of_patience


def _see_whether_flat(state: FitState, config: FitConfig, steps_per_epoch: int) -> bool:
    """Let the rate fall, from the best weights, once the validation loss has stopped falling.

    Returns
    -------
    Whether it begins to fall with the next epoch.
    """
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
    return begins_to_fall


def _finish_epoch(
    state: FitState,
    loader: MinibatchLoader,
    sampler: MaskSampler,
    valid: NDArray[np.int64],
    gamma: float,
    config: FitConfig,
    names: tuple[str, ...],
    group: Group | None,
) -> dict[str, float]:
    add_pending_terms(state)
    sums = dict(state.sums)  # the state's own stay until the row is there: validating may fail
    n = sums.pop("cells", 1.0)
    row = {f"train_{k}" if k not in ("clipped", "grad_norm") else k: v / n for k, v in sums.items()}
    row |= {f"beta_{name}": b for name, b in zip(names, state.net.beta_modal.tolist(), strict=True)}
    row["balanced"] = float(state.net.config.beta_modal == "auto" and state.epoch == BALANCE_EPOCHS - 1)
    row["keeps_best"] = float(config.keeps_best)
    row |= {"gamma": gamma, "lr": float(state.optimizer.param_groups[0]["lr"])}
    if len(valid):
        row |= {
            f"validation_{k}": v
            for k, v in validate(
                state.net, loader, sampler, valid, gamma, config, names, group, run_of(state.buffer)
            ).items()
        }
    state.rows.append(row)
    state.sums, state.step = {}, 0
    state.epoch += 1
    return row


def _remember_best(state: FitState, row: dict[str, float], config: FitConfig) -> bool:
    loss = row.get("validation_loss", math.inf)
    if state.epoch <= BALANCE_EPOCHS and state.net.config.beta_modal == "auto":
        state.best_epoch = state.epoch - 1  # the weights of the terms still move: patience begins later
        return False
    if not loss < state.best_loss:
        return False
    state.best_loss, state.best_epoch = loss, state.epoch - 1
    if config.keeps_best:
        state.best = {k: v.clone() for k, v in state.net.state_dict().items()}
    return True
