"""Where the counts of a modality are if ``X`` certainly holds none, though they are expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from mosaicvi.data.layers import RAW, layer_names, values_of
from mosaicvi.data.looks import is_whole
from mosaicvi.errors import InputError

USUALLY_COUNTS = frozenset({"rna", "gex", "adt", "atac"})
NAMES = ("counts", "raw_counts", RAW)  # of layers, and of `.raw`, that are nothing else if they are whole
LOGARITHMS = 30.0  # which logarithms of counts never reach


def counts_beside_x(modality: str, a: AnnData) -> str | None:
    """The layer, or ``"raw"``, with counts of all features, where ``X`` holds their logarithms or z-scores.

    Parameters
    ----------
    modality
        Its name, by which counts are expected or not.
    a
        The modality.

    Returns
    -------
    None wherever there may be doubt: other values in ``X``, some that are missing, or no whole counts.
    """
    if modality.lower() not in USUALLY_COUNTS or not _is_made_of_counts(a.X):
        return None
    for layer in (name for name in NAMES if name in layer_names(a)):
        try:
            values = values_of("the data", modality, a, layer)
        except InputError:  # `.raw` has other features
            continue
        if _in_memory(values) and is_whole(values) and not _has_gaps(values) and values.max() > 0:
            return layer
    return None


def taken(modality: str, layer: str) -> str:
    """What to say where counts are taken from elsewhere than ``X``."""
    where = ".raw" if layer == RAW else f"layer {layer!r}"
    return (
        f"Modality {modality!r}: values of X look normalised already; the counts in {where} are taken, "
        f"as by layers={{{modality!r}: {layer!r}}}"
    )


def settled_layers(
    mods: Mapping[str, AnnData], layers: Mapping[str, str], *, meant: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """The layer of each modality that is not read from ``X``, and those that nobody named.

    Parameters
    ----------
    mods
        The modalities.
    layers
        Layers that the user named; ``"X"`` is ``X``.
    meant
        Modalities of which the user said what the values are, so that ``X`` is meant.
    """
    found = {
        name: layer
        for name, a in mods.items()
        if name not in layers and name not in meant
        if (layer := counts_beside_x(name, a)) is not None
    }
    named = {name: layer for name, layer in layers.items() if name not in mods or not is_x(mods[name], layer)}
    return named | found, found


def is_x(a: AnnData, layer: str | None) -> bool:
    """Whether a layer's name means ``X``."""
    return layer is None or (layer == "X" and "X" not in a.layers)


def _in_memory(x: Any) -> bool:
    return isinstance(x, np.ndarray | sp.csr_matrix | sp.csc_matrix) and x.dtype.kind in "biuf"


def _has_gaps(x: Any) -> bool:
    return bool(np.isnan(x.data if sp.issparse(x) else x).any()) if x.dtype.kind == "f" else False


def _is_made_of_counts(x: Any) -> bool:
    """Whether values are fractions such as counts become by a logarithm, scaled or as shares of cells."""
    if x is None or not _in_memory(x) or 0 in x.shape or is_whole(x) or _has_gaps(x):
        return False
    if x.min() < 0 or x.max() < LOGARITHMS:
        return True
    sums = np.asarray(x.sum(axis=1), np.float64).ravel()
    sums = sums[sums > 0]
    return bool(len(sums) > 1 and x.shape[1] > 1 and sums.std() < 1e-3 * sums.mean())
