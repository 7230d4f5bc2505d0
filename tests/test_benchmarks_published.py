"""benchmarks.published: which mosaic is asked, and what is scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from benchmarks import published
from tests.builders import mudata_of


def test_one_donor_teaches_and_the_other_is_asked() -> None:
    rng = np.random.default_rng(0)
    cells = [f"c{i}" for i in range(6)]
    obs = pd.DataFrame({"batch": ["PBMC3", "PBMC2"] * 3, "celltype": "unknown"}, index=cells)
    rna, adt = rng.poisson(3, (6, 4)).astype(np.float32), rng.poisson(9, (6, 3)).astype(np.float32)
    shuffled = [4, 1, 0, 5, 2, 3]
    truth = mudata_of(
        {
            "rna": AnnData(sp.csr_matrix(rna), obs=obs[[]]),
            "adt": AnnData(sp.csr_matrix(adt[shuffled]), obs=obs.iloc[shuffled][[]]),
        },
        obs,
    )
    mdata, measured = published.reversed_mosaic(truth)
    assert list(mdata["rna"].obs_names) == cells
    assert list(mdata["adt"].obs_names) == ["c4", "c0", "c2"]
    np.testing.assert_array_equal(mdata["adt"].X.toarray(), adt[[4, 0, 2]])
    asked = mdata.obs_names[mdata.obs["batch"] == "PBMC2"]
    assert list(asked) == ["c1", "c3", "c5"]
    np.testing.assert_array_equal(measured, adt[[1, 3, 5]])


def test_scores_are_means_of_correlations_of_proteins() -> None:
    rng = np.random.default_rng(1)
    measured, predicted = rng.poisson(5.0, (30, 4)) + 0.0, rng.gamma(2.0, 3.0, (30, 4))
    found = published.scores(predicted, measured)
    ways = {"on_counts": lambda x: x, "on_log_counts": np.log1p, "on_log_ratios": published.ratios}
    for name, way in ways.items():
        each = [np.corrcoef(a, b)[0, 1] for a, b in zip(way(predicted).T, way(measured).T, strict=True)]
        assert found[name] == pytest.approx(np.mean(each))
    one = published.ratios(np.array([[0.0, 3.0, 8.0]]))
    np.testing.assert_allclose(one, np.log1p(np.array([[0, 3, 8]]) / ((1 * 4 * 9) ** (1 / 3) - 1)))
    assert not published.ratios(np.zeros((2, 3))).any()
