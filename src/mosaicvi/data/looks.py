"""What one pass over the values of a modality says about them: whole numbers or fractions, signs, sums.

Shapes: n rows, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi.data.blocks import Block, Matrix, RowsOnDemand, blocks, is_dense
from mosaicvi.data.stored.parked import room
from mosaicvi.errors import InputError

LOOK_AT = 1 << 22  # values that are kept, to tell the kind of scale
LARGEST_LOG2 = 50.0  # of intensities; the largest that instruments write are below 2^45
RAW_INTENSITY = 1e4  # median of the values that are not 0, which counts of cells never reach


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looks:
    """What the values of a matrix (n, D) look like; NaN is no value.

    Attributes
    ----------
    shape, is_dense
        Of the matrix.
    n_nonzero, n_nan, n_infinite, n_positive, n_no_count
        How many entries are not 0 (NaN counts as such), NaN, infinite, above 0, and negative or fractional.
    least, most
        Of the values that are stored; infinite where there are none.
    some
        The first measured values that are not 0, up to `LOOK_AT`.
    row_sum, row_filled
        Sum of each row, float64 (n,), and whether anything in it is not 0, (n,).
    """

    shape: tuple[int, int]
    is_dense: bool
    n_nonzero: int
    n_nan: int
    n_infinite: int
    n_positive: int
    n_no_count: int
    least: float
    most: float
    some: NDArray[np.float32]
    row_sum: NDArray[np.float64]
    row_filled: NDArray[np.bool_]

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers >= 0."""
        return self.n_no_count == 0

    @property
    def n_entries(self) -> int:
        """Entries that are not NaN, stored or not."""
        return self.shape[0] * self.shape[1] - self.n_nan

    @property
    def share_no_count(self) -> float:
        """Share of the measured values other than 0 that are negative or fractional."""
        return self.n_no_count / max(self.n_nonzero - self.n_nan, 1)


def look(x: Matrix) -> Looks:
    """Look at all values once."""
    n = x.shape[0]
    counts = np.zeros(5, np.int64)
    least, most = np.inf, -np.inf
    some: list[NDArray[np.float32]] = []
    n_some = 0
    make = room if isinstance(x, RowsOnDemand) else np.zeros
    row_sum, row_filled = make(n, np.float64), make(n, np.bool_)
    for rows, block in blocks(x):
        values = stored(block)
        nan = np.isnan(values)
        known = values[~nan] if nan.any() else values.reshape(-1)
        counts += [
            np.count_nonzero(values),
            np.count_nonzero(nan),
            np.count_nonzero(np.isinf(known)),
            np.count_nonzero(known > 0),
            np.count_nonzero(no_count(known)),
        ]
        if len(known):
            least, most = min(least, float(known.min())), max(most, float(known.max()))
        if n_some < LOOK_AT:
            some.append(known[known != 0][: LOOK_AT - n_some])
            n_some += len(some[-1])
        row_sum[rows], row_filled[rows] = _by_row(block)
    return Looks(
        shape=x.shape,
        is_dense=is_dense(x),
        n_nonzero=int(counts[0]),
        n_nan=int(counts[1]),
        n_infinite=int(counts[2]),
        n_positive=int(counts[3]),
        n_no_count=int(counts[4]),
        least=least,
        most=most,
        some=np.concatenate(some) if some else np.zeros(0, np.float32),
        row_sum=row_sum,
        row_filled=row_filled,
    )


def stored(block: Block) -> NDArray[np.float32]:
    """All values of an array, or those that a sparse matrix stores."""
    return block if isinstance(block, np.ndarray) else block.data


def no_count(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which values are negative or fractional; NaN is not."""
    with np.errstate(invalid="ignore"):
        fractional: NDArray[np.bool_] = (values != np.rint(values)) & ~np.isnan(values)
        return (values < 0) | fractional


def is_whole(values: NDArray[np.float32] | sp.csr_matrix | sp.csc_matrix) -> bool:
    """Whether all values of a matrix in memory are whole numbers >= 0; NaN is no value."""
    flat = (values if isinstance(values, np.ndarray) else values.data).reshape(-1)
    return not any(no_count(flat[i : i + LOOK_AT]).any() for i in range(0, len(flat), LOOK_AT))


def looks_like_intensities(values: NDArray[np.float32]) -> bool:
    """Whether values are raw intensities of an instrument, by their size; NaN and 0 are no values."""
    there = values[~np.isnan(values) & (values != 0)]
    return len(there) > 0 and float(there.min()) >= 0 and float(np.median(there)) > RAW_INTENSITY


def looks_like_logarithms(values: Looks) -> bool:
    """Whether values are logarithms of intensities, by their size: none is as large as raw ones."""
    return values.n_nonzero > values.n_nan and values.most < LARGEST_LOG2


def filled_by_batch(x: Matrix, batch: NDArray[np.int64], n_batches: int) -> NDArray[np.int64]:
    """How many cells of each batch have something other than 0 in each feature, (B, D).

    Parameters
    ----------
    x
        Values (n, D).
    batch, n_batches
        Batch of each row, (n,), and B.
    """
    out = np.zeros((n_batches, x.shape[1]), np.int64)
    if not n_batches:
        return out
    for rows, block in blocks(x):
        add_filled(out, block, batch[rows])
    return out


def add_filled(out: NDArray[np.int64], block: Block, batch: NDArray[np.int64]) -> None:
    """Add a block of rows to what `filled_by_batch` counts."""
    for b in np.unique(batch):
        rows = block if (batch == b).all() else block[batch == b]
        if isinstance(rows, np.ndarray):
            out[b] += np.count_nonzero(rows, axis=0)
        else:
            out[b] += np.bincount(rows.indices, minlength=out.shape[1])


def first_value(
    cells: pd.Index[str], x: Matrix, wrong: Callable[[NDArray[np.float32]], NDArray[np.bool_]]
) -> str:
    """Name the first entry for which `wrong` holds."""
    for rows, block in blocks(x):
        values = stored(block)
        with np.errstate(invalid="ignore"):
            is_wrong = wrong(values)
        if not is_wrong.any():
            continue
        at = int(np.argmax(is_wrong))
        row = at // x.shape[1]
        if not isinstance(block, np.ndarray):
            row = int(np.searchsorted(block.indptr, at, side="right")) - 1
        return f"the value {values.reshape(-1)[at]:g} of cell {str(cells[rows.start + row])!r}"
    raise AssertionError("there is no such value")


def check_finite(name: str, cells: pd.Index[str], x: Matrix, looks: Looks) -> None:
    """Raise `InputError` for infinite values, and for NaN in a sparse matrix."""
    if looks.n_infinite:
        raise InputError(
            f"{name}: {first_value(cells, x, np.isinf)} is not finite; remove or replace such values."
        )
    if looks.n_nan and not looks.is_dense:
        raise InputError(
            f"{name}: a sparse matrix holds NaN; missing entries need a dense matrix: X.toarray()."
        )


def _by_row(block: Block) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Sum of each row, and whether anything in it is not 0."""
    if isinstance(block, np.ndarray):
        return np.nansum(block, axis=1, dtype=np.float64), (block != 0).any(1)
    row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    total = np.bincount(row, weights=block.data, minlength=block.shape[0])
    return total.astype(np.float64, copy=False), np.diff(block.indptr) > 0
