"""How good imputed values are: correlations, areas under the ROC curve, coverage of intervals.

Shapes: n cells, d features. A row is a cell. Measured values may be sparse; they are made dense some
features at a time. NaN in dense measured values means not measured, and is left out.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.stats import rankdata

from mosaicvi.errors import InputError

Floats = npt.NDArray[np.float64]
Matrix: TypeAlias = "npt.ArrayLike | sp.spmatrix | sp.sparray"

CHUNK = 4_000_000  # entries that are dense at a time


def correlation_per_feature(
    predicted: npt.ArrayLike, measured: Matrix, method: Literal["pearson", "spearman"] = "pearson"
) -> Floats:
    """Correlation over cells, for each feature.

    Parameters
    ----------
    predicted
        n × d.
    measured
        n × d, dense or sparse; NaN in a dense one means not measured and is left out.
    method
        "pearson", or "spearman" (of ranks, ties averaged).

    Returns
    -------
    d values; NaN where one of the two is constant.
    """
    p_nd, m_nd = _pair(predicted, measured)
    _check_method(method)
    return np.concatenate(
        [
            np.empty(0),
            *(_correlations(p_nd[:, c], _dense(m_nd[:, c]), method) for c in _slices(*p_nd.shape[::-1])),
        ]
    )


def correlation_overall(
    predicted: npt.ArrayLike, measured: Matrix, method: Literal["pearson", "spearman"] = "pearson"
) -> float:
    """Correlation over all entries of all features; arguments as in :func:`correlation_per_feature`."""
    p_nd, m_nd = _pair(predicted, measured)
    _check_method(method)
    return float(_correlations(p_nd.reshape(-1, 1), _dense(m_nd).reshape(-1, 1), method)[0])


def root_mean_square_error(predicted: npt.ArrayLike, measured: Matrix) -> float:
    """Root of the mean squared difference over all entries; NaN measured values are left out.

    Parameters
    ----------
    predicted, measured
        As in :func:`correlation_per_feature`, on the same scale.
    """
    p_nd, m_nd = _pair(predicted, measured)
    total, seen = 0.0, 0
    for c in _slices(*p_nd.shape[::-1]):
        m_nc = _dense(m_nd[:, c])
        known = ~np.isnan(m_nc)
        total += float(((p_nd[:, c][known] - m_nc[known]) ** 2).sum(dtype=np.float64))
        seen += int(known.sum())
    return float(np.sqrt(total / seen)) if seen else float("nan")


def auroc_per_feature(predicted: npt.ArrayLike, measured: Matrix) -> Floats:
    """Area under the ROC curve of each feature.

    How well the prediction tells cells with a count from those without: the Mann–Whitney statistic
    (Hanley & McNeil, Radiology 1982), ties counted half.

    Parameters
    ----------
    predicted
        n × d, any monotone score.
    measured
        n × d, dense or sparse; positive where above 0, NaN where not measured (left out).

    Returns
    -------
    d values; NaN where all cells are positive or none is.
    """
    p_nd, m_nd = _pair(predicted, measured)
    out = []
    for c in _slices(*p_nd.shape[::-1]):
        p_nc, m_nc = np.asfortranarray(p_nd[:, c]), np.asfortranarray(_dense(m_nd[:, c]))
        out += [_auroc(p_nc[:, j], m_nc[:, j]) for j in range(p_nc.shape[1])]
    return np.asarray(out, dtype=np.float64)


def auroc_overall(
    predicted: npt.ArrayLike, measured: Matrix, *, max_entries: int | None = None, seed: int = 0
) -> float:
    """Area under the ROC curve over all entries; arguments as in :func:`auroc_per_feature`.

    With ``max_entries`` below n × d, on that many entries drawn with replacement, the same for the same seed.
    """
    p_nd, m_nd = _pair(predicted, measured)
    if max_entries is None or p_nd.size <= max_entries:
        return _auroc(p_nd.ravel(), _dense(m_nd).ravel())
    pick = np.random.default_rng(seed).choice(p_nd.size, max_entries)
    row, column = np.divmod(pick, p_nd.shape[1])
    return _auroc(p_nd[row, column], np.asarray(m_nd[row, column], dtype=np.float64).ravel())


def interval_coverage(lower: npt.ArrayLike, upper: npt.ArrayLike, measured: Matrix) -> float:
    """Share of the measured entries that lie in their interval, both ends included.

    Calibrated intervals of level q cover a share q (Gneiting, Balabdaoui & Raftery, JRSS B 2007); of
    counts, at least q.

    Parameters
    ----------
    lower, upper
        Ends of the intervals, n × d each.
    measured
        n × d, dense or sparse; NaN means not measured and is left out.
    """
    low_nd, m_nd = _pair(lower, measured, "lower")
    high_nd, _ = _pair(upper, measured, "upper")
    if (low_nd > high_nd).any():
        raise InputError(f"lower exceeds upper in {(low_nd > high_nd).sum()} entries; were the two swapped?")
    inside = seen = 0
    for c in _slices(*low_nd.shape[::-1]):
        m_nc = _dense(m_nd[:, c])
        inside += int(np.count_nonzero((low_nd[:, c] <= m_nc) & (m_nc <= high_nd[:, c])))
        seen += int(np.count_nonzero(~np.isnan(m_nc)))
    return inside / seen if seen else float("nan")


def _slices(n: int, width: int) -> list[slice]:
    """Pieces of n of about CHUNK entries each, a piece being ``width`` entries wide."""
    step = max(1, CHUNK // max(1, width))
    return [slice(start, min(n, start + step)) for start in range(0, n, step)]


def _pair(predicted: npt.ArrayLike, measured: Matrix, name: str = "predicted") -> tuple[Any, Any]:
    """The two as matrices of one shape; a sparse one in CSC, as columns are what is asked for."""
    if sp.issparse(predicted):
        raise InputError(f"{name} is sparse; give a dense matrix")
    p_nd = np.asarray(predicted)
    m_nd = sp.csc_matrix(measured) if sp.issparse(measured) else np.asarray(measured)
    if p_nd.ndim != 2 or p_nd.shape != m_nd.shape:
        raise InputError(
            f"{name} is {p_nd.shape} and measured {m_nd.shape}; give two matrices, cells × features"
        )
    if not np.isfinite(p_nd).all():
        raise InputError(f"{name} has {(~np.isfinite(p_nd)).sum()} values that are not finite")
    return p_nd, m_nd


def _dense(piece: Any) -> Floats:
    return np.asarray(piece.toarray() if sp.issparse(piece) else piece, dtype=np.float64)


def _check_method(method: str) -> None:
    if method not in ("pearson", "spearman"):
        raise InputError(f"method is {method!r}; give 'pearson' or 'spearman'")


def _correlations(p_nd: npt.NDArray[Any], m_nd: Floats, method: str) -> Floats:
    if np.isnan(m_nd).any():
        out = np.full(p_nd.shape[1], np.nan)
        for j in range(len(out)):
            seen_n = ~np.isnan(m_nd[:, j])
            if seen_n.any():
                out[j] = _correlations(p_nd[seen_n, j : j + 1], m_nd[seen_n, j : j + 1], method)[0]
        return out
    # Constancy is decided on the values, not on what rounding leaves of their variance.
    still_d = (p_nd == p_nd[:1]).all(0) | (m_nd == m_nd[:1]).all(0)
    a_nd, b_nd = np.asarray(p_nd, dtype=np.float64), m_nd
    if method == "spearman":
        a_nd, b_nd = rankdata(a_nd, axis=0), rankdata(b_nd, axis=0)
    a_nd, b_nd = a_nd - a_nd.mean(0), b_nd - b_nd.mean(0)
    scale_d = np.sqrt((a_nd**2).sum(0) * (b_nd**2).sum(0))
    ok_d = ~still_d & (scale_d > 0)
    out = np.full(p_nd.shape[1], np.nan)
    np.divide((a_nd * b_nd).sum(0), scale_d, out=out, where=ok_d)
    return out


def _auroc(score_n: npt.NDArray[Any], measured_n: Floats) -> float:
    seen_n = ~np.isnan(measured_n)
    if not seen_n.all():
        score_n, measured_n = score_n[seen_n], measured_n[seen_n]
    score_p = np.sort(score_n[measured_n > 0])
    positives, negatives = len(score_p), len(score_n) - len(score_p)
    if positives == 0 or negatives == 0:
        return float("nan")
    # Sorting values and looking up the few positives is much faster than ranking everything.
    sorted_n = np.sort(score_n)
    twice_ranks = (
        np.searchsorted(sorted_n, score_p, "left") + np.searchsorted(sorted_n, score_p, "right") + 1
    ).sum(dtype=np.float64)
    return float((twice_ranks / 2 - positives * (positives + 1) / 2) / (positives * negatives))
