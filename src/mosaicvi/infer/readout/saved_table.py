"""The saved read-out of a table -> `TableReadOut`, checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mosaicvi.infer.readout.regression import Linear
from mosaicvi.infer.readout.table import QUANTILES, Differences, Floats, TablePart, TableReadOut
from mosaicvi.store.parts import need


def read_table(saved: Mapping[str, Any], d: int, n_batches: int) -> TableReadOut:
    """Read what `TableReadOut.to_dict` wrote.

    Parameters
    ----------
    saved, d, n_batches
        The values, and the numbers of features and of batches, at least 1.

    Raises
    ------
    ValueError
        Arrays do not go together.
    """
    of = saved["differences"]
    found = TableReadOut(
        differences=Differences(
            level=_floats(of["level"]),
            known=np.asarray(of["known"], bool),
            weight=_floats(of["weight"]),
            spread=_floats(of["spread"]),
        ),
        patterns=np.asarray(saved["patterns"], bool),
        pattern_of_batch=np.asarray(saved["pattern_of_batch"], np.int64),
        parts=tuple(_part(one) for one in saved["parts"]),
        weights=_floats(saved["weights"]),
        reference=np.asarray(saved["reference"], np.float32),
        taught=np.asarray(saved["taught"], bool),
        quantiles=_floats(saved["quantiles"]),
        earlier=None if saved.get("earlier") is None else read_table(saved["earlier"], d, n_batches),
        of_earlier=np.asarray(saved.get("of_earlier", ()), bool),  # older ones know none
    )
    need(len(found.differences.level) == n_batches + 1)
    _check(found, d)
    return found


def _floats(value: Any) -> Floats:
    found = np.asarray(value, np.float64)
    need(bool(np.isfinite(found).all()))
    return found


def _part(one: Mapping[str, Any]) -> TablePart:
    return TablePart(
        pattern=int(one["pattern"]),
        features=np.asarray(one["features"], np.int64),
        columns=np.asarray(one["columns"], np.int64),
        axes=_floats(one["axes"]),
        near_axes=_floats(one["near_axes"]),
        ridge=Linear(weight=_floats(one["ridge"]["weight"]), intercept=_floats(one["ridge"]["intercept"])),
        error=_floats(one["error"]),
        cells=np.asarray(one["cells"], bool),
    )


def _check(table: TableReadOut, d: int) -> None:
    of = table.differences
    rows = len(of.level)
    need(rows > 1 and of.level.shape == of.known.shape == (rows, d))
    need(of.weight.shape == (d,) and of.spread.shape == (rows,))
    need(bool((of.weight > 0).all() and (of.spread > 0).all()))
    need(table.of_earlier.shape == (0 if table.earlier is None else rows,))
    n = len(table.patterns)
    need(table.patterns.shape == (n, d) and table.pattern_of_batch.shape == (rows,))
    need(bool(((table.pattern_of_batch >= 0) & (table.pattern_of_batch < n)).all()))
    need(table.weights.shape == (2, 3) and table.quantiles.shape == (2, len(QUANTILES)))
    need(bool((np.diff(table.quantiles) >= 0).all()))
    need(table.reference.shape == table.taught.shape == (len(table.reference), d))
    need(bool(np.isfinite(table.reference).all()))
    for part in table.parts:
        g, (c, p) = len(part.features), part.axes.shape
        need(0 <= part.pattern < n and part.features.shape == part.error.shape == (g,))
        need(part.columns.shape == (c,) and part.near_axes.shape == (c, p))
        for at in (part.features, part.columns):
            need(bool(((at >= 0) & (at < d)).all()))
        need(part.ridge.weight.shape == (p, g) and part.ridge.intercept.shape == (g,))
        need(not len(table.reference) or part.cells.shape == (len(table.reference),))
        need(bool(part.cells.any() and (part.error > 0).all()))
