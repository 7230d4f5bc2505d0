"""The labelled cells: who of them is near, and how far from all of them a cell lies.

Legend: n labelled cells, q others, K latent, L labels, k neighbours.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import NearestNeighbors

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

MOST_NEIGHBOURS = 60
CHUNK = 2_000_000  # coordinates of neighbours at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Near:
    """The nearest labelled cells of some cells, nearest first.

    Attributes
    ----------
    code
        Their labels, (q, k).
    apart
        Squared distance, each coordinate in units of both cells' posterior variance, (q, k).
    """

    code: Ints
    apart: Floats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Labelled cells in the latent.

    Attributes
    ----------
    place, width
        Mean and variance of their posteriors, (n, K) each.
    code
        Label, from 0 to L - 1, (n,).
    batch
        Batch, (n,).
    share
        Of each label among them, (L,).
    centres
        Mean place of each label, (L, K).
    whitening
        A square root of the inverse of the covariance within labels, (K, K).
    """

    place: Floats
    width: Floats
    code: Ints
    batch: Ints
    share: Floats
    centres: Floats
    whitening: Floats

    @classmethod
    def of(cls, place: Floats, width: Floats, code: Ints, batch: Ints) -> Reference:
        """From what is known of the cells; every label from 0 to the highest occurs."""
        n_of = np.bincount(code)
        centres = np.stack([place[code == label].mean(0) for label in range(len(n_of))])
        covariance, _ = ledoit_wolf(place - centres[code], assume_centered=True)
        floor = 1e-6 * max(float(np.trace(covariance)) / len(covariance), 1e-12)
        whitening = np.linalg.cholesky(np.linalg.inv(covariance + floor * np.eye(len(covariance))))
        return cls(
            place=place,
            width=width,
            code=code,
            batch=batch,
            share=n_of / n_of.sum(),
            centres=centres,
            whitening=whitening,
        )

    def near(self, place_qk: Floats, width_qk: Floats, *, own: Ints, but: Ints | None = None) -> Near:
        """The nearest labelled cells of others.

        Parameters
        ----------
        place_qk, width_qk
            Mean and variance of the others' posteriors.
        own
            Position among the labelled cells of each that is one of them, else -1, (q,).
        but
            Batch of each of which no cell may be a neighbour, (q,); None where all may.
        """
        batches = np.full(len(place_qk), -1) if but is None else but
        k = min(MOST_NEIGHBOURS, min(int((self.batch != b).sum()) for b in np.unique(batches)) - 1)
        code = np.empty((len(place_qk), k), np.int64)
        apart = np.empty((len(place_qk), k))
        for b in np.unique(batches):
            allowed = np.flatnonzero(self.batch != b)
            search = NearestNeighbors(n_neighbors=k + 1).fit(self.place[allowed])
            asked = np.flatnonzero(batches == b)
            step = max(1, CHUNK // (k * place_qk.shape[1]))
            for at in (asked[i : i + step] for i in range(0, len(asked), step)):
                found = allowed[search.kneighbors(place_qk[at], return_distance=False)]
                found = _without(found, own[at])
                away = (place_qk[at, None] - self.place[found]) ** 2
                away /= width_qk[at, None] + self.width[found]
                code[at], apart[at] = self.code[found], away.sum(2)
        return Near(code=code, apart=apart)

    def squares(self, place_qk: Floats, *, but: Ints | None = None) -> Floats:
        """Squared Mahalanobis distance to each label's centre, (q, L).

        Parameters
        ----------
        place_qk
            Mean of the cells' posteriors.
        but
            Batch of each whose cells are left out of the centres; a label without a centre is infinitely far.
        """
        batches = np.full(len(place_qk), -1) if but is None else but
        at = place_qk @ self.whitening
        out = np.empty((len(place_qk), len(self.centres)))
        for b in np.unique(batches):
            rest = self.batch != b
            n_of = np.bincount(self.code[rest], minlength=len(self.centres))
            total = np.zeros_like(self.centres)
            np.add.at(total, self.code[rest], self.place[rest])
            centres = (total / np.maximum(n_of, 1)[:, None]) @ self.whitening
            here = batches == b
            out[here] = np.where(n_of > 0, ((at[here, None] - centres) ** 2).sum(2), np.inf)
        return out


def _without(found: Ints, own: Ints) -> Ints:
    """Leave out the cell itself, or the farthest where it is not among them, (q, k + 1) -> (q, k)."""
    out = found == own[:, None]
    out[~out.any(1), -1] = True
    kept: Ints = found[~out].reshape(len(found), -1)
    return kept
