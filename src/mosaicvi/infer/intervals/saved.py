"""Saved spreads -> `Spreads`, checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mosaicvi.config import NetworkConfig
from mosaicvi.errors import ModelFileError
from mosaicvi.infer.intervals.spread import LEVELS, Spread, Spreads, Table
from mosaicvi.infer.readout.views import Shown


def read_spreads(saved: Mapping[str, Any], config: NetworkConfig, folder: Path) -> Spreads:
    """Read what `Spreads.to_dict` wrote.

    Parameters
    ----------
    saved
        The values.
    config
        The network that they belong to.
    folder
        Of the model, for the message.

    Raises
    ------
    ModelFileError
        They are damaged or of another network.
    """
    sizes = dict(zip(config.uni_block_names, config.dim_input_arr, strict=True))
    try:
        parts = {}
        for one in saved["parts"]:
            features = {str(k): np.asarray(v) for k, v in one["shown"].items()}
            _need(all(v.dtype == bool and v.shape == (sizes[k],) for k, v in features.items()))
            name = str(one["modality"])
            parts[Shown.make(features), name] = _spread(one, sizes[name])
        return Spreads(parts=parts)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{folder}: its spreads do not fit the network ({reason}).") from None


def _need(holds: bool) -> None:
    if not holds:
        raise ValueError("sizes or names differ")


def _spread(one: Mapping[str, Any], d: int) -> Spread:
    table = None
    if one["table"] is not None:
        edges = np.asarray(one["table"]["edges"], np.float64)
        values = np.asarray(one["table"]["values"], np.float32)
        _need(edges.ndim == 2 and values.shape == (d, edges.shape[1] + 1, len(LEVELS)) and len(edges) == d)
        relative = np.asarray(one["table"]["relative"], bool)
        _need(relative.shape == (d,))
        table = Table(edges=edges, values=values, relative=relative)
    levels = [np.asarray(one[key], np.float64) for key in ("of_table", "of_likelihood")]
    _need(all(part.shape == LEVELS.shape and bool((np.diff(part) >= 0).all()) for part in levels))
    return Spread(table=table, of_table=levels[0], of_likelihood=levels[1])
