"""Compiled loops that gather the rows of a minibatch out of a CSR matrix, and draw features.

Legend: n cells of a modality in G blocks, Z non-zeros. Rows are block-major: block * n + cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.engine.jit import Floats, Ints, any_order

Columns = NDArray[Any]  # int32 or int64, as the user's matrix has them


@any_order
def ends_of(indptr: Ints, rows: Ints, n_blocks: int) -> Ints:
    """Row pointers of some rows of a matrix, block-major.

    `indptr` says where each row * G + block of the matrix begins.
    """
    n = len(rows)
    ends = np.zeros(n_blocks * n + 1, np.int64)
    for i in range(n):
        at = rows[i] * n_blocks
        for b in range(n_blocks):
            ends[b * n + i + 1] = indptr[at + b + 1] - indptr[at + b]
    for k in range(n_blocks * n):
        ends[k + 1] += ends[k]
    return ends


@any_order
def gather(
    indptr: Ints, indices: Columns, values: Floats, rows: Ints, ends: Ints, first: int, last: int, cell: Ints,
    col: Ints, value: Floats,
) -> None:  # fmt: skip
    """Put what rows `first` to `last` hold where `ends_of` says: cell, column and value, (Z,) each."""
    n = len(rows)
    n_blocks = (len(ends) - 1) // max(n, 1)
    for i in range(first, last):  # a row of the matrix is one piece of memory
        for b in range(n_blocks):
            start, k = indptr[rows[i] * n_blocks + b], ends[b * n + i]
            for z in range(ends[b * n + i + 1] - k):
                cell[k + z], col[k + z], value[k + z] = i, indices[start + z], values[start + z]


@any_order
def narrowed(
    cell: Ints, col: Ints, value: Floats, ends: Ints, n: int, place: Ints
) -> tuple[Ints, Ints, Floats, Ints, Floats]:
    """The non-zeros in some columns, with their row pointers, and the sum of each cell, (n,).

    `place` is the new number of each column, -1 for those that are left out.
    """
    kept, k = np.empty(len(col), np.int64), 0
    out_ends, total = np.zeros(len(ends), np.int64), np.zeros(n, np.float32)
    for i in range(len(ends) - 1):
        for z in range(ends[i], ends[i + 1]):
            kept[k] = z
            k += place[col[z]] >= 0
        out_ends[i + 1] = k
    out_cell, out_col, out_value = np.empty(k, np.int64), np.empty(k, np.int64), np.empty(k, value.dtype)
    for j in range(k):
        z = kept[j]
        out_cell[j], out_col[j], out_value[j] = cell[z], place[col[z]], value[z]
        total[cell[z]] += value[z]
    return out_cell, out_col, out_value, out_ends, total


@any_order
def drawn(groups: Ints, of_each: Ints, uniform: NDArray[np.float64]) -> Ints:
    """So many of each group, a row, none twice, in any order; the groups are mixed up.

    `uniform` has a number between 0 and 1 for each that is drawn.
    """
    out, k = np.empty(len(uniform), np.int64), 0
    for g in range(len(groups)):
        group = groups[g]
        for i in range(of_each[g]):
            other = i + int(uniform[k] * (len(group) - i))
            group[i], group[other] = group[other], group[i]
            out[k] = group[i]
            k += 1
    return out
