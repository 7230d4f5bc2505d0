"""What is known of each cell, beside values that stay in files: arrays in an unnamed temporary file.

They are arrays like any other. What was looked at lies in memory as a part of a file, which the system takes
back when it needs room, and which `let_go` gives back.
"""

from __future__ import annotations

import mmap
import tempfile
import weakref
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LARGE = 1 << 20  # bytes from which an array is worth a file
PIECE = 1 << 22  # bytes that are copied together
PICKED = 1 << 14  # rows that are copied together, each of which brings its neighbours into memory

_maps: list[weakref.ref[mmap.mmap]] = []


def parked(array: NDArray[Any]) -> NDArray[Any]:
    """The same array in a file; itself if it is small, or there already."""
    if array.nbytes < LARGE or is_parked(array):
        return array
    out = room(array.shape, array.dtype)
    step = max(1, PIECE * len(array) // array.nbytes)
    for first in range(0, len(array), step):
        out[first : first + step] = array[first : first + step]
    _release(_map_of(out))
    return out


def room(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros in a file, to be filled; in memory if it is small, or there is no room for a file."""
    shape = (shape,) if isinstance(shape, int) else shape
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if n_bytes < LARGE:
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="mosaicvi-") as file:
            _reserve(file.fileno(), n_bytes)
            whole = mmap.mmap(file.fileno(), n_bytes)
    except OSError:
        return np.zeros(shape, dtype)
    _maps.append(weakref.ref(whole, _maps.remove))
    return np.frombuffer(whole, dtype).reshape(shape)


def is_parked(array: NDArray[Any]) -> bool:
    """Whether an array lies in a file."""
    return _map_of(array) is not None


def picked(array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Some rows of an array; of one in a file no more is left in memory than these."""
    whole = _map_of(array)
    if whole is None:
        return array[rows]
    out = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for first in range(0, len(rows), PICKED):
        out[first : first + PICKED] = array[rows[first : first + PICKED]]
        _release(whole)
    return out


def let_go() -> None:
    """Give back the memory of what was looked at; looking at it again reads it again."""
    for found in list(_maps):
        _release(found())


def _release(whole: mmap.mmap | None) -> None:
    if whole is not None and hasattr(mmap, "MADV_DONTNEED"):
        whole.madvise(mmap.MADV_DONTNEED)


def _map_of(array: NDArray[Any]) -> mmap.mmap | None:
    """The file that an array is a part of."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None


def _reserve(descriptor: int, n_bytes: int) -> None:
    """Make a file so long, with room on its disk, whose lack would else end the process later."""
    import os

    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.truncate(descriptor, n_bytes)
