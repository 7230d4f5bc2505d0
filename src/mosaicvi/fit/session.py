"""A training run as a user meets it: checks, progress, checkpoints, signals, and how it ends."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.splits import levels_digest, names_digest, values_digest
from mosaicvi.errors import InputError, LostRankError, ModelFileError, NonFiniteLossError, memory_for
from mosaicvi.fit.ending import Ending, outcome
from mosaicvi.fit.frozen import Frozen
from mosaicvi.fit.loop import fit
from mosaicvi.fit.progress import IN_TERMINAL, listener
from mosaicvi.fit.signals import stop_requests
from mosaicvi.fit.state import FitConfig, FitState, start, take_up
from mosaicvi.fit.together import WHAT, agree, begin_as_first
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.ranks.group import Group
from mosaicvi.store.checkpoint import CheckpointStore
from mosaicvi.store.files import atomic_path
from mosaicvi.store.state import flatten, unflatten
from mosaicvi.store.temporaries import sweep

COPIES = 4  # of each weight: itself, its gradient and two moments


def begin(
    net: MosaicVAE,
    mosaic: Mosaic,
    config: FitConfig,
    *,
    earlier: FitState | None,
    saved: dict[str, Any] | None,
    free: Mapping[str, torch.Tensor] | None = None,
    buffer: int = 0,
) -> FitState:
    """Where training of `net`, which lies on its device by now, begins.

    Parameters
    ----------
    net, mosaic
        The network and its data.
    config
        How to train.
    earlier, saved
        State of an earlier run of this model, in memory or from its file, to go on from.
    free
        Which entries of each weight may be trained, boolean; None for all.
    buffer
        Cells that are shuffled together, 0 for all; an epoch that was begun keeps its own.

    Raises
    ------
    InputError
        For a setting that cannot be used.
    """
    _check(config, mosaic)
    device = next(net.parameters()).device
    state = earlier
    if state is None or state.generator.device != device:
        state = start(net, config)
        saved = saved if earlier is None else earlier.to_dict()
        if saved is not None:
            take_up(state, saved | _weights(net), config, "the saved model")
    state.frozen = None if free is None else Frozen(net, free)
    if state.step == 0:
        state.buffer = buffer
    for group in state.optimizer.param_groups:
        group["weight_decay"] = config.weight_decay
    if not state.best:
        state.best_loss = math.inf
    state.best_epoch = state.epoch - 1  # patience begins anew
    state.ending = Ending(first_epoch=state.epoch)
    return state


def run(
    state: FitState,
    mosaic: Mosaic,
    config: FitConfig,
    loader: MinibatchLoader,
    *,
    checkpoint_dir: Path | None,
    checkpoint_every: float,
    resume: bool,
    log_dir: Path | None,
    progress: bool | None,
    group: Group | None = None,
) -> None:
    """Train from `state`, which `begin` returned, and leave it where training ends.

    The arguments are those of `MosaicVI.train`, and the processes that train together, of which the first
    writes and says how it goes.

    Raises
    ------
    LostRankError
        Another process of the group ended.
    """
    net = state.net
    is_first = group is None or group.is_first
    store = CheckpointStore(checkpoint_dir) if checkpoint_dir is not None and is_first else None
    if checkpoint_dir is None and resume:
        raise InputError("resume: name the folder of the checkpoints, checkpoint_dir=....")
    names = net.config.uni_block_names
    if not is_first:
        progress, log_dir = False, None
    with (
        contextlib.ExitStack() as held,
        stop_requests() as stop,
        listener(config, names, progress=progress, log_dir=log_dir) as tell,
        memory_for("training", _smaller(net, config)),
    ):
        fingerprint = {} if store is None and group is None else _fingerprint(state, mosaic, config)

        def opened() -> FitState:
            if store is not None:
                held.enter_context(store.alone())
                _open(store, state, fingerprint, config, resume=resume)
            return state

        if group is None:
            opened()
        else:
            agree(group, fingerprint | {"settings": vars(config)})
            begin_as_first(state, group, opened, config)
            tell.say(f"{group.size} processes train together, each by {torch.get_num_threads()} threads.")
        save = _saver(store, fingerprint, checkpoint_every)
        if store is not None:
            tell.say(
                f"Checkpoints go to {checkpoint_dir}: the first when epoch {state.epoch + 1} ends or after "
                f"{checkpoint_every:g} s, then every {checkpoint_every:g} s."
            )
        tell.begin(state)
        tell.say(f"engine: {state.net.engine()}")
        try:
            done = fit(
                state,
                loader,
                config,
                listen=tell.report,
                interrupted=lambda: stop.requested is not None,
                checkpoint=save,
                group=group,
            )
        except LostRankError:
            stop.ends_anyway = True
            if store is not None:
                _write(store, fingerprint, state, is_best=False)
            raise LostRankError(_without_another(state, group, checkpoint_dir)) from None
        except InputError:  # values that are read in training have changed, or are damaged
            if store is not None:
                _write(store, fingerprint, state, is_best=False)
            raise
        except NonFiniteLossError as error:
            where = _describe(error, mosaic, state, checkpoint_dir) if is_first else ""
            raise NonFiniteLossError(f"{error}{where}", modality=error.modality, cells=error.cells) from None
        number = 0 if stop.requested is None else int(stop.requested)
        number = number if group is None else group.most(number)
        state.stopped_by = number or None
        if not done and store is not None:
            _write(store, fingerprint, state, is_best=False)
        if is_first:
            tell.end(state, _farewell(state, done, checkpoint_dir))
        if group is not None:
            group.wait()


def _smaller(net: MosaicVAE, config: FitConfig) -> str:
    """What takes less memory: smaller minibatches, or a smaller network where that is what is large."""
    n_minibatch = config.batch_size * sum(net.config.dim_input_arr)
    n_network = COPIES * sum(p.numel() for p in net.parameters())
    if n_minibatch > n_network:
        return f"set batch_size={max(1, config.batch_size // 4)}"
    return (
        "use fewer features, such as the most variable ones, or a smaller network (dim_block_enc, dimensions)"
    )


def _weights(net: MosaicVAE) -> dict[str, Any]:
    return {"net": net.state_dict(), "beta_modal": net.beta_modal.tolist()}


def _check(config: FitConfig, mosaic: Mosaic) -> None:
    problems = []
    if config.max_epochs is not None and config.max_epochs < 1:
        problems.append(f"max_epochs: at least 1, not {config.max_epochs!r}.")
    if config.batch_size < 1:
        problems.append(f"batch_size: at least 1, not {config.batch_size!r}.")
    if not 0 < config.train_size <= 1:
        problems.append(f"train_size: in (0, 1], not {config.train_size!r}.")
    if not config.lr > 0:
        problems.append(f"lr: must be > 0, not {config.lr!r}.")
    if config.early_stopping and config.train_size >= 1:
        problems.append("early_stopping: needs held-out cells; set train_size below 1.")
    elif config.early_stopping and max(1, round(config.train_size * mosaic.n_cells)) >= mosaic.n_cells:
        problems.append(
            f"early_stopping: train_size={config.train_size!r} leaves no cells to validate; lower it."
        )
    if config.lr_schedule not in ("cosine", "constant"):
        problems.append(f"lr_schedule: 'cosine' or 'constant', not {config.lr_schedule!r}.")
    if config.lr_schedule == "constant" and config.max_epochs is None:
        problems.append("lr_schedule: a constant rate has no end of its own; set max_epochs.")
    if config.patience is not None and config.patience < 1:
        problems.append(f"patience: at least 1, not {config.patience!r}.")
    if not config.max_grad_norm > 0:
        problems.append(f"max_grad_norm: must be > 0, not {config.max_grad_norm!r}.")
    if config.precision not in ("float32", "bf16"):
        problems.append(f"precision: 'float32' or 'bf16', not {config.precision!r}.")
    if mosaic.n_cells < 2:
        problems.append(f"The data have {mosaic.n_cells} cell; at least 2 are needed to train.")
    elif mosaic.n_cells < config.batch_size:
        problems.append(
            f"batch_size: {config.batch_size:,} is more than the {mosaic.n_cells:,} cells of the data; "
            f"set batch_size={max(1, mosaic.n_cells // 4)}."
        )
    if problems:
        raise InputError(problems)


def _fingerprint(state: FitState, mosaic: Mosaic, config: FitConfig) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on from."""
    fit_config = {
        k: v for k, v in vars(config).items() if k not in ("max_epochs", "early_stopping", "patience")
    }
    if config.lr_schedule == "cosine":
        del fit_config["lr_schedule"]  # which checkpoints of older versions do not name
    # nothing where all is trained, as in checkpoints of older versions
    frozen = {} if state.frozen is None else {"frozen": True}
    found = mosaic.registry.input_levels
    levels = {"levels": levels_digest(found)} if found else {}  # nothing, likewise
    return (
        frozen
        | levels
        | {
            "network": state.net.config.to_dict(),
            "fit": fit_config,
            "features": {m.name: list(m.features.names) for m in mosaic.modalities},
            "cells": names_digest(mosaic),
            "values": values_digest(mosaic),
        }
    )


def _open(
    store: CheckpointStore, state: FitState, fingerprint: dict[str, Any], config: FitConfig, *, resume: bool
) -> None:
    """Load the newest checkpoint, or see that none is in the way."""
    there = store.steps()
    if not resume:
        if there and not state.steps_done:
            raise InputError(
                f"{store.folder} holds checkpoints already; resume from them, or name another folder."
            )
        return
    sweep(store.folder)  # what a killed run left half written, even if this one has nothing more to write
    bundle = store.latest()
    if bundle is None:
        if there:
            raise InputError(
                f"{store.folder}: none of its {len(there)} checkpoints can be read; name another folder."
            )
        return
    saved = unflatten(bundle.tensors, bundle.document)
    made_with, there_state = saved.get("fingerprint"), saved.get("state")
    if not isinstance(made_with, dict) or not isinstance(there_state, dict):
        raise ModelFileError(
            f"{store.folder}: the checkpoint is none of a training run; name another folder."
        )
    for key in WHAT:
        if made_with.get(key) != fingerprint.get(key):
            if key == "levels" and key not in made_with:
                raise InputError(
                    f"{store.folder}: the checkpoint says nothing of the levels of batches that the encoder "
                    "now sees values without, as those of older versions; name another folder."
                )
            raise InputError(
                f"{store.folder}: the checkpoint was made with other {WHAT[key]}; "
                "resume with the same data and settings, or name another folder."
            )
    take_up(state, there_state, config, str(store.folder))


def _saver(
    store: CheckpointStore | None, fingerprint: dict[str, Any], every: float
) -> Callable[[FitState, bool], None]:
    """Write a checkpoint after the first epoch at the latest, then whenever `every` seconds have passed.

    An epoch that is the best so far need not wait as long.
    """
    last, none_yet = time.monotonic(), True

    def save(state: FitState, is_best: bool) -> None:
        nonlocal last, none_yet
        waited, epoch_ended = time.monotonic() - last, state.step == 0
        due = waited >= every or (epoch_ended and (none_yet or (is_best and waited >= every / 10)))
        if store is None or not due:
            return
        _write(store, fingerprint, state, is_best=is_best)
        last, none_yet = time.monotonic(), False

    return save


def _write(store: CheckpointStore, fingerprint: dict[str, Any], state: FitState, *, is_best: bool) -> None:
    tensors, document = flatten({"fingerprint": fingerprint, "state": state.to_dict()})
    store.save(tensors, document, step=state.steps_done, is_best=is_best)


def _farewell(state: FitState, done: bool, checkpoint_dir: Path | None) -> str:
    if done:
        ended = outcome(state.ending, state.epoch)
        kept = "" if ended is None else f"; kept are the best weights, of epoch {state.best_epoch + 1}"
        return f"Trained for {_times(state.epoch, 'epoch')}{kept}."
    at = f"Stopped after {_times(state.epoch, 'epoch')} and {_times(state.step, 'step')}"
    if IN_TERMINAL.get():
        return f"{at}."
    how = (
        f" Go on with train(..., checkpoint_dir={str(checkpoint_dir)!r}, resume=True)."
        if checkpoint_dir
        else ""
    )
    return f"{at}; the model can be used as it is.{how}"


def _without_another(state: FitState, group: Group | None, checkpoint_dir: Path | None) -> str:
    n = 0 if group is None else group.size
    at = f"{_times(state.epoch, 'epoch')} and {_times(state.step, 'step')}"
    said = f"Another of the {n} processes ended, so that training stopped after {at}."
    if checkpoint_dir is None:
        return f"{said} Nothing was saved; name a folder for checkpoints, checkpoint_dir=...."
    if not CheckpointStore(checkpoint_dir).steps():
        return f"{said} {checkpoint_dir} holds no checkpoint yet; start again."
    return (
        f"{said} {checkpoint_dir} holds what was trained; go on with resume=True, by any number of processes."
    )


def _times(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _describe(error: NonFiniteLossError, mosaic: Mosaic, state: FitState, folder: Path | None) -> str:
    """Write the cells of the offending minibatch to a file; a sentence that says where."""
    path = (folder or Path()) / f"mosaicvi-non-finite-epoch{state.epoch}-step{state.step}.json"
    cells = [str(c) for c in mosaic.cells[np.asarray(error.cells, np.int64)]]
    content = {"modality": error.modality, "epoch": state.epoch, "step": state.step, "cells": cells}
    with contextlib.suppress(OSError, InputError), atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
        return (
            f"; training stopped before the weights were touched. The cells of that minibatch are in {path}."
        )
    return "; training stopped before the weights were touched."
