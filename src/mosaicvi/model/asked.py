"""Which cells a question is about, and how many are answered at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mosaicvi.config.arguments import whole
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.registry import Registry
from mosaicvi.errors import InputError


def positions_of(
    indices: Sequence[int] | NDArray[Any] | None, mosaic: Mosaic, *, argument: str = "indices"
) -> NDArray[np.int64]:
    """Positions of the cells that a user named by position, boolean or name; `argument` is for messages."""
    if indices is None:
        return np.arange(mosaic.n_cells)
    chosen = np.atleast_1d(np.asarray(indices))
    if chosen.dtype == bool:
        if len(chosen) != mosaic.n_cells:
            raise InputError(f"{argument}: {len(chosen):,} booleans for {mosaic.n_cells:,} cells.")
        return np.flatnonzero(chosen)
    if np.issubdtype(chosen.dtype, np.floating) and (chosen == np.rint(chosen)).all():
        chosen = chosen.astype(np.int64)  # numbers that come from R are of this kind
    if chosen.size and not np.issubdtype(chosen.dtype, np.integer):
        named = mosaic.names().get_indexer(pd.Index(chosen))
        if (named < 0).any():
            raise InputError(
                f"{argument}: no cell {str(chosen[named < 0][0])!r}; give positions, booleans or obs_names."
            )
        return np.asarray(named, np.int64)
    chosen = chosen.astype(np.int64)
    if chosen.size and (chosen.min() < -mosaic.n_cells or chosen.max() >= mosaic.n_cells):
        raise InputError(f"{argument}: positions must be below {mosaic.n_cells:,}.")
    return chosen % max(mosaic.n_cells, 1)


def names_of(features: str | Sequence[str], modality: str) -> list[str]:
    """Names of features, of which there may be one."""
    chosen = [features] if isinstance(features, str) else list(features)
    if any(isinstance(one, bool | np.bool_) for one in chosen):
        raise InputError(
            f"features: names are needed, not True and False; imputed_features({modality!r}) has them."
        )
    return chosen


def no_feature(name: str, modality: str, registry: Registry) -> str:
    """The message for a feature that a modality lacks, with the modality that has it."""
    having = [other for other, of in registry.features.items() if name in of.names]
    remedy = (
        f"{having[0]!r} has it: modality={having[0]!r}" if having else f"see imputed_features({modality!r})"
    )
    return f"features: {modality} has no {name!r}; {remedy}."


def minibatch_size(batch_size: int) -> int:
    """The number of cells at a time, checked."""
    return whole("batch_size", batch_size, least=1)
