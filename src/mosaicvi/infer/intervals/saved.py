"""Saved spreads -> `Spreads`, checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mosaicvi.config import NetworkConfig
from mosaicvi.infer.intervals.spread import LEVELS, SHARES, Spread, Spreads, Table
from mosaicvi.infer.readout.views import Shown
from mosaicvi.store.parts import fitting_the_network, need


def read_spreads(saved: Mapping[str, Any], config: NetworkConfig, folder: Path) -> Spreads | None:
    """Read what `Spreads.to_dict` wrote, as `fitting_the_network`; None of an earlier kind."""
    sizes = dict(zip(config.uni_block_names, config.dim_input_arr, strict=True))
    with fitting_the_network(folder, "its spreads do not fit"):
        if any("stretch_of_features" not in one for one in saved["parts"]):
            return None
        parts = {}
        for one in saved["parts"]:
            name = str(one["modality"])
            parts[Shown.from_dict(one["shown"], sizes), name] = _spread(one, sizes[name])
        return Spreads(parts=parts)


def _spread(one: Mapping[str, Any], d: int) -> Spread:
    tables = tuple(_table(table, d) for table in one["tables"])
    shift, stretch, of_features, of_likelihood, by_feature = (
        np.asarray(one[key], np.float64)
        for key in ("shift", "stretch", "stretch_of_features", "of_likelihood", "stretch_of_likelihood")
    )
    table_of, known = np.asarray(one["table_of"], np.int64), np.asarray(one["known"], bool)
    need(table_of.ndim == 1 and known.shape == shift.shape == (len(table_of), d) and len(table_of) > 0)
    need(stretch.shape == (len(tables), len(SHARES)) and of_features.shape == (len(tables), d))
    need(not tables or bool((table_of >= 0).all()))
    need(not tables or int(table_of.max()) < len(tables))
    need(of_likelihood.shape == (2, len(LEVELS)) and by_feature.shape == (2, d))
    need(bool((np.diff(of_likelihood, axis=-1) >= 0).all()))
    need(bool((stretch > 0).all() and (of_features > 0).all() and (by_feature > 0).all()))
    return Spread(
        tables=tables,
        table_of=table_of,
        shift=shift,
        stretch=stretch,
        stretch_of_features=of_features,
        known=known,
        of_likelihood=of_likelihood,
        stretch_of_likelihood=by_feature,
    )


def _table(one: Mapping[str, Any], d: int) -> Table:
    edges = np.asarray(one["edges"], np.float64)
    values = np.asarray(one["values"], np.float32)
    need(edges.ndim == 2 and values.shape == (d, edges.shape[1] + 1, len(LEVELS)) and len(edges) == d)
    relative = np.asarray(one["relative"], bool)
    need(relative.shape == (d,))
    return Table(edges=edges, values=values, relative=relative)
