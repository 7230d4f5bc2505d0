"""By how much the values of a batch lie above those of cells of their kind elsewhere, for the encoder.

Antibodies differ by laboratory, and so does what cells of one type have of a protein. The encoder sees values
without that; the decoder answers on each batch's own scale. A mean over cells does not tell it, as batches
hold other kinds of cells. So values are taken for a mixture of kinds: of whose cells each batch has a share
of its own, and in which each batch is shifted by a level, drawn towards none. Kinds and levels are found in
turns (expectation maximisation). What the kinds explain is not taken for a level: cells of a kind that no
other batch holds stay where they are.

Legend: n cells, B batches, D features, C kinds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from mosaicvi.data.blocks import is_dense
from mosaicvi.data.mosaic import ModalityData

Floats = NDArray[np.floating[Any]]
FEWEST_CELLS = 50  # of a batch, from which its level can be told
MOST_CELLS = 20_000  # from which levels are found
KINDS = 5, 20  # one after the other
ROUNDS, CLOSE = 40, 1e-3
SPREAD_OF_LEVELS = 0.5  # before any cell is seen, in logarithms
DECIMALS = 4  # so that the same data have the same levels whatever the threads and the machine
CELLS_THAT_COUNT = 200  # of a batch against that
FIRST_VARIANCE, NARROWEST = 0.3, 0.05  # of a kind, where that of all cells is 1


def input_levels(
    modalities: Sequence[ModalityData], batch: NDArray[np.int64], n_batches: int
) -> dict[str, NDArray[np.float32]]:
    """Levels (B, D) of each modality whose counts are seen as centred log ratios, in logarithms.

    They are rounded to four decimals: sums differ in the last digit between machines and numbers of threads,
    and training goes on to the bit, and by several processes alike, only where the levels are the same.
    Batches with fewer than fifty cells of a modality have none (0), as have features that a batch did not
    measure. Modalities of fewer than two such batches are left out, as are dense values, which are no counts.

    Parameters
    ----------
    modalities
        As registered.
    batch
        Batch of each cell of the mosaic.
    n_batches
        How many there are.
    """
    found = {}
    for data in modalities:
        if data.transform != "clr" or data.entry_measured is not None or is_dense(data.x):
            continue
        has = np.flatnonzero(data.row_of_cell >= 0)
        large = np.flatnonzero(np.bincount(batch[has], minlength=n_batches) >= FEWEST_CELLS)
        if len(large) < 2:
            continue
        values, code = _some_of_each(data, batch, large)
        levels = np.zeros((n_batches, data.n_features), np.float32)
        levels[large] = np.round(levels_of(values, code, len(large)), DECIMALS) + 0.0  # no -0
        found[data.name] = levels
    return found


def _some_of_each(
    data: ModalityData, batch: NDArray[np.int64], large: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64]]:
    """Centred logarithms of some cells of each batch (n, D), NaN for what was not measured; their batch."""
    rng = np.random.default_rng(0)
    most, has = max(FEWEST_CELLS, MOST_CELLS // len(large)), np.flatnonzero(data.row_of_cell >= 0)
    by_batch = has[np.argsort(batch[has], kind="stable")]
    first, end = (np.searchsorted(batch[by_batch], large, side=side) for side in ("left", "right"))
    chosen = [np.sort(rng.permutation(by_batch[a:b])[:most]) for a, b in zip(first, end, strict=True)]
    rows = data.row_of_cell[np.concatenate(chosen)]
    x: Any = data.x[rows]
    log = np.log1p(x.toarray()).astype(np.float64)
    measured = data.panels[data.panel_of_row[rows]]
    log -= (log.sum(1) / np.maximum(measured.sum(1), 1))[:, None]
    return np.where(measured, log, np.nan), np.repeat(np.arange(len(large)), [len(c) for c in chosen])


@dataclasses.dataclass(kw_only=True)
class _Kinds:
    """Share of each batch in each kind (B, C); mean and variance of the kinds, (C, D) each."""

    share: Floats
    mean: Floats
    variance: Floats

    def of(self, x: Floats, measured: Floats, code: NDArray[np.int64]) -> Floats:
        """Probability of each kind for cells without the level of their batch, (n, C)."""
        precision = 1 / self.variance
        distance = x**2 @ precision.T - 2 * x @ (self.mean * precision).T
        distance += measured @ (self.mean**2 * precision + np.log(self.variance)).T
        log = np.log(self.share[code]) - distance / 2
        weight = np.exp(log - log.max(1, keepdims=True))
        return np.asarray(weight / weight.sum(1, keepdims=True))

    def learn(self, x: Floats, measured: Floats, weight: Floats) -> None:
        """Mean and variance by weighted cells."""
        n = weight.T @ measured
        known, n = n > 1e-6, np.maximum(n, 1e-6)
        mean = weight.T @ x / n
        variance = weight.T @ x**2 / n - mean**2
        self.mean = np.where(known, mean, self.mean)
        self.variance = np.where(known, np.maximum(variance, NARROWEST), self.variance)


def levels_of(values: Floats, code: NDArray[np.int64], n_batches: int) -> Floats:
    """Levels of batches (B, D) whose mean over the batches that measured a feature is 0.

    The mean of those found with few kinds, of which no batch can have its own, and from there with more, by
    which kinds that are alike are told apart.

    Parameters
    ----------
    values
        (n, D), NaN for what was not measured.
    code
        Batch of each cell, (n,); each has some.
    n_batches
        B.
    """
    there = ~np.isnan(values)
    n_d = np.maximum(there.sum(0), 1)
    centre = np.where(there, values, 0.0).sum(0) / n_d
    spread = np.sqrt(np.maximum((np.where(there, values - centre, 0.0) ** 2).sum(0) / n_d, 1e-12))
    x = np.where(there, (values - centre) / spread, 0.0)
    levels: Floats = np.zeros((n_batches, x.shape[1]))
    found = []
    for n_kinds in KINDS:
        levels = _settled(x, there.astype(np.float64), code, levels, min(n_kinds, len(x)), spread)
        found.append(levels)
    return np.asarray(np.mean(found, 0) * spread)


def _settled(
    x: Floats, measured: Floats, code: NDArray[np.int64], levels: Floats, n_kinds: int, spread: Floats
) -> Floats:
    """Levels (B, D) of standardised values after rounds that begin at some, with so many kinds."""
    size, n = np.bincount(code), len(code)
    of_batch = sp.csr_matrix((np.ones(n), (code, np.arange(n))), (len(levels), n))
    even = (1 / np.sqrt(size))[code][:, None]  # so that a large batch does not decide alone what a kind is
    trusted = np.minimum(1.0, CELLS_THAT_COUNT / size)[:, None]
    measured_by = of_batch @ measured > 0
    without = (x - levels[code]) * measured
    start = KMeans(n_kinds, n_init=3, random_state=0).fit(without)
    kinds = _Kinds(
        share=np.full((len(levels), n_kinds), 1 / n_kinds),
        mean=start.cluster_centers_,
        variance=np.full((n_kinds, x.shape[1]), FIRST_VARIANCE),
    )
    for _ in range(ROUNDS):
        kind = kinds.of(without, measured, code)
        kinds.share = (of_batch @ kind + 1) / (size + n_kinds)[:, None]
        kinds.learn(without, measured, kind * even)
        precision = (kind @ (1 / kinds.variance)) * measured
        pull = precision * x - (kind @ (kinds.mean / kinds.variance)) * measured
        before, levels = levels, trusted * (of_batch @ pull)
        levels /= trusted * (of_batch @ precision) + (spread / SPREAD_OF_LEVELS) ** 2
        levels -= measured_by * (levels.sum(0) / np.maximum(measured_by.sum(0), 1))
        without = (x - levels[code]) * measured
        if np.abs(levels - before).max() < CLOSE:
            break
    return levels
