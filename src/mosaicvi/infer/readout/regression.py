"""Ways to a value that are fitted on reference cells, and the weights with which they are averaged.

Legend: n reference cells, q others, p predictors, g features, W ways.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.neighbors import NearestNeighbors

Floats = NDArray[np.floating[Any]]
PENALTIES = np.logspace(-1, 5, 13)
N_NEIGHBOURS = 20
TOWARDS_EQUAL = 0.3  # how strongly weights are drawn towards equal ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """y = x weight + intercept: weight (p, g), intercept (g,), with the penalty of a ridge regression."""

    weight: Floats
    intercept: Floats
    penalty: float = 0.0

    @classmethod
    def ridge(cls, x_np: Floats, y_ng: Floats, penalty: float = 0.0) -> Linear:
        """Ridge regression; where no penalty is given it is chosen by leaving one cell out at a time."""
        found = (Ridge(penalty) if penalty else RidgeCV(PENALTIES)).fit(x_np, y_ng)
        weight = np.asarray(found.coef_, np.float64).reshape(y_ng.shape[1], -1).T
        intercept = np.asarray(found.intercept_, np.float64).reshape(-1)
        return cls(weight=weight, intercept=intercept, penalty=penalty or float(found.alpha_))

    @classmethod
    def by_feature(cls, x_ng: Floats, y_ng: Floats) -> Linear:
        """A line for each feature: its own value put right, weight (g,)."""
        x = x_ng - x_ng.mean(0)
        slope = (x * (y_ng - y_ng.mean(0))).sum(0) / np.maximum((x * x).sum(0), 1e-9)
        slope = np.maximum(slope, 0.0)
        return cls(weight=slope, intercept=y_ng.mean(0) - slope * x_ng.mean(0))

    def __call__(self, x_qp: Floats) -> Floats:
        """Values (q, g)."""
        product: Floats = x_qp * self.weight if self.weight.ndim == 1 else x_qp @ self.weight
        return np.asarray(product + self.intercept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nearest:
    """Mean over the nearest reference cells: their places (n, p) and values (n, g), float32."""

    place: NDArray[np.float32]
    value: NDArray[np.float32]

    def __call__(self, x_qp: Floats) -> Floats:
        """Values (q, g)."""
        k = min(N_NEIGHBOURS, len(self.place))
        index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(self.place.astype(np.float64))
        near = index.kneighbors(np.asarray(x_qp, np.float64), return_distance=False)
        return np.asarray(self.value[near].mean(1, dtype=np.float64))


def stacking_weights(
    ways: Sequence[Floats], y_ng: Floats, mean_g: Floats, *, towards_equal: float = TOWARDS_EQUAL
) -> Floats:
    """Weights >= 0 with which the ways, (n, g) each, come nearest to the truth, (W,).

    Stacked regressions (Breiman, Machine Learning 1996) of what is left when each feature's mean is taken
    away, drawn towards equal weights.
    """
    a = np.stack([(way - mean_g).ravel() for way in ways], 1)
    b = (y_ng - mean_g).ravel()
    gram, n = a.T @ a, len(ways)
    pull = towards_equal * np.trace(gram) / n
    # the same minimum with n rows in place of one for each value
    root = np.linalg.cholesky(gram + (pull + 1e-9 * max(pull, 1e-12) + 1e-12) * np.eye(n))
    found, _ = scipy.optimize.nnls(root.T, np.linalg.solve(root, a.T @ b + pull / n))
    return np.asarray(found, np.float64)
