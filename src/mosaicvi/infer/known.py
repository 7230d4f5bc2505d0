"""Cells of which a grown model knows nothing more than the one it grew from, as that one reads them.

Legend: n cells, D features.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.data.register.join import in_memory
from mosaicvi.data.registry import Registry
from mosaicvi.data.values import scales
from mosaicvi.infer.readout.views import Shown


def known_cells(mosaic: Mosaic, before: Registry) -> NDArray[np.bool_]:
    """Cells that have nothing that the model did not know before it grew, (n,).

    Parameters
    ----------
    mosaic
        Cells as the grown model reads them.
    before
        What the model knew.
    """
    names = mosaic.registry.covariate_names
    known = set(before.covariate_names)
    of_new = np.array([name not in known for name in names])
    found: NDArray[np.bool_] = (mosaic.covariates[:, of_new] == 0).all(1)
    for m in mosaic.modalities:
        if m.name not in before.features:
            found &= m.row_of_cell < 0
            continue
        is_new = ~pd.Index(m.features.names).isin(pd.Index(before.features[m.name].names))
        if not is_new.any():
            continue
        _, entry = in_memory(m)
        table = m.panels if entry is None else entry
        more: NDArray[np.bool_] = np.any(table[:, is_new], axis=1)
        of_row = more[m.panel_of_row] if entry is None else more
        found &= ~np.append(of_row, False)[m.row_of_cell]
    return found


def translated(view: Shown, here: Registry, there: Registry) -> Shown:
    """What is seen of cells, as a model of fewer features knows it."""
    if here is there:
        return view
    masks = {}
    for name, mask in view.features.items():
        if name in there.features:
            shown = np.asarray(here.features[name].names, object)[mask]
            masks[name] = np.asarray(pd.Index(there.features[name].names).isin(shown))
    return Shown.make(masks)


def as_before(mosaic: Mosaic, before: Registry, cells: NDArray[np.bool_]) -> Mosaic:
    """Some cells, all of them known, as the model read them before it grew; the others have no modality."""
    names = mosaic.registry.covariate_names
    columns = [names.index(name) for name in before.covariate_names]
    modalities = tuple(_as_before(mosaic.modality(name), before, cells) for name in before.features)
    return dataclasses.replace(
        mosaic,
        modalities=modalities,
        covariates=np.ascontiguousarray(mosaic.covariates[:, columns]),
        registry=before,
        unseen={},
    )


def _as_before(m: ModalityData, before: Registry, cells: NDArray[np.bool_]) -> ModalityData:
    features = before.features[m.name]
    at = pd.Index(m.features.names).get_indexer(pd.Index(features.names))
    x, entry = in_memory(m)
    kept = np.flatnonzero(cells & (m.row_of_cell >= 0))
    rows = m.row_of_cell[kept]
    row_of_cell = np.full(len(m.row_of_cell), -1)
    row_of_cell[kept] = np.arange(len(kept))
    x = x[rows][:, at]
    entry = None if entry is None else entry[rows][:, at]
    panels, panel = m.panels[:, at], m.panel_of_row[rows]
    n_measured = panels.sum(1)[panel] if entry is None else entry.sum(1)
    library, scale = scales(x, n_measured, m.transform)
    return dataclasses.replace(
        m,
        features=features,
        x=x,
        entry_measured=entry,
        row_of_cell=row_of_cell,
        panels=panels,
        panel_of_row=panel,
        library=library,
        scale=scale,
        standard=before.standards.get(m.name),
        known_columns={},
        known_digest=None,
    )
