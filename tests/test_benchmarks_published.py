"""benchmarks.published: which mosaic is asked, and what is scored."""

from __future__ import annotations

from pathlib import Path

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
    assert list(measured.index) == ["c1", "c3", "c5"]


def test_scores_are_means_of_correlations_of_proteins() -> None:
    rng = np.random.default_rng(1)
    measured, predicted = rng.poisson(5.0, (30, 5)) + 0.0, rng.gamma(2.0, 3.0, (30, 5))
    measured[:, 4] = 0
    total = measured.sum(1)[:, None]
    ways = {
        "counts": measured,
        "log_counts": np.log(1 + measured),
        "log_cp10k": np.log(1 + 1e4 * measured / total),
        "log_of_median": np.log(1 + np.median(total) * measured / total),
        "log_ratios": published.ratios(measured),
    }
    found = published.scores(dict.fromkeys(ways, predicted), published.truths(measured))
    assert set(found) == {f"on_{scale}" for scale in ways}
    for name, truth in ways.items():
        varying = [np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T[:4], truth.T[:4], strict=True)]
        assert found[f"on_{name}"] == pytest.approx(sum(varying) / 5)
    one = published.ratios(np.array([[0.0, 3.0, 8.0]]))
    np.testing.assert_allclose(one, np.log1p(np.array([[0, 3, 8]]) / ((1 * 4 * 9) ** (1 / 3) - 1)))
    assert not published.ratios(np.zeros((2, 3))).any()


def test_predictions_are_put_in_order(tmp_path: Path) -> None:
    cells, proteins = ["AC-s4", "GT-s4", "TT-s4"], ["CD3_AGG", "HLA-DRA_TAG", "Blank"]
    values = pd.DataFrame(np.arange(9.0).reshape(3, 3), index=cells, columns=proteins)
    values.to_csv(tmp_path / "23_from_24_totalVI.csv")
    values.T.rename(index={"HLA-DRA_TAG": "HLA.DRA_TAG"}).to_csv(tmp_path / "23_from_24_seurat.csv")
    pd.DataFrame(values.to_numpy().T).to_csv(tmp_path / "23_from_24_babel.csv")
    measured = pd.DataFrame(0, index=["PBMC2_TT", "PBMC2_AC", "PBMC2_GT"], columns=["HLA-DRA_TAG", "CD3_AGG"])
    for name in ("totalVI", "seurat", "babel"):
        found = published.read_predictions(tmp_path, name, measured)
        np.testing.assert_array_equal(found, [[7, 6], [1, 0], [4, 3]])
    with pytest.raises(SystemExit, match=r"no 23_from_24_cmae.csv in .*; say --predictions DIR"):
        published.read_predictions(tmp_path, "cmae", measured)
