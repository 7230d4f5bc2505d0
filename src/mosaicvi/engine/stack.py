"""Hidden layers, compiled: h = norm(LeakyReLU(W h + b)) with layer norm, and the way back.

Workers have rows of their own and carry a few of them at a time through all layers, so that what lies between
stays in the cache.

Legend: N rows, r of them in a tile, L hidden layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mosaicvi.engine import gemm
from mosaicvi.engine.gemm import product, product_of_transpose, product_with_transpose
from mosaicvi.engine.jit import Floats, Ints, any_order, copy, f32
from mosaicvi.engine.threads import Sums, in_shares, share_of

SLOPE = 0.3  # of every LeakyReLU
EPSILON = f32(1e-5)  # of the layer norm
ROWS = 128  # of a tile


class Stack(NamedTuple):
    """Dense weights in one array: a matrix that leads to layer 1, L hidden layers, and what follows them.

    Attributes
    ----------
    routine
        Address of the library's product.
    n_hidden
        L.
    sizes
        Width of what the matrix is given (0 without one), of the first hidden layer's input, of each hidden
        layer, and of what follows them, if anything does.
    at
        Where the weights of each begin: the matrix (in, out), then of the others weights (out, in) and bias,
        and of a hidden one its norm's scale and shift.
    weight
        All of them.
    """

    routine: int
    n_hidden: int
    sizes: Ints
    at: Ints
    weight: Floats


class Saved(NamedTuple):
    """What the way back needs.

    Attributes
    ----------
    first
        Input of the first hidden layer, (N, width).
    hidden
        Values after each LeakyReLU, side by side, (N, sum of widths).
    moments
        Mean and inverse deviation of each norm, (N, 2 L).
    """

    first: Floats
    hidden: Floats
    moments: Floats


def stack_of(matrix: Tensor | None, hidden: Sequence[Tensor], last: Sequence[Tensor], n_in: int) -> Stack:
    """A stack.

    Parameters
    ----------
    matrix
        (in, `n_in`), or None.
    hidden
        Weights (out, in), bias, scale and shift of each layer.
    last
        Weights of layers side by side, then their biases; empty for none.
    n_in
        Width of the first hidden layer's input.
    """
    parts = [*([] if matrix is None else [matrix]), *hidden, *last]
    weights = hidden[::4]
    sizes = [0 if matrix is None else matrix.shape[0], n_in, *(w.shape[0] for w in weights)]
    if last:
        sizes.append(sum(w.shape[0] for w in last[: len(last) // 2]))
    before = np.cumsum([sizes[0] * n_in, *(v.numel() for v in hidden)])
    return Stack(
        routine=gemm.routine(),
        n_hidden=len(weights),
        sizes=np.array(sizes),
        at=np.array([0, *before[::4]]),
        weight=np.concatenate([v.detach().numpy().reshape(-1) for v in parts]),
    )


def parts_of(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The parts of an array like `Stack.weight`, shaped as the tensors that it was made of."""
    parts = torch.split_with_sizes(flat, [v.numel() for v in tensors])
    return [part.view(v.shape) for part, v in zip(parts, tensors, strict=True)]


def saved_of(stack: Stack, first: Floats) -> Saved:
    """Memory for what the way back needs."""
    widths = stack.sizes[2 : 2 + stack.n_hidden]
    return Saved(
        first=first,
        hidden=np.empty((len(first), widths.sum()), np.float32),
        moments=np.empty((len(first), 2 * stack.n_hidden), np.float32),
    )


def hidden(x: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """Rows (N, width of the last layer) of inputs (N, width).

    Parameters
    ----------
    x
        The inputs.
    layers
        Weights (out, in), bias, scale and shift of each layer, at least of one.
    """
    out: Tensor = _Hidden.apply(x, *layers)  # type: ignore[no-untyped-call]
    return out


class _Hidden(torch.autograd.Function):
    """The hidden layers, and gradients of all that they are given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Tensor) -> Tensor:
        stack = stack_of(None, layers, [], x.shape[1])
        saved = saved_of(stack, x.contiguous().numpy())
        out = np.empty((x.shape[0], stack.sizes[-1]), np.float32)

        def share(k: int, n_shares: int) -> None:
            _forward(stack, saved, *share_of(len(out), k, n_shares), out)

        in_shares(share)
        ctx.stack, ctx.saved = stack, saved
        ctx.save_for_backward(*layers)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        stack, saved, d_out = ctx.stack, ctx.saved, grad.contiguous().numpy()
        d_x, sums = np.empty(saved.first.shape, np.float32), Sums([stack.weight.shape])

        def share(k: int, n_shares: int) -> None:
            (d_stack,) = sums.of(k)
            _backward(stack, saved, d_out, *share_of(len(d_x), k, n_shares), d_x, d_stack)

        in_shares(share)
        (total,) = sums.total()
        return torch.from_numpy(d_x), *parts_of(total, ctx.saved_tensors)


@any_order
def _forward(stack: Stack, saved: Saved, first: int, last: int, out: Floats) -> None:
    for a in range(first, last, ROWS):
        b = min(a + ROWS, last)
        copy(hidden_forward(stack, saved, a, b), out[a:b])


@any_order
def _backward(
    stack: Stack, saved: Saved, d_out: Floats, first: int, last: int, d_x: Floats, d_stack: Floats
) -> None:
    for a in range(first, last, ROWS):
        b = min(a + ROWS, last)
        copy(hidden_backward(stack, saved, a, d_out[a:b].copy(), d_stack), d_x[a:b])


# --- tile by tile ---------------------------------------------------------------------------------


@any_order
def weights(stack: Stack, of: Floats, k: int) -> Floats:
    """Weights of layer k, or their gradient: (in, out) for the matrix, which is 0, else (out, in)."""
    n_in, n_out, at = stack.sizes[k], stack.sizes[k + 1], stack.at[k]
    shape = (n_in, n_out) if k == 0 else (n_out, n_in)
    return of[at : at + n_in * n_out].reshape(shape)


@any_order
def vector(stack: Stack, of: Floats, k: int, which: int) -> Floats:
    """Bias 0, scale 1 or shift 2 of layer k, or its gradient, (out,)."""
    n_in, n_out = stack.sizes[k], stack.sizes[k + 1]
    at = stack.at[k] + n_in * n_out + which * n_out
    return of[at : at + n_out]


@any_order
def output(stack: Stack, saved: Saved, first: int, last: int) -> Floats:
    """Some rows after the last hidden layer."""
    return _norm(stack, saved, stack.n_hidden, first, last) if stack.n_hidden else saved.first[first:last]


@any_order
def hidden_forward(stack: Stack, saved: Saved, first: int, last: int) -> Floats:
    """Some rows through the hidden layers, (r, width of the last)."""
    x = saved.first[first:last]
    for k in range(1, stack.n_hidden + 1):
        h = _hidden_of(stack, saved, k, first, last)
        product_with_transpose(stack.routine, x, weights(stack, stack.weight, k), h, 0.0)
        _activate_and_measure(
            h, vector(stack, stack.weight, k, 0), saved.moments[first:last, 2 * k - 2 : 2 * k]
        )
        x = _norm(stack, saved, k, first, last)
    return x


@any_order
def hidden_backward(stack: Stack, saved: Saved, first: int, d: Floats, d_stack: Floats) -> Floats:
    """Gradient of their inputs (r, width), given that after the hidden layers, which is lost."""
    for k in range(stack.n_hidden, 0, -1):
        _norm_back(stack, saved, k, first, d, d_stack)
        last = first + len(d)
        x = saved.first[first:last] if k == 1 else _norm(stack, saved, k - 1, first, last)
        d = product_back(stack, k, x, d, d_stack)
    return d


@any_order
def product_back(stack: Stack, k: int, x: Floats, d: Floats, d_stack: Floats) -> Floats:
    """Gradient of the inputs x (r, in) of layer k's product; add those of its weights and bias."""
    d_bias = vector(stack, d_stack, k, 0)
    for i in range(len(d)):
        row = d[i]
        for j in range(len(d_bias)):
            d_bias[j] += row[j]
    product_of_transpose(stack.routine, d, x, weights(stack, d_stack, k), 1.0)
    d_x = np.empty(x.shape, np.float32)
    product(stack.routine, d, weights(stack, stack.weight, k), d_x, 0.0)
    return d_x


@any_order
def _hidden_of(stack: Stack, saved: Saved, k: int, first: int, last: int) -> Floats:
    """What was saved of hidden layer k, of some rows (r, width)."""
    left = stack.sizes[2 : k + 1].sum()
    return saved.hidden[first:last, left : left + stack.sizes[k + 1]]


@any_order
def _norm(stack: Stack, saved: Saved, k: int, first: int, last: int) -> Floats:
    """Layer norm of layer k, of some rows."""
    h, scale, shift = (
        _hidden_of(stack, saved, k, first, last),
        vector(stack, stack.weight, k, 1),
        vector(stack, stack.weight, k, 2),
    )
    out = np.empty(h.shape, np.float32)
    for i in range(last - first):
        row, to = h[i], out[i]
        mean, inverse = saved.moments[first + i, 2 * k - 2], saved.moments[first + i, 2 * k - 1]
        for j in range(len(scale)):
            to[j] = (row[j] - mean) * inverse * scale[j] + shift[j]
    return out


@any_order
def _activate_and_measure(h: Floats, bias: Floats, moments: Floats) -> None:
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
def _norm_back(stack: Stack, saved: Saved, k: int, first: int, d: Floats, d_stack: Floats) -> None:
    """Turn the gradient after layer k's norm into that before its LeakyReLU; add those of scale and shift."""
    h = _hidden_of(stack, saved, k, first, first + len(d))
    scale = vector(stack, stack.weight, k, 1)
    d_scale, d_shift = vector(stack, d_stack, k, 1), vector(stack, d_stack, k, 2)
    width, slope = len(scale), f32(SLOPE)
    normal = np.empty(width, np.float32)
    for i in range(len(d)):
        row, d_row = h[i], d[i]
        mean, inverse = saved.moments[first + i, 2 * k - 2], saved.moments[first + i, 2 * k - 1]
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
