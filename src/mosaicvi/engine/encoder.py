"""The encoder, compiled: from what the passes see of each cell to its posterior, and the way back.

Workers have cells of their own and carry a few of them at a time through all layers, so that what lies
between stays in the cache. Hidden layers must have layer norm, and every block a sub-network.

Legend: P passes, B cells, N = P * B rows, M of them that differ, F columns of the first layer, E of [e ; c],
L hidden layers, K latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mosaicvi.engine.gemm import product, product_of_transpose, product_with_transpose
from mosaicvi.engine.jit import Floats, Ints, any_order, f32
from mosaicvi.engine.rows import ALL, Dense, FirstLayer, Nonzeros, add_products
from mosaicvi.engine.stack import (
    ROWS,
    SLOPE,
    Saved,
    Stack,
    hidden_backward,
    hidden_forward,
    output,
    parts_of,
    product_back,
    saved_of,
    stack_of,
    vector,
    weights,
)
from mosaicvi.engine.threads import Sums, in_shares, share_of


class Rows(NamedTuple):
    """Rows that differ: a pass that sees as much of a cell as the first has no row of its own for it.

    Attributes
    ----------
    source
        Which of all N rows each of these is, ascending, (M,).
    place
        Which of these each pass and cell has, (P, B).
    """

    source: Ints
    place: Ints


def rows_of(shown: list[Nonzeros | Dense], n_passes: int, n_cells: int) -> Rows:
    """Rows that differ, given what the passes see of all groups."""
    same = np.zeros((n_passes, n_cells), np.bool_)
    same[1:] = True
    for one in shown:
        has = np.flatnonzero(one.row >= 0)
        same[1:, has] &= (one.how[1:] == ALL)[:, one.row[has]] & (one.how[0] == ALL)[one.row[has]]
    own = ~same.reshape(-1)
    place = (np.cumsum(own) - 1).reshape(n_passes, n_cells)
    return Rows(source=np.flatnonzero(own), place=np.where(same, place[:1], place))


def encode(
    first: FirstLayer, hidden: Sequence[Tensor], last: Sequence[Tensor], n_passes: int
) -> tuple[Tensor, Tensor]:
    """Mean and log variance of every row's posterior, (N, K) each.

    Parameters
    ----------
    first
        The first layers.
    hidden
        Weights (out, in), bias, scale and shift of each hidden layer.
    last
        Weights of mean and log variance, then their biases.
    n_passes
        P.
    """
    n_cells = first.rest.shape[0] // n_passes
    rows = rows_of(first.shown, n_passes, n_cells)
    every = [*first.weights, first.mix, *hidden, *last]
    out = _Encode.apply(first.shown, rows, first.rest, *every)  # type: ignore[no-untyped-call]
    mean, log_var = out
    return mean, log_var


class _Encode(torch.autograd.Function):
    """The posterior, and gradients of all that it is made of."""

    @staticmethod
    def forward(
        ctx: Any, shown: list[Nonzeros | Dense], rows: Rows, rest: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        weights, (mix, *dense) = [v.numpy() for v in tensors[: len(shown)]], tensors[len(shown) :]
        stack = stack_of(mix, dense[:-4], dense[-4:], mix.shape[1])
        saved = saved_of(stack, np.zeros((len(rows.source), mix.shape[1]), np.float32))
        mean, log_var = (np.empty((rest.shape[0], w.shape[0]), np.float32) for w in dense[-4:-2])
        rest_rows = rest.numpy()

        def share(k: int, n_shares: int) -> None:
            cells = share_of(rows.place.shape[1], k, n_shares)
            add_products(saved.first, shown, rows.place, weights, *cells)
            _forward(stack, rest_rows, saved, rows, mean, log_var, *cells)

        in_shares(share)
        ctx.shown, ctx.rows, ctx.saved, ctx.stack = shown, rows, saved, stack
        ctx.save_for_backward(rest, *tensors)
        return torch.from_numpy(mean), torch.from_numpy(log_var)

    @staticmethod
    def backward(ctx: Any, d_mean: Tensor, d_log_var: Tensor) -> tuple[Tensor | None, ...]:
        rest, *tensors = ctx.saved_tensors
        shown, rows, saved, stack = ctx.shown, ctx.rows, ctx.saved, ctx.stack
        if saved is None:
            raise RuntimeError("the encoder's way back can be gone only once")
        ctx.saved = None  # its first layer makes room for its gradient
        of_mean, of_log_var = (d.contiguous().numpy() for d in (d_mean, d_log_var))
        rest_rows, d_rest = rest.numpy(), np.zeros(rest.shape, np.float32)
        sums = Sums([stack.weight.shape, *(v.shape for v in tensors[: len(shown)])])

        def share(k: int, n_shares: int) -> None:
            of_dense, *of_values = sums.of(k)
            cells = share_of(rows.place.shape[1], k, n_shares)
            _backward(stack, rest_rows, saved, rows, of_mean, of_log_var, *cells, d_rest, of_dense)
            add_products(saved.first, shown, rows.place, of_values, *cells, back=True)

        in_shares(share)
        of_dense, *of_values = sums.total()
        found = (*of_values, *parts_of(of_dense, tensors[len(shown) :]))
        return None, None, torch.from_numpy(d_rest), *found


# --- tile by tile ---------------------------------------------------------------------------------


@any_order
def _tiles(rows: Rows, p: int, first: int, last: int) -> list[tuple[int, int]]:
    """Rows of some cells in a pass, a few at a time."""
    n_cells = rows.place.shape[1]
    start, stop = np.searchsorted(rows.source, np.array([p * n_cells + first, p * n_cells + last]))
    return [(a, min(a + ROWS, stop)) for a in range(start, stop, ROWS)]


@any_order
def _forward(
    stack: Stack, rest: Floats, saved: Saved, rows: Rows, mean: Floats, log_var: Floats, first: int, last: int
) -> None:
    """From x W of the first layer of some cells to their posterior."""
    top, slope, latent = stack.n_hidden + 1, f32(SLOPE), mean.shape[1]
    n_passes, n_cells = rows.place.shape
    weight, bias = weights(stack, stack.weight, top), vector(stack, stack.weight, top, 0)
    for p in range(n_passes):
        for a, b in _tiles(rows, p, first, last):
            x = saved.first[a:b]
            product(stack.routine, rest[rows.source[a:b]], weights(stack, stack.weight, 0), x, 1.0)
            for i in range(b - a):
                row = x[i]
                for j in range(len(row)):
                    row[j] = row[j] * slope if row[j] < f32(0) else row[j]
            y = np.empty((b - a, len(bias)), np.float32)
            product_with_transpose(stack.routine, hidden_forward(stack, saved, a, b), weight, y, 0.0)
            for i in range(b - a):
                at = rows.source[a + i]
                for j in range(latent):
                    mean[at, j] = y[i, j] + bias[j]
                    log_var[at, j] = y[i, latent + j] + bias[latent + j]
    for p in range(1, n_passes):
        for i in range(first, last):
            if rows.place[p, i] == rows.place[0, i]:
                mean[p * n_cells + i], log_var[p * n_cells + i] = mean[i], log_var[i]


@any_order
def _backward(
    stack: Stack, rest: Floats, saved: Saved, rows: Rows, d_mean: Floats, d_log_var: Floats, first: int,
    last: int, d_rest: Floats, d_stack: Floats,
) -> None:  # fmt: skip
    """Gradients of some cells: of `rest`, of the first layer in its place, and sums of the others."""
    routine, slope, latent = stack.routine, f32(SLOPE), d_mean.shape[1]
    n_passes, n_cells = rows.place.shape
    for p in range(n_passes):
        for a, b in _tiles(rows, p, first, last):
            d_out = np.zeros((b - a, 2 * latent), np.float32)
            for i in range(b - a):
                for q in range(p, n_passes if p == 0 else p + 1):
                    at = rows.source[a + i] + (q - p) * n_cells
                    if q == p or rows.place[q, rows.source[a + i]] == a + i:
                        for j in range(latent):
                            d_out[i, j] += d_mean[at, j]
                            d_out[i, latent + j] += d_log_var[at, j]
            d = product_back(stack, stack.n_hidden + 1, output(stack, saved, a, b), d_out, d_stack)
            d = hidden_backward(stack, saved, a, d, d_stack)
            h = saved.first[a:b]
            for i in range(b - a):
                row, d_row = h[i], d[i]
                for j in range(len(row)):
                    row[j] = d_row[j] * slope if row[j] < f32(0) else d_row[j]
            d_given = np.empty((b - a, rest.shape[1]), np.float32)
            product_with_transpose(routine, h, weights(stack, stack.weight, 0), d_given, 0.0)
            for i in range(b - a):
                d_rest[rows.source[a + i]] = d_given[i]
            product_of_transpose(routine, rest[rows.source[a:b]], h, weights(stack, d_stack, 0), 1.0)
