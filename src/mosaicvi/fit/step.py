"""One step of training: a minibatch, its loss, and an update of the weights."""

from __future__ import annotations

import dataclasses
import math
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import record_function

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.sampling import drawn_features
from mosaicvi.device import would_wait
from mosaicvi.errors import NonFiniteLossError
from mosaicvi.fit.ending import rate_share
from mosaicvi.fit.state import FitConfig, FitState, add_pending_terms
from mosaicvi.nn.losses import Losses
from mosaicvi.nn.masks import MaskSampler
from mosaicvi.nn.vae import MosaicVAE

BALANCE_EPOCHS = 3  # over which beta_modal="auto" is found
READ_EVERY = 20  # steps between two readings of the losses on a device, which has to wait for each


def update(
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
        rate = config.lr
        if config.lr_schedule == "cosine":
            rate *= rate_share(state.steps_done, _progress(state, config, steps_per_epoch))
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


def count(state: FitState, losses: Losses, norm: Tensor, config: FitConfig, n_cells: int) -> None:
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


def balanced(scale: list[float]) -> list[float]:
    """Weights that make the modalities' log-likelihoods equal in size, and that sum to one.

    Parameters
    ----------
    scale
        Size of each modality's log-likelihood, mean over cells.
    """
    inverse = [1 / max(s, 1e-6) for s in scale]
    return [v / sum(inverse) for v in inverse]
