"""Which cells and features a step of training sees: functions of a seed alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data import runs
from mosaicvi.data.stored.parked import room
from mosaicvi.engine.jit import Ints

RUN = 256  # neighbouring cells that are read from a file together
TOGETHER = 1 << 10  # runs
ALIKE = 64  # features with similar totals, of which equal shares are drawn


def run_of(buffer: int) -> int:
    """Neighbouring cells that are kept together where `buffer` cells at a time are shuffled; 0 is all."""
    return RUN if buffer else 1


def split(
    n_cells: int, train_size: float, seed: int, *, run: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of training and validation cells, ascending, a random split that `seed` decides.

    Parameters
    ----------
    n_cells
        Number of cells.
    train_size
        Share of the cells that train.
    seed
        Whole number.
    run
        Neighbouring cells that stay together, so that they can be read from a file together.
    """
    n_runs = -(-n_cells // run)
    order = np.random.default_rng([seed, 0]).permutation(n_runs)
    n_train = n_runs if train_size >= 1 else max(1, round(train_size * n_runs))
    return _cells_of(np.sort(order[:n_train]), run, n_cells), _cells_of(
        np.sort(order[n_train:]), run, n_cells
    )


def _cells_of(runs_: NDArray[np.int64], run: int, n_cells: int) -> NDArray[np.int64]:
    if run == 1:
        return runs_
    length = np.minimum(run, n_cells - runs_ * run)
    cells: NDArray[np.int64] = room(int(length.sum()), np.int64)
    at = 0
    for first in range(0, len(runs_), TOGETHER):
        some = (runs_[first : first + TOGETHER, None] * run + np.arange(run)).ravel()
        some = some[some < n_cells]
        cells[at : at + len(some)] = some
        at += len(some)
    return cells


def shuffled(cells: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Minibatches of an epoch, of equal size to within one cell; a function of (seed, epoch) alone."""
    order = np.random.default_rng([seed, 1, epoch]).permutation(cells)
    return [np.asarray(part) for part in np.array_split(order, max(1, -(-len(cells) // batch_size)))]


def buffered(
    cells: NDArray[np.int64],
    batch_size: int,
    seed: int,
    epoch: int,
    buffer: int,
    *,
    in_order: bool = False,
) -> Iterator[list[NDArray[np.int64]]]:
    """Minibatches of an epoch by the buffer that they are drawn from; a function of these numbers alone.

    Runs of neighbouring cells in random order fill a buffer, and its minibatches are drawn from all of it.
    Where one buffer holds all cells, they are those of `shuffled`.

    Parameters
    ----------
    cells
        Positions, ascending.
    batch_size
        Cells of a minibatch.
    seed, epoch
        Whole numbers.
    buffer
        Cells of a buffer at most, a minibatch at least; 0 for all.
    in_order
        Whether runs follow one another as they are stored, from any of them on, because the cells were put in
        random order when they were stored.
    """
    n_minibatches = max(1, -(-len(cells) // batch_size))
    n_buffers = -(-n_minibatches // max(1, buffer // batch_size)) if buffer else 1
    if n_buffers == 1:
        yield shuffled(cells, batch_size, seed, epoch)
        return
    rng = np.random.default_rng([seed, 1, epoch])
    n_runs = -(-len(cells) // RUN)
    first = (np.roll(np.arange(n_runs), rng.integers(n_runs)) if in_order else rng.permutation(n_runs)) * RUN
    begin = np.cumsum([0, *np.minimum(RUN, len(cells) - first)])  # where each run begins in this order
    size, n_larger = divmod(len(cells), n_minibatches)
    numbers = np.arange(n_minibatches) + 1
    ends = numbers * size + np.minimum(numbers, n_larger)  # of minibatches
    start = 0
    for of_buffer in np.array_split(ends, n_buffers):
        i, end = int(np.searchsorted(begin, start, side="right")) - 1, int(of_buffer[-1])
        at = (first[i : np.searchsorted(begin, end), None] + np.arange(RUN)).ravel()
        some = cells[at[at < len(cells)][start - begin[i] : end - begin[i]]]
        yield np.split(rng.permutation(some), of_buffer[:-1] - start)
        start = end


def share_of_rank(
    cells: NDArray[np.int64], rank: int, size: int, *, run: int = 1
) -> tuple[int, NDArray[np.int64]]:
    """What a process has of a minibatch: how many cells others have before it, and its own.

    Parameters
    ----------
    cells
        The minibatch.
    rank, size
        Number of the process, from 0, and how many there are.
    run
        With 1, equal parts to within a cell. With more, all processes take runs of so many neighbouring cells
        in turns, the same in every epoch, so that none reads from a file what another needs.
    """
    if run > 1:
        owner = cells // run % size
        return int(np.count_nonzero(owner < rank)), cells[owner == rank]
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
