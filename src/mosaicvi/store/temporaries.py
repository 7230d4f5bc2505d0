"""Temporary names that say which process they belong to, so that what a killed one left can be removed."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

_NAME = re.compile(r"\.mosaicvi-tmp-([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{16}(?:\..*)?", re.DOTALL)
_ABANDONED_AFTER_S = 7 * 24 * 3600


def temporary_name(final: Path) -> Path:
    """Return a free name next to `final` that says which process it belongs to."""
    suffix = "".join(final.suffixes[-2:])
    owner = f"{_machine()}-{os.getpid()}-{_started(os.getpid()) or '0'}"
    return final.with_name(
        f".mosaicvi-tmp-{owner}-{secrets.token_hex(8)}{suffix if len(suffix) <= 32 else ''}"
    )


def sweep(folder: Path) -> None:
    """Remove the temporaries that processes which are no more have left in a folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (match := _NAME.fullmatch(entry.name)) and _is_abandoned(Path(entry.path), match):
                remove(Path(entry.path))


def remove(path: Path) -> None:
    """Remove a file, a symlink or a folder, as far as that is possible."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path, match: re.Match[str]) -> bool:
    """Say whether the process that made a temporary is gone for certain, or on another machine for a week."""
    machine, pid, started = match.groups()
    if machine != _machine():
        with suppress(OSError):
            return time.time() - path.lstat().st_mtime > _ABANDONED_AFTER_S
        return False
    if os.name == "nt":
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    return started != "0" and _started(int(pid)) not in (None, started)


@cache
def _machine() -> str:
    """Return a name for this boot of this machine and its table of processes."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the boot; "" for a zombie, None if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        return None
