"""Tables of quantiles: by a loop, with atoms, and at levels that make them cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi.infer.intervals.spread import LEVELS, Table, calibrated, corrected


def made(n: int, seed: int = 0, zeros: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Imputed and true values of 3 features, the spread of which grows with the imputed value."""
    rng = np.random.default_rng(seed)
    imputed = rng.uniform(1, 5, (n, 3))
    truth = imputed + 0.2 * imputed * rng.normal(size=(n, 3))
    return imputed, np.where(rng.random((n, 3)) < zeros, 0.0, np.maximum(truth, 0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.025, 0.05, 0.25, 0.5, 0.75, 0.95]))
def test_quantiles_by_a_loop(seed: int, level: float) -> None:
    imputed, truth = made(400, seed)
    table = Table.fit(imputed, truth, np.ones(imputed.shape, bool))
    bins, found = table.bins(imputed), table.at(level)
    assert found.shape == (3, 4)
    assert table.relative.all()
    for j in range(3):
        for i in range(4):
            here = np.sort((truth - imputed)[bins[:, j] == i, j])
            wanted = here[int(np.ceil(level * len(here) - 1e-9)) - 1]
            np.testing.assert_allclose(found[j, i], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zeros", [0.0, 0.1])
def test_intervals_cover_and_follow_the_spread(zeros: float) -> None:
    imputed, truth = made(3000, zeros=zeros)
    table = Table.fit(imputed, truth, np.ones(imputed.shape, bool))
    x, y = made(4000, 1, zeros=zeros)
    assert table.relative.all() == (zeros == 0)
    for level in (0.5, 0.8, 0.9, 0.95):
        lower, upper = table.ends(x, (1 - level) / 2, (1 + level) / 2)
        assert level - 0.02 < ((y >= lower) & (y <= upper)).mean() < level + 0.02 + zeros / 2
        assert (upper - lower)[x > 4].mean() > 1.5 * (upper - lower)[x < 2].mean()


def test_between_levels_and_beside_atoms() -> None:
    values = np.zeros((1, 1, len(LEVELS)), np.float32)
    values[..., LEVELS >= 0.5] = 1 + LEVELS[LEVELS >= 0.5]
    table = Table(edges=np.zeros((1, 0)), values=values, relative=np.zeros(1, bool))
    np.testing.assert_allclose(table.at(0.625), 1.625)
    assert table.at(0.48) == 1.5
    assert table.at(0.47) == 0
    assert table.at(0.45) == 0
    assert table.at(0.001) == 0
    np.testing.assert_allclose(table.at(0.999), 1.995)


def test_levels_of_values_are_even_where_the_table_is_right() -> None:
    imputed, truth = made(3000, zeros=0.3)
    table = Table.fit(imputed, truth, np.ones(imputed.shape, bool))
    x, y = made(3000, 1, zeros=0.3)
    found = table.cumulative(x, y, np.random.default_rng(0).random(y.shape))
    np.testing.assert_allclose(calibrated(found), LEVELS, atol=0.03)


def test_levels_are_moved_where_it_is_not() -> None:
    narrow = np.random.default_rng(0).beta(0.5, 0.5, 50_000)  # values too often at the ends
    levels = calibrated(narrow)
    assert corrected(0.05, levels) < 0.02
    assert abs((narrow < corrected(0.9, levels)).mean() - 0.9) < 0.01
    np.testing.assert_array_equal(calibrated(np.zeros(0)), LEVELS)


def test_a_feature_that_none_measured_has_what_was_imputed() -> None:
    imputed, truth = made(200)
    measured = np.ones(imputed.shape, bool)
    measured[:, 1] = False
    lower, upper = Table.fit(imputed, truth, measured).ends(imputed, 0.25, 0.75)
    np.testing.assert_allclose(lower[:, 1], imputed[:, 1], rtol=1e-6)
    np.testing.assert_allclose(upper[:, 1], imputed[:, 1], rtol=1e-6)
