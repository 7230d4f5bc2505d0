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
from mosaicvi.data.register.panels import measured_by_batch
from mosaicvi.infer.readout.scales import Kind, on_scale

Floats = NDArray[np.floating[Any]]
AS_ALL = 1.0  # how much the trust of a feature is drawn towards that of all


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The decoder's counts of some cells, at the median library, (b, D) each.

    Attributes
    ----------
    own, mean
        As each cell's own batch, and as the mean of the batches that measured the modality.
    share
        Of batches in each cell's own, (b, B): 1 for one of them, or a mean where its own is not known.
    asked
        As other batches: their shares (B,), and the counts; none for each cell's own batch.
    """

    own: Floats
    mean: Floats
    share: Floats
    asked: tuple[tuple[Floats, Floats], ...] = ()

    def of(self, which: NDArray[np.bool_]) -> Rates:
        """Of some of the cells."""
        asked = tuple((share, rate[which]) for share, rate in self.asked)
        return Rates(own=self.own[which], mean=self.mean[which], share=self.share[which], asked=asked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """The levels of a modality that several batches measured.

    Attributes
    ----------
    known
        Which batch measured which features, boolean (B, D): of others the decoder has learnt no level.
    trust
        Which share of the decoder's difference between batches cells bear out that no training saw, (D,).
    offset
        What that leaves of each batch's level, (B, D).
    """

    known: NDArray[np.bool_]
    trust: Floats
    offset: Floats

    def with_more(self, n_batches: int) -> Levels:
        """The same where there are more batches, of which nothing is known."""
        more = (0, n_batches - len(self.known)), (0, 0)
        return dataclasses.replace(self, known=np.pad(self.known, more), offset=np.pad(self.offset, more))

    def of(self, rates: Rates, kind: Kind) -> list[Floats]:
        """Level over the mean of each batch that is asked for, (b, D)."""
        at_mean = on_scale(rates.mean, kind)
        out: list[Floats] = []
        for share, rate in rates.asked or ((rates.share, rates.own),):
            step = np.where(share @ self.known > 0, on_scale(rate, kind) - at_mean, 0.0)
            out.append(np.asarray(self.trust * step + share @ self.offset))
        return out


def known_by_batch(mosaic: Mosaic, data: ModalityData) -> NDArray[np.bool_]:
    """Which batch measured which features, boolean (B, D)."""
    key = mosaic.registry.setup.batch_key
    n_batches = 0 if key is None else len(mosaic.registry.categories[key])
    known = np.zeros((n_batches, data.n_features), bool)
    if data.entry_measured is None:
        return measured_by_batch(data, mosaic.batch, n_batches) if n_batches else known
    has = np.flatnonzero(data.row_of_cell >= 0)
    for b in range(n_batches):
        known[b] = data.entry_measured[data.row_of_cell[has[mosaic.batch[has] == b]]].any(0)
    return known


def trust(step_nd: Floats, rest_nd: Floats) -> Floats:
    """Share of the decoder's steps between batches that is in what is left of the values, 0 to 1, (D,).

    A regression through the origin for each feature, drawn towards that of all features.
    """
    both, square = (step_nd * rest_nd).sum(0), (step_nd**2).sum(0)
    of_all = np.clip(both.sum() / max(square.sum(), 1e-12), 0, 1)
    weight = AS_ALL * square.mean() + 1e-12
    return np.asarray(np.clip((both + weight * of_all) / (square + weight), 0, 1))


def offsets(batch: NDArray[np.int64], rest_nd: Floats, measured: NDArray[np.bool_], n_batches: int) -> Floats:
    """Mean of what is left of the values of each batch, less as far as that may be chance, (B, D).

    Drawn towards 0 as by empirical Bayes: by the share of the variance between batches that the variance
    within them does not explain (DerSimonian & Laird, Controlled Clinical Trials 1986). Cells of batches
    after these, which a model has not seen, say nothing.
    """
    seen = batch < n_batches
    batch, rest_nd, measured = batch[seen], rest_nd[seen], measured[seen]
    code = np.arange(n_batches)[:, None] == batch
    n = code @ measured.astype(np.float64)
    there = n > 0
    mean = (code @ (rest_nd * measured)) / np.maximum(n, 1)
    within = (((rest_nd - mean[batch]) * measured) ** 2).sum(0) / np.maximum(n.sum(0) - there.sum(0), 1)
    chance = within / np.maximum(n, 1)
    mean = np.where(there, mean - mean.sum(0) / np.maximum(there.sum(0), 1), 0.0)
    freedom = np.maximum(there.sum(0) - 1, 1)
    expected = (chance * there).sum(0) * freedom / np.maximum(there.sum(0), 1)
    between = np.maximum(((mean**2).sum(0) - expected) / freedom, 0.0)
    return np.asarray(mean * between / (between + chance + 1e-12))
