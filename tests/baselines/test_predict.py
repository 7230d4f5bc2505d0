from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import RidgeCV

from mosaicvi.baselines.predict import PENALTIES, NearestCells, Ridge, column_chunks, components


def test_ridge_is_that_of_scikit_learn_with_a_penalty_for_each_feature():
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(40, 7)) * np.logspace(1, -1, 7) + 3, rng.normal(size=(11, 7))
    Y = A @ rng.normal(size=(7, 5)) + rng.normal(size=(40, 5)) * np.array([0.1, 1, 10, 100, 1000])
    model = RidgeCV(PENALTIES, alpha_per_target=True).fit(A, Y)
    assert len(set(model.alpha_)) > 2
    np.testing.assert_allclose(Ridge(A, B).predict(Y), model.predict(B), rtol=1e-8, atol=1e-8)


def test_nearest_cells_are_averaged_and_never_more_than_there_are():
    rng = np.random.default_rng(0)
    A, B, Y = rng.normal(size=(30, 3)), rng.normal(size=(5, 3)), rng.normal(size=(30, 4))
    slow = [Y[np.argsort(((A - b) ** 2).sum(1))[:6]].mean(0) for b in B]
    np.testing.assert_allclose(NearestCells(A, B, 6).predict(Y), slow)
    np.testing.assert_allclose(NearestCells(A, B, 99).predict(Y), np.tile(Y.mean(0), (5, 1)))


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_components_keep_distances_of_centred_values(kind):
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, (40, 12)).astype(np.float32)
    z = components(kind(x), None, np.zeros(40), 50, 0)
    np.testing.assert_allclose(z @ z.T, (x - x.mean(0)) @ (x - x.mean(0)).T, atol=1e-5)
    u, s, _ = np.linalg.svd(x - x.mean(0))
    z = components(kind(x), None, np.zeros(40), 4, 0)
    np.testing.assert_allclose(z @ z.T, (u[:, :4] * s[:4] ** 2) @ u[:, :4].T, atol=1e-4)


def test_each_group_is_centred_over_what_it_measured_and_the_missing_lies_at_its_centre():
    x = np.array([[1.0, 5.0], [3.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    measured = np.array([[True, True], [True, False], [True, False], [True, False]])
    z = components(x, measured, np.array([0, 0, 1, 1]), 50, 0)
    np.testing.assert_allclose(z, [[-1, 0], [1, 0], [-5, 0], [5, 0]])


def test_chunks_cover_the_columns_in_order():
    parts = column_chunks(np.arange(7), 2_000_000)
    assert [len(p) for p in parts] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(7))
