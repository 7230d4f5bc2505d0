"""Names of many cells as bytes in a file, where Python's strings would need some 70 bytes each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, TypeAlias

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.extensions import ExtensionArray, ExtensionDtype, take
from pandas.api.indexers import check_array_indexer

from mosaicvi.data.stored.parked import let_go, room

MANY = 100_000  # cells whose names are worth it
BLOCK = 1 << 18  # names that are strings at a time
WORD = 8  # bytes that are hashed together
PRIME, MIXER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


Arrays: TypeAlias = "type[StoredNames]"


class NameType(ExtensionDtype):
    """The type of `StoredNames`, which pandas takes for one of strings."""

    name, type, kind = "mosaicvi-names", str, "O"

    @classmethod
    def construct_array_type(cls) -> Arrays:
        """Its arrays."""
        return StoredNames

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NameType) or other in (self.name, "string")  # so pandas asks for strings

    def __hash__(self) -> int:
        return hash(self.name)


class StoredNames(ExtensionArray):
    """Names, none of which is missing.

    Parameters
    ----------
    raw
        As UTF-8, padded with zeros, of type ``S``.
    """

    def __init__(self, raw: NDArray[np.bytes_]) -> None:
        self.raw = raw

    @classmethod
    def _from_sequence(cls, scalars: Iterable[Any], *, dtype: Any = None, copy: bool = False) -> Self:
        return cls(np.array([str(s).encode() for s in scalars], dtype=np.bytes_))

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[StoredNames]) -> Self:
        return cls(np.concatenate([part.raw for part in to_concat]))

    @property
    def dtype(self) -> NameType:
        """The one that they have."""
        return NameType()

    @property
    def nbytes(self) -> int:
        """Bytes, in the file or in memory."""
        return self.raw.nbytes

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, item: Any) -> Any:
        item = check_array_indexer(self, item)
        if isinstance(item, np.ndarray) and item.dtype == bool and item.all():
            return self
        found = self.raw[item]
        return found.decode() if isinstance(found, bytes) else type(self)(found)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, pd.Series | pd.Index | pd.DataFrame):
            return NotImplemented
        if isinstance(other, StoredNames):
            return self.raw == other.raw
        return self.astype(object) == other

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        found = np.empty(len(self), object)
        for first in range(0, len(self), BLOCK):
            some = slice(first, first + BLOCK)
            found[some] = [name.decode() for name in self.raw[some].tolist()]
        return found if dtype is None else found.astype(dtype, copy=False)

    def isna(self) -> NDArray[np.bool_]:
        """Nothing is missing."""
        return np.zeros(len(self), bool)

    def take(self, indices: Any, *, allow_fill: bool = False, fill_value: Any = None) -> Any:
        """Names at some places, as strings where some are missing."""
        at = np.asarray(indices)
        if allow_fill and (at < 0).any():
            return take(self.astype(object), at, allow_fill=True, fill_value=fill_value)
        return type(self)(self.raw[at])

    def copy(self) -> Self:
        """A copy in memory."""
        return type(self)(self.raw.copy())

    def repeated(self) -> NDArray[np.bool_]:
        """Which are there before already, (n,)."""
        hashes = np.empty(len(self), np.uint64)
        for first in range(0, len(self), BLOCK):
            hashes[first : first + BLOCK] = _hashes(self.raw[first : first + BLOCK])
        order = np.sort(hashes)
        twice = np.unique(order[1:][order[1:] == order[:-1]])
        del order
        found = np.zeros(len(self), bool)
        if len(twice):
            at = np.flatnonzero(np.isin(hashes, twice))
            found[at] = pd.Index(self[at].astype(object)).duplicated()
        return found


def is_stored(names: pd.Index[str]) -> bool:
    """Whether names are out of memory."""
    return isinstance(names.array, StoredNames)


def plain(names: pd.Index[str]) -> pd.Index[str]:
    """The same names as strings."""
    return names.astype(object) if is_stored(names) else names


def repeated(names: pd.Index[str]) -> NDArray[np.bool_]:
    """Which names are there before already, (n,)."""
    own = names.array
    return own.repeated() if isinstance(own, StoredNames) else np.asarray(names.duplicated())


def read_names(stored: Any) -> pd.Index[str] | None:
    """The names that an array of an open file holds; None where they are few, or no plain strings."""
    if len(stored.shape) != 1 or stored.shape[0] < MANY:
        return None
    read = _reader(stored)
    if read is None:
        return None
    n, parts = int(stored.shape[0]), []
    step = max(BLOCK, (getattr(stored, "chunks", None) or (0,))[0])
    for first in range(0, n, step):
        part = _packed(read(first, min(first + step, n)))
        if part is None:
            return None
        parts.append(part)
    raw = room(n, np.dtype(f"S{max(part.dtype.itemsize for part in parts)}"))
    at = 0
    for part in parts:
        raw[at : at + len(part)] = part
        at += len(part)
    let_go()
    return pd.Index(StoredNames(raw))


def _packed(names: NDArray[Any]) -> NDArray[np.bytes_] | None:
    """Strings as bytes; None where zeros at the end of one would be lost."""
    try:
        if names.dtype.kind == "T":
            width = max(1, int(np.strings.str_len(names).max(initial=0)))
            found = names.astype(f"S{width}")
            return found if (found.astype(names.dtype) == names).all() else None
        found = names.astype(np.bytes_)
    except UnicodeEncodeError:  # others than of ASCII
        found = np.array([str(name).encode() for name in names], dtype=np.bytes_)
    return None if any(str(name).endswith("\0") for name in names) else found


def _reader(stored: Any) -> Callable[[int, int], NDArray[Any]] | None:
    if isinstance(stored, h5py.Dataset):
        if h5py.check_string_dtype(stored.dtype) is None:
            return None
        text = stored.asstr()
        return lambda first, last: text[first:last]
    is_text = getattr(stored.dtype, "kind", "") in "OTU" and hasattr(stored, "metadata")
    return (lambda first, last: stored[first:last]) if is_text else None


def _hashes(raw: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """A number of each name, the same for the same names."""
    width = -(-raw.dtype.itemsize // WORD) * WORD
    words = np.ascontiguousarray(raw.astype(f"S{width}")).view(np.uint64).reshape(len(raw), -1)
    found = np.zeros(len(raw), np.uint64)
    for word in words.T:
        found = (found ^ word) * PRIME
        found ^= found >> np.uint64(29)
        found *= MIXER
        found ^= found >> np.uint64(32)
    return found
