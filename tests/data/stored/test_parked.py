"""Arrays in a temporary file are arrays like any other, and leave memory when they are let go."""

import gc
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mosaicvi.data.stored import parked as module
from mosaicvi.data.stored.parked import is_parked, let_go, parked, picked, room


def mapped_bytes() -> int:
    """Bytes of files in the memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))


@pytest.mark.parametrize("dtype", [np.int64, np.float32, bool, "S7"])
def test_a_parked_array_is_the_same(dtype: object) -> None:
    array = np.random.default_rng(0).integers(0, 100, (300_000, 4)).astype(dtype)
    found = parked(array)
    assert is_parked(found)
    assert not is_parked(array)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    let_go()
    np.testing.assert_array_equal(found[::7], array[::7])
    assert parked(found) is found


def test_small_arrays_stay_where_they_are() -> None:
    array = np.arange(10)
    assert parked(array) is array
    assert not is_parked(room(10, np.int64))
    np.testing.assert_array_equal(room((2, 3), np.float32), np.zeros((2, 3)))


def test_what_is_written_into_room_stays_when_memory_is_given_back() -> None:
    array = room(1 << 20, np.int64)
    assert not array.any()
    array[:] = np.arange(1 << 20)
    let_go()
    assert int(array.sum()) == (1 << 20) * ((1 << 20) - 1) // 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what is in memory")
def test_memory_is_given_back() -> None:
    before = mapped_bytes()
    array = parked(np.arange(1 << 24))
    assert mapped_bytes() - before < 1 << 25
    total = int(array.sum())
    assert mapped_bytes() - before > 1 << 26
    let_go()
    assert mapped_bytes() - before < 1 << 23
    rows = np.arange(0, 1 << 24, 5000)
    np.testing.assert_array_equal(picked(array, rows), rows)
    assert mapped_bytes() - before < 1 << 26
    assert total == (1 << 24) * ((1 << 24) - 1) // 2


def test_the_file_goes_with_the_array() -> None:
    gc.collect()
    n = len(module._maps)
    array = parked(np.arange(1 << 20))
    assert len(module._maps) == n + 1
    del array
    gc.collect()
    assert len(module._maps) == n


@pytest.mark.parametrize("n", [10, 1 << 20])
def test_picked_rows_are_those_of_the_array(n: int) -> None:
    array = np.random.default_rng(1).normal(size=(n, 3))
    rows = np.random.default_rng(2).integers(0, n, 50_000)
    np.testing.assert_array_equal(picked(parked(array), rows), array[rows])


def test_without_room_on_the_disk_it_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    array = np.arange(1 << 20)
    found = parked(array)
    assert not is_parked(found)
    np.testing.assert_array_equal(found, array)
