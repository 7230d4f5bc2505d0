"""The steps of `MosaicVAE` by the compiled engine: what it is given as arrays, and what comes back.

Every function does what the definition of the same name does, for float32 on the CPU.

Legend: P passes, B cells, N = P * B rows, n cells with a modality, E width of the mask's embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mosaicvi.data.minibatch import Minibatch, ModalityRows, seen
from mosaicvi.engine import embedding, gemm, norm, products, rows, small, stack
from mosaicvi.engine import encoder as engine_encoder
from mosaicvi.engine.likelihoods import array
from mosaicvi.nn import losses
from mosaicvi.nn.blocks import BlockGroup
from mosaicvi.nn.compiled_likelihood import log_prob
from mosaicvi.nn.encoder import BlockLayer, Encoder, Posterior, Shown, side_by_side
from mosaicvi.nn.layers import HiddenStack, PassBatchNorm, leaky
from mosaicvi.nn.masks import View, observed_view

__all__ = ["encode", "hidden", "log_prob", "mmd", "sample_and_kl"]


def sample_and_kl(
    mean: Tensor, log_var: Tensor, noise: Tensor, weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Latent of each row, and the weighted KL terms."""
    return small.sample_and_kl(mean, log_var, noise, weights, losses.EXPONENT)


def mmd(mean: Tensor, group: Tensor, *, unbiased: bool) -> Tensor:
    """Squared maximum mean discrepancy between groups."""
    coefficient = losses.pair_weights(group, unbiased=unbiased).to(mean.dtype)
    return small.pair_sum(mean, coefficient, losses.WIDTHS)


def batch_norm(layer: PassBatchNorm, h: Tensor, n_passes: int) -> Tensor:
    """Batch norm of each pass alone."""
    if not layer.training or layer.share is not None:
        out: Tensor = layer(h, n_passes)
        return out
    running = norm.Running(layer.running_mean, layer.running_var, layer.updates, layer.eps, layer.momentum)
    return norm.batch_norm(h, layer.weight, layer.bias, running, n_passes)


def hidden(layers: HiddenStack, h: Tensor, n_passes: int) -> Tensor:
    """The shared hidden layers."""
    if len(layers.norm) and all(isinstance(one, nn.LayerNorm) for one in layers.norm):
        return stack.hidden(h, _weights(layers))
    for linear, one in zip(layers.linear, layers.norm, strict=True):
        h = leaky(products.linear(h, *linear.parameters()))
        h = batch_norm(one, h, n_passes) if isinstance(one, PassBatchNorm) else one(h)
    return h


def _weights(layers: HiddenStack) -> list[Tensor]:
    """Weights (out, in), bias, scale and shift of each layer."""
    pairs = zip(layers.linear, layers.norm, strict=True)
    return [p for pair in pairs for layer in pair for p in layer.parameters()]


# --- encoder --------------------------------------------------------------------------------------


def encode(
    encoder: Encoder, minibatch: Minibatch, views: list[list[View]], centres: list[Tensor | None]
) -> Posterior:
    """Posterior of every pass."""
    n_passes = len(views)
    e = embed(encoder, minibatch, views)
    covariates = minibatch.covariates.repeat(n_passes, 1) if encoder.n_seen else None
    shown = [
        Shown(r, seen(r), [v[m] for v in views], centres[m], minibatch.n_cells)
        for m, r in enumerate(minibatch.rows)
    ]
    first = _first_layer(encoder, shown, e, covariates)
    skips, blocks = encoder.config.skip_conn, [g for g in encoder.groups if g.enc]
    of_all = len(blocks) == len(encoder.groups)
    if first is not None and of_all and encoder.config.norm == "layer" and not skips:
        both = zip(encoder.mean.parameters(), encoder.log_var.parameters(), strict=True)
        last = [p for pair in both for p in pair]
        mean, log_var = engine_encoder.encode(first, _weights(encoder.hidden), last, n_passes)
        return Posterior(
            mean=batch_norm(encoder.mean_norm, mean, n_passes), log_var=log_var, embedding=e, blocks=[]
        )
    layered = e[:, :0] if first is None else leaky(rows.first_layer(first, n_passes))
    of_blocks = iter(layered.split_with_sizes([g.n_blocks * g.enc for g in blocks], 1))
    parts = [
        next(of_blocks) if g.enc else side_by_side(shown[g.modality].dense(), e, covariates, g)
        for g in encoder.groups
    ]
    h = hidden(encoder.hidden, layered if of_all else torch.cat(parts, 1), n_passes)
    mean = products.linear(h, *encoder.mean.parameters())
    return Posterior(
        mean=batch_norm(encoder.mean_norm, mean, n_passes),
        log_var=products.linear(h, *encoder.log_var.parameters()),
        embedding=e,
        blocks=parts if skips else [],
    )


def embed(encoder: Encoder, minibatch: Minibatch, views: list[list[View]]) -> Tensor:
    """The mask's embedding, (N, E)."""
    layer = encoder.embedding
    hidden_features = [
        hidden_of(minibatch.n_cells, r, [v[m] for v in views]) for m, r in enumerate(minibatch.rows)
    ]
    if embedding.can_embed(hidden_features):
        return embedding.embed(hidden_features, layer.bias, list(layer.weight))
    out: Tensor = layer(minibatch, views)
    return out


def hidden_of(n_cells: int, given: ModalityRows, views: list[View]) -> embedding.HiddenFeatures:
    """What the passes may not see of a modality; a cell without it hides all."""
    of = np.full((len(views), n_cells), embedding.ALL)
    cells, tables, start = given.cells.numpy(), [given.panels.numpy()[:0]], 2
    for to, view in zip(of, views, strict=True):
        if view.full:
            to[cells] = embedding.NONE
            continue
        table, visible = view.table.numpy(), view.n_chosen
        some = (visible > 0) & (visible < table.shape[1])
        kind = np.where(visible > 0, embedding.NONE, embedding.ALL)
        kind[some] = np.arange(start, start + np.count_nonzero(some))
        to[cells] = kind[view.index.numpy()]
        tables.append(~table[some])
        start += len(tables[-1])
    return embedding.HiddenFeatures(np.concatenate(tables), of.reshape(-1))


def _first_layer(
    encoder: Encoder, shown: list[Shown], e: Tensor, covariates: Tensor | None
) -> rows.FirstLayer | None:
    """What the first layers are made of; None without a sub-network."""
    layers = [layer for layer in encoder.block if isinstance(layer, BlockLayer)]
    if not layers:
        return None
    widths = [layer.group.n_blocks * layer.group.enc for layer in layers]
    starts = itertools.accumulate(widths, initial=0)
    of_all = len(layers) == len(encoder.groups)
    rest = [e] if of_all else [e[:, layer.group.embed_columns] for layer in layers]
    rest += [] if covariates is None else [covariates]
    of_covariates: list[Tensor] = [layer.covariate for layer in layers] if encoder.n_seen else []
    return rows.FirstLayer(
        rest=rest[0] if len(rest) == 1 else torch.cat(rest, 1),
        mix=_mix(layers, of_covariates),
        shown=[
            _values_of(shown[layer.group.modality], layer.group, at)
            for layer, at in zip(layers, starts, strict=False)
        ],
        weights=[layer.value for layer in layers],
    )


def _mix(layers: list[BlockLayer], of_covariates: list[Tensor]) -> Tensor:
    """Weights of [e ; c] of all first layers as one matrix, with zeros between the blocks."""
    mix: Tensor = torch.block_diag(*(w for layer in layers for w in layer.embed))  # type: ignore[no-untyped-call]
    return torch.cat([mix, torch.cat(of_covariates, 1)]) if of_covariates else mix


def _values_of(shown: Shown, group: BlockGroup, at: int) -> rows.Nonzeros | rows.Dense:
    """Values of a group whose columns begin at `at`, and what the passes see of them."""
    given, sparse = shown.rows, shown.rows.sparse
    n = given.cells.shape[0]
    how, table, choice = _lists(observed_view(given), shown.views)
    row = np.full(shown.n_cells, -1)
    row[given.cells.numpy()] = np.arange(n)
    if sparse is None or shown.centre is not None:
        return rows.Dense(
            routine=gemm.routine(),
            at=at,
            lo=group.lo,
            width=group.enc,
            row=row,
            ends=np.cumsum([0, *group.sizes]),
            value=array(shown.measured(), 2),
            how=how,
            table=table,
            choice=choice,
        )
    return rows.Nonzeros(
        at=at,
        lo=group.lo,
        width=group.enc,
        row=row,
        n=n,
        ends=sparse.indptr[group.first * n : (group.first + group.n_blocks) * n + 1].numpy(),
        col=sparse.col.numpy() - group.lo if group.lo else sparse.col.numpy(),
        value=shown.values.detach().numpy(),
        how=how,
        table=table,
        choice=choice,
    )


def _lists(
    measured: View, views: list[View]
) -> tuple[NDArray[np.int8], NDArray[np.bool_], NDArray[np.int64]]:
    """What each pass sees of each row, as `rows.Nonzeros` has it: `how`, `table` and `choice`."""
    of_row = measured.index.numpy()
    n_measured = measured.n_chosen[of_row]
    how = np.full((len(views), len(of_row)), rows.ALL, np.int8)
    choice = np.full(how.shape, -1)
    tables, start = [measured.table.numpy()[:0]], 0
    for p, view in enumerate(views):
        if view.full:
            continue
        count = view.n_chosen[view.index.numpy()]
        how[p] = np.where(2 * count > n_measured, rows.MOST, rows.SOME)
        how[p, count == 0], how[p, count == n_measured] = rows.NONE, rows.ALL
        listed = np.flatnonzero((how[p] == rows.SOME) | (how[p] == rows.MOST))
        pairs = view.index.numpy()[listed] * len(measured.table) + of_row[listed]
        distinct, found = np.unique(pairs, return_inverse=True)
        choice[p, listed] = found + start
        seen = view.table.numpy()[distinct // len(measured.table)]
        there = measured.table.numpy()[distinct % len(measured.table)]
        is_most = 2 * seen.sum(1, keepdims=True) > there.sum(1, keepdims=True)
        tables.append(there & (seen ^ is_most))
        start += len(seen)
    return how, np.concatenate(tables), choice
