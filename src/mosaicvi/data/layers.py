"""Where the values of a modality are: ``X``, a layer, or ``.raw``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from mosaicvi.data.problems import listed, problem
from mosaicvi.errors import InputError

RAW = "raw"


def layer_names(a: AnnData) -> list[str]:
    """Names of the layers, and ``"raw"`` if there is a ``.raw``."""
    return [*map(str, a.layers), *([RAW] if a.raw is not None and RAW not in a.layers else [])]


def places_in_raw(names: pd.Index[str], wanted: pd.Index[str]) -> NDArray[np.int64]:
    """Where features are among those of ``.raw``, -1 for those that it lacks or has more than once."""
    once = np.flatnonzero(~names.duplicated(keep=False))
    at = names[once].get_indexer(wanted)
    return np.where(at >= 0, once[at], -1).astype(np.int64) if len(once) else at.astype(np.int64)


def values_of(name: object, modality: str, a: AnnData, layer: str | None) -> Any:
    """``X``; a layer; or, where no layer is called so, for ``"raw"`` ``.raw`` with the features of ``X``.

    Parameters
    ----------
    name, modality
        Of the dataset and of the modality, for messages.
    a
        The modality.
    layer
        Which values; ``"X"``, where no layer is called so, or None for ``X``.

    Raises
    ------
    InputError
        There is nothing, or ``.raw`` lacks some of the features.
    """
    if layer is None or (layer == "X" and "X" not in a.layers):
        values = a.X
        if values is None:
            raise InputError(problem("no-x", name=name, modality=modality, layers=listed(layer_names(a))))
        return values
    if layer in a.layers:
        return a.layers[layer]
    if layer != RAW or a.raw is None:
        there = listed(layer_names(a))
        raise InputError(problem("no-layer", name=name, modality=modality, layer=layer, layers=there))
    at = places_in_raw(a.raw.var_names, a.var_names)
    if (at < 0).any():
        lacking = listed(a.var_names[at < 0])
        raise InputError(problem("raw-features", name=name, modality=modality, names=lacking))
    values = a.raw.X
    return values if len(at) == values.shape[1] and (at == range(len(at))).all() else values[:, at]
