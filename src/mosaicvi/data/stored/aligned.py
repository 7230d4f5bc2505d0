"""Which row of a modality each cell of the whole is, as a MuData has noted it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

BLOCK = 1 << 20  # names compared together


def noted_rows(
    data: MuData | AnnData, name: str, a: AnnData, cells: pd.Index[str]
) -> NDArray[np.int64] | None:
    """Row of each cell, -1 where it lacks the modality, (n,); None where what is noted is not so.

    Comparing names is cheaper than looking them up, in time and in memory.

    Parameters
    ----------
    data, name, a
        The whole, and the modality.
    cells
        Names of the cells of the whole, none twice.
    """
    if not isinstance(data, MuData) or name not in data.obsmap:
        return None
    row = np.asarray(data.obsmap[name]).reshape(-1)
    return rows_if_so(row, a.obs_names, cells)


def rows_if_so(noted: NDArray[Any], own: pd.Index[str], cells: pd.Index[str]) -> NDArray[np.int64] | None:
    """Rows from 0 of rows from 1, if every name of a modality is that of the cell whose row it is said to be.

    Parameters
    ----------
    noted
        Row of each cell from 1, 0 where it lacks the modality, (n,).
    own, cells
        Names of the modality's cells, and of the n cells.
    """
    there = np.flatnonzero(noted)
    if len(noted) != len(cells) or len(there) != len(own):
        return None
    row = noted.astype(np.int64) - 1
    if row.max(initial=-1) >= len(own):
        return None
    for first in range(0, len(there), BLOCK):
        some = there[first : first + BLOCK]
        if not (own[row[some]] == cells[some]).all():
            return None
    return row
