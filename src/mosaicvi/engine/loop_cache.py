"""A cache of compiled loops on disk, so that a later process need not compile them.

Numba's own ends training with an error where it finds a damaged file or a full disk. Here each loop has a
file for each signature, which begins with a checksum: what cannot be read is compiled again, and what cannot
be written is done without. Either way the user is told once. As in numba's own, a file is machine code: its
folder is to be trusted like the one of the package.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps, loads
from numba.misc.appdirs import AppDirs

from mosaicvi.errors import warn
from mosaicvi.store.files import shown
from mosaicvi.store.temporaries import remove, sweep, temporary_name

_VERSIONS = (sys.version, numba.__version__, llvmlite.__version__)
_CHECKSUM_SIZE = hashlib.sha256().digest_size


class LoopCache:
    """The cache of one loop, in place of numba's own: its methods are those that numba calls."""

    has_warned, can_write = False, True  # in this process, of all loops

    def __init__(self, loop: Callable[..., Any]) -> None:
        self._name = f"{loop.__module__}.{loop.__qualname__}"

    @property
    def cache_path(self) -> str:
        """Folder of the files."""
        return str(folder())

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return what was compiled for a signature, or None."""
        context.refresh()
        path = self._path(signature, context.codegen())
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(
                f"compiled loops cannot be read from {shown(path.parent)} ({error.strerror}) and are "
                "compiled again; set NUMBA_CACHE_DIR to a folder that can be read and written"
            )
            return None
        checksum, compiled = content[:_CHECKSUM_SIZE], content[_CHECKSUM_SIZE:]
        if hashlib.sha256(compiled).digest() != checksum:
            self._warn(
                f"{shown(path)} is damaged, and the loop that it holds is compiled again; "
                f"if you see this more than once, delete the folder {shown(path.parent)}"
            )
            return None
        return CompileResult._rebuild(context, *loads(compiled))  # type: ignore[no-untyped-call]

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what was compiled for a signature."""
        if not LoopCache.can_write or result.library.has_dynamic_globals:  # those are addresses
            return
        compiled = dumps(result._reduce())  # type: ignore[no-untyped-call]
        path = self._path(signature, result.library.codegen)
        temporary = temporary_name(path)  # another process must not read half of it
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent)
            temporary.write_bytes(hashlib.sha256(compiled).digest() + compiled)
            temporary.replace(path)
        except OSError as error:
            remove(temporary)
            LoopCache.can_write = False
            self._warn(
                f"compiled loops cannot be kept in {shown(path.parent)} ({error.strerror}), so that each "
                "process compiles them again; free space there, or set NUMBA_CACHE_DIR to another folder"
            )

    def flush(self) -> None:
        """Forget what was compiled, for all signatures."""
        for path in folder().glob(f"{self._name}-*"):
            path.unlink(missing_ok=True)

    def _path(self, signature: Any, codegen: Any) -> Path:
        key = repr((str(signature), codegen.magic_tuple(), _VERSIONS))
        return folder() / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    @staticmethod
    def _warn(message: str) -> None:
        if not LoopCache.has_warned:
            LoopCache.has_warned = True
            warn(message)


@cache
def folder() -> Path:
    """Folder of the compiled loops, named after all sources with such loops.

    A compiled loop holds those that it calls, so that a change of one of them is a change of it.
    """
    here = Path(__file__).parents[1]
    sources = [path.read_bytes() for path in sorted(here.rglob("*.py"))]
    name = hashlib.sha256(b"".join(s for s in sources if b"mosaicvi.engine.jit" in s)).hexdigest()
    given = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    if not given and os.access(here, os.W_OK):
        given = here / "__pycache__"
    of_user = AppDirs("mosaicvi", appauthor=False).user_cache_dir  # type: ignore[no-untyped-call]
    return Path(given or of_user) / f"loops-{name[:16]}"
