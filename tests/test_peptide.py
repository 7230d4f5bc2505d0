"""A table full of holes: what was hidden is imputed better than by feature means or neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.impute import KNNImputer

from mosaicvi import MosaicVI


def peptide_table(
    missing: float, n: int = 300, d: int = 50, k: int = 5
) -> tuple[NDArray[np.float32], AnnData]:
    """Intensities of n samples of six kinds, and the same with holes; every sample keeps some values."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(6, k))[rng.integers(0, 6, n)] + 0.6 * rng.normal(size=(n, k))
    level = 20 + 2 * rng.normal(size=d)
    truth = (level + z @ rng.normal(size=(k, d)) + 0.5 * rng.normal(size=(n, d))).astype(np.float32)
    hole = rng.random((n, d)) < missing
    hole[np.arange(n), rng.integers(0, d, n)] = False
    return truth, AnnData(np.where(hole, np.nan, truth).astype(np.float32))


@pytest.mark.parametrize("missing", [0.3, 0.6, 0.9])
def test_hidden_entries_are_imputed_better_than_by_means_or_neighbours(missing: float) -> None:
    truth, table = peptide_table(missing)
    MosaicVI.setup_anndata(table, modality="peptide")
    model = MosaicVI(table).train(80, batch_size=50, progress=False)
    hidden = np.isnan(table.X)

    def error(values: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.mean((values[hidden] - truth[hidden]) ** 2)))

    imputed = error(model.get_imputed_values(modality="peptide").to_numpy())
    means = error(np.broadcast_to(np.nanmean(table.X, 0), table.shape))
    neighbours = error(KNNImputer(n_neighbors=10, keep_empty_features=True).fit_transform(table.X))
    assert imputed < 0.95 * neighbours
    assert imputed < 0.9 * means
