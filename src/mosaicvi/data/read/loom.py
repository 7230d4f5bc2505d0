"""The loom format: an HDF5 file with ``matrix``, features × cells, and attributes of rows and columns."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mosaicvi.data.problems import listed, problem
from mosaicvi.errors import InputError, warn

CELLS = ("CellID", "Cell", "cell_id", "cell_names", "obs_names", "Barcode", "barcode", "_index")
FEATURES = ("Gene", "gene_names", "GeneName", "Accession", "var_names", "_index")
AT_A_TIME = 512  # cells


def is_loom(file: h5py.File) -> bool:
    """Whether an HDF5 file is a loom."""
    return {"matrix", "row_attrs", "col_attrs"} <= set(file) and isinstance(file["matrix"], h5py.Dataset)


def read_loom(path: Path) -> AnnData:
    """Read the main matrix of a loom file, with its attributes as columns; layers and graphs are left.

    Raises
    ------
    InputError
        No attribute names the cells or the features.
    """
    with h5py.File(path, "r") as file:
        matrix = file["matrix"]
        blocks = [
            sparse.csr_matrix(matrix[:, at : at + AT_A_TIME].T, dtype=np.float32)
            for at in range(0, matrix.shape[1], AT_A_TIME)
        ]
        obs = _table(path, file["col_attrs"], CELLS, matrix.shape[1])
        if not obs.index.is_unique:
            warn(f"{path}: cell names of this loom are not unique; numbered instead")
            obs.index = pd.Index([f"cell{i + 1}" for i in range(len(obs))], dtype=object)
        var = _table(path, file["row_attrs"], FEATURES, matrix.shape[0])
    return AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=var)


def _table(path: Path, attributes: h5py.Group, names: tuple[str, ...], n: int) -> pd.DataFrame:
    columns: dict[str, npt.NDArray[np.generic]] = {}
    for key, value in attributes.items():
        if isinstance(value, h5py.Dataset) and value.shape == (n,):
            columns[key] = value.asstr()[:] if h5py.check_string_dtype(value.dtype) else value[:]
    named = next((key for key in names if key in columns), None)
    if named is None:
        raise InputError(
            problem(
                "loom-names", name=path, where=attributes.name, names=listed(names), there=listed(columns)
            )
        )
    index = pd.Index(columns.pop(named).astype(str), dtype=object)
    return pd.DataFrame(columns, index=index)
