"""The first layers of the encoder's blocks, whose sparse part is compiled: what passes share is done once.

A non-zero is multiplied once for all passes that see the whole cell; what is masked costs nothing. Workers
have cells of their own.

Legend: P passes, B cells, N = P * B rows, n_m cells with modality m, D_g features of a group of G blocks,
H = `dim_block_enc` of each, F = sum of G * H, E width of [e ; c], Z non-zeros.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi import device
from mosaicvi.compiled import Bools, Floats, Ints, any_order, copy, f32
from mosaicvi.data.minibatch import ModalityRows
from mosaicvi.nn.groups import BlockGroup
from mosaicvi.nn.masks import View, observed_view
from mosaicvi.nn.products import linear
from mosaicvi.workers import Sums, in_shares, share_of

NONE, SOME, ALL = 0, 1, 2  # of what was measured of a cell, a pass sees


class Seen(NamedTuple):
    """Non-zeros of a group, and what the passes see of them.

    Attributes
    ----------
    at, lo, width
        First of its F columns, its first feature, and H.
    row
        Of each cell of the minibatch, its row in the modality, or -1, (B,).
    n, ends
        n_m, and where each block * n_m + row begins, (G * n_m + 1,).
    col, value
        Column, from the group's first on, and value of the modality's non-zeros, (Z,) each.
    how
        `NONE`, `SOME` or `ALL`, (P, n_m).
    table, choice
        For `SOME`: distinct choices of features (T, D_m), and that of each pass and row, (P, n_m).
    """

    at: int
    lo: int
    width: int
    row: Ints
    n: int
    ends: Ints
    col: Ints
    value: Floats
    how: NDArray[np.int8]
    table: Bools
    choice: Ints


def seen_of(
    group: BlockGroup, at: int, rows: ModalityRows, values: Tensor, views: list[View], n_cells: int
) -> Seen:
    """What the passes see of a group, whose columns begin at `at`."""
    assert rows.sparse is not None
    n = rows.cells.shape[0]
    everything = observed_view(rows)
    measured = everything.n_chosen[everything.index.numpy()]
    how, index, tables, start = [], [], [everything.table.numpy()[:0]], 0
    for view in views:
        table, choice = view.table.numpy(), view.index.numpy()
        count = measured if view.full else view.n_chosen[choice]
        how.append(np.where(count == measured, ALL, np.where(count > 0, SOME, NONE)))
        index.append(choice + start)
        if not view.full:
            tables.append(table)
            start += len(table)
    row = np.full(n_cells, -1)
    row[rows.cells.numpy()] = np.arange(n)
    return Seen(
        at=at,
        lo=group.lo,
        width=group.enc,
        row=row,
        n=n,
        ends=rows.sparse.indptr[group.first * n : (group.first + group.n_blocks) * n + 1].numpy(),
        col=rows.sparse.col.numpy() - group.lo if group.lo else rows.sparse.col.numpy(),
        value=values.detach().numpy(),
        how=np.stack(how).astype(np.int8),
        table=np.concatenate(tables),
        choice=np.stack(index),
    )


def mix_of(embed: list[Tensor], covariate: list[Tensor]) -> Tensor:
    """Weights of all [e ; c] as one matrix, with zeros between the blocks, (E, F); at hand.

    Parameters
    ----------
    embed, covariate
        Of each group weights of e, (G, E_b, H), and of c, (C, G * H); empty if the encoder does not see c.
    """
    mix: Tensor = _Mix.apply(len(embed), *embed, *covariate)  # type: ignore[no-untyped-call]
    return mix


class _Mix(torch.autograd.Function):
    """Blocks side by side, and what comes back to each."""

    @staticmethod
    def forward(ctx: Any, n_groups: int, *weights: Tensor) -> Tensor:
        embed, covariate = weights[:n_groups], weights[n_groups:]
        n_rows = sum(e.shape[0] * e.shape[1] for e in embed) + (covariate[0].shape[0] if covariate else 0)
        out = np.zeros((n_rows, sum(e.shape[0] * e.shape[2] for e in embed)), np.float32)
        ctx.shapes, ctx.n_groups = [w.shape for w in weights], n_groups
        for weight, corner in zip(weights, _corners(ctx.shapes, n_groups), strict=True):
            blocks = weight.numpy() if weight.ndim == 3 else weight.numpy()[None]
            _put_blocks(blocks, out, *corner)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_mix, found = grad.contiguous().numpy(), []
        for shape, corner in zip(ctx.shapes, _corners(ctx.shapes, ctx.n_groups), strict=True):
            found.append(torch.empty(shape))
            blocks = found[-1].numpy() if len(shape) == 3 else found[-1].numpy()[None]
            _take_blocks(d_mix, *corner, blocks)
        return None, *found


def _corners(shapes: list[torch.Size], n_groups: int) -> list[tuple[int, int]]:
    """Where the blocks of each group begin, and then its weights of covariates: row and column."""
    corners, row, col = [], 0, 0
    for g, e, h in shapes[:n_groups]:
        corners.append((row, col))
        row, col = row + g * e, col + g * h
    return corners + [(row, left) for (_, left), _ in zip(corners, shapes[n_groups:], strict=False)]


@any_order
def _put_blocks(blocks: Floats, out: Floats, row: int, col: int) -> None:
    """Put blocks (G, e, h) on the diagonal that begins there."""
    n, e, h = blocks.shape
    for b in range(n):
        copy(blocks[b], out[row + b * e : row + (b + 1) * e, col + b * h : col + (b + 1) * h])


@any_order
def _take_blocks(matrix: Floats, row: int, col: int, blocks: Floats) -> None:
    """Take them from there."""
    n, e, h = blocks.shape
    for b in range(n):
        copy(matrix[row + b * e : row + (b + 1) * e, col + b * h : col + (b + 1) * h], blocks[b])


class First(NamedTuple):
    """What the first layers are made of, before their LeakyReLU.

    Attributes
    ----------
    rest, mix
        [e ; c] of each row (N, E), and its weights (E, F).
    base
        What is added to them, (N, F), or None.
    seen, values
        Of each group whose sparse values are to be multiplied here, what is seen, and its weights (D_g, H).
    """

    rest: Tensor
    mix: Tensor
    base: Tensor | None
    seen: list[Seen]
    values: list[Tensor]


def first_layer(first: First, n_passes: int) -> Tensor:
    """The first layers side by side, before their LeakyReLU, (N, F)."""
    if first.base is not None and device.is_apart(first.rest):
        h = torch.addmm(first.base, first.rest, first.mix)
    else:
        h = linear(first.rest, first.mix.T)
        h = h if first.base is None else h + first.base
    if first.seen:
        h = _AddProducts.apply(h.float(), first.seen, n_passes, *first.values)  # type: ignore[no-untyped-call]
    return h


class _AddProducts(torch.autograd.Function):
    """Add x W, in place."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, seen: list[Seen], n_passes: int, *values: Tensor) -> Tensor:
        place = np.arange(h.shape[0]).reshape(n_passes, -1)
        weights = [v.numpy() for v in values]

        def share(k: int, n_shares: int) -> None:
            for one, weight in zip(seen, weights, strict=True):
                add_products(h.numpy(), one, place, weight, *share_of(place.shape[1], k, n_shares))

        in_shares(share)
        ctx.mark_dirty(h)
        ctx.seen, ctx.place, ctx.shapes = seen, place, [v.shape for v in values]
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_h, sums = grad.contiguous().numpy(), Sums(ctx.shapes)

        def share(k: int, n_shares: int) -> None:
            for one, d_weight in zip(ctx.seen, sums.of(k), strict=True):
                add_gradient(d_h, one, ctx.place, d_weight, *share_of(ctx.place.shape[1], k, n_shares))

        in_shares(share)
        return (grad, None, None, *sums.total())


@any_order
def _accumulate(out: Floats, weight: Floats, row: Ints, value: Floats, start: int, stop: int) -> None:
    """Add the rows of weights that `row` names, times `value`; four at a time."""
    z = start
    while z + 4 <= stop:
        a, b, c, d = weight[row[z]], weight[row[z + 1]], weight[row[z + 2]], weight[row[z + 3]]
        u, v, x, y = value[z], value[z + 1], value[z + 2], value[z + 3]
        for j in range(len(out)):
            out[j] += u * a[j] + v * b[j] + x * c[j] + y * d[j]
        z += 4
    while z < stop:
        a, u = weight[row[z]], value[z]
        for j in range(len(out)):
            out[j] += u * a[j]
        z += 1


@any_order
def add_products(h: Floats, seen: Seen, place: Ints, weight: Floats, first: int, last: int) -> None:
    """Add x W of cells `first` to `last` to the first layer (M, F)."""
    n_passes, n_blocks = len(seen.how), (len(seen.ends) - 1) // max(seen.n, 1)
    total = np.empty(seen.width, np.float32)
    col, value = np.empty(len(weight), np.int64), np.empty(len(weight), np.float32)
    for i in range(first, last):
        row = seen.row[i]
        if row < 0:
            continue
        how = seen.how[:, row]
        for b in range(n_blocks):
            start, stop = seen.ends[b * seen.n + row], seen.ends[b * seen.n + row + 1]
            left, right = seen.at + b * seen.width, seen.at + (b + 1) * seen.width
            total[:] = f32(0)
            if (how == ALL).any():
                _accumulate(total, weight, seen.col, seen.value, start, stop)
            for p in range(n_passes):
                if p and place[p, i] == place[0, i]:
                    continue
                out = h[place[p, i], left:right]
                if how[p] == ALL:
                    for j in range(seen.width):
                        out[j] += total[j]
                elif how[p] == SOME:
                    visible, k = seen.table[seen.choice[p, row]], 0
                    for z in range(start, stop):
                        if visible[seen.lo + seen.col[z]]:
                            col[k], value[k] = seen.col[z], seen.value[z]
                            k += 1
                    _accumulate(out, weight, col, value, 0, k)


@any_order
def add_gradient(d_h: Floats, seen: Seen, place: Ints, d_weight: Floats, first: int, last: int) -> None:
    """Add the gradient of the weights from cells `first` to `last`, given that of the first layer (M, F)."""
    n_passes, n_blocks = len(seen.how), (len(seen.ends) - 1) // max(seen.n, 1)
    total = np.empty(seen.width, np.float32)
    for i in range(first, last):
        row = seen.row[i]
        if row < 0:
            continue
        how = seen.how[:, row]
        for b in range(n_blocks):
            start, stop = seen.ends[b * seen.n + row], seen.ends[b * seen.n + row + 1]
            left, right = seen.at + b * seen.width, seen.at + (b + 1) * seen.width
            total[:] = f32(0)
            for p in range(n_passes):
                if p and place[p, i] == place[0, i]:
                    continue
                d = d_h[place[p, i], left:right]
                if how[p] == ALL:
                    for j in range(seen.width):
                        total[j] += d[j]
                elif how[p] == SOME:
                    visible = seen.table[seen.choice[p, row]]
                    for z in range(start, stop):
                        if visible[seen.lo + seen.col[z]]:
                            out, x = d_weight[seen.col[z]], seen.value[z]
                            for j in range(seen.width):
                                out[j] += x * d[j]
            if (how == ALL).any():
                for z in range(start, stop):
                    out, x = d_weight[seen.col[z]], seen.value[z]
                    for j in range(seen.width):
                        out[j] += x * total[j]
