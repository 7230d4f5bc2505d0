"""Saved spreads -> `Spreads`, checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mosaicvi.config import NetworkConfig
from mosaicvi.infer.intervals.spread import LEVELS, Spread, Spreads, Table
from mosaicvi.infer.readout.views import Shown
from mosaicvi.store.parts import fitting_the_network, need


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
    with fitting_the_network(folder, "its spreads do not fit"):
        parts = {}
        for one in saved["parts"]:
            name = str(one["modality"])
            parts[Shown.from_dict(one["shown"], sizes), name] = _spread(one, sizes[name])
        return Spreads(parts=parts)


def _spread(one: Mapping[str, Any], d: int) -> Spread:
    table = None
    if one["table"] is not None:
        edges = np.asarray(one["table"]["edges"], np.float64)
        values = np.asarray(one["table"]["values"], np.float32)
        need(edges.ndim == 2 and values.shape == (d, edges.shape[1] + 1, len(LEVELS)) and len(edges) == d)
        relative = np.asarray(one["table"]["relative"], bool)
        need(relative.shape == (d,))
        table = Table(edges=edges, values=values, relative=relative)
    shift, of_table, of_likelihood = (
        np.asarray(one[key], np.float64) for key in ("shift", "of_table", "of_likelihood")
    )
    need(of_table.ndim == 2 and of_table.shape[1:] == of_likelihood.shape == LEVELS.shape)
    need(table is None or shift.shape == (len(of_table), d))
    need(all(bool((np.diff(part, axis=-1) >= 0).all()) for part in (of_table, of_likelihood)))
    return Spread(table=table, shift=shift, of_table=of_table, of_likelihood=of_likelihood)
