"""The matrix of one modality: read in block order, checked, and without values that were not measured.

Legend: n_m rows, D_m features, P panels, Z non-zeros. A sparse matrix may be as large as memory allows,
so that what is needed for each non-zero is done in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from mosaicvi.data.blocks import Block
from mosaicvi.data.layers import layer_names, values_of
from mosaicvi.data.sparse import check_sparse
from mosaicvi.data.transforms import Transform, cell_scale
from mosaicvi.errors import InputError, quoted

CHUNK = 1 << 22  # non-zeros looked at together


def read_values(name: str, a: AnnData, layer: str | None, order: NDArray[np.int64]) -> Block:
    """Values of a modality with its columns in `order`, (n_m, D_m).

    Returns
    -------
    Canonical CSR float32 without stored zeros, or dense float32. It shares the user's arrays as long as
    nothing has to be changed in them.

    Raises
    ------
    InputError
        If there are no such values, or no numbers.
    """
    if layer is not None and layer not in layer_names(a):
        raise InputError(f"{name}: no layer {layer!r}; it has {quoted(layer_names(a)) or 'none'}.")
    if layer is None and a.X is None:
        none = "none, so that the file holds no values: write it again with them"
        there = f" (it has {quoted(layer_names(a)) or none})"
        raise InputError(
            f"{name}: X is empty; name the layer with the values, layers={{{name!r}: ...}}{there}."
        )
    raw = _in_memory(values_of("the data", name, a, layer))
    if raw.dtype.kind not in "biuf":
        raise InputError(f"{name}: the values are of type {raw.dtype}, not numbers; store numbers.")
    check_sparse(name, "the matrix", raw)
    identity = np.array_equal(order, np.arange(a.n_vars))
    if sp.issparse(raw):
        return _csr(raw, None if identity else order)
    with np.errstate(over="ignore"):  # what a float32 cannot hold is found as infinite
        dense = np.asarray(raw, np.float32)
    return dense if identity else dense[:, order]


def _in_memory(raw: Any) -> Any:
    """Values of a file or of a lazy array as an array in memory."""
    if raw is None or sp.issparse(raw) or isinstance(raw, np.ndarray):
        return raw
    if isinstance(raw, h5py.Dataset):
        return raw[()]
    for read in ("to_memory", "compute"):
        if hasattr(raw, read):
            return _in_memory(getattr(raw, read)())
    return np.asarray(raw)


def _csr(raw: Any, order: NDArray[np.int64] | None) -> sp.csr_matrix:
    with np.errstate(over="ignore"):
        x = sp.csr_matrix(raw, dtype=np.float32)
    if order is not None:
        place = np.empty(len(order), x.indices.dtype)
        place[order] = np.arange(len(order))
        x = sp.csr_matrix((x.data.copy(), place[x.indices], x.indptr.copy()), shape=x.shape)
    if x.has_canonical_format and all(part.all() for part in _chunks(x.data)):
        return x
    if order is None and _shared(x, raw):
        x = x.copy()
    x.sum_duplicates()
    x.eliminate_zeros()
    return x


def _shared(x: sp.csr_matrix, raw: Any) -> bool:
    theirs = [a for a in vars(raw).values() if isinstance(a, np.ndarray)]
    return any(np.may_share_memory(a, b) for a in (x.data, x.indices, x.indptr) for b in theirs)


def _chunks(values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    flat = values.reshape(-1)
    return (flat[i : i + CHUNK] for i in range(0, len(flat), CHUNK))


# --- what was measured --------------------------------------------------------------------------


def keep_measured(
    x: Block, panels: NDArray[np.bool_], panel_of_row: NDArray[np.int64], *, dense: bool
) -> tuple[Block, NDArray[np.bool_] | None, int]:
    """Leave out values outside the panels and NaN.

    Parameters
    ----------
    x
        Values (n_m, D_m).
    panels, panel_of_row
        What each panel measures (P, D_m), and the panel of each row (n_m,).
    dense
        Whether the result is to be dense instead of CSR.

    Returns
    -------
    Values with 0 for what is missing; which entries were measured, or None if the panels say it all;
    and how many values stood outside the panels.
    """
    if not isinstance(x, np.ndarray):
        n_outside = 0
        if not panels.all():
            keep = _inside(x, panels, panel_of_row)
            n_outside = len(keep) - int(keep.sum())
            x = _subset(x, keep) if n_outside else x
        return (x.toarray() if dense else x), None, n_outside
    if panels.all():
        n_outside, measured = 0, ~np.isnan(x)
        says_it_all = bool(measured.all())
    else:
        inside = panels[panel_of_row]
        measured = ~np.isnan(x)
        n_outside = int((measured & ~inside & (x != 0)).sum())
        measured &= inside
        says_it_all = np.array_equal(measured, inside)
    filled: Block = x if measured.all() else np.where(measured, x, np.float32(0))
    return (filled if dense else sp.csr_matrix(filled)), None if says_it_all else measured, n_outside


def _inside(
    x: sp.csr_matrix, panels: NDArray[np.bool_], panel_of_row: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of the non-zeros a panel measures, (Z,)."""
    keep = np.empty(x.nnz, bool)
    for rows, run in row_chunks(x):
        panel = np.repeat(panel_of_row[rows], np.diff(x.indptr[rows.start : rows.stop + 1]))
        keep[run] = panels[panel, x.indices[run]]
    return keep


def _subset(x: sp.csr_matrix, keep: NDArray[np.bool_]) -> sp.csr_matrix:
    """The same matrix with some of its non-zeros alone."""
    length = np.zeros(x.shape[0], np.int64)
    for rows, run in row_chunks(x):
        ends = np.concatenate([[0], np.cumsum(keep[run])])
        edges = x.indptr[rows.start : rows.stop + 1] - x.indptr[rows.start]
        length[rows] = np.diff(ends[edges])
    indptr = np.concatenate([[0], np.cumsum(length)]).astype(x.indptr.dtype)
    return sp.csr_matrix((x.data[keep], x.indices[keep], indptr), shape=x.shape)


def row_chunks(x: sp.csr_matrix) -> Iterator[tuple[slice, slice]]:
    """Runs of rows with about `CHUNK` non-zeros each: the rows, and where their non-zeros are."""
    at, n = 0, x.shape[0]
    while at < n:
        end = int(np.searchsorted(x.indptr, int(x.indptr[at]) + CHUNK, side="right")) - 1
        end = min(max(end, at + 1), n)
        yield slice(at, end), slice(int(x.indptr[at]), int(x.indptr[end]))
        at = end


# --- sums ---------------------------------------------------------------------------------------


def scales(
    x: Block, n_measured: NDArray[np.int64], transform: Transform
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Library and transform's scale of each row, (n_m,) both.

    Parameters
    ----------
    x
        Values (n_m, D_m), 0 where missing.
    n_measured
        Features that each row measured, (n_m,).
    transform
        Of the modality.
    """
    total = _row_sums(x, lambda v: v)
    mean_log = np.zeros_like(total)
    if transform == "clr":
        mean_log = _row_sums(x, np.log1p) / np.maximum(n_measured, 1)
    return np.maximum(total, 0).astype(np.float32), cell_scale(transform, total, mean_log)


def _row_sums(x: Block, of: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.float64]:
    """Sum of a function of the values over each row, in float64."""
    if isinstance(x, np.ndarray):
        return np.asarray(of(x).sum(1, dtype=np.float64), np.float64)
    total = np.zeros(x.shape[0], np.float64)
    for rows, run in row_chunks(x):
        row = np.repeat(np.arange(rows.stop - rows.start), np.diff(x.indptr[rows.start : rows.stop + 1]))
        total[rows] = np.bincount(row, weights=of(x.data[run]), minlength=rows.stop - rows.start)
    return total
