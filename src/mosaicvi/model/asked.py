"""What a question is about: cells, a modality, features and libraries; how many cells at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mosaicvi.config import NetworkConfig
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


class Asked:
    """What a model finds of the names and numbers in a question."""

    mosaic: Mosaic
    config: NetworkConfig

    def imputed_features(self, modality: str) -> pd.Index[str]:
        """Names of a modality's features in the order of imputed values, that of the training data."""
        features = self.mosaic.registry.features[self.config.uni_block_names[self._position(modality)]]
        names: pd.Index[str] = pd.Index(features.names)
        return names[np.argsort(features.order, kind="stable")]

    def _places(self, modality: str, features: Sequence[str]) -> NDArray[np.int64]:
        """Positions of features among `imputed_features`."""
        chosen = names_of(features, modality)
        at = self.imputed_features(modality).get_indexer(pd.Index(chosen, dtype=object))
        if (at < 0).any():
            absent = chosen[int(np.flatnonzero(at < 0)[0])]
            raise InputError(no_feature(absent, modality, self.mosaic.registry))
        return np.asarray(at, np.int64)

    def _position(self, modality: str) -> int:
        """Position of a modality among those of the model."""
        if modality not in self.config.uni_block_names:
            raise InputError(
                f"No modality {modality!r}; the model has {', '.join(self.config.uni_block_names)}."
            )
        return self.config.uni_block_names.index(modality)

    def _libraries(self, m: int, library: float | ArrayLike | None, n: int) -> NDArray[np.float64] | None:
        """Library of each of n cells; None where the modality has none."""
        name = self.config.uni_block_names[m]
        if not self.config.library_aware[m]:
            if library is not None:
                raise InputError(f"library: {name} has none; leave it out.")
            return None
        given = self.mosaic.registry.median_library[name] if library is None else library
        try:
            found = np.broadcast_to(np.asarray(given, np.float64), (n,))
        except (TypeError, ValueError):
            raise InputError(f"library: give one number, or one for each of the {n:,} cells.") from None
        if not (np.isfinite(found) & (found > 0)).all():
            bad = found[~(np.isfinite(found) & (found > 0))][0]
            raise InputError(f"library: must be > 0, not {bad!s}.")
        return found

    def _seen(self, modalities: Collection[str] | None) -> Collection[str] | None:
        """Names of the modalities that cells show, of which there may be one; None for all."""
        if modalities is None:
            return None
        names = [modalities] if isinstance(modalities, str) else list(modalities)
        for name in names:
            self._position(name)
        return names
