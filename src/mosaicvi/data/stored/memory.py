"""How much memory is free, and whether values of a file are to be brought into it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mosaicvi.data.stored.values import StoredMatrix

InMemory = bool | Literal["auto"]
WORK = 2.0  # times the values, which are copied on their way
SHARE = 0.5  # of what is free, as training and the answers need some too


def free_memory() -> int | None:
    """Bytes that this process may still take, as far as the system says; None where it does not."""
    found = [_available(), _left_in_group()]
    known = [n for n in found if n is not None]
    return min(known) if known else None


def fits(matrices: Iterable[StoredMatrix]) -> bool:
    """Whether the values of files fit into the memory that is free; they do where that is not known."""
    free = free_memory()
    return free is None or WORK * sum(m.n_bytes for m in matrices) <= SHARE * free


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        pass
    try:  # systems without /proc say at least how much there is in all
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _left_in_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a limit of this container leaves, if it has one."""
    try:
        limit, used = ((root / f"memory.{what}").read_text().strip() for what in ("max", "current"))
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None
