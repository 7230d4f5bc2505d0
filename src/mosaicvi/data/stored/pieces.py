"""The matrix of a file, of which runs of rows are read.

Shapes: n rows, d columns of the file, D columns as they are wanted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import sparse_dataset
from numpy.typing import NDArray

from mosaicvi.data.blocks import Block
from mosaicvi.data.problems import problem
from mosaicvi.data.sparse import arrays_fault
from mosaicvi.data.stored.numbers import StoredNumbers, numbers_of
from mosaicvi.data.stored.parked import parked, picked
from mosaicvi.engine.jit import Ints
from mosaicvi.errors import InputError

GAPS_TOGETHER = 1 << 22  # entries
NEAR = 64  # rows between two that are wanted which are rather read than skipped
VALUES_TOGETHER = 1 << 22  # of a sparse matrix, put in order together


class Piece:
    """A matrix of a file.

    Parameters
    ----------
    name
        Of the file and the matrix in it, for messages.
    raw
        ``CSRDataset`` of anndata, or an array of h5py or zarr (n, d).
    path
        A file that changes when the data do, if there is one.

    Raises
    ------
    InputError
        It is stored by columns, holds no numbers, or its arrays do not belong together.
    """

    def __init__(self, name: str, raw: Any, path: Path | None = None) -> None:
        if isinstance(raw, CSCDataset):
            raise InputError(problem("by-columns", name=name))
        if raw.dtype.kind not in "biuf":
            raise InputError(f"{name}: the values are of type {raw.dtype}, not numbers; store numbers.")
        self.name, self.path = name, path
        self.is_shuffled = False  # whether rows are known to be in random order
        self.stamp = None if path is None else _stamp(path)
        self.shape: tuple[int, int] = (int(raw.shape[0]), int(raw.shape[1]))
        self.is_dense = not isinstance(raw, CSRDataset)
        self.folder = _folder(raw if self.is_dense else raw.group)
        self.where = str(raw.name if self.is_dense else raw.group.name)  # in its file
        self.dtype = raw.dtype
        self.place: NDArray[np.int64] | None = None
        self.n_columns = self.shape[1]
        if self.is_dense:
            self.values = raw
            self.n_bytes = 4 * self.shape[0] * self.shape[1]
            return
        group = raw.group
        self.values, self.indices = group["data"], group["indices"]
        self.indptr = parked(np.asarray(self._read(lambda: group["indptr"][:])).astype(np.int64, copy=False))
        fault = arrays_fault(self.indptr, np.zeros(0, np.int64), 0, self.shape[0], self.shape[1])
        n_there = min(self.values.shape[0], self.indices.shape[0])
        if fault is None or fault.startswith("indptr ends"):
            n_said = int(self.indptr[-1])
            fault = None if n_said <= n_there else f"indptr ends at {n_said:,}, but {n_there:,} are stored"
        if fault is not None:
            raise InputError(problem("sparse", name=name, what="the matrix", fault=fault))
        self.n_bytes = 8 * int(self.indptr[-1])
        mine = [numbers_of(part) for part in (self.values, self.indices)]
        self.own_values, self.own_indices = mine
        self.near = NEAR if None in mine else 1

    def most_values(self) -> int:
        """As many values as there can be other than 0."""
        return self.shape[0] * self.shape[1] if self.is_dense else int(self.indptr[-1])

    def identity(self) -> tuple[Any, ...] | None:
        """What is the same only for the same values; None where a change would not be noticed."""
        if self.stamp is None:
            return None
        place = None if self.place is None else self.place.tobytes()
        return self.stamp, self._written, self.where, self.shape, str(self.dtype), place, self.n_columns

    @cached_property
    def _written(self) -> tuple[int, int, int] | None:
        """What tells that an array of a zarr store was written again in its place; None of other files."""
        return None if self.folder is None else _stamp_of_folder(self.folder)

    def put(self, place: NDArray[np.int64], n_columns: int) -> None:
        """Say where each column of the file goes among `n_columns`, -1 for one that is left out."""
        is_same = n_columns == self.shape[1] and np.array_equal(place, np.arange(n_columns))
        self.place, self.n_columns = None if is_same else place, n_columns

    def take(self, rows: NDArray[np.int64]) -> list[Block]:
        """Ascending rows of the file, as one or several parts that follow one another."""
        if self.is_dense:
            runs = np.split(rows, np.flatnonzero(np.diff(rows) > NEAR) + 1)
            return [self._some(run) for run in runs if len(run)]
        if not len(rows):
            return []
        if self.place is None:  # nothing but what is returned needs memory
            return [self._sparse(rows)]
        read = picked(self.indptr, rows + 1) - picked(self.indptr, rows)
        ends = np.flatnonzero(np.diff(np.cumsum(read) // VALUES_TOGETHER)) + 1
        return [self._sparse(part) for part in np.split(rows, ends)]

    def filled(self, part: Block) -> NDArray[np.float32]:
        """Rows as an array, with NaN where the file has no such column."""
        x: NDArray[np.float32] = part if isinstance(part, np.ndarray) else part.toarray()
        if self.place is not None:
            x[:, np.setdiff1d(np.arange(self.n_columns), self.place)] = np.nan
        return x

    def has_gaps(self) -> bool:
        """Whether an entry of a dense matrix is missing."""
        if not self.is_dense:
            return False
        step = max(1, GAPS_TOGETHER // max(1, self.shape[1]))
        starts = range(0, self.shape[0], step)
        return any(np.isnan(self._values(first, first + step)).any() for first in starts)

    def _values(self, first: int, last: int) -> NDArray[np.float32]:
        """Rows of a dense matrix as they are."""
        with np.errstate(over="ignore"):  # what a float32 cannot hold is found as infinite
            return np.asarray(self._read(lambda: self.values[first:last]), np.float32)

    def _some(self, rows: NDArray[np.int64]) -> Block:
        first, last = int(rows[0]), int(rows[-1]) + 1
        block = self._dense(first, last)
        return block if len(rows) == last - first else block[rows - first]

    def _dense(self, first: int, last: int) -> NDArray[np.float32]:
        x = self._values(first, last)
        if self.place is None:
            return x
        out = np.zeros((len(x), self.n_columns), np.float32)
        kept = np.argsort(self.place, kind="stable")[np.count_nonzero(self.place < 0) :]
        target, start = np.unique(self.place[kept], return_index=True)
        if len(kept):  # a sum of features that are one, of which one is missing, is missing
            out[:, target] = np.add.reduceat(x[:, kept], start, axis=1)
        return out

    def _sparse(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        new = np.concatenate([[True], np.diff(rows) > self.near])
        firsts, lasts = rows[new], rows[np.append(new[1:], True)] + 1
        lows, highs = picked(self.indptr, firsts), picked(self.indptr, lasts)
        data = np.empty(int((highs - lows).sum()), np.float32)
        indices = np.empty(len(data), np.int32 if self.indices.dtype.itemsize <= 4 else np.int64)
        with np.errstate(over="ignore"):  # what a float32 cannot hold is found as infinite
            self._runs(self.own_values, self.values, lows, highs, data)
        self._runs(self.own_indices, self.indices, lows, highs, indices)
        lengths = lasts - firsts
        every = np.arange(int(lengths.sum())) + np.repeat(firsts - (np.cumsum(lengths) - lengths), lengths)
        indptr = np.zeros(len(every) + 1, np.int64)
        np.cumsum(picked(self.indptr, every + 1) - picked(self.indptr, every), out=indptr[1:])
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= self.shape[1]):
            fault = f"an index of rows {rows[0]:,} to {lasts[-1]:,} is outside of 0 to {self.shape[1] - 1:,}"
            raise InputError(problem("sparse", name=self.name, what="the matrix", fault=fault))
        if self.own_indices is not None and self.own_indices.lacking:
            row_of_zero = np.repeat(np.arange(len(every)), np.diff(indptr))[indices == 0]
            if (np.diff(row_of_zero) == 0).any():  # not zeros that were left out, but a file that was lost
                reason = f"indices lacks {', '.join(self.own_indices.lacking[:3])}"
                raise InputError(problem("damaged", name=self.name, reason=reason))
        if self.place is not None:
            indices = self.place[indices]
            kept = indices >= 0
            if not kept.all():
                ends = np.concatenate([[0], np.cumsum(kept)])
                data, indices, indptr = data[kept], indices[kept], ends[indptr]
        small = indices.astype(np.int32, copy=False)
        x = sp.csr_matrix((data, small, indptr), shape=(len(every), self.n_columns))
        x = x if len(every) == len(rows) else x[np.searchsorted(every, rows)]
        if not x.has_canonical_format:
            x.sum_duplicates()
        if not x.data.all():
            x.eliminate_zeros()
        return x

    def _runs(
        self, own: StoredNumbers | None, stored: Any, lows: Ints, highs: Ints, out: NDArray[Any]
    ) -> None:
        """Runs of stored numbers, one after another."""

        def read() -> None:
            if own is not None:
                own.read(lows, highs, out)
                return
            ends = np.cumsum(highs - lows)
            for low, high, end in zip(lows.tolist(), highs.tolist(), ends.tolist(), strict=True):
                out[end - (high - low) : end] = stored[low:high]

        self._read(read)

    def _read(self, slice_of: Callable[[], Any]) -> Any:
        if self.path is not None and _stamp(self.path) != self.stamp:
            raise InputError(problem("changed", name=self.name))
        try:
            return slice_of()
        except Exception as error:  # what a damaged file raises is not foreseeable
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise InputError(problem("damaged", name=self.name, reason=reason)) from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells that a file was written again; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _folder(stored: Any) -> Path | None:
    """Where a zarr store of this machine keeps an array or a group; None of other files."""
    root = getattr(getattr(stored, "store", None), "root", None)
    return None if root is None else Path(root) / stored.path


def _stamp_of_folder(folder: Path) -> tuple[int, int, int]:
    """When a file in a folder was last written, the size of all together, and how many there are."""
    newest = size = n = 0
    for where, _, names in os.walk(folder):
        for name in names:
            found = os.stat(os.path.join(where, name))
            newest, size, n = max(newest, found.st_mtime_ns), size + found.st_size, n + 1
    return newest, size, n


def is_stored(values: Any) -> bool:
    """Whether values lie in a file, of which rows can be read."""
    is_zarr = type(values).__module__.startswith("zarr.") and hasattr(values, "chunks")
    return isinstance(values, CSRDataset | CSCDataset | h5py.Dataset) or is_zarr


def element(group: Any) -> Any:
    """The matrix of an opened file, as `Piece` takes it."""
    return sparse_dataset(group) if hasattr(group, "keys") else group
