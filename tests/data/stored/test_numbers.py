"""Runs of numbers in a zarr store are read as zarr reads them; what is damaged is noticed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi.data.stored.numbers import numbers_of
from mosaicvi.data.stored.pieces import Piece, element
from mosaicvi.errors import InputError

zarr = pytest.importorskip("zarr", reason="zarr is an optional extra")


def codecs_of(name: str) -> list[Any]:
    from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

    known = {"blosc": [BloscCodec(cname="lz4", shuffle="bitshuffle")], "zstd": [ZstdCodec()], "bytes": []}
    return [*known[name.removesuffix("+sum")], *[Crc32cCodec()] * name.endswith("+sum")]


def stored(path: Path, values: np.ndarray, *, codec: str = "blosc+sum", shards: int | None = 12) -> Any:
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    how: dict[str, Any] = {"chunks": (4,), "compressors": codecs_of(codec)}
    array = group.create_array(
        "a", shape=values.shape, dtype=values.dtype, shards=None if shards is None else (shards,), **how
    )
    array[:] = values
    return array


def runs_of(array: Any, lows: list[int], highs: list[int]) -> np.ndarray:
    numbers = numbers_of(array)
    assert numbers is not None
    out = np.empty(sum(highs) - sum(lows), np.float32)
    numbers.read(np.array(lows, np.int64), np.array(highs, np.int64), out)
    return out


@given(
    cuts=st.lists(st.integers(0, 29), min_size=2, max_size=8, unique=True).map(sorted),
    codec=st.sampled_from(["blosc", "blosc+sum", "zstd", "zstd+sum", "bytes", "bytes+sum"]),
    shards=st.sampled_from([None, 4, 12, 32]),
    dtype=st.sampled_from([np.float32, np.int32, np.uint16, np.int64]),
)
@settings(max_examples=60, deadline=None)
def test_runs_are_those_that_zarr_reads(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], codec: str, shards: int | None, dtype: type
) -> None:
    values = np.arange(1, 30).astype(dtype)
    values[8:12] = 0  # a chunk of zeros, or a file of them, which zarr does not write
    array = stored(tmp_path_factory.mktemp("numbers") / "a.zarr", values, codec=codec, shards=shards)
    lows, highs = cuts[:-1:2], cuts[1::2]
    expected = np.concatenate([array[low:high] for low, high in zip(lows, highs, strict=True)])
    np.testing.assert_array_equal(runs_of(array, lows, highs), expected.astype(np.float32))


@pytest.mark.parametrize("codec", ["blosc+sum", "zstd+sum", "bytes+sum"])
@pytest.mark.parametrize("at", range(0, 60, 3))
def test_a_byte_that_changed_is_noticed(tmp_path: Path, codec: str, at: int) -> None:
    array = stored(tmp_path / "a.zarr", np.arange(1, 13).astype(np.float32), codec=codec)
    file = tmp_path / "a.zarr/a/c/0"
    content = bytearray(file.read_bytes())
    content[at] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises((ValueError, RuntimeError)):
        runs_of(array, [0], [12])


@pytest.mark.parametrize("left", [0, 10, 40, -1])
def test_a_file_that_was_cut_off_is_noticed(tmp_path: Path, left: int) -> None:
    array = stored(tmp_path / "a.zarr", np.arange(1, 13).astype(np.float32))
    file = tmp_path / "a.zarr/a/c/0"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises((ValueError, RuntimeError)):
        runs_of(array, [0], [12])
    shutil.rmtree(tmp_path / "a.zarr/a")
    with pytest.raises(OSError, match="No such file"):
        runs_of(array, [0], [12])


def test_a_system_may_give_a_part_of_what_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(1, 30).astype(np.float32)
    array, whole = stored(tmp_path / "a.zarr", values), os.pread
    monkeypatch.setattr(os, "pread", lambda file, n, at: whole(file, min(n, 5), at))
    np.testing.assert_array_equal(runs_of(array, [0], [29]), values)


def test_indices_of_zeros_are_told_from_a_file_that_was_lost(tmp_path: Path) -> None:
    x = np.zeros((8, 3), np.float32)
    x[:4, 0] = x[4:, 0] = x[4:, 2] = np.arange(1, 5)
    matrix = sp.csr_matrix(x)
    parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    rows = zarr.open_group(str(tmp_path / "b.zarr"), mode="w", zarr_format=3).create_group("X")
    rows.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [8, 3]})
    for name, values in parts.items():
        rows.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(4,))[:] = values
    indices = tmp_path / "b.zarr/X/indices/c"
    assert {file.name for file in indices.iterdir()} == {"1", "2"}
    piece = Piece("b.zarr", element(rows))
    np.testing.assert_array_equal(piece.take(np.arange(8))[0].toarray(), x)
    (indices / "2").unlink()
    with pytest.raises(InputError, match=r"b\.zarr.*indices lacks c/0, c/2"):
        piece.take(np.arange(8))


def test_a_chunk_of_another_size_is_refused(tmp_path: Path) -> None:
    array = stored(tmp_path / "a.zarr", np.arange(1, 5).astype(np.float32), codec="blosc", shards=None)
    longer = stored(tmp_path / "b.zarr", np.arange(1, 5).astype(np.int64), codec="blosc", shards=None)
    other = Path(longer.store.root) / "a/c/0"
    (tmp_path / "a.zarr/a/c/0").write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="another size"):
        runs_of(array, [0], [4])


def test_what_is_not_known_is_left_to_zarr(tmp_path: Path) -> None:
    from zarr.codecs import BytesCodec, GzipCodec

    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=3)
    how: dict[str, Any] = {"shape": (8,), "chunks": (4,), "dtype": "float32"}
    assert numbers_of(group.create_array("gzip", compressors=[GzipCodec()], **how)) is None
    assert numbers_of(group.create_array("filled", fill_value=1, **how)) is None
    assert numbers_of(group.create_array("big", serializer=BytesCodec(endian="big"), **how)) is None
    assert numbers_of(group.create_array("table", **how | {"shape": (8, 2), "chunks": (4, 2)})) is None
    old = zarr.open_group(str(tmp_path / "b.zarr"), mode="w", zarr_format=2)
    assert numbers_of(old.create_array("a", **how)) is None
    assert numbers_of(np.zeros(3)) is None
