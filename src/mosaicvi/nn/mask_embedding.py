"""The mask's embedding: what a pass may not see of each cell -> e.

A minibatch has few distinct masks: each is multiplied once, and where the numbers are at hand, only by the
features that it hides.

Legend: P passes, B cells, M modalities, n_m cells with modality m, D_m its features, T distinct masks of a
modality that hide some features but not all, E = sum of `dim_block_embed`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from mosaicvi import device
from mosaicvi.compiled import Bools, Floats, Ints, any_order
from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import Minibatch, ModalityRows
from mosaicvi.nn.layers import glorot_
from mosaicvi.nn.masks import View
from mosaicvi.nn.workers import Sums, in_shares, share_of

FEW = 64  # distinct masks; more are multiplied faster by a dense product


class MaskEmbedding(nn.Module):
    """e = tanh(W (1 - visible) + b).

    Parameters
    ----------
    config
        The network's parameters.
    generator
        Decides the first weights.
    """

    def __init__(self, config: NetworkConfig, generator: Generator) -> None:
        super().__init__()
        n, width = sum(config.dim_block), sum(config.dim_block_embed)
        self.weight = nn.ParameterList([nn.Parameter(torch.empty(d, width)) for d in config.dim_input_arr])
        for w in self.weight:
            glorot_(w, n, width, generator)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, minibatch: Minibatch, views: list[list[View]]) -> Tensor:
        """Embedding (P * B, E); ``views[p][m]`` is what pass p sees of modality m."""
        of_modality = [[v[m] for v in views] for m in range(len(minibatch.rows))]
        if not device.is_apart(self.bias):
            hidden = [
                hidden_of(minibatch.n_cells, *given)
                for given in zip(minibatch.rows, of_modality, strict=True)
            ]
            if max(len(h.table) for h in hidden) <= FEW:
                return _Compiled.apply(hidden, self.bias, *self.weight)  # type: ignore[no-untyped-call, no-any-return]
        total = self.bias.expand(len(views) * minibatch.n_cells, -1)
        for rows, seen, weight in zip(minibatch.rows, of_modality, self.weight, strict=True):
            total = total + _product(minibatch.n_cells, rows, seen, weight)
        return torch.tanh(total)


def _product(n_cells: int, rows: ModalityRows, views: list[View], weight: Tensor) -> Tensor:
    """What a modality adds to each row, (P * B, E), by a product with all distinct rows of its views."""
    hidden = [torch.ones(1, weight.shape[0], dtype=torch.bool, device=weight.device)]
    index, at = [], 1
    for view in views:
        hidden.append(~view.table)
        of_cell = torch.zeros(n_cells, dtype=torch.int64, device=weight.device)
        of_cell[rows.cells] = view.index + at  # 0, all hidden, for cells without the modality
        index.append(of_cell)
        at += len(view.table)
    return functional.embedding(torch.cat(index), torch.cat(hidden).to(weight.dtype) @ weight)


# --- at hand --------------------------------------------------------------------------------------

NONE, ALL = 0, 1  # of the features are hidden


class Hidden(NamedTuple):
    """What the passes may not see of a modality.

    Attributes
    ----------
    table
        Distinct masks that hide some features but not all, (T, D_m).
    of
        Of each row `NONE`, `ALL`, or 2 + its mask's place in the table, (P * B,).
    """

    table: Bools
    of: Ints


def hidden_of(n_cells: int, rows: ModalityRows, views: list[View]) -> Hidden:
    """What the passes may not see of a modality; a cell without it hides all."""
    of = np.full((len(views), n_cells), ALL)
    cells, tables, start = rows.cells.numpy(), [rows.panels.numpy()[:0]], 2
    for to, view in zip(of, views, strict=True):
        if view.full:
            to[cells] = NONE
            continue
        table = view.table.numpy()
        visible = view.n_chosen
        some = (visible > 0) & (visible < table.shape[1])
        kind = np.where(visible > 0, NONE, ALL)
        kind[some] = np.arange(start, start + np.count_nonzero(some))
        to[cells] = kind[view.index.numpy()]
        tables.append(~table[some])
        start += len(tables[-1])
    return Hidden(np.concatenate(tables), of.reshape(-1))


class _Compiled(torch.autograd.Function):
    """The embedding of rows that share few masks."""

    @staticmethod
    def forward(ctx: Any, hidden: list[Hidden], bias: Tensor, *weights: Tensor) -> Tensor:
        arrays, width = [w.numpy() for w in weights], bias.shape[0]
        sums = Sums([(len(h.table) + 2, width) for h in hidden])

        def share(k: int, n_shares: int) -> None:
            for one, weight, out in zip(hidden, arrays, sums.of(k), strict=True):
                _add_hidden(one.table, weight, *share_of(len(weight), k, n_shares), out)

        in_shares(share)
        key = np.zeros_like(hidden[0].of)  # rows with the same masks of all modalities are alike
        for one in hidden:
            key = key * (len(one.table) + 2) + one.of
        _, example, alike = np.unique(key, return_index=True, return_inverse=True)
        total = bias.numpy()[None]
        for one, products in zip(hidden, sums.total(), strict=True):
            total = total + products.numpy()[one.of[example]]
        distinct = np.tanh(total)
        ctx.hidden, ctx.example, ctx.alike, ctx.distinct = hidden, example, alike, distinct
        ctx.shapes = [w.shape for w in weights]
        return torch.from_numpy(distinct[alike])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_total = np.zeros_like(ctx.distinct)
        _sum_alike(grad.contiguous().numpy(), ctx.alike, d_total)
        d_total *= 1 - ctx.distinct**2
        d_weights = [torch.empty(shape) for shape in ctx.shapes]
        d_products = []
        for one in ctx.hidden:
            d_product = np.zeros((len(one.table) + 2, d_total.shape[1]), np.float32)
            np.add.at(d_product, one.of[ctx.example], d_total)
            d_products.append(d_product)
        arrays = [d.numpy() for d in d_weights]

        def share(k: int, n_shares: int) -> None:
            for one, d_product, d_weight in zip(ctx.hidden, d_products, arrays, strict=True):
                _put_gradient(one.table, d_product, *share_of(len(d_weight), k, n_shares), d_weight)

        in_shares(share)
        return None, torch.from_numpy(d_total.sum(0)), *d_weights


@any_order
def _add_hidden(table: Bools, weight: Floats, first: int, last: int, out: Floats) -> None:
    """Add weights of features `first` to `last` to the sums of the masks that hide them (T + 2, E)."""
    for d in range(first, last):
        row, every = weight[d], out[ALL]
        for j in range(len(row)):
            every[j] += row[j]
        for t in range(len(table)):
            if table[t, d]:
                to = out[t + 2]
                for j in range(len(row)):
                    to[j] += row[j]


@any_order
def _put_gradient(table: Bools, d_sums: Floats, first: int, last: int, d_weight: Floats) -> None:
    """Gradient of the weights of features `first` to `last`, given that of the sums (T + 2, E)."""
    for d in range(first, last):
        to = d_weight[d]
        for j in range(len(to)):
            to[j] = d_sums[ALL, j]
        for t in range(len(table)):
            if table[t, d]:
                for j in range(len(to)):
                    to[j] += d_sums[t + 2, j]


@any_order
def _sum_alike(rows: Floats, alike: Ints, out: Floats) -> None:
    """Add rows to those that they are alike to."""
    for i in range(len(rows)):
        row, to = rows[i], out[alike[i]]
        for j in range(len(row)):
            to[j] += row[j]
