"""The first layers of the encoder's blocks: what passes share is done once.

A non-zero is multiplied once for all passes that see the whole cell; what is masked costs nothing. Dense
values are masked a few rows at a time, just before they are multiplied. Workers have cells of their own.

Legend: P passes, B cells, N = P * B rows, n_m cells with modality m, D_g features of a group of G blocks,
H = `dim_block_enc` of each, F = sum of G * H, E width of [e ; c], Z non-zeros.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.engine.gemm import product, product_of_transpose
from mosaicvi.engine.jit import Bools, Floats, Ints, any_order, f32
from mosaicvi.engine.products import linear
from mosaicvi.engine.threads import Sums, in_shares, share_of

NONE, SOME, ALL = 0, 1, 2  # of what was measured of a cell, a pass sees


class Nonzeros(NamedTuple):
    """Non-zeros of a group, and what the passes see of them.

    Attributes
    ----------
    at, lo, width
        First of its columns among all F, its first feature, and H.
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


class Dense(NamedTuple):
    """Dense values of a group, and what the passes see of them.

    Attributes
    ----------
    routine
        Address of the library's product.
    at, lo, width, row, how
        As of `Nonzeros`.
    ends
        Where the columns of each block begin, (G + 1,).
    value, centre
        Values of the modality, (n_m, D_m), and what is subtracted from them, (D_m,).
    table, choice
        Distinct choices of features (T, D_m), and that of each pass and row, -1 for all, (P, n_m).
    """

    routine: int
    at: int
    lo: int
    width: int
    row: Ints
    ends: Ints
    value: Floats
    centre: Floats
    how: NDArray[np.int8]
    table: Bools
    choice: Ints


class FirstLayer(NamedTuple):
    """What the first layers are made of, before their LeakyReLU.

    Attributes
    ----------
    rest, mix
        [e ; c] of each row (N, E), and its weights (E, F).
    shown, weights
        Of each group its values, and their weights (D_g, H).
    """

    rest: Tensor
    mix: Tensor
    shown: list[Nonzeros | Dense]
    weights: list[Tensor]


def first_layer(first: FirstLayer, n_passes: int) -> Tensor:
    """The first layers side by side, before their LeakyReLU, (N, F)."""
    h = linear(first.rest, first.mix.T)
    out: Tensor = _AddProducts.apply(h, first.shown, n_passes, *first.weights)  # type: ignore[no-untyped-call]
    return out


class _AddProducts(torch.autograd.Function):
    """Add x W, in place."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, shown: list[Nonzeros | Dense], n_passes: int, *weights: Tensor
    ) -> Tensor:
        place = np.arange(h.shape[0]).reshape(n_passes, -1)
        arrays = [w.numpy() for w in weights]

        def share(k: int, n_shares: int) -> None:
            add_products(h.numpy(), shown, place, arrays, *share_of(place.shape[1], k, n_shares))

        in_shares(share)
        ctx.mark_dirty(h)
        ctx.shown, ctx.place, ctx.shapes = shown, place, [w.shape for w in weights]
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_h, sums = grad.contiguous().numpy(), Sums(ctx.shapes)

        def share(k: int, n_shares: int) -> None:
            cells = share_of(ctx.place.shape[1], k, n_shares)
            add_gradients(d_h, ctx.shown, ctx.place, sums.of(k), *cells)

        in_shares(share)
        return (grad, None, None, *sums.total())


def add_products(
    h: Floats, shown: list[Nonzeros | Dense], place: Ints, weights: list[Floats], first: int, last: int
) -> None:
    """Add x W of cells `first` to `last` to the first layer, where each pass and cell has its `place`."""
    for x, weight in zip(shown, weights, strict=True):
        if isinstance(x, Nonzeros):
            _add_sparse(h, x, place, weight, first, last)
        else:
            _add_dense(h, x, place, weight, first, last)


def add_gradients(
    d_h: Floats, shown: list[Nonzeros | Dense], place: Ints, d_weights: list[Floats], first: int, last: int
) -> None:
    """Add the gradients of the weights from these cells, given that of the first layer (M, F)."""
    for x, d_weight in zip(shown, d_weights, strict=True):
        if isinstance(x, Nonzeros):
            _add_sparse_gradient(d_h, x, place, d_weight, first, last)
        else:
            _add_dense_gradient(d_h, x, place, d_weight, first, last)


# --- non-zeros ------------------------------------------------------------------------------------


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
def _add_sparse(h: Floats, x: Nonzeros, place: Ints, weight: Floats, first: int, last: int) -> None:
    """Add x W of cells `first` to `last` to the first layer (M, F)."""
    n_passes, n_blocks = len(x.how), (len(x.ends) - 1) // max(x.n, 1)
    total = np.empty(x.width, np.float32)
    col, value = np.empty(len(weight), np.int64), np.empty(len(weight), np.float32)
    for i in range(first, last):
        row = x.row[i]
        if row < 0:
            continue
        how = x.how[:, row]
        for b in range(n_blocks):
            start, stop = x.ends[b * x.n + row], x.ends[b * x.n + row + 1]
            left, right = x.at + b * x.width, x.at + (b + 1) * x.width
            total[:] = f32(0)
            if (how == ALL).any():
                _accumulate(total, weight, x.col, x.value, start, stop)
            for p in range(n_passes):
                if p and place[p, i] == place[0, i]:
                    continue
                out = h[place[p, i], left:right]
                if how[p] == ALL:
                    for j in range(x.width):
                        out[j] += total[j]
                elif how[p] == SOME:
                    visible, k = x.table[x.choice[p, row]], 0
                    for z in range(start, stop):
                        if visible[x.lo + x.col[z]]:
                            col[k], value[k] = x.col[z], x.value[z]
                            k += 1
                    _accumulate(out, weight, col, value, 0, k)


@any_order
def _add_sparse_gradient(
    d_h: Floats, x: Nonzeros, place: Ints, d_weight: Floats, first: int, last: int
) -> None:
    """Add the gradient of the weights from cells `first` to `last`, given that of the first layer (M, F)."""
    n_passes, n_blocks = len(x.how), (len(x.ends) - 1) // max(x.n, 1)
    total = np.empty(x.width, np.float32)
    for i in range(first, last):
        row = x.row[i]
        if row < 0:
            continue
        how = x.how[:, row]
        for b in range(n_blocks):
            start, stop = x.ends[b * x.n + row], x.ends[b * x.n + row + 1]
            left, right = x.at + b * x.width, x.at + (b + 1) * x.width
            total[:] = f32(0)
            for p in range(n_passes):
                if p and place[p, i] == place[0, i]:
                    continue
                d = d_h[place[p, i], left:right]
                if how[p] == ALL:
                    for j in range(x.width):
                        total[j] += d[j]
                elif how[p] == SOME:
                    visible = x.table[x.choice[p, row]]
                    for z in range(start, stop):
                        if visible[x.lo + x.col[z]]:
                            out, v = d_weight[x.col[z]], x.value[z]
                            for j in range(x.width):
                                out[j] += v * d[j]
            if (how == ALL).any():
                for z in range(start, stop):
                    out, v = d_weight[x.col[z]], x.value[z]
                    for j in range(x.width):
                        out[j] += v * total[j]


# --- dense values ---------------------------------------------------------------------------------

ROWS = 256  # that are multiplied together


@any_order
def _next_rows(x: Dense, p: int, place: Ints, first: int, last: int, tile: Floats, cells: Ints) -> Any:
    """Masked values of the next cells with a row of their own in pass p; how many, and where they end."""
    k, i = 0, first
    while i < last and k < len(tile):
        row = x.row[i]
        if row >= 0 and x.how[p, row] != NONE and not (p and place[p, i] == place[0, i]):
            out, value, choice = tile[k], x.value[row], x.choice[p, row]
            for j in range(len(out)):
                out[j] = value[x.lo + j] - x.centre[x.lo + j]
            if choice >= 0:
                visible = x.table[choice]
                for j in range(len(out)):
                    out[j] = out[j] if visible[x.lo + j] else f32(0)
            cells[k] = i
            k += 1
        i += 1
    return k, i


@any_order
def _add_dense(h: Floats, x: Dense, place: Ints, weight: Floats, first: int, last: int) -> None:
    """Add x W of cells `first` to `last` to the first layer (M, F)."""
    tile, cells = np.empty((ROWS, len(weight)), np.float32), np.empty(ROWS, np.int64)
    all_out = np.empty((ROWS, x.width), np.float32)
    for p in range(len(x.how)):
        i = first
        while i < last:
            k, i = _next_rows(x, p, place, i, last, tile, cells)
            if k == 0:
                continue
            out = all_out[:k]
            for b in range(len(x.ends) - 1):
                start, stop, left = x.ends[b], x.ends[b + 1], x.at + b * x.width
                product(x.routine, tile[:k, start:stop], weight[start:stop], out, 0.0)
                for m in range(k):
                    to = h[place[p, cells[m]], left : left + x.width]
                    for j in range(x.width):
                        to[j] += out[m, j]


@any_order
def _add_dense_gradient(d_h: Floats, x: Dense, place: Ints, d_weight: Floats, first: int, last: int) -> None:
    """Add the gradient of the weights from cells `first` to `last`, given that of the first layer (M, F)."""
    tile, cells = np.empty((ROWS, len(d_weight)), np.float32), np.empty(ROWS, np.int64)
    all_d = np.empty((ROWS, x.width), np.float32)
    for p in range(len(x.how)):
        i = first
        while i < last:
            k, i = _next_rows(x, p, place, i, last, tile, cells)
            if k == 0:
                continue
            d = all_d[:k]
            for b in range(len(x.ends) - 1):
                start, stop, left = x.ends[b], x.ends[b + 1], x.at + b * x.width
                for m in range(k):
                    d[m] = d_h[place[p, cells[m]], left : left + x.width]
                product_of_transpose(x.routine, tile[:k, start:stop], d, d_weight[start:stop], 1.0)
