"""Whether a zarr store is what it seems: nothing outside its folder, no more in memory than it stores."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaicvi.data.problems import problem
from mosaicvi.data.read.contained import DEEPEST, MOST_OBJECTS, check_size
from mosaicvi.errors import InputError

if TYPE_CHECKING:
    from zarr import Array, Group

CHUNK = re.compile(r"\d+(\.\d+)*")
ZSTD = b"\x28\xb5\x2f\xfd"
BLOSC_HEAD = 16  # bytes, of which the second and fourth four say how long the values and the chunk are
CHECKSUM = 4  # bytes
LONGEST_HEAD = 18  # bytes that say how long a zstd frame is
SLACK = 1 << 20  # bytes that a chunk may hold beyond its values, such as the lengths of texts


def check_contained_folder(path: Path) -> None:
    """Refuse a folder with links that lead outside it or in a circle, or with what is no file.

    Raises
    ------
    InputError
        What stands where, in one line.
    """
    root = os.path.realpath(path)
    waiting = [(root, 0)]
    n_folders = 0
    while waiting:
        folder, depth = waiting.pop()
        n_folders += 1
        for entry in os.scandir(folder):
            where = f"/{os.path.relpath(entry.path, root)}"
            if n_folders > MOST_OBJECTS or depth > DEEPEST:
                raise InputError(problem("too-many-objects", name=path, where=where))
            if entry.is_symlink():
                _check_link(path, root, entry.path, where)
            elif entry.is_dir():
                waiting.append((entry.path, depth + 1))
            elif not entry.is_file():
                raise InputError(problem("outside", name=path, where=where, what="a device or a pipe"))


def check_contained_store(path: Path, store: Group) -> None:
    """Refuse arrays that would take far more memory than is stored of them.

    Raises
    ------
    InputError
        Which array, and how large it says it is.
    """
    from zarr import Group

    waiting: list[tuple[Group, str]] = [(store, "")]
    n_seen = 0
    while waiting:
        group, place = waiting.pop()
        for name, child in group.members():
            n_seen += 1
            where = f"{place}/{name}"
            if n_seen > MOST_OBJECTS:
                raise InputError(problem("too-many-objects", name=path, where=where))
            if isinstance(child, Group):
                waiting.append((child, where))
            else:
                _check_array(path, where, child)


def _check_link(path: Path, root: str, link: str, where: str) -> None:
    target = os.path.realpath(link)
    if os.path.commonpath([root, target]) != root:
        raise InputError(problem("outside", name=path, where=where, what=f"the file {target!r}"))
    if not os.path.exists(link) or os.path.isdir(target):
        raise InputError(problem("circle", name=path, where=where))


def _check_array(path: Path, where: str, array: Array[Any]) -> None:
    each = array.dtype.itemsize
    a_chunk = each
    for n in array.shards or array.chunks:
        a_chunk *= n
    is_blosc = array.shards is None and any(type(c).__name__.startswith("Blosc") for c in array.compressors)
    n_sums = sum(type(c).__name__.startswith("Crc32c") for c in array.compressors)
    n_stored = n_said = 0
    for folder, _, names in os.walk(path / where.lstrip("/")):
        for name in names:
            chunk = Path(folder, name)
            n_stored += chunk.stat().st_size
            said = _said_by_blosc(path, where, chunk, n_sums * CHECKSUM) if is_blosc else _said_by_zstd(chunk)
            n_said = max(n_said, said)
    check_size(path, where, max(each * array.size, a_chunk), n_stored)
    if n_said > a_chunk + SLACK:
        check_size(path, where, n_said, n_stored)


def _said_by_blosc(path: Path, where: str, chunk: Path, behind: int) -> int:
    """How many bytes a chunk says that it becomes; blosc reads past the end of one that was cut off.

    `behind` bytes of a checksum follow those of blosc.
    """
    if not CHUNK.fullmatch(chunk.name):
        return 0
    with chunk.open("rb") as file:
        head = file.read(BLOSC_HEAD)
    n_stored, n_said = chunk.stat().st_size - behind, int.from_bytes(head[12:16], "little")
    if len(head) < BLOSC_HEAD or n_said != n_stored:
        reason = f"{where}: a chunk has {n_stored:,} bytes, not {n_said:,}"
        raise InputError(problem("damaged", name=path, reason=reason))
    return int.from_bytes(head[4:8], "little")


def _said_by_zstd(chunk: Path) -> int:
    """How many bytes a zstd frame says that it becomes; 0 for one that does not, and for other files."""
    with chunk.open("rb") as file:
        head = file.read(LONGEST_HEAD)
    if not head.startswith(ZSTD) or len(head) < LONGEST_HEAD:
        return 0
    about = head[4]
    is_single = bool(about & 0x20)
    length = (int(is_single), 2, 4, 8)[about >> 6]
    begin = 5 + (not is_single) + (0, 1, 2, 4)[about & 3]
    return int.from_bytes(head[begin : begin + length], "little")
