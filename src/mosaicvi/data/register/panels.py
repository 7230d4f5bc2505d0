"""Panels: which features each cell's assay could measure, from ``varm["measured"]``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.mosaic import ModalityData
from mosaicvi.data.register.covariates import labels, likely_batch, obs_column
from mosaicvi.errors import InputError, quoted

_NOTE_KEY = "note the column of obs that does, data.uns['mosaicvi'] = {'panel_key': ...}"


def panel_column(data: MuData | AnnData, said: str | None, batch_key: str | None) -> str | None:
    """Name of the obs column of panels: the user's choice, else what `combine` noted, else the batch."""
    if said is not None:
        return said
    note = data.uns.get("mosaicvi", {})
    key = note.get("panel_key") if isinstance(note, Mapping) else None
    return str(key) if key is not None and key in data.obs else batch_key


def read_panels(
    name: str,
    a: AnnData,
    data: MuData | AnnData,
    order: NDArray[np.int64],
    key: str | None,
    *,
    of_model: bool = False,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """What each panel in use measures (P, D_m), and the panel of each row (n_m,).

    Panels that measure the same are one.

    Parameters
    ----------
    name, a
        The modality.
    data
        The user's object.
    order
        Its columns in block order.
    key
        Column of obs that names each cell's panel.
    of_model
        Whether they are data for a model, which are not registered with a column of panels.

    Raises
    ------
    InputError
        If it is not clear which cell has which panel.
    """
    if "measured" not in a.varm:
        return np.ones((1, a.n_vars), bool), np.zeros(a.n_obs, np.int64)
    columns, table = measured_table(name, a)
    if len(columns) == 1:
        return table[order].T.copy(), np.zeros(a.n_obs, np.int64)
    column = None if key is None else obs_column(data, key)
    if key is None or column is None:
        missing = "" if key is None else f" (there is no {key!r})"
        if of_model:
            raise InputError(
                f"{name}: varm['measured'] has {len(columns)} panels, and nothing says which cell has which"
                f"{missing}; {_NOTE_KEY}."
            )
        batch = likely_batch(data) if key is None else None
        perhaps = "" if batch is None else f", or perhaps batch_key={batch!r}"
        raise InputError(
            f"{name}: varm['measured'] has {len(columns)} panels; "
            f"say which obs column names each cell's panel, panel_key=...{missing}{perhaps}."
        )
    label = labels(column.reindex(a.obs_names))
    panel = np.asarray(pd.Index(columns, dtype=object).get_indexer(pd.Index(label, dtype=object)), np.int64)
    if (panel < 0).any():
        other = _NOTE_KEY if of_model else "name another column, panel_key=..."
        raise InputError(
            f"{name}: obs[{key!r}] has {quoted(dict.fromkeys(label[panel < 0]))}, which are no columns of "
            f"varm['measured'] ({quoted(columns)}); add them, or {other}."
        )
    used, panel = np.unique(panel, return_inverse=True)
    distinct, same = np.unique(table[order][:, used].T, axis=0, return_inverse=True)
    return distinct, same.ravel()[panel].astype(np.int64)


def measured_by_batch(m: ModalityData, batch: NDArray[np.int64], n_batches: int) -> NDArray[np.bool_]:
    """What the panels of each batch's cells measure, (B, D_m), by the batch of each cell (n,).

    Batches after these, which a model has not seen, are left out.
    """
    out = np.zeros((n_batches, m.n_features), bool)
    there = np.flatnonzero((m.row_of_cell >= 0) & (batch < n_batches))
    pairs = np.column_stack([batch[there], m.panel_of_row[m.row_of_cell[there]]])
    for of_batch, panel in np.unique(pairs, axis=0):
        out[of_batch] |= m.panels[panel]
    return out


def measured_table(name: str, a: AnnData) -> tuple[list[str], NDArray[np.bool_]]:
    """Names of the panels and what they measure, boolean (D_m, P), from ``varm["measured"]``."""
    raw = a.varm["measured"]
    if isinstance(raw, pd.DataFrame):
        columns, values = list(labels(raw.columns)), raw.to_numpy()
    else:
        values = np.asarray(raw.toarray() if sp.issparse(raw) else raw).reshape(a.n_vars, -1)
        columns = [str(i) for i in range(values.shape[1])]
    if not columns or len(set(columns)) != len(columns) or not _is_boolean(values):
        raise InputError(
            f"{name}: varm['measured'] is no table of True and False, features x panels; "
            "store a DataFrame of bool whose columns name the panels."
        )
    return columns, values.astype(bool)


def _is_boolean(values: NDArray[np.generic]) -> bool:
    if values.dtype == bool:
        return True
    if values.dtype.kind == "O":
        return all(isinstance(v, bool | np.bool_) for v in values.ravel())
    return values.dtype.kind in "iuf" and bool(np.isin(values, (0, 1)).all())
