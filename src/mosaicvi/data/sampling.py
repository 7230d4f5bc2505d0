"""Which cells and features a step of training sees: functions of a seed alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data import runs
from mosaicvi.engine.jit import Ints

ALIKE = 64  # features with similar totals, of which equal shares are drawn


def split(n_cells: int, train_size: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of training and validation cells, a random split that `seed` decides."""
    order = np.random.default_rng([seed, 0]).permutation(n_cells)
    n_train = n_cells if train_size >= 1 else max(1, round(train_size * n_cells))
    return np.sort(order[:n_train]), np.sort(order[n_train:])


def shuffled(cells: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Minibatches of an epoch, of equal size to within one cell; a function of (seed, epoch) alone."""
    order = np.random.default_rng([seed, 1, epoch]).permutation(cells)
    return [np.asarray(part) for part in np.array_split(order, max(1, -(-len(cells) // batch_size)))]


def share_of_rank(cells: NDArray[np.int64], rank: int, size: int) -> tuple[int, NDArray[np.int64]]:
    """What a process has of a minibatch: where it begins, and the cells, of equal number to within one.

    Parameters
    ----------
    cells
        The minibatch.
    rank, size
        Number of the process, from 0, and how many there are.
    """
    first, end = rank * len(cells) // size, (rank + 1) * len(cells) // size
    return first, cells[first:end]


def drawn_features(orders: Sequence[Ints], shares: Sequence[float], seed: Sequence[int]) -> list[Ints | None]:
    """Features of each modality that count in a step, ascending; a function of `seed` alone.

    Each is as probable as another, and all `ALIKE` features that are neighbours in their order are drawn from
    alike: a sum over the drawn ones varies less than one over as many of all.

    Parameters
    ----------
    orders
        Features of each modality, similar ones side by side.
    shares
        Probability of each feature to be drawn; all, None, for 1.
    seed
        Whole numbers.
    """
    rng = np.random.default_rng(seed)
    return [
        _drawn(order, share, rng) if share < 1 else None for order, share in zip(orders, shares, strict=True)
    ]


def _drawn(order: Ints, share: float, rng: np.random.Generator) -> Ints | None:
    padded = np.full(-(-len(order) // ALIKE) * ALIKE, -1)
    padded[: len(order)] = order
    at = ((np.arange(math.ceil(share * len(padded))) + rng.random()) / share).astype(np.int64)
    at = np.unique(at[at < len(padded)])
    of_each = np.bincount(at // ALIKE, minlength=len(padded) // ALIKE)
    drawn = runs.drawn(padded.reshape(-1, ALIKE), of_each, rng.random(len(at)))
    is_drawn = np.zeros(len(order) + 1, np.bool_)
    is_drawn[drawn] = True  # what fills the last group up is -1, and the last here
    some = np.flatnonzero(is_drawn[:-1])
    return some if 0 < len(some) < len(order) else None
