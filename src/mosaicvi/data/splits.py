"""Which cells were held out from training: little is stored, the rest is recomputed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.digest import ValuesDigest
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.sampling import split
from mosaicvi.data.stored.parked import let_go

PIECE = 1 << 20  # entries that go into a digest together
NAMES = 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """How one training run divided its cells.

    Attributes
    ----------
    train_size, seed
        As they were given to `MosaicVI.train`.
    cells
        SHA-256 of the cells' names, in their order.
    run
        Neighbouring cells that were divided together.
    """

    train_size: float
    seed: int
    cells: str
    run: int = 1

    @classmethod
    def of(cls, mosaic: Mosaic, train_size: float, seed: int, run: int) -> Split:
        """The split of a run on these cells."""
        return cls(train_size=train_size, seed=seed, cells=names_digest(mosaic), run=run)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Split:
        """Read what `dataclasses.asdict` wrote.

        Raises
        ------
        ValueError
            It makes no sense.
        """
        found = cls(
            train_size=float(saved["train_size"]),
            seed=int(saved["seed"]),
            cells=str(saved["cells"]),
            run=int(saved.get("run", 1)),  # older models have none
        )
        if not (0 < found.train_size <= 1 and found.seed >= 0 and found.run >= 1):
            raise ValueError("a split is none")
        return found


def names_digest(mosaic: Mosaic) -> str:
    """SHA-256 of the names of the cells, in their order."""
    digest = hashlib.sha256()
    for first in range(0, mosaic.n_cells, NAMES):
        before = "\n" if first else ""
        digest.update((before + "\n".join(map(str, mosaic.names(slice(first, first + NAMES))))).encode())
    let_go()
    return digest.hexdigest()


def values_digest(mosaic: Mosaic) -> str:
    """SHA-256 of all that the mosaic says of its cells: values, what was measured, covariates, batches."""
    digest = hashlib.sha256()
    for m in mosaic.modalities:
        of_values = m.known_digest
        if of_values is None:
            values = ValuesDigest()
            for _, block, measured in m.blocks():
                values.add(block, None if m.entry_measured is None else measured)
            of_values = values.hexdigest()
        digest.update(of_values.encode())
        of_modality: tuple[NDArray[Any], ...] = (m.row_of_cell, m.panels, m.panel_of_row)
        for array in of_modality:
            _add(digest, array)
    of_cells: tuple[NDArray[Any], ...] = (mosaic.covariates, mosaic.batch, mosaic.group)
    for array in of_cells:
        _add(digest, array)
    return digest.hexdigest()


def levels_digest(levels: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 of the levels of batches that the encoder sees values without."""
    digest = hashlib.sha256()
    for name in sorted(levels):
        digest.update(f"{name}\n".encode())
        _add(digest, levels[name])
    return digest.hexdigest()


def _add(digest: Any, array: NDArray[Any]) -> None:
    """Add an array in pieces; whole numbers count alike, however many bytes each has."""
    digest.update(str(array.shape).encode())
    rows = max(1, PIECE // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        digest.update(np.ascontiguousarray(part, np.int64 if part.dtype.kind in "iu" else None).data)
    let_go()


def held_out(splits: Sequence[Split], mosaic: Mosaic) -> NDArray[np.bool_] | None:
    """Which cells no run trained on, (n,); None where that is not known, as for other cells than those."""
    if not splits or {s.cells for s in splits} != {names_digest(mosaic)}:
        return None
    out = np.ones(mosaic.n_cells, bool)
    for s in splits:
        out[split(mosaic.n_cells, s.train_size, s.seed, run=s.run)[0]] = False
    return out
