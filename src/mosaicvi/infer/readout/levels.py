"""How the level of a modality differs between batches, on the scale of comparison.

The read-out works at the mean of the batches: from what reference cells measured the level of their batch is
taken away, and the level of the batch that is asked for is added to what is read out.

Legend: b cells, B batches, D features.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.readout.scales import Kind, on_scale

Floats = NDArray[np.floating[Any]]
EQUAL_TO_NONE = 20  # so many reference cells halve the offset of their batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The decoder's counts of some cells, at the median library, (b, D) each.

    Attributes
    ----------
    own, mean
        As each cell's own batch, and as the mean of the batches that measured the modality.
    asked
        As other batches: their shares (B,), and the counts; none for each cell's own batch.
    """

    own: Floats
    mean: Floats
    asked: tuple[tuple[Floats, Floats], ...] = ()

    def of(self, which: NDArray[np.bool_]) -> Rates:
        """Of some of the cells."""
        asked = tuple((share, rate[which]) for share, rate in self.asked)
        return Rates(own=self.own[which], mean=self.mean[which], asked=asked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """The levels of a modality that several batches measured.

    Attributes
    ----------
    known
        Which batch measured which features, boolean (B, D): of others the decoder has learnt no level.
    offset
        What the decoder's values leave of each batch's level, (B, D); on average over batches 0.
    """

    known: NDArray[np.bool_]
    offset: Floats

    def of(self, batch: NDArray[np.int64], rates: Rates, kind: Kind) -> list[Floats]:
        """Level over the mean of each batch that is asked for, of cells in batches (b,); (b, D)."""
        at_mean = on_scale(rates.mean, kind)
        if not rates.asked:
            own = np.where(self.known[batch], on_scale(rates.own, kind) - at_mean, 0.0)
            return [np.asarray(own + self.offset[batch])]
        return [
            np.where(share @ self.known > 0, on_scale(rate, kind) - at_mean, 0.0) + share @ self.offset
            for share, rate in rates.asked
        ]


def known_by_batch(mosaic: Mosaic, data: ModalityData) -> NDArray[np.bool_]:
    """Which batch measured which features, boolean (B, D)."""
    key = mosaic.registry.setup.batch_key
    known = np.zeros((0 if key is None else len(mosaic.registry.categories[key]), data.n_features), bool)
    has = np.flatnonzero(data.row_of_cell >= 0)
    pairs = np.stack([mosaic.batch[has], data.panel_of_row[data.row_of_cell[has]]], 1)
    for b, panel in np.unique(pairs, axis=0).tolist() if len(known) else ():
        known[b] |= data.panels[panel]
    return known


def offsets(batch: NDArray[np.int64], rest: Floats, measured: NDArray[np.bool_], n_batches: int) -> Floats:
    """Mean of what is left of the values of each batch (n, D), drawn towards 0 where it has few cells."""
    out = np.zeros((n_batches, rest.shape[1]))
    several = np.zeros((n_batches, rest.shape[1]), bool)
    for b in np.unique(batch):
        of = batch == b
        n = measured[of].sum(0)
        out[b] = (rest[of] * measured[of]).sum(0) / (n + EQUAL_TO_NONE)
        several[b] = n > 0
    return np.where(several, out - out.sum(0) / np.maximum(several.sum(0), 1), 0.0)
