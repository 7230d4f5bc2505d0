"""Predicting features of some cells from those of others: nearest cells, ridge regression, components.

Shapes: n reference cells, q cells asked, k components, d features to predict, p features to predict from.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Values: TypeAlias = "sp.csr_matrix | npt.NDArray[Any]"

PENALTIES = np.logspace(-1, 5, 7)
CHUNK = 4_000_000  # values that are dense at a time


def components(x: Values, measured: Bools | None, group: npt.NDArray[Any], width: int, seed: int) -> Floats:
    """Principal components of cells; with fewer features than components the centred features themselves.

    Parameters
    ----------
    x, measured
        Values, n × p, and which of them were measured; all where None.
    group
        A number for each cell; each feature is centred in each group, over the cells that measured it. What
        is missing lies at the centre.
    width
        Components at most.
    seed
        Of the randomised decomposition.
    """
    from sklearn.decomposition import PCA

    if x.shape[1] <= width:
        return _centred(x, measured, group)
    width = min(width, min(x.shape) - 1)
    if not isinstance(x, np.ndarray) and measured is None and len(np.unique(group)) == 1:
        return np.asarray(PCA(width, svd_solver="arpack", random_state=seed).fit_transform(x), np.float64)
    return np.asarray(PCA(width, random_state=seed).fit_transform(_centred(x, measured, group)), np.float64)


def _centred(x: Values, measured: Bools | None, group: npt.NDArray[Any]) -> Floats:
    z_np = np.array(x if isinstance(x, np.ndarray) else x.toarray(), np.float64)
    seen_np = np.ones(z_np.shape, bool) if measured is None else measured
    for g in np.unique(group):
        here = group == g
        seen_gp = seen_np[here]
        total_p = np.where(seen_gp, z_np[here], 0).sum(0)
        z_np[here] -= total_p / np.maximum(seen_gp.sum(0), 1)
    return np.where(seen_np, z_np, 0)


class NearestCells:
    """The mean of the nearest reference cells.

    Parameters
    ----------
    reference, asked
        Components of the reference cells, n × k, and of those asked, q × k.
    n_neighbors
        How many; all reference cells if there are fewer.
    """

    def __init__(self, reference: Floats, asked: Floats, n_neighbors: int) -> None:
        from sklearn.neighbors import NearestNeighbors

        n, q = len(reference), len(asked)
        size = min(n_neighbors, n)
        near_qs = NearestNeighbors(n_neighbors=size).fit(reference).kneighbors(asked, return_distance=False)
        # averaging is a product with a sparse matrix of weights
        ends = np.arange(0, q * size + 1, size)
        self.weight_qn = sp.csr_matrix((np.full(q * size, 1 / size), near_qs.ravel(), ends), shape=(q, n))

    def predict(self, target_nd: Floats) -> Floats:
        """Values of the cells asked, q × d, from those of the reference cells."""
        return np.asarray(self.weight_qn @ target_nd)


class Ridge:
    """Ridge regression, for each feature with the penalty of the least leave-one-out error.

    Parameters
    ----------
    reference, asked
        Components of the reference cells, n × k, and of those asked, q × k.
    """

    def __init__(self, reference: Floats, asked: Floats) -> None:
        mean_k = reference.mean(0)
        self.u_nk, self.s_k, v_kk = np.linalg.svd(reference - mean_k, full_matrices=False)
        self.asked_qk = (asked - mean_k) @ v_kk.T

    def predict(self, target_nd: Floats) -> Floats:
        """Values of the cells asked, q × d, from those of the reference cells."""
        mean_d = target_nd.mean(0)
        y_nd = target_nd - mean_d
        uy_kd = self.u_nk.T @ y_nd
        error_pd = np.stack([self._left_out(penalty, y_nd, uy_kd) for penalty in PENALTIES])
        penalty_d = PENALTIES[error_pd.argmin(0)]
        square_k1 = self.s_k[:, None] ** 2
        return np.asarray(
            mean_d + self.asked_qk @ (self.s_k[:, None] / (square_k1 + penalty_d) * uy_kd), np.float64
        )

    def _left_out(self, penalty: float, y_nd: Floats, uy_kd: Floats) -> Floats:
        """Sum over cells of the squared error of each, had it been left out; d values."""
        shrink_k = self.s_k**2 / (self.s_k**2 + penalty)
        leverage_n = 1 / len(y_nd) + (self.u_nk**2) @ shrink_k
        residual_nd = y_nd - (self.u_nk * shrink_k) @ uy_kd
        return np.asarray(((residual_nd / np.maximum(1 - leverage_n, 1e-9)[:, None]) ** 2).sum(0))


def column_chunks(columns: npt.NDArray[np.int64], n_rows: int) -> list[npt.NDArray[np.int64]]:
    """Columns in parts of which a dense copy of so many rows is no burden."""
    step = max(1, CHUNK // max(1, n_rows))
    return [columns[i : i + step] for i in range(0, len(columns), step)]
