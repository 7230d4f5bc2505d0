from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conformance.test_promises import disk_of

from mosaicvi import MosaicWarning
from mosaicvi.engine import jit, loop_cache
from mosaicvi.engine.loop_cache import LoopCache

FIVE = np.arange(5, dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, of a process that has not warned of it yet."""
    found = tmp_path / "cache" / "loops"
    monkeypatch.setattr(loop_cache, "folder", lambda: found)
    new_process(monkeypatch)
    return found


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoopCache, "has_warned", False)
    monkeypatch.setattr(LoopCache, "can_write", True)


def sum_of_squares(x: Any) -> Any:
    total = np.float32(0)
    for j in range(len(x)):
        total += x[j] * x[j]
    return total


def squares() -> Any:
    """A loop that this process has neither compiled nor loaded."""
    return jit.any_order(sum_of_squares)


def is_loaded(x: Any = FIVE) -> bool:
    """Whether the loop comes from the cache; it gives the right answer in any case."""
    loop = squares()
    assert loop(x) == 30
    return sum(loop.stats.cache_hits.values()) == 1


def loaded_twice(first: Any = FIVE, second: Any = FIVE) -> tuple[bool, bool]:
    return is_loaded(first), is_loaded(second)


def test_what_is_compiled_is_kept(folder: Path) -> None:
    assert not is_loaded()
    assert is_loaded()
    (path,) = folder.iterdir()
    assert path.name.startswith("tests.engine.test_loop_cache.sum_of_squares-")


def test_each_signature_has_a_file(folder: Path) -> None:
    loop = squares()
    assert loop(FIVE) == loop(FIVE.astype(np.float64)) == loop(FIVE[::-1]) == 30
    assert len(list(folder.iterdir())) == 3


def test_a_loop_can_be_forgotten(folder: Path) -> None:
    assert not is_loaded()
    assert squares().stats.cache_path == str(folder)
    squares()._cache.flush()
    assert list(folder.iterdir()) == []
    assert not is_loaded()


def truncated(content: bytes) -> bytes:
    return content[:-1]


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(content: bytes) -> bytes:
    return b""


def garbage(content: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(content))


def one_bit(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [truncated, half, empty, garbage, one_bit])
def test_a_damaged_file_is_compiled_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    squares()(FIVE), squares()(FIVE.astype(np.float64))
    for path in folder.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(MosaicWarning, match="damaged.*compiled again.*delete the folder") as caught:
        assert loaded_twice(FIVE, FIVE.astype(np.float64)) == (False, False)
    assert len(caught) == 1
    assert str(folder) in str(caught[0].message)
    new_process(monkeypatch)
    assert is_loaded()  # what was compiled again has taken its place


def test_a_full_disk_is_done_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with disk_of(4096), pytest.warns(MosaicWarning, match="cannot be kept.*NUMBA_CACHE_DIR") as caught:
        assert loaded_twice() == (False, False)
    assert len(caught) == 1
    assert str(folder) in str(caught[0].message)
    assert list(folder.iterdir()) == []
    new_process(monkeypatch)
    assert not is_loaded()
    assert is_loaded()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_what_cannot_be_written_is_done_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(self: Path, content: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.warns(MosaicWarning, match="cannot be kept.*NUMBA_CACHE_DIR") as caught:
        assert loaded_twice() == (False, False)
    assert len(caught) == 1


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="folders that no one may write to need a user"
)
def test_a_folder_that_is_not_writable_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squares()(FIVE)
    folder.chmod(0o500)
    try:
        assert is_loaded()
        with pytest.warns(
            MosaicWarning, match="cannot be kept.*Permission denied.*NUMBA_CACHE_DIR"
        ) as caught:
            assert not is_loaded(FIVE.astype(np.float64))
        assert len(caught) == 1
    finally:
        folder.chmod(0o700)


def test_a_file_in_place_of_the_folder(folder: Path) -> None:
    folder.parent.write_bytes(b"")
    with pytest.warns(MosaicWarning, match="cannot be read.*NUMBA_CACHE_DIR") as caught:
        assert loaded_twice() == (False, False)
    assert len(caught) == 1
    assert str(folder) in str(caught[0].message)


def test_silence_where_all_is_well(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not is_loaded()
        assert is_loaded()
