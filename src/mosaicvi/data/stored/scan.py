"""Stored values read once from beginning to end: all that registering has to know of them.

Shapes: n rows, D features, P panels, B batches.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.blocks import row_slices
from mosaicvi.data.digest import ValuesDigest
from mosaicvi.data.looks import add_filled
from mosaicvi.data.stored.parked import room
from mosaicvi.data.stored.values import StoredMatrix
from mosaicvi.data.sums import Columns, ColumnSums, by_panel
from mosaicvi.data.transforms import Transform
from mosaicvi.data.values import keep_measured, scales


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scanned:
    """What one pass over stored values says.

    Attributes
    ----------
    n_measured
        Features that each row measured, (n,).
    library, scale
        Of each row, float32 (n,).
    n_outside
        Values that stand outside the panels.
    has_gaps
        Whether single entries were not measured.
    columns
        Sums of each feature, raw (``"none"``) and as the encoder sees it.
    digest
        Of the values.
    filled
        Cells of each batch that have something other than 0 in each feature, (B, D).
    """

    n_measured: NDArray[np.int64]
    library: NDArray[np.float32]
    scale: NDArray[np.float32]
    n_outside: int
    has_gaps: bool
    columns: dict[str, Columns]
    digest: str
    filled: NDArray[np.int64]


def scan(
    matrix: StoredMatrix,
    panels: NDArray[np.bool_],
    panel_of_row: NDArray[np.int64],
    *,
    is_dense: bool,
    transform: Transform,
    batch: NDArray[np.int64],
    n_batches: int,
) -> Scanned:
    """Read all values once.

    Parameters
    ----------
    matrix
        The values.
    panels, panel_of_row
        What each panel measures (P, D), and the panel of each row (n,).
    is_dense
        Whether measured values are kept as an array.
    transform
        Of the modality.
    batch, n_batches
        Batch of each row, (n,), and B, 0 not to count; it is done only where every row measured everything.
    """
    n, d = matrix.shape
    n_measured, library, scale = room(n, np.int64), room(n, np.float32), room(n, np.float32)
    of_panel = panels.sum(1)
    sums = {name: ColumnSums(d, name) for name in dict.fromkeys(("none", transform))}
    digest, has_gaps, n_outside = ValuesDigest(), False, 0
    of_entries, exposure = np.zeros((2, d))
    filled = np.zeros((n_batches if panels.all() else 0, d), np.int64)
    for rows, raw in matrix.blocks():
        panel = panel_of_row[rows]
        x, entry, outside = keep_measured(raw, panels, panel, dense=is_dense)
        n_outside += outside
        if entry is not None and not has_gaps:
            has_gaps = True
            for before in row_slices(rows.start):
                inside = panels[panel_of_row[before]]
                digest.add_measured(inside)
                of_entries += inside.sum(0)
                exposure += library[before].astype(np.float64) @ inside
        if has_gaps and entry is None:
            entry = panels[panel]
        n_measured[rows] = of_panel[panel] if entry is None else entry.sum(1)
        library[rows], scale[rows] = scales(x, n_measured[rows], transform)
        measured = panels[panel] if entry is None and is_dense else entry
        for of_transform in sums.values():
            of_transform.add(x, scale[rows], measured)
        digest.add(x, entry)
        if entry is not None:
            of_entries += entry.sum(0)
            exposure += library[rows].astype(np.float64) @ entry
        if len(filled):
            add_filled(filled, x, batch[rows])
    if not has_gaps:
        of_entries = by_panel(panels, panel_of_row, np.ones(n))
        exposure = by_panel(panels, panel_of_row, library)
    return Scanned(
        n_measured=n_measured,
        library=library,
        scale=scale,
        n_outside=n_outside,
        has_gaps=has_gaps,
        columns={name: of_transform.found(of_entries, exposure) for name, of_transform in sums.items()},
        digest=digest.hexdigest(),
        filled=filled,
    )
