"""The likelihood of a step by the compiled engine: what it is given as arrays.

Legend: P passes, n cells with a modality, D its features, r rows of a part.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mosaicvi.data.minibatch import Minibatch, ModalityRows, transformed
from mosaicvi.engine import decoder as engine
from mosaicvi.engine import gemm
from mosaicvi.engine.decoder import EVERY, Inputs, Layers, Modality, Part
from mosaicvi.engine.likelihoods import Values, array, kind_of, likelihood_of
from mosaicvi.nn.blocks import BlockGroup
from mosaicvi.nn.decoder import Decoder, Head
from mosaicvi.nn.encoder import raw_values
from mosaicvi.nn.masks import View, observed_view

Ints = NDArray[np.int64]
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
                index.append(view.index.index_select(0, picked) + sum(map(len, tables)))
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
        blocks, weight = [decoder.groups[i] for i in groups], weight_pm[:, m]
        with torch.no_grad():
            parts = [_part(batch, head, blocks, inputs, minibatch, weight) for batch in batches]
        of_pass = torch.cat([batch.of_pass for batch in batches]) if batches else given.cells[:0]
        modalities.append(Modality(parts=parts, of_pass=of_pass, inputs=inputs))
    return engine.log_prob(modalities, weight_pm.detach())


def _part(
    batch: Batch, head: Head, groups: list[BlockGroup], inputs: Inputs, minibatch: Minibatch, weight: Tensor
) -> Part:
    """The batch as the engine is given it."""
    given, kind = batch.given, kind_of(head.family.name, library_aware=head.library_aware)
    sparse, cells = given.sparse, given.cells.index_select(0, batch.pick)
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
        code=minibatch.covariate_code.index_select(0, cells),
        weight=weight.index_select(0, batch.of_pass),
        wanted=batch.wanted,
        measured=(measured.table, measured.index.index_select(0, batch.pick))
        if head.library_aware and not measured.full
        else None,
        library=given.library.index_select(0, batch.pick) if head.library_aware else None,
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
