"""The first layers of the encoder's blocks: what passes share is done once.

What was measured of a cell is multiplied once for all passes that see most of it, and what they do not see is
taken off again; a pass that sees less has a product of its own. Workers have cells of their own.

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

NONE, SOME, MOST, ALL = range(4)  # what a pass sees of a cell: listed features, or what was measured but them


class Nonzeros(NamedTuple):
    """Non-zeros of a group, and what the passes see of them.

    Attributes
    ----------
    at, lo, width
        First of its columns among all F, its first feature, and H.
    row
        Of each cell of the minibatch, its row in the modality, or -1, ascending, (B,).
    n, ends
        n_m, and where each block * n_m + row begins, (G * n_m + 1,).
    col, value
        Column, from the group's first on, and value of the modality's non-zeros, (Z,) each.
    how
        `NONE`, `SOME`, `MOST` or `ALL`, (P, n_m).
    table, choice
        For `SOME` and `MOST`: distinct lists of features (T, D_m), and that of each pass and row, (P, n_m).
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
    at, lo, width, row, how, table, choice
        As of `Nonzeros`.
    ends
        Where the columns of each block begin, (G + 1,).
    value
        Values of the modality, 0 where nothing was measured, (n_m, D_m).
    """

    routine: int
    at: int
    lo: int
    width: int
    row: Ints
    ends: Ints
    value: Floats
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
            add_products(d_h, ctx.shown, ctx.place, sums.of(k), *cells, back=True)

        in_shares(share)
        return (grad, None, None, *sums.total())


def add_products(
    h: Floats, shown: list[Nonzeros | Dense], place: Ints, weights: list[Floats], first: int, last: int,
    back: bool = False,
) -> None:  # fmt: skip
    """Add x W of cells `first` to `last` to the first layer (M, F), where each pass and cell has its `place`.

    On the way `back`, h is the gradient of the first layer, and that of W is added to `weights`.
    """
    for x, weight in zip(shown, weights, strict=True):
        if isinstance(x, Nonzeros):
            _add_sparse(h, x, place, weight, first, last, back)
        else:
            _add_dense(h, x, place, weight, first, last, back)


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
def _spread(d_weight: Floats, d: Floats, row: Ints, value: Floats, start: int, stop: int) -> None:
    """Add d, times `value`, to the rows that `row` names."""
    for z in range(start, stop):
        out, v = d_weight[row[z]], value[z]
        for j in range(len(d)):
            out[j] += v * d[j]


@any_order
def _add(to: Floats, row: Floats) -> None:
    for j in range(len(to)):
        to[j] += row[j]


@any_order
def _listed(x: Nonzeros, p: int, row: int, start: int, stop: int, col: Ints, value: Floats) -> Any:
    """Put the listed non-zeros into `col` and `value`, negative where they are taken off; how many."""
    if x.how[p, row] != SOME and x.how[p, row] != MOST:
        return 0
    is_listed, sign, k = x.table[x.choice[p, row]], f32(1 if x.how[p, row] == SOME else -1), 0
    for z in range(start, stop):
        if is_listed[x.lo + x.col[z]]:
            col[k], value[k] = x.col[z], sign * x.value[z]
            k += 1
    return k


@any_order
def _add_sparse(
    h: Floats, x: Nonzeros, place: Ints, weight: Floats, first: int, last: int, back: bool
) -> None:
    """`add_products` of non-zeros."""
    total = np.empty(x.width, np.float32)
    col, value = np.empty(len(weight), np.int64), np.empty(len(weight), np.float32)
    for i in range(first, last):
        row = x.row[i]
        if row < 0:
            continue
        is_shared = (x.how[:, row] >= MOST).any()
        for b in range((len(x.ends) - 1) // x.n):
            start, stop = x.ends[b * x.n + row], x.ends[b * x.n + row + 1]
            left, right = x.at + b * x.width, x.at + (b + 1) * x.width
            total[:] = f32(0)
            if is_shared and not back:
                _accumulate(total, weight, x.col, x.value, start, stop)
            for p in range(len(x.how)):
                if p and place[p, i] == place[0, i]:
                    continue
                of_pass = h[place[p, i], left:right]
                if x.how[p, row] >= MOST:
                    _add(total, of_pass) if back else _add(of_pass, total)
                k = _listed(x, p, row, start, stop, col, value)
                if back:
                    _spread(weight, of_pass, col, value, 0, k)
                else:
                    _accumulate(of_pass, weight, col, value, 0, k)
            if is_shared and back:
                _spread(weight, total, x.col, x.value, start, stop)


# --- dense values ---------------------------------------------------------------------------------

ROWS = 256  # that are multiplied together
ENOUGH_ROWS = 32  # that share a list: a product of these columns alone


@any_order
def _where(is_there: Bools) -> Ints:
    """Positions of what is true; numpy's function would not be compiled into its caller."""
    out, k = np.empty(len(is_there), np.int64), 0
    for i in range(len(is_there)):
        if is_there[i]:
            out[k] = i
            k += 1
    return out[:k]


@any_order
def _by_list(x: Dense, p: int, cells: Ints) -> Ints:
    """Of these cells, those of which pass p has a list, in the order of lists."""
    starts = np.zeros(len(x.table) + 1, np.int64)
    for i in cells:
        if x.how[p, x.row[i]] == SOME or x.how[p, x.row[i]] == MOST:
            starts[x.choice[p, x.row[i]] + 1] += 1
    for t in range(len(x.table)):
        starts[t + 1] += starts[t]
    out = np.empty(starts[-1], np.int64)
    for i in cells:
        if x.how[p, x.row[i]] == SOME or x.how[p, x.row[i]] == MOST:
            t = x.choice[p, x.row[i]]
            out[starts[t]] = i
            starts[t] += 1
    return out


@any_order
def _listed_values(x: Dense, p: int, cells: Ints) -> tuple[Ints, Floats]:
    """Which columns the first of these cells list, (c,), and the listed values of these, (k, c).

    There are 0 where a cell does not list a column, and they are negative where they are taken off.
    """
    is_listed, k = np.zeros(x.ends[-1], np.bool_), 0
    for i in cells[:ROWS]:
        is_new = k == 0 or x.choice[p, x.row[i]] != x.choice[p, x.row[cells[k - 1]]]
        if is_new and k >= ENOUGH_ROWS:
            break
        if is_new:
            is_listed |= x.table[x.choice[p, x.row[i]], x.lo : x.lo + len(is_listed)]
        k += 1
    columns = _where(is_listed)
    values = np.empty((k, len(columns)), np.float32)
    for m in range(k):
        row = x.row[cells[m]]
        out, value, listed = values[m], x.value[row], x.table[x.choice[p, row]]
        sign = f32(1 if x.how[p, row] == SOME else -1)
        for j in range(len(columns)):
            out[j] = sign * value[x.lo + columns[j]] * f32(listed[x.lo + columns[j]])
    return columns, values


@any_order
def _add_dense(h: Floats, x: Dense, place: Ints, weight: Floats, first: int, last: int, back: bool) -> None:
    """`add_products` of dense values."""
    cells = first + _where(x.row[first:last] >= 0)  # that have the modality
    tile = np.empty((min(ROWS, len(cells)), x.width), np.float32)
    for a in range(0, len(cells), ROWS):
        some = cells[a : a + ROWS]
        of_cells, top = tile[: len(some)], x.row[some[0]]
        for b in range(len(x.ends) - 1):
            start, stop, left = x.ends[b], x.ends[b + 1], x.at + b * x.width
            value = x.value[top : top + len(some), x.lo + start : x.lo + stop]
            if back:
                of_cells[:] = f32(0)
            else:
                product(x.routine, value, weight[start:stop], of_cells, 0.0)
            for p in range(len(x.how)):
                for m in range(len(some)):
                    if x.how[p, top + m] >= MOST and not (p and place[p, some[m]] == place[0, some[m]]):
                        of_pass = h[place[p, some[m]], left : left + x.width]
                        _add(of_cells[m], of_pass) if back else _add(of_pass, of_cells[m])
            if back:
                product_of_transpose(x.routine, value, of_cells, weight[start:stop], 1.0)
    for p in range(len(x.how)):
        rest = _by_list(x, p, cells)
        while len(rest):
            columns, values = _listed_values(x, p, rest)
            of_cells, edges = tile[: len(values)], np.searchsorted(columns, x.ends)
            for b in range(len(x.ends) - 1):
                at, left = columns[edges[b] : edges[b + 1]], x.at + b * x.width
                if not len(at):
                    continue
                value, some_weights = values[:, edges[b] : edges[b + 1]], weight[at]
                if not back:
                    product(x.routine, value, some_weights, of_cells, 0.0)
                for m in range(len(of_cells)):
                    of_pass = h[place[p, rest[m]], left : left + x.width]
                    if back:
                        of_cells[m] = of_pass
                    else:
                        _add(of_pass, of_cells[m])
                if back:
                    product_of_transpose(x.routine, value, of_cells, some_weights, 1.0)
                    weight[at] = some_weights
            rest = rest[len(values) :]
