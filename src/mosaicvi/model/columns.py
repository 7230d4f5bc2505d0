"""Columns that a user's data have of each cell, such as labels, at the time of the question."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pandas as pd
from anndata import AnnData
from mudata import MuData

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
