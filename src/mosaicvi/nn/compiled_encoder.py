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

from mosaicvi import blas
from mosaicvi.blas import product, product_of_transpose, product_with_transpose
from mosaicvi.compiled import Floats, Ints, any_order, f32
from mosaicvi.nn.first_layer import ALL, First, Seen, add_gradient, add_products
from mosaicvi.nn.layers import SLOPE
from mosaicvi.nn.workers import Sums, in_shares, share_of

EPSILON = f32(1e-5)  # of the layer norm
ROWS = 128  # carried at a time


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


def rows_of(seen: list[Seen], n_passes: int, n_cells: int, *, all_sparse: bool) -> Rows:
    """Rows that differ, given what the passes see of all groups, or of those that are sparse."""
    same = np.zeros((n_passes, n_cells), np.bool_)
    same[1:] = all_sparse
    for one in seen:
        has = np.flatnonzero(one.row >= 0)
        same[1:, has] &= (one.how[1:] == ALL)[:, one.row[has]] & (one.how[0] == ALL)[one.row[has]]
    own = ~same.reshape(-1)
    place = (np.cumsum(own) - 1).reshape(n_passes, n_cells)
    return Rows(source=np.flatnonzero(own), place=np.where(same, place[:1], place))


class Stack(NamedTuple):
    """The dense weights, in one array.

    Attributes
    ----------
    routine
        Address of the library's product.
    sizes
        Width of [e ; c], of the first layer, of each hidden layer, and of the output, (L + 3,).
    at
        Where the weights of each layer begin, (L + 2,): of [e ; c] in the first layer (E, F), then of each
        hidden layer and of the last (out, in), followed by bias, and scale and shift of a hidden one's norm.
    weight
        All of them.
    """

    routine: int
    sizes: Ints
    at: Ints
    weight: Floats


class Kept(NamedTuple):
    """What the way back needs: values after each LeakyReLU, mean and inverse deviation of norms (M, 2 L).

    The first layer is (M, F), hidden ones are side by side (M, sum of widths).
    """

    first: Floats
    hidden: Floats
    moments: Floats


def encode(first: First, dense: list[Tensor], n_passes: int) -> Tensor:
    """Posterior of every row, mean and log variance side by side, (N, 2 K).

    Parameters
    ----------
    first
        The first layers.
    dense
        Of each hidden layer weights (out, in), bias, scale and shift; of the last weights and bias.
    n_passes
        P.
    """
    n_cells, every = first.rest.shape[0] // n_passes, [*first.values, first.mix, *dense]
    rows = rows_of(first.seen, n_passes, n_cells, all_sparse=first.base is None)
    out: Tensor = _Encode.apply(first.seen, rows, first.rest, first.base, *every)  # type: ignore[no-untyped-call]
    return out


class _Encode(torch.autograd.Function):
    """The posterior, and gradients of all that it is made of."""

    @staticmethod
    def forward(
        ctx: Any, seen: list[Seen], rows: Rows, rest: Tensor, base: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        weights, stack = [v.numpy() for v in tensors[: len(seen)]], _stack(tensors[len(seen) :])
        m, hidden = len(rows.source), stack.sizes[2:-1]
        kept = Kept(
            first=np.zeros((m, stack.sizes[1]), np.float32) if base is None else base.numpy().copy(),
            hidden=np.empty((m, hidden.sum()), np.float32),
            moments=np.empty((m, 2 * len(hidden)), np.float32),
        )
        out, given = np.empty((rest.shape[0], stack.sizes[-1]), np.float32), rest.numpy()

        def share(k: int, n_shares: int) -> None:
            cells = share_of(rows.place.shape[1], k, n_shares)
            for one, weight in zip(seen, weights, strict=True):
                add_products(kept.first, one, rows.place, weight, *cells)
            _forward(stack, given, kept, rows, out, *cells)

        in_shares(share)
        ctx.seen, ctx.rows, ctx.has_base, ctx.kept, ctx.stack = seen, rows, base is not None, kept, stack
        ctx.save_for_backward(rest, *tensors)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rest, *tensors = ctx.saved_tensors
        seen, rows, kept, stack = ctx.seen, ctx.rows, ctx.kept, ctx.stack
        if kept is None:
            raise RuntimeError("the encoder's way back can be gone only once")
        ctx.kept = None  # its first layer makes room for its gradient
        d_out, given, d_rest = grad.contiguous().numpy(), rest.numpy(), np.zeros(rest.shape, np.float32)
        sums = Sums([stack.weight.shape, *(v.shape for v in tensors[: len(seen)])])

        def share(k: int, n_shares: int) -> None:
            of_dense, *of_values = sums.of(k)
            cells = share_of(rows.place.shape[1], k, n_shares)
            _backward(stack, given, kept, rows, d_out, *cells, d_rest, of_dense)
            for one, d_weight in zip(seen, of_values, strict=True):
                add_gradient(kept.first, one, rows.place, d_weight, *cells)

        in_shares(share)
        of_dense, *of_values = sums.total()
        d_base = torch.from_numpy(kept.first) if ctx.has_base else None
        return (
            None,
            None,
            torch.from_numpy(d_rest),
            d_base,
            *of_values,
            *_apart(of_dense, tensors[len(seen) :]),
        )


def _stack(dense: Sequence[Tensor]) -> Stack:
    """Weights as `encode` takes them, in one array."""
    mix, *layers = dense
    weights = [*layers[:-2:4], layers[-2]]
    starts = np.cumsum([0, *(v.numel() for v in dense)])
    return Stack(
        routine=blas.routine(),
        sizes=np.array([*mix.shape, *(w.shape[0] for w in weights)]),
        at=np.array([0, *starts[1:-1:4]]),
        weight=np.concatenate([v.numpy().reshape(-1) for v in dense]),
    )


def _apart(flat: Tensor, dense: Sequence[Tensor]) -> list[Tensor]:
    """The parts of an array shaped like the one that `_stack` makes."""
    parts = torch.split_with_sizes(flat, [v.numel() for v in dense])
    return [part.view(v.shape) for part, v in zip(parts, dense, strict=True)]


# --- dense layers -------------------------------------------------------------------------------


@any_order
def _weights(stack: Stack, of: Floats, k: int) -> Floats:
    """Weights of layer k, or their gradient: (E, F) for 0, else (out, in)."""
    n_in, n_out, at = stack.sizes[k], stack.sizes[k + 1], stack.at[k]
    shape = (n_in, n_out) if k == 0 else (n_out, n_in)
    return of[at : at + n_in * n_out].reshape(shape)


@any_order
def _vector(stack: Stack, of: Floats, k: int, which: int) -> Floats:
    """Bias 0, scale 1 or shift 2 of layer k, or its gradient, (out,)."""
    n_in, n_out = stack.sizes[k], stack.sizes[k + 1]
    at = stack.at[k] + n_in * n_out + which * n_out
    return of[at : at + n_out]


@any_order
def _hidden_of(stack: Stack, kept: Kept, k: int, first: int, last: int) -> Floats:
    """What was kept of layer k, which is not the first, of some rows (r, width)."""
    left = stack.sizes[2 : k + 1].sum()
    return kept.hidden[first:last, left : left + stack.sizes[k + 1]]


@any_order
def _norm(stack: Stack, kept: Kept, k: int, first: int, last: int) -> Floats:
    """Layer norm of layer k, of some rows."""
    h, scale, shift = (
        _hidden_of(stack, kept, k, first, last),
        _vector(stack, stack.weight, k, 1),
        _vector(stack, stack.weight, k, 2),
    )
    out = np.empty(h.shape, np.float32)
    for i in range(last - first):
        row, to = h[i], out[i]
        mean, inverse = kept.moments[first + i, 2 * k - 2], kept.moments[first + i, 2 * k - 1]
        for j in range(len(scale)):
            to[j] = (row[j] - mean) * inverse * scale[j] + shift[j]
    return out


@any_order
def _tiles(rows: Rows, p: int, first: int, last: int) -> list[tuple[int, int]]:
    """Rows of some cells in a pass, a few at a time."""
    n_cells = rows.place.shape[1]
    start, stop = np.searchsorted(rows.source, np.array([p * n_cells + first, p * n_cells + last]))
    return [(a, min(a + ROWS, stop)) for a in range(start, stop, ROWS)]


@any_order
def _forward(stack: Stack, rest: Floats, kept: Kept, rows: Rows, out: Floats, first: int, last: int) -> None:
    """From x W of the first layer of some cells to their posterior."""
    routine, n_layers, slope = stack.routine, len(stack.sizes) - 1, f32(SLOPE)
    n_passes, n_cells = rows.place.shape
    for p in range(n_passes):
        for a, b in _tiles(rows, p, first, last):
            x = kept.first[a:b]
            product(routine, rest[rows.source[a:b]], _weights(stack, stack.weight, 0), x, 1.0)
            for i in range(b - a):
                row = x[i]
                for j in range(len(row)):
                    row[j] = row[j] * slope if row[j] < f32(0) else row[j]
            for k in range(1, n_layers - 1):
                h = _hidden_of(stack, kept, k, a, b)
                product_with_transpose(routine, x, _weights(stack, stack.weight, k), h, 0.0)
                _bend_and_measure(h, _vector(stack, stack.weight, k, 0), kept.moments[a:b, 2 * k - 2 : 2 * k])
                x = _norm(stack, kept, k, a, b)
            y, bias = (
                np.empty((b - a, out.shape[1]), np.float32),
                _vector(stack, stack.weight, n_layers - 1, 0),
            )
            product_with_transpose(routine, x, _weights(stack, stack.weight, n_layers - 1), y, 0.0)
            for i in range(b - a):
                to = out[rows.source[a + i]]
                for j in range(len(bias)):
                    to[j] = y[i, j] + bias[j]
    for p in range(1, n_passes):
        for i in range(first, last):
            if rows.place[p, i] == rows.place[0, i]:
                out[p * n_cells + i] = out[i]


@any_order
def _bend_and_measure(h: Floats, bias: Floats, moments: Floats) -> None:
    """LeakyReLU(h + bias) in place; mean and inverse deviation of each row, (r, 2)."""
    width, slope = len(bias), f32(SLOPE)
    for i in range(len(h)):
        row = h[i]
        mean, var = f32(0), f32(0)
        for j in range(width):
            v = row[j] + bias[j]
            row[j] = v * slope if v < f32(0) else v
        for j in range(width):
            mean += row[j]
        mean /= f32(width)
        for j in range(width):
            var += (row[j] - mean) * (row[j] - mean)
        moments[i, 0], moments[i, 1] = mean, f32(1) / np.sqrt(var / f32(width) + EPSILON)


@any_order
def _backward(
    stack: Stack, rest: Floats, kept: Kept, rows: Rows, d_out: Floats, first: int, last: int, d_rest: Floats,
    d_stack: Floats,
) -> None:  # fmt: skip
    """Gradients of some cells: of `rest`, of the first layer in its place, and sums of the others."""
    routine, n_layers, slope = stack.routine, len(stack.sizes) - 1, f32(SLOPE)
    n_passes, n_cells = rows.place.shape
    for p in range(n_passes):
        for a, b in _tiles(rows, p, first, last):
            d = d_out[rows.source[a:b]]
            if p == 0:
                for i in range(b - a):
                    for q in range(1, n_passes):
                        if rows.place[q, rows.source[a + i]] == a + i:
                            d[i] += d_out[q * n_cells + rows.source[a + i]]
            for k in range(n_layers - 1, 0, -1):
                x = kept.first[a:b] if k == 1 else _norm(stack, kept, k - 1, a, b)
                d_bias = _vector(stack, d_stack, k, 0)
                for i in range(b - a):
                    row = d[i]
                    for j in range(len(d_bias)):
                        d_bias[j] += row[j]
                product_of_transpose(routine, d, x, _weights(stack, d_stack, k), 1.0)
                d_x = np.empty((b - a, stack.sizes[k]), np.float32)
                product(routine, d, _weights(stack, stack.weight, k), d_x, 0.0)
                d = d_x
                if k > 1:
                    _norm_back(stack, kept, k - 1, a, d, d_stack)
            h = kept.first[a:b]
            for i in range(b - a):
                row, d_row = h[i], d[i]
                for j in range(len(row)):
                    row[j] = d_row[j] * slope if row[j] < f32(0) else d_row[j]
            d_given = np.empty((b - a, rest.shape[1]), np.float32)
            product_with_transpose(routine, h, _weights(stack, stack.weight, 0), d_given, 0.0)
            for i in range(b - a):
                d_rest[rows.source[a + i]] = d_given[i]
            product_of_transpose(routine, rest[rows.source[a:b]], h, _weights(stack, d_stack, 0), 1.0)


@any_order
def _norm_back(stack: Stack, kept: Kept, k: int, first: int, d: Floats, d_stack: Floats) -> None:
    """Turn the gradient after layer k's norm into that before its LeakyReLU; add those of scale and shift."""
    h = _hidden_of(stack, kept, k, first, first + len(d))
    scale = _vector(stack, stack.weight, k, 1)
    d_scale, d_shift = _vector(stack, d_stack, k, 1), _vector(stack, d_stack, k, 2)
    width, slope = len(scale), f32(SLOPE)
    normal = np.empty(width, np.float32)
    for i in range(len(d)):
        row, d_row = h[i], d[i]
        mean, inverse = kept.moments[first + i, 2 * k - 2], kept.moments[first + i, 2 * k - 1]
        for j in range(width):
            normal[j] = (row[j] - mean) * inverse
        for j in range(width):
            d_scale[j] += d_row[j] * normal[j]
        for j in range(width):
            d_shift[j] += d_row[j]
        along, whole = f32(0), f32(0)
        for j in range(width):
            d_row[j] *= scale[j]
            along += d_row[j] * normal[j]
            whole += d_row[j]
        along, whole = along / f32(width), whole / f32(width)
        for j in range(width):
            v = inverse * (d_row[j] - whole - normal[j] * along)
            d_row[j] = v * slope if row[j] < f32(0) else v
