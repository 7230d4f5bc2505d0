"""Compiled loops over the indices of sparse rows.

The same as `layers` and `targets` do by tensors on other devices. Legend: P passes, n cells of a modality
in G blocks, D_m features, Z non-zeros.
"""

from __future__ import annotations

import numpy as np

from mosaicvi.nn.compiled import Bools, Floats, Indices, Ints, any_order


@any_order
def visible_rows(
    row: Ints, col: Ints, value: Floats, n: int, n_rows: int, first: int, table: Bools, index: Ints
) -> tuple[Indices, Indices, Floats]:
    """CSR of the non-zeros that each pass sees, one pass after another: row pointers, columns, values.

    `row` is block * n + cell, ascending, below `n_rows`; columns are counted from `first`. `index` (P, n) is
    the row of `table` (T, D_m) that says what a pass sees of a cell, -1 for everything.
    """
    n_passes = index.shape[0]
    crow = np.zeros(n_passes * n_rows + 1, np.int32)
    out_col = np.empty(n_passes * len(row), np.int32)
    out_value = np.empty(n_passes * len(row), value.dtype)
    k = 0
    for p in range(n_passes):
        for z in range(len(row)):
            seen = index[p, row[z] % n]
            if seen < 0 or table[seen, col[z]]:
                out_col[k], out_value[k] = col[z] - first, value[z]
                crow[p * n_rows + row[z] + 1] += 1
                k += 1
    for i in range(len(crow) - 1):
        crow[i + 1] += crow[i]
    return crow, out_col[:k], out_value[:k]


@any_order
def transposed(crow: Indices, col: Indices, value: Floats, n_columns: int) -> tuple[Indices, Indices, Floats]:
    """CSR of the transpose of a CSR matrix."""
    out_crow = np.zeros(n_columns + 1, np.int32)
    for z in range(len(col)):
        out_crow[col[z] + 1] += 1
    for j in range(n_columns):
        out_crow[j + 1] += out_crow[j]
    at = out_crow[:-1].copy()
    out_row, out_value = np.empty(len(col), np.int32), np.empty(len(col), value.dtype)
    for i in range(len(crow) - 1):
        for z in range(crow[i], crow[i + 1]):
            k = at[col[z]]
            out_row[k], out_value[k] = i, value[z]
            at[col[z]] += 1
    return out_crow, out_row, out_value


@any_order
def targets_of_rows(
    indptr: Ints, col: Ints, n: int, pick: Ints, table: Bools, index: Ints, column: Ints
) -> tuple[Ints, Ints, Ints]:
    """Non-zero targets of some rows, block-major: block * r + row, column and position, (Z,) each.

    `indptr` (G * n + 1) says where each block * n + cell begins. `table` (T, D_m) and `index` (r,) say which
    entries count, an empty table all; `column` (D_m,) is the new number of a column, empty for its own.
    """
    r, n_blocks = len(pick), (len(indptr) - 1) // max(n, 1)
    size = 0
    for b in range(n_blocks):
        for i in range(r):
            size += indptr[b * n + pick[i] + 1] - indptr[b * n + pick[i]]
    row, out_col, position = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    k = 0
    for b in range(n_blocks):
        for i in range(r):
            for z in range(indptr[b * n + pick[i]], indptr[b * n + pick[i] + 1]):
                if len(table) == 0 or table[index[i], col[z]]:
                    row[k], position[k] = b * r + i, z
                    out_col[k] = column[col[z]] if len(column) else col[z]
                    k += 1
    return row[:k], out_col[:k], position[:k]
