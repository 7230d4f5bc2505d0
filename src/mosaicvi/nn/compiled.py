"""The steps of `MosaicVAE` by the compiled engine: what it is given as arrays, and what comes back.

Every function does what the definition of the same name does, for float32 on the CPU.

Legend: P passes, B cells, N = P * B rows, n cells with a modality, D its features, R rows with a target, r of
them in a part, K latent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mosaicvi.data.minibatch import Minibatch, ModalityRows, transformed
from mosaicvi.engine import decoder as engine_decoder
from mosaicvi.engine import embedding, gemm, norm, products, rows, small, stack
from mosaicvi.engine import encoder as engine_encoder
from mosaicvi.engine.decoder import EVERY, Inputs, Layers, Modality, Part
from mosaicvi.engine.likelihoods import Values, array, kind_of, likelihood_of
from mosaicvi.nn import losses
from mosaicvi.nn.blocks import BlockGroup
from mosaicvi.nn.decoder import Decoder, Head
from mosaicvi.nn.encoder import BlockLayer, Encoder, Posterior, Shown, densified, raw_values, side_by_side
from mosaicvi.nn.layers import HiddenStack, PassBatchNorm, leaky
from mosaicvi.nn.masks import View, observed_view

Ints = NDArray[np.int64]


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
    if not layer.training:
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
        Shown(r, transformed(r), [v[m] for v in views], centres[m], minibatch.n_cells)
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
        mix=rows.mix_of([layer.embed for layer in layers], of_covariates),
        shown=[
            _values_of(shown[layer.group.modality], layer.group, at)
            for layer, at in zip(layers, starts, strict=False)
        ],
        weights=[layer.value for layer in layers],
    )


def _values_of(shown: Shown, group: BlockGroup, at: int) -> rows.Nonzeros | rows.Dense:
    """Values of a group whose columns begin at `at`, and what the passes see of them."""
    given, sparse = shown.rows, shown.rows.sparse
    n = given.cells.shape[0]
    everything = observed_view(given)
    measured = everything.n_chosen[everything.index.numpy()]
    how, choices, tables, start = [], [], [everything.table.numpy()[:0]], 0
    for view in shown.views:
        index = view.index.numpy()
        if view.full:
            how.append(np.full(n, rows.ALL))
            choices.append(np.full(n, -1))
            continue
        count = view.n_chosen[index]
        how.append(np.where(count == measured, rows.ALL, np.where(count > 0, rows.SOME, rows.NONE)))
        choices.append(index + start)
        tables.append(view.table.numpy())
        start += len(tables[-1])
    row = np.full(shown.n_cells, -1)
    row[given.cells.numpy()] = np.arange(n)
    how_pn, table, choice = np.stack(how).astype(np.int8), np.concatenate(tables), np.stack(choices)
    if sparse is None or shown.centre is not None:
        dense = densified(given, shown.values, table.shape[1])
        return rows.Dense(
            routine=gemm.routine(),
            at=at,
            lo=group.lo,
            width=group.enc,
            row=row,
            ends=np.cumsum([0, *group.sizes]),
            value=array(dense),
            centre=array(dense.new_zeros(dense.shape[1]) if shown.centre is None else shown.centre),
            how=how_pn,
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
        how=how_pn,
        table=table,
        choice=choice,
    )


# --- decoder --------------------------------------------------------------------------------------

WORTH_A_SUBSET = 0.7  # a part with fewer of the columns than this leaves out the others


class Batch:
    """Rows of a modality that are treated alike.

    Parameters
    ----------
    given
        What the minibatch holds of the features that are needed.
    picks
        Rows of a pass, the pass, and their targets, or None for all; of several passes.
    columns
        Which of the modality's columns are needed, ascending; None for all.
    """

    def __init__(
        self, given: ModalityRows, picks: list[tuple[Tensor, int, View | None]], columns: Ints | None = None
    ) -> None:
        self.given, self.columns = given, columns
        self.pick = torch.cat([picked for picked, _, _ in picks])
        self.of_pass = torch.cat([torch.full_like(picked, p) for picked, p, _ in picks])
        tables, index = [given.panels[:0]], []
        for picked, _, view in picks:
            if view is None:
                index.append(torch.full_like(picked, -1))
            else:
                index.append(view.index[picked] + sum(map(len, tables)))
                tables.append(view.table)
        some = any(view is not None for *_, view in picks)
        self.wanted = (torch.cat(tables), torch.cat(index)) if some else None


def batches_of(given: ModalityRows, wanted: list[View], *, softmax: bool) -> Iterator[Batch]:
    """Batches of a modality's rows, only those that have a target.

    Rows that must predict everything are one batch, whatever pass they come from. Rows that share a mask of
    few features are one with no more columns than these: a smaller product instead of one that is multiplied
    by zeros.

    Parameters
    ----------
    given
        The modality in a minibatch.
    wanted
        Which entries count in each pass.
    softmax
        Whether the mean is normalised over the panel, so that all its features are needed.
    """
    picks: list[tuple[Tensor, int, View | None]] = []
    shared = []
    for p, view in enumerate(wanted):
        if view.full:
            picks.append((torch.arange(given.cells.shape[0]), p, None))
            continue
        table, index = view.table.numpy(), view.index.numpy()
        count, d = view.n_chosen, table.shape[1]
        picks.append((torch.from_numpy(np.flatnonzero((count == d)[index])), p, None))
        of_some = np.flatnonzero(((count > 0) & (count < d))[index])
        choices = index[of_some]
        distinct = np.unique(choices[(count < WORTH_A_SUBSET * d)[choices]])
        if softmax or len(distinct) > max(8, len(of_some) // 8):
            distinct = distinct[:0]
        for choice in distinct:
            columns = np.flatnonzero(table[choice])
            pick = torch.from_numpy(of_some[choices == choice])
            shared.append(Batch(given.only(columns), [(pick, p, None)], columns))
        rest = of_some[~np.isin(choices, distinct)] if len(distinct) else of_some
        picks.append((torch.from_numpy(rest), p, view))
    picks = [pick for pick in picks if len(pick[0])]
    if picks:
        yield Batch(given, picks)
    yield from shared


def log_prob(
    decoder: Decoder,
    minibatch: Minibatch,
    h: Tensor,
    skip: list[Tensor],
    targets: list[tuple[Head, list[View]]],
    weight_pm: Tensor,
) -> Tensor:
    """Sum of the log-likelihood of each pass and modality, (P, M)."""
    modalities = []
    for m, (head, wanted) in enumerate(targets):
        given, groups = minibatch.targets[m], decoder.of_modality(m)
        inner = [layer for i in groups if isinstance(layer := decoder.inner[i], nn.Linear)]
        inputs = Inputs(
            trunk=h,
            alpha=head.alpha(minibatch.covariate_table),
            pi=head.pi(),
            inner=[layer.weight for layer in inner],
            bias=[layer.bias for layer in inner],
            skip=[skip[i] for i in groups if skip],
            last=[decoder.last[i] for i in groups],
        )
        batches = list(batches_of(given, wanted, softmax=head.library_aware))
        parts = [
            _part(batch, head, [decoder.groups[i] for i in groups], inputs, minibatch, weight_pm[:, m])
            for batch in batches
        ]
        of_pass = torch.cat([batch.of_pass for batch in batches]) if batches else given.cells[:0]
        modalities.append(Modality(parts=parts, of_pass=of_pass, inputs=inputs))
    return engine_decoder.log_prob(modalities, weight_pm.detach())


def _part(
    batch: Batch, head: Head, groups: list[BlockGroup], inputs: Inputs, minibatch: Minibatch, weight: Tensor
) -> Part:
    """The batch as the engine is given it."""
    given, kind = batch.given, kind_of(head.family.name, library_aware=head.library_aware)
    sparse, cells = given.sparse, given.cells[batch.pick]
    bounds, alpha, pi = head.bounds, inputs.alpha, inputs.pi
    low, high, centre = bounds.low, bounds.high, bounds.centre
    if batch.columns is not None:
        at = torch.from_numpy(batch.columns)
        low, high, centre = (v.index_select(0, at) for v in (low, high, centre))
        alpha = None if alpha is None else alpha.index_select(1, at)
        pi = None if pi is None else pi.index_select(0, at)
    measured = observed_view(given)
    likelihood = likelihood_of(
        kind,
        low=low,
        high=high,
        centre=centre,
        code=minibatch.covariate_code[cells],
        weight=weight[batch.of_pass],
        wanted=batch.wanted,
        measured=(measured.table, measured.index[batch.pick])
        if head.library_aware and not measured.full
        else None,
        library=given.library[batch.pick] if head.library_aware else None,
        alpha=alpha,
        pi=pi,
    )
    x = raw_values(given) if head.library_aware else transformed(given)
    none = torch.zeros(0, dtype=torch.int64)
    values = Values(
        pick=array(batch.pick),
        n=given.cells.shape[0],
        ends=array(none if sparse is None else sparse.indptr),
        col=array(none if sparse is None else sparse.col),
        x=array(None if sparse is None else x),
        dense=array(x if sparse is None else None, 2),
    )
    layers, of_group = _layers(groups, inputs, cells + batch.of_pass * minibatch.n_cells, given.features)
    return Part(
        kind=kind,
        layers=layers,
        likelihood=likelihood,
        values=values,
        of_step=EVERY if batch.columns is None else batch.columns,
        of_group=of_group,
    )


def _layers(
    groups: list[BlockGroup], inputs: Inputs, at: Tensor, features: Ints | None
) -> tuple[Layers, list[Ints]]:
    """What leads from some rows of the trunk to features of the modality, and which columns of each group."""
    last, of_group, blocks, ends = [], [], [], [0]
    inner = hidden_at = start = 0
    for g, weight in zip(groups, inputs.last, strict=True):
        mine, edges = g.columns_of(features)
        of_group.append(EVERY if mine is None else mine)
        if mine is not None:
            weight = weight.index_select(1, torch.from_numpy(mine))
        width = weight.shape[0] - 1
        for left, right in itertools.pairwise(edges):
            blocks.append((inner if g.dec else -1, width, hidden_at, start, weight.shape[1], left))
            ends.append(ends[-1] + right - left)
            inner, hidden_at = inner + g.dec, hidden_at + width + 1
        last.append(array(weight).reshape(-1))
        start += weight.numel()

    def joined(tensors: list[Tensor], axis: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        arrays = [array(t) for t in tensors]
        if len(arrays) == 1:
            return arrays[0]
        return np.concatenate(arrays, axis) if arrays else np.zeros(shape, np.float32)

    layers = Layers(
        routine=gemm.routine(),
        trunk=array(inputs.trunk),
        at=array(at),
        inner=joined(inputs.inner, 0, (0, inputs.trunk.shape[1])),
        bias=joined(inputs.bias, 0, (0,)),
        skip=joined(inputs.skip, 1, (0, 0)),
        last=last[0] if len(last) == 1 else np.concatenate(last),
        blocks=np.array(blocks),
        ends=np.array(ends),
    )
    return layers, of_group
