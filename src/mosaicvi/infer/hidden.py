"""What was measured, hidden as if it had not been: single entries, or all but some features."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.data.values import scales

Ints = NDArray[np.int64]

ROWS = 4096  # at a time


def missing_entries(m: ModalityData) -> Ints:
    """How many cells lack each feature though their panel has it, (D,)."""
    out = np.zeros(m.n_features, np.int64)
    if m.entry_measured is None:
        return out
    for start in range(0, m.n_cells, ROWS):
        rows = np.arange(start, min(start + ROWS, m.n_cells))
        out += (m.panels[m.panel_of_row[rows]] & ~m.measured(rows)).sum(0)
    return out


def without_entries(mosaic: Mosaic, m: ModalityData, cells: Ints, hidden: NDArray[np.bool_]) -> Mosaic:
    """A mosaic of some cells in which entries of one modality were not measured."""
    rows = m.row_of_cell[cells]
    measured = m.measured(rows) & ~hidden
    x: Any = m.x[rows]
    if sp.issparse(x):
        x = sp.csr_matrix(x)
        at = np.repeat(np.arange(len(rows)), np.diff(x.indptr))
        x.data = np.where(hidden[at, x.indices], 0, x.data).astype(np.float32)
        x.eliminate_zeros()
    else:
        x = np.where(hidden, 0, x).astype(np.float32)
    library, scale = scales(x, measured.sum(1), m.transform)
    part = dataclasses.replace(
        m,
        x=x,
        entry_measured=measured,
        row_of_cell=np.arange(len(cells)),
        panel_of_row=m.panel_of_row[rows],
        library=library,
        scale=scale,
    )
    others = [dataclasses.replace(o, row_of_cell=o.row_of_cell[cells]) for o in mosaic.modalities]
    return mosaic.some(cells, tuple(part if o.name == m.name else o for o in others))


def showing(mosaic: Mosaic, cells: Ints, shown: dict[str, NDArray[np.bool_]]) -> Mosaic:
    """A mosaic of some cells that measured, of what they did, these features alone."""
    parts = []
    for data in mosaic.modalities:
        mask = shown.get(data.name, np.zeros(data.n_features, bool))
        rows = data.row_of_cell[cells] if mask.any() else np.zeros(0, np.int64)
        entry = None if data.entry_measured is None else data.entry_measured[rows] & mask
        x: Any = data.x[rows]
        x = sp.csr_matrix(x @ sp.diags(mask.astype(np.float32))) if sp.issparse(x) else x * mask
        if sp.issparse(x):
            x.eliminate_zeros()
        panels, panel_of_row = data.panels & mask, data.panel_of_row[rows]
        count = panels.sum(1)[panel_of_row] if entry is None else entry.sum(1)
        library, scale = scales(x, count, data.transform)
        parts.append(
            dataclasses.replace(
                data,
                x=x.astype(np.float32),
                entry_measured=entry,
                row_of_cell=np.arange(len(cells)) if mask.any() else np.full(len(cells), -1),
                panels=panels,
                panel_of_row=panel_of_row,
                library=library,
                scale=scale,
            )
        )
    return mosaic.some(cells, tuple(parts))


def covers(data: ModalityData, mask: NDArray[np.bool_], n_cells: int, share: float) -> NDArray[np.bool_]:
    """Which cells measured at least this share of the features of the mask, (n,)."""
    if not mask.any():
        return np.ones(n_cells, bool)
    out = np.zeros(n_cells, bool)
    there = data.row_of_cell >= 0
    enough: NDArray[np.bool_] = (data.panels & mask).sum(1) >= share * mask.sum()
    out[there] = enough[data.panel_of_row[data.row_of_cell[there]]]
    return out
