"""A list of numbers in a zarr store of this machine, of which runs are decoded without zarr's own reader.

That one is made for arrays of any shape in any store; a run of some thousand numbers costs it several times
what decoding them does. What is not as `numbers_of` expects it is left to it.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaicvi.engine.jit import Ints

NOTHING = np.iinfo(np.uint64).max  # where a shard's index says that a chunk was not written
CHECKSUM = 4  # bytes
BLOSC_HEAD = struct.Struct("<IIII")
Decoder: TypeAlias = Callable[[bytes, NDArray[Any]], None]


def numbers_of(array: Any) -> StoredNumbers | None:
    """The same list of numbers, if it is chunks in files, in shards or not, of which we know the codecs."""
    metadata: Any = getattr(array, "metadata", None)
    store: Any = getattr(array, "store", None)
    if getattr(metadata, "zarr_format", None) != 3 or len(array.shape) != 1 or not hasattr(store, "root"):
        return None
    said = metadata.to_dict()
    codecs = list(said["codecs"])
    n_in_file = chunk = int(said["chunk_grid"]["configuration"]["chunk_shape"][0])
    is_sharded = [codec["name"] for codec in codecs] == ["sharding_indexed"]
    if is_sharded:
        how = codecs[0]["configuration"]
        index = [codec["name"] for codec in how["index_codecs"]]
        if how["index_location"] not in ("end", None) or index != ["bytes", "crc32c"]:
            return None
        chunk, codecs = int(how["chunk_shape"][0]), list(how["codecs"])
    decoder = _decoder(codecs)
    if decoder is None or said["fill_value"] != 0:
        return None
    return StoredNumbers(
        folder=Path(store.root) / array.path,
        key=lambda i: metadata.encode_chunk_key((i,)),
        dtype=np.dtype(array.dtype),
        n=int(array.shape[0]),
        chunk=chunk,
        chunks=n_in_file // chunk,
        is_sharded=is_sharded,
        decode=decoder,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredNumbers:
    """Numbers in files of chunks.

    Attributes
    ----------
    folder, key
        Where the files are, and the name of each.
    dtype, n
        Type and number of the numbers.
    chunk, chunks
        Numbers of a chunk, and chunks of a file.
    is_sharded
        Whether a file ends with an index of its chunks.
    decode
        Puts the bytes of a chunk into an array.
    """

    folder: Path
    key: Callable[[int], str]
    dtype: np.dtype[Any]
    n: int
    chunk: int
    chunks: int
    is_sharded: bool
    decode: Decoder

    @cached_property
    def _places(self) -> dict[int, list[tuple[int, int]]]:
        """Where each chunk of a file begins, and its bytes, of the files that were read already."""
        return {}

    @cached_property
    def lacking(self) -> list[str]:
        """Files that were asked for and are not there, as zarr writes none of zeros alone."""
        return []

    def read(self, lows: Ints, highs: Ints, out: NDArray[Any]) -> None:
        """Put runs of numbers, ascending, one after another into `out`.

        Raises
        ------
        ValueError, RuntimeError, OSError
            A chunk is damaged.
        """
        at, here, file = 0, -1, _File(self)
        chunk = np.empty(self.chunk, self.dtype)
        try:
            for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
                while low < high:
                    i = low // self.chunk
                    start = i * self.chunk
                    if i != here:
                        file.decode(i, chunk)
                        here = i
                    n = min(high, start + self.chunk) - low
                    out[at : at + n] = chunk[low - start : low - start + n]
                    at, low = at + n, low + n
        finally:
            file.close()


class _File:
    """The file that was read last."""

    def __init__(self, numbers: StoredNumbers) -> None:
        self.numbers, self.number, self.descriptor = numbers, -1, -1
        self.size, self.places = 0, [(0, 0)]

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.number = self.descriptor = -1

    def decode(self, i: int, out: NDArray[Any]) -> None:
        """Put chunk `i` into an array."""
        number, within = divmod(i, self.numbers.chunks)
        if number != self.number:
            self._open(number)
        start, length = self.places[within]
        if start == NOTHING:  # a chunk of zeros
            out[:] = 0
            return
        if start + length > self.size:
            raise ValueError("the file ends within a chunk")
        self.numbers.decode(_read(self.descriptor, start, length), out)

    def _open(self, number: int) -> None:
        self.close()
        of = self.numbers
        try:
            self.descriptor = os.open(of.folder / of.key(number), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            if not of.folder.is_dir():
                raise
            if of.key(number) not in of.lacking:
                of.lacking.append(of.key(number))
            self.number, self.size, self.places = number, 0, [(NOTHING, 0)] * of.chunks
            return
        self.number, self.size = number, os.fstat(self.descriptor).st_size
        known = of._places.get(number)
        if known is None:
            known = of._places[number] = self._index() if of.is_sharded else [(0, self.size)]
        self.places = known

    def _index(self) -> list[tuple[int, int]]:
        """Where each chunk of a shard begins, and its bytes."""
        length = 16 * self.numbers.chunks
        if self.size < length + CHECKSUM:
            raise ValueError("the file ends before its index")
        index = _read(self.descriptor, self.size - length - CHECKSUM, length + CHECKSUM)
        return [(int(start), int(n)) for start, n in np.frombuffer(_check_sum(index), "<u8").reshape(-1, 2)]


def _read(descriptor: int, start: int, length: int) -> bytes:
    parts, end = [], start + length
    while start < end:  # Linux gives at most 2 GiB at once
        if hasattr(os, "pread"):
            found = os.pread(descriptor, end - start, start)
        else:
            os.lseek(descriptor, start, os.SEEK_SET)
            found = os.read(descriptor, end - start)
        if not found:
            raise ValueError("the file ends within a chunk")
        parts.append(found)
        start += len(found)
    return b"".join(parts)


def _check_sum(said: bytes) -> bytes:
    """What stands before its checksum, if it is right."""
    import google_crc32c

    content = said[:-CHECKSUM]
    if google_crc32c.value(content) != int.from_bytes(said[-CHECKSUM:], "little"):
        raise ValueError("a checksum is not that of its chunk")
    return content


def _decoder(codecs: Sequence[dict[str, Any]]) -> Decoder | None:
    """What reverses codecs: little-endian numbers, perhaps compressed, perhaps with a checksum."""
    names = [codec["name"] for codec in codecs]
    has_sum = names[-1:] == ["crc32c"]
    names = names[: len(names) - has_sum]
    endian = (codecs[0].get("configuration") or {}).get("endian") if codecs else None
    if endian not in ("little", None):
        return None
    decompress = _decompressing(names)
    if decompress is None or not has_sum:
        return decompress
    return lambda said, out: decompress(_check_sum(said), out)


def _decompressing(names: Sequence[str]) -> Decoder | None:
    if names == ["bytes"]:
        return _as_they_are
    if names == ["bytes", "zstd"]:
        from numcodecs import zstd

        return lambda said, out: zstd.decompress(said, out)
    if names != ["bytes", "blosc"]:
        return None
    from numcodecs import blosc

    def decompress(said: bytes, out: NDArray[Any]) -> None:
        _, n_bytes, _, n_stored = BLOSC_HEAD.unpack_from(said)
        if (n_bytes, n_stored) != (out.nbytes, len(said)):
            raise ValueError("a chunk is of another size than was said")
        blosc.decompress(said, out)

    return decompress


def _as_they_are(said: bytes, out: NDArray[Any]) -> None:
    out[:] = np.frombuffer(said, out.dtype)
