"""The scale on which counts are compared: that of the questions that people ask of them.

Counts that are often above zero, such as proteins, are centred log ratios (Stoeckius et al., Nature Methods
2017); mostly empty ones, such as RNA, log(1 + counts per 10,000).

Legend: r cells, d features.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi import likelihoods
from mosaicvi.data.mosaic import ModalityData

Kind = Literal["clr", "log1p_cp10k"]
Floats = NDArray[np.floating[Any]]
STEPS = 60  # of a bisection, more than float64 can tell apart
DEPTHS = 24  # that are tried, from a usual one to that which ratios imply
DEEPEST = 4.0  # usual totals that a cell's counts add up to at most
CLOSE = 0.05  # by what ratios may be missed, where that is worth e times the usual depth


def scale_of_counts(data: ModalityData) -> Kind | None:
    """How a modality's counts are compared: as the encoder sees them; None for peaks and for no counts."""
    family = likelihoods.get(data.likelihood)
    if not (family.counts and data.whole) or family.of_peaks:
        return None
    return data.transform if data.transform in ("clr", "log1p_cp10k") else None


def dense_counts(data: ModalityData, rows: NDArray[np.int64]) -> Floats:
    """Counts of some rows, (r, d)."""
    x: Any = data.x[rows]
    return np.asarray(x.toarray() if sp.issparse(x) else x, np.float64)


def on_scale(counts: Floats, kind: Kind) -> Floats:
    """Counts of all features on the scale on which they are compared, (r, d)."""
    if kind == "clr":
        return np.asarray(np.log1p(counts * np.exp(-np.log1p(counts).mean(1, keepdims=True))))
    return np.asarray(np.log1p(counts * (1e4 / np.maximum(counts.sum(1, keepdims=True), 1e-12))))


def completed(counts: Floats, seen: NDArray[np.bool_], expected: Floats) -> Floats:
    """Counts where they were seen, elsewhere the expected ones at the cell's own depth, (r, d)."""
    if seen.all():
        return counts
    depth = (counts * seen).sum(1, keepdims=True) / np.maximum((expected * seen).sum(1, keepdims=True), 1e-12)
    return np.where(seen, counts, expected * depth)


def counts_of_ratios(ratios: Floats) -> Floats:
    """Counts whose centred log ratios are the given ones, as nearly as that is possible, (r, d).

    A cell's ratios fix its counts up to the depth g at which the geometric mean of 1 + count is g.
    """
    rate = np.expm1(np.maximum(ratios, 1e-3)).astype(np.float64)
    low, high = np.full((len(rate), 1), -10.0), np.full((len(rate), 1), 12.0)
    for _ in range(STEPS):
        middle = (low + high) / 2
        is_low = np.log1p(rate * np.exp(middle)).mean(1, keepdims=True) > middle
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return np.asarray(rate * np.exp((low + high) / 2))


def counts_near(ratios: Floats, usual: float) -> Floats:
    """Counts with nearly the given centred log ratios, at the most plausible depth, (r, d).

    The ratios of small counts tell their depth; those of large ones are the same at any, and that which they
    imply is mostly their error. So of the depths between the usual and the implied one that is taken at which
    ratios are missed by little (root mean square, in units of 0.05) and which is not far from the usual (in
    logarithms): the sum of both squares is least.

    Parameters
    ----------
    ratios
        Expected centred log ratios.
    usual
        The median total of measured counts.
    """
    implied = counts_of_ratios(ratios)
    total = np.maximum(implied.sum(1, keepdims=True), 1e-12)
    furthest = np.log(np.minimum(total, DEEPEST * usual) / usual)
    least, best = np.full((len(ratios), 1), np.inf), np.zeros((len(ratios), 1))
    for share in np.linspace(0, 1, DEPTHS):
        apart = share * furthest
        missed = on_scale(implied * (usual * np.exp(apart) / total), "clr") - ratios
        loss = (missed**2).mean(1, keepdims=True) / CLOSE**2 + apart**2
        best = np.where(loss < least, apart, best)
        least = np.minimum(loss, least)
    return np.asarray(implied * (usual * np.exp(best) / total))


def on_asked_scale(
    values: Floats, kind: Kind, asked: str, library: float | None, *, usual: float | None = None
) -> Floats:
    """Values on the scale of comparison as counts, as log(1 + counts per 10,000), or as they are, (r, d).

    Parameters
    ----------
    values, kind
        The values and their scale; of log(1 + counts per 10,000) there are no counts.
    asked
        ``"counts"``, ``"log1p_cp10k"``, or `kind` itself.
    library
        Total of the counts; None for the most plausible one.
    usual
        The median total of measured counts; None where that is not known, and ratios alone tell the depth.
    """
    if kind in ("log1p_cp10k", asked):
        return np.maximum(values, 0.0)
    if asked == "counts" and library is None and usual is not None:
        return counts_near(values, usual)
    counts = counts_of_ratios(values)
    if asked == "log1p_cp10k":
        return on_scale(counts, "log1p_cp10k")
    if library is None:
        return counts
    return np.asarray(counts * (library / np.maximum(counts.sum(1, keepdims=True), 1e-12)))
