"""The latent of many cells -> an .h5mu without values, some cells at a time.

mudata writes all that does not grow with the cells; what does is put in its place piece by piece.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.data.stored.names import plain
from mosaicvi.data.stored.parked import let_go

PIECE = 1 << 18  # cells


def write_embedded(path: Path, mdata: MuData, cells: slice, latent: NDArray[np.float32], key: str) -> None:
    """Write some cells, their columns, and their latent as ``obsm[key]``.

    Parameters
    ----------
    path
        The file, which is not there.
    mdata
        The cells, and features, without values.
    cells
        Which of them.
    latent
        Of these, (n, K).
    key
        Its name.
    """
    obs = mdata.obs.iloc[cells]
    with mudata_as_it_is():
        _empty(mdata).write_h5mu(path)
    with h5py.File(path, "r+") as file:
        _write_cells(file, obs)
        _write_rows(file["obsm"], key, latent)
        for name, a in mdata.mod.items():
            row = np.asarray(mdata.obsmap[name])[cells].reshape(-1)
            there = row > 0
            _write_cells(file[f"mod/{name}"], a.obs.iloc[row[there].astype(np.int64) - 1])
            _write_rows(file["obsm"], name, there)
            _write_rows(file["obsmap"], name, np.where(there, np.cumsum(there), 0).astype(np.uint32))


def _empty(mdata: MuData) -> MuData:
    """The same without cells."""
    mods = {}
    for name, a in mdata.mod.items():
        obs = a.obs.iloc[:0].set_index(plain(a.obs_names[:0]))
        mods[name] = AnnData(obs=obs, var=a.var, varm=dict(a.varm), uns=dict(a.uns))
    out = MuData(mods)
    out.uns = dict(mdata.uns)
    return out


def _write_cells(group: Any, obs: pd.DataFrame) -> None:
    """Put a table of cells in the place of the one that is there, as anndata writes it."""
    if "obs" in group:
        del group["obs"]
    order = [str(column) for column in obs.columns]
    out = group.create_group("obs")
    out.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
    out.attrs["column-order"] = np.array(order, dtype=h5py.string_dtype())
    for column in order:
        values = obs[column].array
        is_plain = isinstance(values, pd.arrays.NumpyExtensionArray)
        write_elem(out, column, values.to_numpy() if is_plain else values)
    names = out.create_dataset("_index", (len(obs),), h5py.string_dtype())
    names.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    for first in range(0, len(obs), PIECE):
        names[first : first + PIECE] = np.asarray(plain(obs.index[first : first + PIECE]), object)
    let_go()


def _write_rows(group: Any, key: str, rows: NDArray[Any]) -> None:
    """An array some rows at a time, as anndata writes it."""
    if key in group:
        del group[key]
    out = group.create_dataset(key, rows.shape, rows.dtype)
    out.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for first in range(0, len(rows), PIECE):
        out[first : first + PIECE] = rows[first : first + PIECE]
        let_go()
