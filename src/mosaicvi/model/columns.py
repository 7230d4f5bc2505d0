"""Columns that a user's data have of each cell, such as labels, at the time of the question."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register.covariates import obs_column
from mosaicvi.errors import InputError, quoted

# Which object each mosaic was read from, as long as both live, and what it was then; None for unknown.
_sources: dict[int, tuple[Callable[[], MuData | AnnData | None], str | None]] = {}


def remember_source(
    mosaic: Mosaic, data: MuData | AnnData, digest: str | None = None, *, keep: bool = False
) -> None:
    """Note which object a mosaic was read from, and what it was then.

    Parameters
    ----------
    mosaic, data
        The mosaic, and the object.
    digest
        What it was; None where nobody can change it.
    keep
        Whether the object is to live as long as the mosaic: where nobody else has it.
    """
    _sources[id(mosaic)] = (lambda: data) if keep else weakref.ref(data), digest
    weakref.finalize(mosaic, _sources.pop, id(mosaic), None)


def object_of(mosaic: Mosaic) -> MuData | AnnData | None:
    """The object that a mosaic was read from; None if it is gone."""
    source, _ = _sources.get(id(mosaic), (None, None))
    return None if source is None else source()


def same_source(mosaic: Mosaic, other: Mosaic) -> None:
    """Note that a mosaic was read from what another one was read from."""
    if id(other) in _sources:
        _sources[id(mosaic)] = _sources[id(other)]
        weakref.finalize(mosaic, _sources.pop, id(mosaic), None)


def digest_of(mosaic: Mosaic) -> str | None:
    """What the object was when the mosaic was read from it; None where that was not noted."""
    return _sources.get(id(mosaic), (None, None))[1]


def cells_where(data: MuData | AnnData, query: str, argument: str, cells: pd.Index[str]) -> NDArray[np.int64]:
    """Positions of the cells of which a query of `pandas.DataFrame.query` is true of the columns of obs.

    Raises
    ------
    InputError
        It cannot be read, or names a column that is not there.
    """
    tables = [data.obs, *(a.obs for a in data.mod.values())] if isinstance(data, MuData) else [data.obs]
    names = list(dict.fromkeys(str(c) for table in tables for c in table.columns))
    asked = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", query)]
    columns = {name: obs_column(data, name) for name in asked}
    obs = pd.DataFrame({name: c.reindex(cells) for name, c in columns.items() if c is not None}, index=cells)
    try:
        found = obs.query(query, local_dict={}, global_dict={}, engine="python")
    except Exception as error:  # of whatever kind, as pandas reads a little language
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{argument}: {query!r} is no query of obs ({reason}); one is \"cell_type == 'B'\", of columns "
            f"that are there: {quoted(names) or 'none'}."
        ) from error
    return np.flatnonzero(cells.isin(found.index))


def column_of(data: MuData | AnnData, key: str, argument: str, cells: pd.Index[str]) -> pd.Series[Any]:
    """A column of obs for the given cells, in their order.

    Raises
    ------
    InputError
        There is none of that name, by naming the argument and what there is.
    """
    found = obs_column(data, key)
    if found is None:
        there = [str(c) for c in data.obs.columns]
        raise InputError(f"{argument}: obs has no column {key!r}; it has {quoted(there) or 'none'}.")
    return found.reindex(cells)
