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
from mosaicvi.data.sampling import drawn_features, run_of, share_of_rank
from mosaicvi.device import would_wait
from mosaicvi.errors import LostRankError, NonFiniteLossError
from mosaicvi.fit.ending import rate_share
from mosaicvi.fit.state import FitConfig, FitState, add_pending_terms
from mosaicvi.nn.losses import Losses
from mosaicvi.nn.masks import MaskSampler
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.ranks.group import Group, Share

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
    group: Group | None = None,
) -> tuple[Losses, Tensor]:
    """One update, by all processes of a group; returns the terms of the loss and the gradient's norm."""
    before = [(b, b.clone()) for b in state.net.statistics()]
    try:
        losses = _gradients(state, loader, sampler, cells, gamma, config, names, group)
        return losses, _advance(state, config, before, cells, steps_per_epoch)
    except (NonFiniteLossError, LostRankError):
        for buffer, value in before:
            buffer.copy_(value)
        raise


def _gradients(
    state: FitState,
    loader: MinibatchLoader,
    sampler: MaskSampler,
    cells: NDArray[np.int64],
    gamma: float,
    config: FitConfig,
    names: tuple[str, ...],
    group: Group | None,
) -> Losses:
    """Terms of the loss of a minibatch, whose gradients are left in the parameters."""
    net = state.net
    own, share = shared(cells, group, run_of(state.buffer))
    if share is not None:
        state.generator.manual_seed(seed_of(config.seed, 4, state.steps_done, share.group.rank))
    with record_function("slice"):
        minibatch = loader.take(own, features_of(net, loader, (config.seed, 2, state.steps_done)))
        minibatch = minibatch.at_other_levels(net.config.level_noise, state.generator)
    with record_function("mask"):
        masks = sampler.draw(minibatch, state.generator)
    noise = torch.randn(
        net.n_passes() * len(own), net.config.dim_latent, generator=state.generator, device=loader.device
    )
    with torch.autocast(loader.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        losses: Losses = net(minibatch, masks, gamma=gamma, noise=noise, share=share)
    of_all = losses if share is None else total_of(losses, share.group)
    if not would_wait(of_all.total) and not math.isfinite(of_all.total.item()):
        _raise_non_finite(of_all, names, cells)
    with record_function("backward"):
        state.optimizer.zero_grad(set_to_none=True)
        if losses.total.requires_grad:  # else all weights are frozen
            losses.total.backward()  # type: ignore[no-untyped-call]
    if share is not None:
        with record_function("exchange"):
            share.group.add_gradients(list(net.parameters()))
    if state.frozen is not None:
        state.frozen.hide()
    return dataclasses.replace(of_all, total=of_all.total.detach())  # without what backward held


def _advance(
    state: FitState,
    config: FitConfig,
    before: list[tuple[Tensor, Tensor]],
    cells: NDArray[np.int64],
    steps_per_epoch: int,
) -> Tensor:
    """Update the weights by their gradients, whose norm is returned."""
    optimizer = state.optimizer
    with record_function("optimiser"):
        norm = optimizer.norm()
        if would_wait(norm):  # without reading it, put back what the step must not change
            for buffer, value in before:
                buffer.copy_(torch.where(torch.isfinite(norm), buffer, value))
        elif not math.isfinite(norm.item()):
            raise NonFiniteLossError("the gradient is not finite", cells=cells.tolist())
        rate = config.lr
        if config.lr_schedule == "cosine":
            rate *= rate_share(state.steps_done, _progress(state, config, steps_per_epoch))
        optimizer.advance(norm, limit=config.max_grad_norm, lr=rate)
        if state.frozen is not None:
            state.frozen.restore()
    return norm


def shared(
    cells: NDArray[np.int64], group: Group | None, run: int = 1
) -> tuple[NDArray[np.int64], Share | None]:
    """What this process has of a minibatch; where that is nothing, a cell stands in and does not count."""
    if group is None:
        return cells, None
    first, own = share_of_rank(cells, group.rank, group.size, run=run)
    share = Share(group=group, first=first, n=len(own), n_all=len(cells))
    return own if len(own) else cells[:1], share


def seed_of(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def total_of(losses: Losses, group: Group) -> Losses:
    """The processes' shares of the loss and its terms, summed."""
    parts = [losses.total.detach(), losses.log_prob, *losses.terms.values()]
    sums = group.total(torch.cat([part.reshape(-1).double() for part in parts]))
    total, log_prob, *terms = (
        s.view_as(part).to(part.dtype)
        for s, part in zip(torch.split(sums, [p.numel() for p in parts]), parts, strict=True)
    )
    return Losses(total=total, log_prob=log_prob, terms=dict(zip(losses.terms, terms, strict=True)))


def features_of(
    net: MosaicVAE, loader: MinibatchLoader, seed: tuple[int, ...]
) -> list[NDArray[np.int64] | None]:
    """Features of each modality whose likelihood a step computes; a function of the data and the seed."""
    return drawn_features(loader.by_total, net.config.likelihood_share, seed)


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
