"""A table of peptides with missing entries: how well entries that were measured and held out come back.

Log intensities of correlated peptides in samples of a few kinds. Entries are missing one by one, weak ones
more often, as in an instrument. What is scored was measured and then hidden from the method.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from mosaicvi import Mosaic, MosaicVI

Floats = npt.NDArray[np.float64]
HELD_OUT = 0.1  # of the measured entries
NEIGHBOURS = 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peptides:
    """What a method sees, and what it must guess.

    Attributes
    ----------
    seen
        Samples × peptides, NaN where missing or held out.
    held_out
        Row, column and true value of each entry that was held out.
    """

    seen: Floats
    held_out: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]


def peptide_table(missing: float, *, samples: int, peptides: int, seed: int = 0) -> Peptides:
    """Simulate a table of which a share is missing."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(6, peptides)) * rng.gamma(2.0, 0.35, size=(6, 1))
    kind = rng.normal(size=(5, 6))[rng.integers(0, 5, samples)]
    state = kind + 0.5 * rng.normal(size=(samples, 6))
    level = rng.normal(20, 2, size=peptides)
    x = level + state @ factors + 0.4 * rng.normal(size=(samples, peptides))
    is_there = rng.random(x.shape) >= _missing_rate(x, missing)
    row, col = np.nonzero(is_there)
    pick = rng.random(len(row)) < HELD_OUT
    seen = np.where(is_there, x, np.nan)
    seen[row[pick], col[pick]] = np.nan
    row, col = _restored(seen, x, row[pick], col[pick])
    return Peptides(seen=seen, held_out=(row, col, x[row, col]))


def _missing_rate(x: Floats, share: float) -> Floats:
    """Probability of each entry to be missing: that share on average, more for weak ones."""
    weak = (x.mean() - x) / x.std()
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        rate = 1 / (1 + np.exp(-(middle + 0.5 * weak)))
        low, high = (middle, high) if rate.mean() < share else (low, middle)
    return np.asarray(rate)


def _restored(
    seen: Floats, x: Floats, row: npt.NDArray[np.int64], col: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give back held-out entries of samples and peptides that would be left with fewer than two values."""
    for axis in (1, 0):
        poor = (~np.isnan(seen)).sum(axis) < 2
        back = poor[row if axis else col]
        seen[row[back], col[back]] = x[row[back], col[back]]
        row, col = row[~back], col[~back]
    for j in np.flatnonzero((~np.isnan(seen)).sum(0) < 2):  # measured too rarely from the start
        seen[:2, j] = x[:2, j]
    for i in np.flatnonzero((~np.isnan(seen)).sum(1) < 2):
        seen[i, :2] = x[i, :2]
    still = np.isnan(seen[row, col])
    return row[still], col[still]


def registered(table: Peptides) -> Mosaic:
    """The table as a mosaic of one modality, one feature a peptide."""
    n, d = table.seen.shape
    obs = pd.DataFrame(index=[f"sample{i:04d}" for i in range(n)])
    var = pd.DataFrame(index=[f"peptide{j:04d}" for j in range(d)])
    adata = AnnData(table.seen.astype(np.float32), obs=obs, var=var)
    return MosaicVI.setup_anndata(adata, modality="peptides", likelihood="Gaussian")


def by_mean(table: Peptides) -> Floats:
    """Each peptide's mean over the samples that measured it."""
    from mosaicvi.baselines import mean_baseline

    return mean_baseline(table.seen, len(table.seen))


def by_neighbours(table: Peptides) -> Floats:
    """The mean of the nearest samples that measured the peptide (Troyanskaya et al. 2001)."""
    from sklearn.impute import KNNImputer

    scale = np.nanstd(table.seen, 0)
    z = (table.seen - np.nanmean(table.seen, 0)) / np.where(scale > 0, scale, 1)
    filled = KNNImputer(n_neighbors=min(NEIGHBOURS, len(z) - 1), keep_empty_features=True).fit_transform(z)
    return np.asarray(filled * np.where(scale > 0, scale, 1) + np.nanmean(table.seen, 0))


def errors(table: Peptides, filled: Floats) -> dict[str, float]:
    """Root mean square error, and correlation with each peptide's mean taken away, over held-out entries."""
    row, col, truth = table.held_out
    mean = np.nanmean(table.seen, 0)[col]
    a, b = filled[row, col] - mean, truth - mean
    constant = len(a) < 2 or np.allclose(a, a[0]) or np.allclose(b, b[0])
    return {
        "rmse": float(np.sqrt(np.mean((a - b) ** 2))),
        "r": float("nan") if constant else float(np.corrcoef(a, b)[0, 1]),
        "entries": float(len(row)),
    }
