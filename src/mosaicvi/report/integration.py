"""How well the latent space brings together what belongs together, in numbers with their meaning."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mosaicvi import metrics
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.view.mixing import mixing_ratios

if TYPE_CHECKING:
    from mosaicvi.model import MosaicVI

MOST_CELLS = 6_000
MOST_PAIRED = 2_000
FEWEST_PAIRED = 30
FEWEST_OF_A_KIND = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One number, between 0 and 1 unless `meaning` says otherwise.

    Attributes
    ----------
    best
        The value of a perfect integration; 0 or 1.
    """

    name: str
    value: float
    best: float
    meaning: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixing:
    """How much cells of one kind have others for neighbours.

    Attributes
    ----------
    foreign
        Share of their neighbours that are of other kinds.
    expected
        What that share would be if all kinds were mixed.
    """

    kind: str
    n_cells: int
    foreign: float
    expected: float

    @property
    def ratio(self) -> float:
        """1 when mixed, 0 when apart."""
        return self.foreign / self.expected if self.expected > 0 else float("nan")


def sample(n: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most `MOST_CELLS` cells, ascending."""
    if n <= MOST_CELLS:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, 4]).choice(n, MOST_CELLS, replace=False))


def mixing_of(z: NDArray[np.float32], groups: pd.Series, *, k: int = 15) -> tuple[Mixing, ...]:
    """Mixing of each kind; empty with a single kind."""
    count = groups.astype(str).value_counts().sort_index()
    if len(count) < 2 or len(z) <= k:
        return ()
    same = np.diag(mixing_ratios(np.asarray(z, np.float64), groups, k=k).to_numpy(np.float64))
    out = []
    for i, (kind, n) in enumerate(zip(count.index.astype(str), count.to_numpy(np.int64), strict=True)):
        expected = 1 - (n - 1) / (len(z) - 1)
        own = float(same[i]) * (n - 1) / (len(z) - 1) if n > 1 else 0.0
        out.append(Mixing(kind=kind, n_cells=int(n), foreign=max(0.0, 1 - own), expected=float(expected)))
    return tuple(out)


def integration(
    z: NDArray[np.float32], batch: pd.Series, pattern: pd.Series, labels: pd.Series | None, *, seed: int = 0
) -> list[Metric]:
    """Numbers on the latent space of a sample of the cells.

    Cells whose label is missing are left out of what is said of labels, also as neighbours of others.
    """
    out: list[Metric] = []
    few = len(z) < FEWEST_OF_A_KIND
    for what, groups in (("batches", batch), ("sets of modalities", pattern)):
        if groups.nunique() < 2 or few:
            continue
        out.append(
            Metric(
                name=f"Mixing of {what}",
                value=metrics.neighbor_mixing(z, groups.to_numpy(), k=min(15, len(z) - 1)),
                best=1,
                meaning=f"Entropy of the {what} among a cell's 15 nearest neighbours, against that of all "
                "cells: 1 when every neighbourhood is composed like the whole.",
            )
        )
        perplexity = min(30.0, len(z) / 3)
        out.append(
            Metric(
                name=f"iLISI of {what}",
                value=metrics.ilisi(z, groups.to_numpy(), perplexity=perplexity),
                best=1,
                meaning=f"Effective number of {what} in a neighbourhood of about 90 cells, scaled to 0–1. "
                "Kinds of very different size cannot reach 1.",
            )
        )
    return out + ([] if labels is None else _with_labels(z, batch, labels, seed))


def _with_labels(z: NDArray[np.float32], batch: pd.Series, labels: pd.Series, seed: int) -> list[Metric]:
    known = labels.notna().to_numpy()
    z, batch, label = z[known], batch[known], labels[known].astype(str).to_numpy(object)
    if len(set(label)) < 2 or len(z) < FEWEST_OF_A_KIND:
        return []
    clusters = metrics.kmeans_ari_nmi(z, label, seeds=(seed,))
    k = min(15, len(z) - 1)
    transfer = metrics.label_transfer(z, label, batch.to_numpy(), k=k) if batch.nunique() > 1 else np.nan
    found = [
        (
            "Neighbours of the same label",
            metrics.neighbor_label_agreement(z, label, k=k),
            "Share of a cell's 15 nearest neighbours that have its label.",
        ),
        (
            "Labels carried over between batches",
            transfer,
            "Share of labels right when each batch's are read off the nearest cells of the others.",
        ),
        (
            "Clusters and labels (ARI)",
            clusters.ari,
            "Adjusted Rand index of k-means clusters, as many as labels: 0 by chance.",
        ),
        (
            "Clusters and labels (NMI)",
            clusters.nmi,
            "Mutual information of k-means clusters and labels, normalised.",
        ),
        (
            "Silhouette of labels",
            metrics.silhouette(z, label, max_cells=5_000, seed=seed),
            "How much nearer a cell is to its own label than to the next one, from −1 to 1; above 0.2 is "
            "much for cell types that grade into each other.",
        ),
    ]
    return [Metric(name=n, value=v, best=1, meaning=m) for n, v, m in found if not np.isnan(v)]


def pairing(model: MosaicVI, mosaic: Mosaic, *, seed: int = 0) -> list[Metric]:
    """Whether cells that measured two modalities are put at the same place by either alone."""
    out = []
    for a, b in combinations(mosaic.modalities, 2):
        both = np.flatnonzero((a.row_of_cell >= 0) & (b.row_of_cell >= 0))
        if len(both) < FEWEST_PAIRED:
            continue
        if len(both) > MOST_PAIRED:
            both = np.sort(np.random.default_rng([seed, 5]).choice(both, MOST_PAIRED, replace=False))
        za, zb = (latent_of(model, mosaic, both, [m.name]) for m in (a, b))
        out.append(
            Metric(
                name=f"FOSCTTM of {a.name} and {b.name}",
                value=metrics.foscttm(za, zb),
                best=0,
                meaning=f"Of {len(both):,} cells that measured both: share of other cells that lie closer to "
                f"a cell seen by {a.name} alone than the same cell seen by {b.name} alone. 0 is perfect, "
                "0.5 is chance.",
            )
        )
    return out


def latent_of(
    model: MosaicVI, mosaic: Mosaic, cells: NDArray[np.int64], modalities: list[str] | None
) -> NDArray[np.float32]:
    """Mean latent of some cells, seeing chosen modalities."""
    z = model.get_latent_representation(mosaic, indices=cells, modalities=modalities)
    assert isinstance(z, np.ndarray)
    return z
