"""What an imputation has to beat: the mean of each feature, and the average of similar cells.

Shapes: n cells, d features. A row is a cell.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from mosaicvi.errors import InputError

Floats = npt.NDArray[np.float64]
Matrix: TypeAlias = "npt.ArrayLike | sp.spmatrix | sp.sparray"
FIRST = 10  # times as many near cells as are averaged are looked at, unless too few of them measured it


def mean_baseline(measured: Matrix, n: int) -> Floats:
    """Impute each feature's mean over the cells that measured it.

    Parameters
    ----------
    measured
        Cells × d, dense or sparse; NaN in a dense one means not measured.
    n
        Cells to impute.

    Returns
    -------
    n × d (a read-only view of one row); NaN for a feature that no cell measured.
    """
    m_nd = _matrix(measured, "measured")
    if sp.issparse(m_nd):
        mean_d = np.asarray(m_nd.mean(0), dtype=np.float64).ravel()
    else:
        seen_d = (~np.isnan(m_nd)).sum(0)
        mean_d = np.full(m_nd.shape[1], np.nan)
        np.divide(np.nansum(m_nd, axis=0, dtype=np.float64), seen_d, out=mean_d, where=seen_d > 0)
    return np.broadcast_to(mean_d, (n, len(mean_d)))


def knn_baseline(
    source_features_train: Matrix,
    target_train: Matrix,
    source_features_query: Matrix,
    k: int = 20,
    *,
    n_components: int = 30,
    seed: int = 0,
) -> Floats:
    """Impute a modality as its average over the nearest cells in a shared modality.

    Nearest after log1p of counts per 10,000 and principal components of training and query cells together.

    Parameters
    ----------
    source_features_train
        Counts of the shared modality in cells that have both, cells × features.
    target_train
        The other modality in the same cells, cells × d; it is averaged as it is.
    source_features_query
        Counts of the shared modality in the cells to impute, with the same features.
    k
        Neighbours; at most the training cells.
    n_components
        Principal components, as far as the data have so many.
    seed
        Of the randomised decomposition.

    Returns
    -------
    Query cells × d.

    Raises
    ------
    InputError
        If the shapes or k do not fit.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    train = _matrix(source_features_train, "source_features_train")
    query = _matrix(source_features_query, "source_features_query")
    target = _matrix(target_train, "target_train")
    n = train.shape[0]
    if train.shape[1] != query.shape[1]:
        raise InputError(
            f"training cells have {train.shape[1]} features, query cells {query.shape[1]}; give the same"
        )
    if target.shape[0] != n:
        raise InputError(
            f"target_train has {target.shape[0]} cells, source_features_train {n}; give the same cells"
        )
    if not 1 <= k <= n:
        raise InputError(f"k is {k}; give at least 1 and at most the {n} training cells")
    both = _log1p_cp10k(sp.vstack([sp.csr_matrix(train), sp.csr_matrix(query)], format="csr"))
    width = min(n_components, min(both.shape) - 1)
    if width >= 1:
        both = PCA(width, svd_solver="arpack", random_state=seed).fit_transform(both)
    near_qk = NearestNeighbors(n_neighbors=k).fit(both[:n]).kneighbors(both[n:], return_distance=False)
    # averaging is a product with a sparse matrix of weights, query × training cells
    q = len(near_qk)
    weight_qn = sp.csr_matrix(
        (np.full(q * k, 1 / k), near_qk.ravel(), np.arange(0, q * k + 1, k)), shape=(q, n)
    )
    imputed_qd = weight_qn @ target
    return np.asarray(imputed_qd.toarray() if sp.issparse(imputed_qd) else imputed_qd, dtype=np.float64)


def nearest_baseline(
    source_train: npt.ArrayLike, target_train: npt.ArrayLike, source_query: npt.ArrayLike, k: int = 20
) -> Floats:
    """Impute the average over the nearest cells that measured a feature, where single entries are missing.

    Nearest by the mean squared difference of the features that both cells measured (Troyanskaya et al.,
    Bioinformatics 2001).

    Parameters
    ----------
    source_train
        Values by which cells are compared, cells × features; NaN means not measured.
    target_train
        What is averaged of the same cells, cells × d; NaN means not measured.
    source_query
        The former of the cells to impute.
    k
        Neighbours of each cell and feature, as far as so many measured it.

    Returns
    -------
    Query cells × d; NaN for a feature that no cell measured.

    Raises
    ------
    InputError
        If the shapes or k do not fit.
    """
    train, query = np.asarray(source_train, np.float64), np.asarray(source_query, np.float64)
    target = np.asarray(target_train, np.float64)
    if train.shape[1] != query.shape[1]:
        raise InputError(
            f"training cells have {train.shape[1]} features, query cells {query.shape[1]}; give the same"
        )
    if len(target) != len(train):
        raise InputError(
            f"target_train has {len(target)} cells, source_train {len(train)}; give the same cells"
        )
    if k < 1:
        raise InputError(f"k is {k}; give at least 1")
    level = np.nan_to_num(mean_baseline(train, 1))  # large levels would cost digits
    has_nd, has_qd = ~np.isnan(train), ~np.isnan(query)
    x_nd, x_qd = np.where(has_nd, train - level, 0.0), np.where(has_qd, query - level, 0.0)
    square_qn = x_qd**2 @ has_nd.T - 2 * x_qd @ x_nd.T + has_qd @ (x_nd**2).T
    shared_qn = has_qd.astype(np.float64) @ has_nd.T
    apart_qn = np.divide(square_qn, shared_qn, out=np.full_like(square_qn, np.inf), where=shared_qn > 0)
    known_nd = ~np.isnan(target)
    out = np.full((len(query), target.shape[1]), np.nan)
    for row, near_n in zip(out, np.argsort(apart_qn, axis=1, kind="stable"), strict=True):
        first = near_n[: FIRST * k]
        is_rare = known_nd[first].sum(0) < k  # for these all cells are looked at
        row[~is_rare] = _mean_of_first(target[first][:, ~is_rare], k)
        if is_rare.any():
            row[is_rare] = _mean_of_first(target[near_n][:, is_rare], k)
    return out


def _mean_of_first(values_md: Floats, k: int) -> Floats:
    """Mean of the first k values that are there in each column, (d,); NaN where there are none."""
    known = ~np.isnan(values_md)
    taken = known & (np.cumsum(known, axis=0) <= k)
    total, n = np.where(taken, values_md, 0.0).sum(0), taken.sum(0)
    return np.asarray(np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0))


def _matrix(values: Any, name: str) -> Any:
    matrix = values.tocsr() if sp.issparse(values) else np.asarray(values)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"{name} has shape {matrix.shape}; give a matrix, cells × features")
    return matrix


def _log1p_cp10k(counts_nd: Any) -> Any:
    """log(1 + counts per 10,000 of the cell); a cell without counts stays at 0."""
    total_n = np.asarray(counts_nd.sum(1), dtype=np.float64).ravel()
    return (sp.diags(1e4 / np.where(total_n > 0, total_n, 1)) @ counts_nd).tocsr().log1p()
