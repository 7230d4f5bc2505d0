"""Single entries that were measured, hidden as if they had not been."""

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
