"""The last layers and likelihoods of several modalities, with their gradients.

A tile of the output lives in the cache from the product that makes it to the products that carry its gradient
back; the whole output never exists, and Python's lock is not held. Workers, one a core, do rows of their own.

Legend: R rows of a modality, r of a part, d features of it in blocks, N rows of the trunk of width W, J
columns of all inner layers, P passes, M modalities, A covariate rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mosaicvi.engine.gemm import product, product_of_transpose, product_with_transpose
from mosaicvi.engine.jit import Floats, Ints, any_order, f32
from mosaicvi.engine.likelihoods import NB_SOFTMAX, POISSON_SOFTMAX, Likelihood, Slopes, Values, tile
from mosaicvi.engine.stack import SLOPE
from mosaicvi.engine.threads import in_shares, n_workers, share_of

TILE = 3 << 17  # entries of a tile, whose buffers together fit a core's second-level cache of 2 MiB
LEAST_ROWS, MOST_ROWS = 8, 256  # of a tile
EVERY = np.zeros(0, np.int64)  # columns, where none is left out


class Layers(NamedTuple):
    """What leads from the trunk to the output.

    Attributes
    ----------
    routine
        Address of the library's product.
    trunk, at
        Rows of the last shared layer (N, W), and which of them each row of the part comes from, (r,).
    inner, bias
        Hidden layers of the blocks side by side, (J, W) and (J,).
    skip
        What is added to the hidden rows, (N, J), or empty.
    last
        Weights of the last layers, with the bias as last row, of one group of blocks after another.
    blocks
        Of each block (blocks, 6): first column among J, or -1 where the trunk is its hidden rows; its number
        of hidden columns; the first of them, with a 1 after each block; where its group begins in `last`; the
        group's columns; and the first of them that is the block's.
    ends
        Where the columns of each block begin in the part, (blocks + 1,).
    """

    routine: int
    trunk: Floats
    at: Ints
    inner: Floats
    bias: Floats
    skip: Floats
    last: Floats
    blocks: Ints
    ends: Ints


class Gradients(NamedTuple):
    """What a worker adds up, shaped like the fields of `Layers` and `Likelihood` of these names.

    Rows of `trunk` and `skip` are those of the part, which no other worker has.
    """

    trunk: Floats
    inner: Floats
    bias: Floats
    skip: Floats
    last: Floats
    slopes: Slopes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a modality that are treated alike.

    Attributes
    ----------
    kind
        Which likelihood.
    layers, likelihood, values
        As the loops are given them.
    of_step
        Columns of the modality's alpha and pi that these are, or `EVERY`.
    of_group
        Columns of each group's weights that these are, or `EVERY`.
    """

    kind: int
    layers: Layers
    likelihood: Likelihood
    values: Values
    of_step: Ints
    of_group: list[Ints]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """The tensors of a modality that have a gradient.

    Attributes
    ----------
    trunk
        Rows of the last shared layer (N, W).
    alpha, pi
        Dispersion (A, d) and zero inflation (d,), or None.
    inner, bias, skip
        Of each group that has them, weights (J_g, W), biases (J_g,), and what is added (N, J_g).
    last
        Of each group, weights of the last layer with the bias as last row.
    """

    trunk: Tensor
    alpha: Tensor | None
    pi: Tensor | None
    inner: list[Tensor]
    bias: list[Tensor]
    skip: list[Tensor]
    last: list[Tensor]

    def tensors(self) -> list[Tensor | None]:
        """All of them, in order."""
        return [self.trunk, self.alpha, self.pi, *self.inner, *self.bias, *self.skip, *self.last]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modality:
    """A modality: its parts, whose rows together are R, and the pass of each row, (R,)."""

    parts: list[Part]
    of_pass: Tensor
    inputs: Inputs


def log_prob(modalities: list[Modality], weight: Tensor) -> Tensor:
    """Sum of the log-likelihood of each pass and modality, (P, M).

    Gradients are computed on the way, for a loss that has each sum with minus its `weight`, (P, M).
    """
    tensors = [t for m in modalities for t in m.inputs.tensors()]
    found: Tensor = _LogProb.apply(modalities, weight, torch.is_grad_enabled(), *tensors)  # type: ignore[no-untyped-call]
    return found


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, modalities: list[Modality], weight: Tensor, want: bool, *tensors: Tensor | None
    ) -> Tensor:
        works = [_Work(m, n_workers(), want=want) for m in modalities]

        def share(k: int, n: int) -> None:
            for work in works:
                work.share(k, n)

        in_shares(share)
        found = weight.new_zeros(weight.shape)
        grads = []
        for m, work in enumerate(works):
            found[:, m].index_add_(0, modalities[m].of_pass, torch.from_numpy(work.value))
            grads += work.gradients() if want else []
        ctx.has_gradient = [g is not None for g in grads]
        ctx.save_for_backward(weight, *(g for g in grads if g is not None))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *saved = ctx.saved_tensors
        size = float((weight * weight).sum())
        factor = -float((grad * weight).sum()) / size if size else 1.0
        if float((grad + factor * weight).abs().max()) > 1e-4 * abs(factor) * float(weight.abs().max()):
            raise RuntimeError("gradients were computed for a loss with other weights of the likelihoods")
        scaled = iter(saved if abs(factor - 1) < 1e-6 else [g * factor for g in saved])
        return (None, None, None, *(next(scaled) if there else None for there in ctx.has_gradient))


class _Work:
    """A modality as n workers do it; `want` gradients."""

    def __init__(self, modality: Modality, n: int, *, want: bool) -> None:
        self.inputs, self.parts, self.want = modality.inputs, modality.parts, want
        self.value = np.zeros(modality.of_pass.shape[0], np.float32)
        self.starts = np.cumsum([0, *(len(part.layers.at) for part in modality.parts)])
        self.trunk = np.zeros(self.inputs.trunk.shape if want else (0, 0), np.float32)
        width = sum(s.shape[1] for s in self.inputs.skip) if want else 0
        self.skip = np.zeros((len(self.trunk) if width else 0, width), np.float32)
        self.sums: list[list[Gradients]] = [[] for _ in range(n)]

    def share(self, k: int, n: int) -> None:
        """Do the share of worker k of n."""
        for part, start in zip(self.parts, self.starts, strict=False):
            layers, likelihood = part.layers, part.likelihood
            inner, bias, last = (
                np.zeros(v.shape if self.want else (0,) * v.ndim, np.float32)
                for v in (layers.inner, layers.bias, layers.last)
            )
            slopes = Slopes(np.zeros_like(likelihood.alpha), np.zeros_like(likelihood.pi))
            own = Gradients(self.trunk, inner, bias, self.skip, last, slopes)
            self.sums[k].append(own)
            a, b = share_of(len(layers.at), k, n)
            if b > a:
                value = self.value[start : start + len(layers.at)]
                run(part.kind, likelihood, part.values, layers, a, b, TILE, self.want, value, own)

    def gradients(self) -> list[Tensor | None]:
        """Gradients of the loss in the order of `Inputs.tensors`."""
        inputs = self.inputs
        alpha, pi = (None if v is None else np.zeros(v.shape, np.float32) for v in (inputs.alpha, inputs.pi))
        inner, bias = (
            [np.zeros(v.shape, np.float32) for v in of_group] for of_group in (inputs.inner, inputs.bias)
        )
        last = [
            np.empty(w.shape, np.float32) if self.parts else np.zeros(w.shape, np.float32)
            for w in inputs.last
        ]
        for i, (part, *sums) in enumerate(zip(self.parts, *self.sums, strict=True)):
            total = sums[0]
            for own in sums[1:]:
                for mine, other in zip(
                    (*total[1:3], total.last, *total.slopes), (*own[1:3], own.last, *own.slopes), strict=True
                ):
                    mine += other
            at = 0
            for to, to_bias in zip(inner, bias, strict=True):
                to += total.inner[at : at + len(to)]
                to_bias += total.bias[at : at + len(to)]
                at += len(to)
            at = 0
            for to, columns in zip(last, part.of_group, strict=True):
                size = len(to) * (len(columns) or to.shape[1])
                if columns is not EVERY and not len(columns):
                    size = 0
                _put(to, columns, total.last[at : at + size].reshape(len(to), -1), add=i > 0)
                at += size
            if alpha is not None:
                _put(alpha, part.of_step, total.slopes.alpha, add=True)
            if pi is not None:
                _put(pi[None], part.of_step, total.slopes.pi[None], add=True)
        skip = np.split(self.skip, np.cumsum([s.shape[1] for s in inputs.skip])[:-1], 1)
        found = [self.trunk, alpha, pi, *inner, *bias, *(skip if inputs.skip else []), *last]
        return [None if v is None else torch.from_numpy(v) for v in found]


@any_order
def _put(out: Floats, columns: Ints, part: Floats, add: bool) -> None:
    """Put into some columns, or all if none is named, and 0 into others; or `add` to what is there."""
    for i in range(len(out)):
        to, row = out[i], part[i]
        if not add:
            for j in range(len(to)):
                to[j] = f32(0)
        if len(columns):
            for j in range(len(row)):
                to[columns[j]] += row[j]
        else:
            for j in range(len(row)):
                to[j] += row[j]


# --- rows -----------------------------------------------------------------------------------------


@any_order
def run(
    kind: int, likelihood: Likelihood, values: Values, layers: Layers, first: int, last: int, entries: int,
    want: bool, value: Floats, grads: Gradients,
) -> None:  # fmt: skip
    """Rows `first` to `last` of a part: inner and last layers, the likelihood, and the way back.

    A tile has about so many `entries`. Adds to `value` (r,) and, if they are wanted, to `grads`.
    """
    whole = kind in (POISSON_SOFTMAX, NB_SOFTMAX)  # a tile holds whole rows
    n_blocks, routine = len(layers.ends) - 1, layers.routine
    widest = layers.ends[-1] if whole else np.diff(layers.ends).max()
    step = min(MOST_ROWS, max(LEAST_ROWS, entries // max(widest, 1)))
    step = -(-(last - first) // -(-(last - first) // step))  # of equal size
    memory = np.empty(max(entries, step * widest), np.float32)
    width = 0
    for b in range(n_blocks):
        width += layers.blocks[b, 1] + 1
    all_x = np.empty((step, layers.trunk.shape[1]), np.float32)
    all_inner = np.empty((step, len(layers.inner)), np.float32)
    all_hidden = np.empty((step, width), np.float32)
    all_d = np.empty_like(all_hidden)
    for a in range(first, last, step):
        r = min(step, last - a)
        x, inner, hidden, d_hidden = all_x[:r], all_inner[:r], all_hidden[:r], all_d[:r]
        for i in range(r):
            x[i] = layers.trunk[layers.at[a + i]]
        if inner.shape[1]:
            product_with_transpose(routine, x, layers.inner, inner, 0.0)
        _activate(x, inner, layers, a, hidden)
        left = 0
        while left < n_blocks:
            right = left + 1
            while right < n_blocks and (whole or (layers.ends[right + 1] - layers.ends[left]) * r <= entries):
                right += 1
            lo, hi = layers.ends[left], layers.ends[right]
            o = memory[: r * (hi - lo)].reshape(r, hi - lo)
            for b in range(left, right):
                start, stop = layers.ends[b], layers.ends[b + 1]
                if stop > start:
                    at, k = layers.blocks[b, 2], layers.blocks[b, 1]
                    part = o[:, start - lo : stop - lo]
                    product(routine, hidden[:, at : at + k + 1], _last(layers, layers.last, b), part, 0.0)
            tile(kind, o, a, lo, (left, right), values, likelihood, value, grads.slopes)
            if want:
                for b in range(left, right):
                    start, stop = layers.ends[b], layers.ends[b + 1]
                    at, k = layers.blocks[b, 2], layers.blocks[b, 1]
                    d_h = d_hidden[:, at : at + k]
                    if stop > start:
                        part, h = o[:, start - lo : stop - lo], hidden[:, at : at + k + 1]
                        product_of_transpose(routine, h, part, _last(layers, grads.last, b), 1.0)
                        product_with_transpose(routine, part, _last(layers, layers.last, b)[:k], d_h, 0.0)
                    else:
                        d_h[:] = f32(0)
            left = right
        if want:
            _deactivate(d_hidden, layers, a, inner, grads)
            if inner.shape[1]:
                product_of_transpose(routine, inner, x, grads.inner, 1.0)
                product(routine, inner, layers.inner, x, 0.0)
            else:
                x[:] = f32(0)
            for b in range(n_blocks):
                if layers.blocks[b, 0] < 0:
                    x += d_hidden[:, layers.blocks[b, 2] : layers.blocks[b, 2] + layers.blocks[b, 1]]
            for i in range(r):
                grads.trunk[layers.at[a + i]] = x[i]


@any_order
def _last(layers: Layers, of: Floats, b: int) -> Floats:
    """Last layer of block b, or its gradient, (width + 1, columns)."""
    k, at, n = layers.blocks[b, 1], layers.blocks[b, 3], layers.blocks[b, 4]
    left = layers.blocks[b, 5]
    group = of[at : at + (k + 1) * n].reshape(k + 1, n)
    return group[:, left : left + layers.ends[b + 1] - layers.ends[b]]


@any_order
def _activate(x: Floats, inner: Floats, layers: Layers, first: int, hidden: Floats) -> None:
    """Hidden rows with a 1 after each block, given trunk rows and inner layers without bias (r, J)."""
    slope = f32(SLOPE)
    for i in range(len(inner)):
        row = inner[i]
        for j in range(len(row)):
            row[j] += layers.bias[j]
        for b in range(len(layers.blocks)):
            left, k, at = layers.blocks[b, 0], layers.blocks[b, 1], layers.blocks[b, 2]
            out = hidden[i, at : at + k + 1]
            out[k] = f32(1)
            if left < 0:
                for j in range(k):
                    out[j] = x[i, j]
                continue
            h = row[left : left + k]
            for j in range(k):
                out[j] = h[j] * slope if h[j] < f32(0) else h[j]
            if len(layers.skip):
                added = layers.skip[layers.at[first + i], left : left + k]
                for j in range(k):
                    out[j] += added[j]


@any_order
def _deactivate(d_hidden: Floats, layers: Layers, first: int, inner: Floats, grads: Gradients) -> None:
    """Put in place of inner layers their gradient, given that of the hidden rows; add that of the bias."""
    slope = f32(SLOPE)
    for i in range(len(inner)):
        for b in range(len(layers.blocks)):
            left, k, at = layers.blocks[b, 0], layers.blocks[b, 1], layers.blocks[b, 2]
            if left < 0:
                continue
            d, h = d_hidden[i, at : at + k], inner[i, left : left + k]
            if len(layers.skip):
                d_added = grads.skip[layers.at[first + i], left : left + k]
                for j in range(k):
                    d_added[j] = d[j]
            for j in range(k):
                h[j] = d[j] * slope if h[j] < f32(0) else d[j]
        for j in range(inner.shape[1]):
            grads.bias[j] += inner[i, j]
