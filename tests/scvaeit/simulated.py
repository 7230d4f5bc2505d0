"""Stand-ins for the data of the published tutorials: the same files and shapes, simulated and small."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np


def dogma_cite_asap(*, seed: int = 0, n: int = 30, genes: int = 14, proteins: int = 6) -> SimpleNamespace:
    """Three datasets: all three modalities; RNA and proteins; proteins and peaks. n cells each.

    Counts of RNA and proteins, peaks of three chromosomes as 0 and 1; `batches` is the stimulation and the
    dataset. Not every gene is of the second dataset, nor every peak of the third.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, 3 * n)
    peaks = [5, 4, 3]

    def counts(d: int, mean: float) -> np.ndarray:
        return rng.poisson(mean * rng.gamma(2, 0.5, (2, d))[kind]).astype(np.float32)

    x, y = counts(genes, 2.0), counts(proteins, 8.0) + 1
    z = (rng.random((3 * n, sum(peaks))) < rng.random((2, sum(peaks)))[kind]).astype(np.float32)
    x[:, 0] += 1
    return SimpleNamespace(
        X=x,
        Y=y,
        Z=z,
        chunk_atac=np.array(peaks),
        batches=np.c_[rng.integers(0, 2, 3 * n), np.repeat([0, 1, 2], n)].astype(np.float32),
        sample_sizes=np.array([n, n, n]),
        id_X_cite=np.arange(genes - 2),
        id_Z_asap=np.arange(1, sum(peaks)),
        cell_types=np.array(["B", "T"])[kind],
    )


def log1p_cp10k(counts: np.ndarray) -> np.ndarray:
    """As the tutorials prepare counts."""
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32)


def peptides(*, seed: int = 0, n: int = 60, d: int = 20) -> np.ndarray:
    """Abundances of either sign, (n, d), about half of them NaN."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)) + 0.3 * rng.normal(size=(n, d)) + 0.5
    x[rng.random((n, d)) < 0.5] = np.nan
    x[:, 0] = np.where(np.isnan(x[:, 0]), 0.5, x[:, 0])
    return x
