"""Long tables, a line for each value: gene, cell, count (umi_tools) or sample, assay, NPX (Olink)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mosaicvi.data.problems import problem
from mosaicvi.data.read.names import CELL_HEADERS, FEATURE_HEADERS, VALUE_HEADERS, plain
from mosaicvi.errors import InputError, warn

READABLE = ("assay", "gene", "genes", "genename", "genesymbol", "symbol", "protein")


@dataclass(frozen=True, kw_only=True)
class LongColumns:
    """The columns of a long table: one of cells, those that name features, one of values."""

    cell: str
    features: tuple[str, ...]
    value: str


def long_columns(frame: pd.DataFrame) -> LongColumns | None:
    """What the columns of a long table are; None for a table that is not long.

    It is long if the headers name cells, features and values, and the cells occur more than once.
    """
    found: dict[str, list[str]] = {"cell": [], "feature": [], "value": []}
    for column in frame.columns:
        for kind, known in (("cell", CELL_HEADERS), ("feature", FEATURE_HEADERS), ("value", VALUE_HEADERS)):
            if plain(column) in known:
                found[kind].append(str(column))
    cells, features, values = found.values()
    if not (cells and features and len(values) == 1) or not pd.api.types.is_numeric_dtype(frame[values[0]]):
        return None
    if frame[cells[0]].is_unique and len(frame) > 1 and frame[features[0]].is_unique:
        return None
    readable = sorted(features, key=lambda name: (plain(name) not in READABLE, "id" in plain(name)))
    return LongColumns(cell=cells[0], features=tuple(readable), value=values[0])


def read_long(path: Path, frame: pd.DataFrame, columns: LongColumns) -> AnnData:
    """Cells × features from a line for each value.

    What has no line is 0 among whole numbers, and missing among others. Features are named by the first
    column with which no value comes twice.

    Raises
    ------
    InputError
        A cell has two values of one feature.
    """
    cells = pd.Categorical(frame[columns.cell].astype(str))
    for name in columns.features:
        features = pd.Categorical(frame[name].astype(str))
        pair = cells.codes.astype(np.int64) * len(features.categories) + features.codes
        if len(np.unique(pair)) == len(pair):
            break
    else:
        raise InputError(problem("long-twice", name=path, cell=columns.cell, feature=columns.features[0]))
    shape = len(cells.categories), len(features.categories)
    values = frame[columns.value].to_numpy(np.float32)
    whole = bool(((values >= 0) & (values == np.rint(values))).all())
    x_nd: sparse.csr_matrix | np.ndarray[tuple[int, int], np.dtype[np.float32]]
    if whole:
        x_nd = sparse.csr_matrix((values, (cells.codes, features.codes)), shape=shape)
    else:
        x_nd = np.full(shape, np.nan, np.float32)
        x_nd[cells.codes, features.codes] = values
    warn(
        f"{path}: read as a long table, {columns.value!r} of {name!r} in {columns.cell!r}: "
        f"{shape[0]:,} cells, {shape[1]:,} features; what has no line is {'0' if whole else 'missing'}."
    )
    index = (pd.Index(c.categories, dtype=object) for c in (cells, features))
    return AnnData(x_nd, obs=pd.DataFrame(index=next(index)), var=pd.DataFrame(index=next(index)))
