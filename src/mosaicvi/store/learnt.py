"""What registering learnt of values that stay in files, beside the checkpoints of a training."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.stored.learnt import Learnt, remembering
from mosaicvi.data.stored.parked import parked
from mosaicvi.store.files import atomic_path

NAME = "registered.npz"


@contextmanager
def kept_in(folder: Path | None, *, writes: bool = True) -> Iterator[None]:
    """Register within this, and values that have been read before are not read again.

    Parameters
    ----------
    folder
        Where it is kept; it need not be there. Nothing is kept where there is none.
    writes
        Whether what is new is written down, or left to another process.
    """
    if folder is None:
        yield
        return
    learnt = Learnt(known=_known(folder / NAME))
    try:
        with remembering(learnt):
            yield
        if learnt.is_new and writes:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / NAME, overwrite=True) as temporary, temporary.open("wb") as file:
                np.savez(file, **learnt.now)  # type: ignore[arg-type]
    finally:  # zarr's threads keep the context that they began in
        learnt.known, learnt.now = {}, {}


def _known(path: Path) -> dict[str, NDArray[Any]]:
    """What a file holds; nothing where it is damaged, so that it is made again."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: parked(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return {}
