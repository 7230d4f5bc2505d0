from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

from mosaicvi.baselines import knn_baseline, mean_baseline, nearest_baseline
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.errors import InputError
from mosaicvi.metrics import correlation_per_feature


def test_mean_is_over_the_cells_that_measured_a_feature():
    x = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    got = mean_baseline(x, 4)
    assert got.shape == (4, 3)
    np.testing.assert_array_equal(got[2], [2.0, 5.0, np.nan])
    counts = sp.random_array((30, 7), density=0.3, random_state=0, format="csc")
    np.testing.assert_allclose(mean_baseline(counts, 1)[0], counts.toarray().mean(0))


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_knn_equals_the_plain_computation(kind):
    rng = np.random.default_rng(0)
    source, query = rng.poisson(2.0, (60, 12)), rng.poisson(2.0, (9, 12))
    target = rng.poisson(1.0, (60, 5)).astype(float)
    both = np.concatenate([source, query])
    Z = PCA(6, svd_solver="full").fit_transform(np.log1p(both / both.sum(1, keepdims=True) * 1e4))
    slow = [
        target[np.argsort(np.linalg.norm(Z[:60] - Z[60 + i], axis=1))[:4]].mean(0) for i in range(len(query))
    ]
    got = knn_baseline(kind(source), kind(target), kind(query), 4, n_components=6)
    np.testing.assert_allclose(got, slow, atol=1e-12)


def test_knn_of_all_cells_is_the_mean_and_empty_cells_are_no_error():
    rng = np.random.default_rng(0)
    source = rng.poisson(1.0, (20, 6))
    source[3] = 0
    target = rng.random((20, 3))
    got = knn_baseline(source, target, np.zeros((2, 6)), 20)
    np.testing.assert_allclose(got, mean_baseline(target, 2))


def test_knn_beats_the_mean_on_simulated_proteins():
    truth = simulated_mosaic(500, n_peaks=20).truth
    one = (truth.obs["batch"] == "A").to_numpy()
    train, query = np.flatnonzero(one)[:100], np.flatnonzero(one)[100:]
    rna, adt = truth["rna"].X, truth["adt"].X
    imputed = knn_baseline(rna[train], adt[train], rna[query])
    r = correlation_per_feature(np.log1p(imputed), np.log1p(adt[query]))
    assert r.shape == (30,)
    assert np.mean(r) > 0.3


def test_wrong_shapes_are_named():
    x = np.ones((5, 3))
    with pytest.raises(InputError, match="training cells have 3 features, query cells 2"):
        knn_baseline(x, x, x[:, :2], 2)
    with pytest.raises(InputError, match="target_train has 4 cells, source_features_train 5"):
        knn_baseline(x, x[:4], x, 2)
    with pytest.raises(InputError, match="k is 6"):
        knn_baseline(x, x, x, 6)
    with pytest.raises(InputError, match=r"measured has shape \(3,\)"):
        mean_baseline(x[0], 2)


def test_the_nearest_where_entries_are_missing_equal_the_plain_computation():
    rng = np.random.default_rng(0)
    source, query, target = (rng.normal(1e3, 1, shape) for shape in ((30, 9), (5, 9), (30, 4)))
    for values in (source, query, target):
        values[rng.random(values.shape) < 0.3] = np.nan
    target[:, 3] = np.nan
    got = nearest_baseline(source, target, query, 6)
    for i in range(5):
        apart = np.nanmean((source - query[i]) ** 2, axis=1)
        for j in range(3):
            order = [n for n in np.argsort(apart) if not np.isnan(target[n, j])]
            assert got[i, j] == pytest.approx(target[order[:6], j].mean())
    assert np.isnan(got[:, 3]).all()
    with pytest.raises(InputError, match="the same cells"):
        nearest_baseline(source, target[:4], query)
    with pytest.raises(InputError, match="query cells 2; give the same"):
        nearest_baseline(source, target, query[:, :2])
    with pytest.raises(InputError, match="k is 0"):
        nearest_baseline(source, target, query, 0)


def test_a_feature_of_new_cells_alone_tells_of_no_neighbour():
    rng = np.random.default_rng(0)
    train, target = rng.normal(size=(40, 4)), rng.normal(size=(40, 2))
    train[:, 3] = np.nan
    query = train[[7, 30]].copy()
    query[:, 3] = 5.0
    np.testing.assert_allclose(nearest_baseline(train, target, query, 1), target[[7, 30]])
