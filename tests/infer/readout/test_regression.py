"""Regressions, nearest cells, and the weights with which they are averaged."""

from __future__ import annotations

import numpy as np
import scipy.optimize

from mosaicvi.infer.readout.regression import TOWARDS_EQUAL, Linear, Nearest, stacking_weights


def test_a_ridge_finds_a_line() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(400, 5)), rng.normal(size=(5, 3))
    found = Linear.ridge(x, x @ w + 2.0)
    np.testing.assert_allclose(found.weight, w, atol=1e-2)
    np.testing.assert_allclose(found(x), x @ w + 2.0, atol=2e-2)


def test_a_line_for_each_feature_puts_it_right_and_never_turns_it() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 2))
    y = np.stack([3 * x[:, 0] - 1, -x[:, 1]], 1)
    found = Linear.by_feature(x, y)
    np.testing.assert_allclose(found(x)[:, 0], y[:, 0], atol=1e-9)
    np.testing.assert_allclose(found(x)[:, 1], y[:, 1].mean(), atol=1e-9)


def test_nearest_cells_are_those_of_a_full_search() -> None:
    rng = np.random.default_rng(2)
    place, value = rng.normal(size=(60, 4)).astype("f4"), rng.normal(size=(60, 3)).astype("f4")
    asked = rng.normal(size=(7, 4))
    distance = ((asked[:, None] - place[None].astype(float)) ** 2).sum(-1)
    expected = value[np.argsort(distance, 1)[:, :20]].mean(1, dtype=float)
    np.testing.assert_allclose(Nearest(place=place, value=value)(asked), expected, rtol=1e-12)
    few = Nearest(place=place[:3], value=value[:3])
    np.testing.assert_allclose(few(asked), np.tile(value[:3].mean(0, dtype=float), (7, 1)), rtol=1e-12)


def test_weights_minimise_the_error_drawn_towards_equal_ones() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(50, 4))
    ways = [truth + s * rng.normal(size=truth.shape) for s in (0.3, 1.0, 3.0)]
    mean = np.zeros(4)
    found = stacking_weights(ways, truth, mean)
    a = np.stack([w.ravel() for w in ways], 1)
    pull = TOWARDS_EQUAL * np.trace(a.T @ a) / 3

    def cost(w: np.ndarray) -> float:
        return float(((a @ w - truth.ravel()) ** 2).sum() + pull * ((w - 1 / 3) ** 2).sum())

    best = scipy.optimize.minimize(cost, np.full(3, 1 / 3), bounds=[(0, None)] * 3, tol=1e-12)
    np.testing.assert_allclose(found, best.x, atol=1e-4)
    assert found[0] > found[1] > found[2] >= 0


def test_ways_that_are_all_the_same_share_the_weight() -> None:
    truth = np.random.default_rng(4).normal(size=(30, 2))
    found = stacking_weights([truth, truth], truth, truth.mean(0))
    np.testing.assert_allclose(found, [0.5, 0.5], atol=1e-3)
    assert np.isfinite(stacking_weights([np.zeros((5, 2))] * 2, np.zeros((5, 2)), np.zeros(2))).all()
