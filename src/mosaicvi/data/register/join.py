"""Several mosaics that a model reads alike as one, and those of a smaller model as a larger one reads them.

Legend: n cells, n_m rows of a modality, D features, P panels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi.data.blocks import Block
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.data.register.register import absent
from mosaicvi.data.registry import Registry
from mosaicvi.data.stored.values import StoredMeasured, StoredValues
from mosaicvi.errors import InputError


def in_memory(m: ModalityData) -> tuple[Block, NDArray[np.bool_] | None]:
    """Values of a modality and which entries were measured; `InputError` if they are read from disk."""
    if isinstance(m.x, StoredValues) or isinstance(m.entry_measured, StoredMeasured):
        raise InputError(
            f"{m.name}: a model that grew reads values in memory; open the data with in_memory=True."
        )
    return m.x, m.entry_measured


def lifted(mosaic: Mosaic, registry: Registry) -> Mosaic:
    """Cells of a smaller model as one that grew from it reads them: they have nothing of what is new.

    Parameters
    ----------
    mosaic
        The cells.
    registry
        Of the larger model.
    """
    names = list(registry.covariate_names)
    covariates = np.zeros((mosaic.n_cells, len(names)), np.float32)
    columns = [names.index(name) for name in mosaic.registry.covariate_names]
    covariates[:, columns] = mosaic.covariates
    known = {m.name: m for m in mosaic.modalities}
    return dataclasses.replace(
        mosaic,
        modalities=tuple(
            _lifted(known[name], registry) if name in known else absent(name, mosaic.n_cells, registry)
            for name in registry.features
        ),
        covariates=covariates,
        registry=registry,
    )


def _lifted(m: ModalityData, registry: Registry) -> ModalityData:
    features = registry.features[m.name]
    at = pd.Index(features.names).get_indexer(pd.Index(m.features.names))
    shape = (m.n_cells, len(features.names))
    before, entry = in_memory(m)
    if isinstance(before, np.ndarray):
        x: Block = np.zeros(shape, np.float32)
        x[:, at] = before
    else:  # the known features keep their order, so that columns stay sorted
        x = sp.csr_matrix((before.data, at[before.indices], before.indptr), shape=shape)
    return dataclasses.replace(
        m,
        features=features,
        x=x,
        entry_measured=None if entry is None else _placed(entry, at, shape[1]),
        panels=_placed(m.panels, at, shape[1]),
        standard=registry.standards.get(m.name),
        known_columns={},
        known_digest=None,
    )


def _placed(table: NDArray[np.bool_], at: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    out = np.zeros((len(table), n), bool)
    out[:, at] = table
    return out


def joined(first: Mosaic, second: Mosaic) -> Mosaic:
    """Two mosaics of one registry, one after the other."""
    offset = int(first.group.max(initial=0))
    return dataclasses.replace(
        first,
        cells=first.names().append(second.names()),
        modalities=tuple(_stacked(a, b) for a, b in zip(first.modalities, second.modalities, strict=True)),
        covariates=np.concatenate([first.covariates, second.covariates]),
        batch=np.concatenate([first.batch, second.batch]),
        group=np.concatenate([first.group, np.where(second.group > 0, second.group + offset, 0)]),
        group_names=first.group_names + second.group_names,
    )


def _stacked(a: ModalityData, b: ModalityData) -> ModalityData:
    entry = None
    if a.entry_measured is not None or b.entry_measured is not None:
        entry = np.concatenate([a.measured(), b.measured()])
    x, y = in_memory(a)[0], in_memory(b)[0]
    both = np.concatenate([x, y]) if isinstance(x, np.ndarray) else sp.vstack([x, y], format="csr")
    return dataclasses.replace(
        a,
        x=both,
        entry_measured=entry,
        row_of_cell=np.r_[a.row_of_cell, np.where(b.row_of_cell >= 0, b.row_of_cell + a.n_cells, -1)],
        panels=np.concatenate([a.panels, b.panels]),
        panel_of_row=np.r_[a.panel_of_row, b.panel_of_row + len(a.panels)],
        library=np.r_[a.library, b.library],
        scale=np.r_[a.scale, b.scale],
        whole=a.whole and b.whole,
        known_columns={},
        known_digest=None,
    )
