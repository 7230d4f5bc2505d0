"""A file that one process holds at a time, and that says which; a killed process lets go of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def hold(path: Path) -> Iterator[str | None]:
    """Hold a file, or learn who does.

    Where the system has no locks (Windows, some network file systems), nobody is ever kept out.

    Parameters
    ----------
    path
        Of the file, which is made and removed again; its folder must exist.

    Yields
    ------
    None, or the process that holds the file already, such as ``process 123 on host``.
    """
    descriptor, holder = _lock(path)
    try:
        yield holder
    finally:
        if descriptor is not None:
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _lock(path: Path) -> tuple[int | None, str | None]:
    """The open file if it is ours now, and who holds it if it is another's."""
    while fcntl is not None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
                return descriptor, None
        except FileNotFoundError:
            pass  # whoever held it has just removed it
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            return None, holder or "another process"
        except OSError:
            os.close(descriptor)
            return None, None
        os.close(descriptor)
    return None, None
