"""The values of a modality in one or several files, as rows that are read on demand.

Shapes: n rows, D features, P panels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi.data.blocks import ROWS, Block, RowsOnDemand, row_slices
from mosaicvi.data.stored.parked import let_go, picked
from mosaicvi.data.stored.pieces import Piece
from mosaicvi.data.stored.progress import of_rows
from mosaicvi.data.values import keep_measured

READ_TOGETHER = 1 << 24  # bytes
TIDIED = 1 << 18  # rows after which memory is given back


class StoredMatrix(RowsOnDemand):
    """Files below one another, as they are.

    Parameters
    ----------
    pieces
        Matrices of the files, with columns put where they are wanted.
    is_dense
        Whether rows come as an array, with NaN where a file has no such column; where None, if the files do.
    """

    def __init__(self, pieces: Sequence[Piece], *, is_dense: bool | None = None) -> None:
        self.pieces = tuple(pieces)
        self.starts = np.cumsum([0, *(p.shape[0] for p in pieces)])
        self.shape = (int(self.starts[-1]), pieces[0].n_columns)
        self.is_dense = any(p.is_dense for p in pieces) if is_dense is None else is_dense
        self.n_bytes = sum(p.n_bytes for p in pieces)
        self.is_shuffled = len(self.pieces) == 1 and self.pieces[0].is_shuffled

    def ordered(self, order: NDArray[np.int64]) -> StoredMatrix:
        """The same with columns in another order, or some of them."""
        place = np.full(self.shape[1], -1)
        place[order] = np.arange(len(order))
        return self.placed(place, len(order))

    def shuffled(self) -> StoredMatrix:
        """The same, of which it is known that rows are in random order."""
        pieces = [copy.copy(piece) for piece in self.pieces]
        for piece in pieces:
            piece.is_shuffled = True
        return StoredMatrix(pieces, is_dense=self.is_dense)

    def placed(self, place: NDArray[np.int64], n_columns: int) -> StoredMatrix:
        """The same with each column at another place among `n_columns`, -1 for one that is left out."""
        pieces = [copy.copy(piece) for piece in self.pieces]
        for piece in pieces:
            before = np.arange(piece.shape[1]) if piece.place is None else piece.place
            piece.put(np.where(before >= 0, place[before], -1), n_columns)
        return StoredMatrix(pieces, is_dense=self.is_dense)

    def identity(self) -> tuple[Any, ...] | None:
        """What is the same only for the same values; None where a change would not be noticed."""
        every = [piece.identity() for piece in self.pieces]
        return None if None in every else (self.is_dense, *every)

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """All rows in order, several blocks read together."""
        with of_rows(self.pieces[0].name, self.shape[0]) as advance:
            for rows, block in _read_together(self.shape[0], self.n_bytes, self.take):
                yield rows, block
                advance(rows.stop - rows.start)
                if rows.start % TIDIED == 0:
                    let_go()

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Block:
        return _in_any_order(_positions(rows, self.shape[0]), self.take)

    def take(self, rows: NDArray[np.int64]) -> Block:
        """Ascending rows."""
        parts: list[Block] = []
        edges = np.searchsorted(rows, self.starts)
        for i, piece in enumerate(self.pieces):
            some = piece.take(rows[edges[i] : edges[i + 1]] - self.starts[i])
            parts += [piece.filled(p) for p in some] if self.is_dense else some
        if self.is_dense:
            return np.concatenate(parts) if parts else np.zeros((0, self.shape[1]), np.float32)
        sparse = [sp.csr_matrix(p) for p in parts]
        return sparse[0] if len(sparse) == 1 else _below(sparse, self.shape[1])


class StoredValues(RowsOnDemand):
    """Values without what was not measured, which is 0.

    Parameters
    ----------
    matrix
        Where the values are.
    rows
        Which of its rows these are, ascending; None for all.
    panels, panel_of_row
        What each panel measures (P, D), and the panel of each of the rows (n,).
    is_dense
        Whether rows come as an array.
    has_gaps
        Whether single entries were not measured either.
    """

    def __init__(
        self,
        matrix: StoredMatrix,
        *,
        rows: NDArray[np.int64] | None,
        panels: NDArray[np.bool_],
        panel_of_row: NDArray[np.int64],
        is_dense: bool,
        has_gaps: bool,
    ) -> None:
        self.matrix, self.rows = matrix, rows
        self.panels, self.panel_of_row = panels, panel_of_row
        self.is_dense, self.has_gaps = is_dense, has_gaps
        self.shape = (len(panel_of_row), matrix.shape[1])
        self.n_bytes = matrix.n_bytes
        self.factors: tuple[tuple[NDArray[np.float32], NDArray[np.int64]], ...] = ()

    def times(self, factor: NDArray[np.float32], of_row: NDArray[np.int64]) -> StoredValues:
        """The same with the values of each feature times a factor (G, D), of which each row has its own."""
        found = copy.copy(self)
        found.factors = (*self.factors, (factor, of_row))
        return found

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """All rows in order."""
        for rows, block, _ in self.measured_blocks():
            yield rows, block

    def measured_blocks(self) -> Iterator[tuple[slice, Block, NDArray[np.bool_] | None]]:
        """All rows in order, with what was measured of them as `both` says it."""
        for rows, raw in _read_together(self.shape[0], self.n_bytes, self._take):
            yield rows, *self._kept(raw, np.arange(rows.start, rows.stop))

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Block:
        return self.both(rows)[0]

    def both(self, rows: NDArray[np.int64] | slice) -> tuple[Block, NDArray[np.bool_] | None]:
        """Values of some rows, and which entries of them were measured, where there are gaps."""
        every = _positions(rows, self.shape[0])
        return self._kept(_in_any_order(every, self._take), every)

    def _take(self, rows: NDArray[np.int64]) -> Block:
        return self.matrix.take(rows if self.rows is None else self.rows[rows])

    def without(self, empty: NDArray[np.bool_]) -> StoredValues:
        """The same without some rows, boolean (n,)."""
        rows = np.arange(len(empty)) if self.rows is None else self.rows
        found = copy.copy(self)
        found.rows, found.panel_of_row = rows[~empty], self.panel_of_row[~empty]
        found.shape = (len(found.rows), self.shape[1])
        found.factors = tuple((factor, of_row[~empty]) for factor, of_row in self.factors)
        return found

    def _kept(self, raw: Block, rows: NDArray[np.int64]) -> tuple[Block, NDArray[np.bool_] | None]:
        panel = picked(self.panel_of_row, rows)
        x, entry, _ = keep_measured(raw, self.panels, panel, dense=self.is_dense)
        for factor, of_row in self.factors:
            group = picked(of_row, rows)
            if isinstance(x, np.ndarray):
                x = x * factor[group]
            else:
                x.data = x.data * factor[np.repeat(group, np.diff(x.indptr)), x.indices]
        if self.has_gaps and entry is None:
            entry = self.panels[panel]
        return x, entry if self.has_gaps else None


class StoredMeasured:
    """Which entries of stored values were measured, (n, D), read as a boolean array is."""

    def __init__(self, values: StoredValues) -> None:
        self.values, self.shape = values, values.shape

    def __getitem__(self, at: Any) -> NDArray[np.bool_]:
        rows, columns = at if isinstance(at, tuple) else (at, slice(None))
        entry = self.values.both(rows)[1]
        assert entry is not None
        return entry[:, columns]


def _read_together(
    n: int, n_bytes: int, take: Callable[[NDArray[np.int64]], Block]
) -> Iterator[tuple[slice, Block]]:
    """Blocks of rows, of which as many are read together as are worth it."""
    together = ROWS * max(1, int(READ_TOGETHER / max(n_bytes, 1) * n) // ROWS)
    for first in range(0, n, together):
        part = take(np.arange(first, min(first + together, n)))
        for rows in row_slices(part.shape[0]):
            yield slice(first + rows.start, first + rows.stop), part[rows]


def _positions(rows: NDArray[np.int64] | slice, n: int) -> NDArray[np.int64]:
    return np.arange(*rows.indices(n)) if isinstance(rows, slice) else np.asarray(rows, np.int64)


def _in_any_order(rows: NDArray[np.int64], take: Callable[[NDArray[np.int64]], Block]) -> Block:
    """Rows in any order, some perhaps twice, of what gives ascending ones."""
    if (np.diff(rows) > 0).all():
        return take(rows)
    distinct, place = np.unique(rows, return_inverse=True)
    return take(distinct)[place.ravel()]


def _below(parts: list[sp.csr_matrix], n_columns: int) -> sp.csr_matrix:
    """CSR matrices below one another, each freed in turn."""
    ends = np.cumsum([0, *(p.nnz for p in parts)])
    indptr = np.concatenate([[0], *(p.indptr[1:] + ends[i] for i, p in enumerate(parts))])
    data, indices = np.empty(ends[-1], np.float32), np.empty(ends[-1], np.int32)
    for i in range(len(parts)):
        here = slice(ends[i], ends[i + 1])
        data[here], indices[here] = parts[i].data, parts[i].indices
        parts[i] = parts[i][:0]
    return sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, n_columns))
