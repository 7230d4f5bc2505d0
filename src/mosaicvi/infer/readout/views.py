"""What can be seen of a cell: which modalities, and which of their features."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.blocks import distinct_rows
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.store.parts import need

MOST_VIEWS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """Features that can be seen, boolean (D_m,) of each modality of which any can.

    The name of each comes first, so that two are equal if they show the same.
    """

    of: tuple[tuple[str, bytes], ...]

    @classmethod
    def make(cls, features: dict[str, NDArray[np.bool_]]) -> Shown:
        """From a mask of each modality."""
        return cls(of=tuple((name, mask.tobytes()) for name, mask in features.items() if mask.any()))

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], sizes: Mapping[str, int]) -> Shown:
        """From saved masks; `ValueError` if they are not of modalities of these sizes."""
        masks = {str(name): np.asarray(mask) for name, mask in saved.items()}
        need(all(v.dtype == bool and v.shape == (sizes[name],) for name, v in masks.items()))
        return cls.make(masks)

    @property
    def features(self) -> dict[str, NDArray[np.bool_]]:
        """Mask of each modality of which something is shown."""
        return {name: np.frombuffer(mask, bool).copy() for name, mask in self.of}

    def only(self, modalities: Collection[str] | None) -> Shown:
        """The same with some modalities out of sight."""
        if modalities is None:
            return self
        return Shown(of=tuple(pair for pair in self.of if pair[0] in modalities))


def shown_of_cells(mosaic: Mosaic) -> tuple[NDArray[np.int64], list[Shown]]:
    """What is shown of each cell, as a position (n,) in a list without repetitions.

    Single entries that are missing count as shown.
    """
    columns = []
    for data in mosaic.modalities:
        row = data.row_of_cell
        panel = np.full(len(row), -1, np.int32)
        has = row >= 0
        panel[has] = 0 if data.entry_measured is not None else data.panel_of_row[row[has]]
        columns.append(panel)
    distinct, code = distinct_rows(np.stack(columns, 1))
    views = []
    for line in distinct.tolist():
        masks = {}
        for data, panel in zip(mosaic.modalities, line, strict=True):
            if panel >= 0:
                whole = np.ones(data.n_features, bool)
                masks[data.name] = whole if data.entry_measured is not None else data.panels[panel]
        views.append(Shown.make(masks))
    return code, views


def panels_of_cells(mosaic: Mosaic) -> tuple[NDArray[np.int64], list[Shown]]:
    """The same, as if every feature of a cell's panel had been measured."""
    parts = tuple(dataclasses.replace(data, entry_measured=None) for data in mosaic.modalities)
    return shown_of_cells(dataclasses.replace(mosaic, modalities=parts))


def views_to_teach(mosaic: Mosaic) -> dict[Shown, NDArray[np.int64]]:
    """What may be shown of a cell, and the cells of which just that is shown.

    What remains of them when a modality is hidden, to see how well it is imputed, is among it.
    """
    code, views = shown_of_cells(mosaic)
    cells_of = {view: np.flatnonzero(code == i) for i, view in enumerate(views)}
    for view in views:
        for name in view.features:
            less = view.only([other for other in view.features if other != name])
            if less.of:
                cells_of.setdefault(less, np.zeros(0, np.int64))
    return dict(list(cells_of.items())[:MOST_VIEWS])
