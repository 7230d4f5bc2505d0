"""A matrix in blocks of rows, the same blocks whether it lies in memory or in a file.

What is summed over blocks is therefore the same to the bit, wherever the values lie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

Block: TypeAlias = sp.csr_matrix | NDArray[np.float32]

ROWS = 1024  # of a block
COMPARED = 1 << 20  # rows of a table


class RowsOnDemand(ABC):
    """A matrix (n, D) whose rows are read when they are asked for.

    Attributes
    ----------
    shape
        Rows and columns.
    is_dense
        Whether rows come as an array instead of CSR.
    """

    shape: tuple[int, int]
    is_dense: bool

    @abstractmethod
    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """All rows in order, `ROWS` at a time."""

    @abstractmethod
    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Block:
        """Some rows, in any order."""


Matrix: TypeAlias = Block | RowsOnDemand


def is_dense(x: Matrix) -> bool:
    """Whether rows of a matrix are arrays, which may hold NaN, instead of CSR."""
    return x.is_dense if isinstance(x, RowsOnDemand) else isinstance(x, np.ndarray)


def blocks(x: Matrix) -> Iterator[tuple[slice, Block]]:
    """All rows of a matrix in order, `ROWS` at a time."""
    if isinstance(x, RowsOnDemand):
        yield from x.blocks()
        return
    for rows in row_slices(x.shape[0]):
        yield rows, x[rows]


def distinct_rows(table: NDArray[Any], most: int | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The different rows of a table, in order, and which of them each row is, (n,).

    Parameters
    ----------
    table
        Numbers, none missing, (n, c).
    most
        If they are more, the table itself is returned.
    """
    parts = []
    for first in range(0, len(table), COMPARED):
        some = table[first : first + COMPARED]
        code = np.zeros(len(some), np.int64)
        for column in some.T:
            of_column, values = pd.factorize(column)
            code = pd.factorize(code * len(values) + of_column)[0]
        _, at = np.unique(code, return_index=True)
        if most is not None and len(at) > most:
            return table, np.arange(len(table))
        parts.append((some[at] + 0, code))  # no -0
    found = np.unique(np.concatenate([rows for rows, _ in parts]), axis=0) if parts else table
    if most is not None and len(found) > most:
        return table, np.arange(len(table))
    place = {row.tobytes(): i for i, row in enumerate(found)}
    out, start = np.empty(len(table), np.int64), 0
    for rows, code in parts:
        out[start : start + len(code)] = np.array([place[row.tobytes()] for row in rows], np.int64)[code]
        start += len(code)
    return found, out


def row_slices(n: int) -> Iterator[slice]:
    """Where the blocks of n rows are."""
    return (slice(first, min(first + ROWS, n)) for first in range(0, n, ROWS))
