"""The mask's embedding of rows that share few masks.

A minibatch has few distinct masks, so that many rows are alike, and many features as well: those that the
same masks hide. Alike features are summed up first, and alike rows are one.

Legend: P passes, B cells, D_m features of modality m, T distinct masks of a modality that hide some features
but not all, S sets of them, E width of the embedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mosaicvi.engine.jit import Bools, Floats, Ints, any_order
from mosaicvi.engine.threads import Sums, in_shares, share_of

FEW = 60  # distinct masks of all modalities, each a bit of a number
ALL_SETS = 10  # masks, up to which sums are made for every set of them, whether it occurs or not
NONE, ALL = 0, 1  # of the features are hidden


def can_embed(hidden: list[HiddenFeatures]) -> bool:
    """Whether the masks are few enough."""
    return sum(len(h.table) for h in hidden) <= FEW


def embed(hidden: list[HiddenFeatures], bias: Tensor, weights: list[Tensor]) -> Tensor:
    """tanh(W (1 - visible) + b), (P * B, E), of what is hidden of each modality and its weights (D_m, E)."""
    out: Tensor = _Embedding.apply(hidden, bias, *weights)  # type: ignore[no-untyped-call]
    return out


class HiddenFeatures(NamedTuple):
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


class _Embedding(torch.autograd.Function):
    """The embedding of rows that share few masks."""

    @staticmethod
    def forward(ctx: Any, hidden: list[HiddenFeatures], bias: Tensor, *weights: Tensor) -> Tensor:
        arrays, sets = [w.numpy() for w in weights], [sets_of(h.table) for h in hidden]
        sums = Sums([(one.members.shape[1], bias.shape[0]) for one in sets])

        def share(k: int, n_shares: int) -> None:
            for one, weight, out in zip(sets, arrays, sums.of(k), strict=True):
                _add_features(one.of, weight, *share_of(len(weight), k, n_shares), out)

        in_shares(share)
        key = np.zeros_like(hidden[0].of)  # rows with the same masks of all modalities are alike
        for given in hidden:
            key = key * (len(given.table) + 2) + given.of
        _, example, alike = np.unique(key, return_index=True, return_inverse=True)
        total = bias.numpy()[None]
        for given, one, by_set in zip(hidden, sets, sums.total(), strict=True):
            total = total + (one.members @ by_set.numpy())[given.of[example]]
        distinct = np.tanh(total)
        ctx.hidden, ctx.sets, ctx.example, ctx.alike, ctx.distinct = hidden, sets, example, alike, distinct
        ctx.shapes = [w.shape for w in weights]
        return torch.from_numpy(distinct[alike])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_total = np.zeros_like(ctx.distinct)
        _sum_alike(grad.contiguous().numpy(), ctx.alike, d_total)
        d_total *= 1 - ctx.distinct**2
        d_weights, by_set = [torch.empty(shape) for shape in ctx.shapes], []
        for given, one in zip(ctx.hidden, ctx.sets, strict=True):
            d_products = np.zeros((len(one.members), d_total.shape[1]), np.float32)
            _sum_alike(d_total, given.of[ctx.example], d_products)
            by_set.append(one.members.T @ d_products)
        arrays = [d.numpy() for d in d_weights]

        def share(k: int, n_shares: int) -> None:
            for one, d_set, d_weight in zip(ctx.sets, by_set, arrays, strict=True):
                _put_features(one.of, d_set, *share_of(len(d_weight), k, n_shares), d_weight)

        in_shares(share)
        return None, torch.from_numpy(d_total.sum(0)), *d_weights


class Sets(NamedTuple):
    """Features that are alike, as the same masks hide them.

    Attributes
    ----------
    of
        The set of masks that hide each feature, (D_m,).
    members
        1 for the masks in each set, with rows for `NONE` and `ALL`, (T + 2, S).
    """

    of: Ints
    members: Floats


def sets_of(table: Bools) -> Sets:
    """Features of (T, D_m) distinct masks, by the masks that hide them."""
    bits = np.zeros(table.shape[1], np.int64)
    _add_bits(table, bits)
    if len(table) <= ALL_SETS:
        kinds, of = np.arange(1 << len(table)), bits
    else:
        kinds, of = np.unique(bits, return_inverse=True)
    members = np.ones((len(table) + 2, len(kinds)), np.float32)
    members[NONE] = 0
    members[2:] = (kinds >> np.arange(len(table))[:, None]) & 1
    return Sets(of, members)


@any_order
def _add_bits(table: Bools, bits: Ints) -> None:
    """Number the sets: mask t is bit t."""
    for t in range(len(table)):
        row = table[t]
        for d in range(len(bits)):
            bits[d] |= np.int64(row[d]) << t


@any_order
def _add_features(of: Ints, weight: Floats, first: int, last: int, out: Floats) -> None:
    """Add weights of features `first` to `last` to the sums of their sets (S, E)."""
    for d in range(first, last):
        row, to = weight[d], out[of[d]]
        for j in range(len(row)):
            to[j] += row[j]


@any_order
def _put_features(of: Ints, d_set: Floats, first: int, last: int, d_weight: Floats) -> None:
    """Gradient of the weights of features `first` to `last`, given that of the sums (S, E)."""
    for d in range(first, last):
        row, to = d_set[of[d]], d_weight[d]
        for j in range(len(row)):
            to[j] = row[j]


@any_order
def _sum_alike(rows: Floats, alike: Ints, out: Floats) -> None:
    """Add rows to those that they are alike to."""
    for i in range(len(rows)):
        row, to = rows[i], out[alike[i]]
        for j in range(len(row)):
            to[j] += row[j]
