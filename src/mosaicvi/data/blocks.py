"""A matrix in blocks of rows, the same blocks whether it lies in memory or in a file.

What is summed over blocks is therefore the same to the bit, wherever the values lie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Block: TypeAlias = sp.csr_matrix | NDArray[np.float32]

ROWS = 1024  # of a block


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


def row_slices(n: int) -> Iterator[slice]:
    """Where the blocks of n rows are."""
    return (slice(first, min(first + ROWS, n)) for first in range(0, n, ROWS))
