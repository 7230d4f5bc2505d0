"""Tables of quantiles: by a loop, with atoms, and at levels that make them cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from mosaicvi.infer.intervals.spread import (
    LEVELS,
    Spread,
    Table,
    calibrated,
    factor_at,
    stretch_by_feature,
    stretched,
    stretches,
)


def made(n: int, seed: int = 0, zeros: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Imputed and true values of 3 features, the spread of which grows with the imputed value."""
    rng = np.random.default_rng(seed)
    imputed = rng.uniform(1, 5, (n, 3))
    truth = imputed + 0.2 * imputed * rng.normal(size=(n, 3))
    return imputed, np.where(rng.random((n, 3)) < zeros, 0.0, np.maximum(truth, 0))


def levels(level: float, d: int = 3) -> list[np.ndarray]:
    """Of both ends and of the whole, the same for all features."""
    return [np.full(d, p) for p in ((1 - level) / 2, (1 + level) / 2, level)]


def ends_of(table: Table, imputed: np.ndarray, asked: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return table.around(imputed, *table.ends_of_bins(*asked))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.025, 0.05, 0.25, 0.5, 0.75, 0.95]))
def test_quantiles_by_a_loop(seed: int, level: float) -> None:
    imputed, truth = made(400, seed)
    table = Table.fit(imputed, truth, np.ones(imputed.shape, bool))
    bins, found = table.bins(imputed), table.at(np.full(3, level))
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
        lower, upper = ends_of(table, x, levels(level))
        assert level - 0.02 < ((y >= lower) & (y <= upper)).mean() < level + 0.02 + zeros / 2
        assert (upper - lower)[x > 4].mean() > 1.5 * (upper - lower)[x < 2].mean()


def test_between_levels_and_beside_atoms() -> None:
    values = np.zeros((1, 1, len(LEVELS)), np.float32)
    values[..., LEVELS >= 0.5] = 1 + LEVELS[LEVELS >= 0.5]
    table = Table(edges=np.zeros((1, 0)), values=values, relative=np.zeros(1, bool))
    np.testing.assert_allclose(table.at(np.array([0.625])), 1.625)
    assert table.at(np.array([0.48])) == 1.5
    assert table.at(np.array([0.47])) == 0
    assert table.at(np.array([0.45])) == 0
    assert table.at(np.array([0.001])) == 0
    np.testing.assert_allclose(table.at(np.array([0.999])), 1.995)


def test_levels_of_values_are_even_where_the_table_is_right() -> None:
    imputed, truth = made(3000, zeros=0.3)
    table = Table.fit(imputed, truth, np.ones(imputed.shape, bool))
    x, y = made(3000, 1, zeros=0.3)
    found = table.cumulative(x, y, np.random.default_rng(0).random(y.shape))
    np.testing.assert_allclose(calibrated(found), LEVELS, atol=0.03)


def test_levels_are_moved_where_it_is_not() -> None:
    narrow = np.random.default_rng(0).beta(0.5, 0.5, 50_000)  # values too often at the ends
    levels = calibrated(narrow)
    assert np.interp(0.05, LEVELS, levels) < 0.02
    assert abs((narrow < np.interp(0.9, LEVELS, levels)).mean() - 0.9) < 0.01
    np.testing.assert_array_equal(calibrated(np.zeros(0)), LEVELS)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_a_stretch_is_found_again_and_covers(factor: float) -> None:
    u = norm.cdf(factor * np.random.default_rng(0).normal(size=40_000))
    found = stretches(u)
    np.testing.assert_allclose(found / factor, 1, atol=0.02)
    for level in (0.3, 0.5, 0.85, 0.9):
        both = np.array([(1 - level) / 2, (1 + level) / 2])
        low, high = stretched(both, np.array(factor_at(level, found)))
        np.testing.assert_allclose([low, high], norm.cdf(factor * norm.ppf(both)), atol=0.01)
        assert abs(((u > low) & (u < high)).mean() - level) < 0.01
    assert (stretches(np.full(3, np.nan)) == 1).all()


def test_a_stretch_that_differs_by_level_follows_halfway() -> None:
    z = np.random.default_rng(0).standard_t(3, size=40_000)
    each = np.quantile(np.abs(z), [0.5, 0.8, 0.9, 0.95]) / norm.ppf([0.75, 0.9, 0.95, 0.975])
    np.testing.assert_allclose(stretches(norm.cdf(z)), (each + each.mean()) / 2, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 2), st.floats(0.5, 2))
def test_wider_levels_are_moved_at_least_as_far(seed: int, centre: float, tail: float) -> None:
    z = np.random.default_rng(seed).normal(size=60)
    factors = stretches(norm.cdf(np.where(abs(z) < 1, centre, tail) * z))
    at = np.arange(0.02, 1, 0.02)
    for p in ((1 + at) / 2, at):
        moved = [
            float(stretched(np.array(q), np.array(factor_at(x, factors)))) for x, q in zip(at, p, strict=True)
        ]
        assert (np.diff(moved) >= -1e-12).all()


def test_features_are_stretched_as_far_as_their_values_bear_it_out() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 6)) * np.array([0.7, 0.7, 1.0, 1.0, 1.3, 1.3])
    z[20:, 5] = np.nan  # few values
    found = stretch_by_feature(norm.cdf(z))
    alone = np.sqrt(np.nanmean(z**2, 0))
    np.testing.assert_allclose(found[:5] / found[2], alone[:5] / alone[2], rtol=0.05)
    mean = np.sqrt(np.nanmean(z**2))
    assert min(alone[5] / mean, 1) < found[5] < max(alone[5] / mean, 1)
    same = rng.random((50, 300))
    assert (
        stretch_by_feature(same).std() < 0.4 * stretch_by_feature(np.repeat(same[:, :3], 100, 1)).std() + 0.02
    )
    np.testing.assert_array_equal(stretch_by_feature(np.full((4, 2), np.nan)), [1, 1])


def test_features_that_a_batch_did_not_measure_have_the_ends_of_any_other() -> None:
    imputed, truth = made(1000)
    every = np.ones(truth.shape, bool)
    narrow, wide = Table.fit(imputed, truth, every), Table.fit(imputed, truth + 3 * (truth - imputed), every)
    spread = Spread(
        tables=(narrow, wide),
        table_of=np.array([0, 0, 1]),
        shift=np.array([[0.0] * 3, [0.5] * 3, [0.0] * 3]),
        stretch=np.array([[1.0] * 4, [1.2] * 4]),
        stretch_of_features=np.ones((2, 3)),
        known=np.array([[True] * 3, [True, False, True], [False] * 3]),
        of_likelihood=np.stack([LEVELS, LEVELS**2]),
        stretch_of_likelihood=np.array([[1.0, 1.0, 2.0], [1.0, 3.0, 1.0]]),
    )
    first, second, other = (spread.ends(imputed, batch, 0.8) for batch in (0, 1, 2))
    shifted = ends_of(narrow, imputed + 0.5, levels(0.8))
    for i in (0, 1):
        np.testing.assert_array_equal(second[i][:, 1], other[i][:, 1])
        np.testing.assert_allclose(second[i][:, [0, 2]], shifted[i][:, [0, 2]], rtol=1e-12)
    assert ((other[1] - other[0]).mean(0) > 1.5 * (first[1] - first[0]).mean(0)).all()
    low, high = spread.levels_of_likelihood(0.8, [1])
    at = np.interp([0.1, 0.9], LEVELS, LEVELS**2)
    np.testing.assert_allclose(low, [0.1, norm.cdf(3 * norm.ppf(at[0])), norm.cdf(2 * norm.ppf(0.1))])
    np.testing.assert_allclose(high, [0.9, norm.cdf(3 * norm.ppf(at[1])), norm.cdf(2 * norm.ppf(0.9))])
    some = spread.of(np.array([1]))
    np.testing.assert_array_equal(some.ends(imputed[:, [1]], 1, 0.8)[0], second[0][:, [1]])


@pytest.mark.parametrize("zeros", [0.0, 0.2])
def test_a_feature_that_none_measured_is_as_uncertain_as_the_others(zeros: float) -> None:
    imputed, truth = made(200, zeros=zeros)
    measured = np.ones(imputed.shape, bool)
    measured[:, 1] = False
    lower, upper = ends_of(Table.fit(imputed, truth, measured), imputed, levels(0.8))
    widths = (upper - lower).mean(0)
    np.testing.assert_allclose(widths[1], widths[[0, 2]].mean(), rtol=0.15)
    if not zeros:
        assert ((lower < imputed) & (imputed < upper))[:, 1].mean() > 0.9


def test_where_most_are_0_the_interval_is_the_smallest_that_begins_there() -> None:
    values = np.zeros((1, 1, len(LEVELS)), np.float32)
    values[..., LEVELS > 0.82] = LEVELS[LEVELS > 0.82]
    table = Table(edges=np.zeros((1, 0)), values=values, relative=np.zeros(1, bool))
    x = np.zeros((1, 1))
    for level, wanted in ((0.5, 0.0), (0.8, 0.0), (0.9, 0.9), (0.95, 0.95)):
        lower, upper = ends_of(table, x, levels(level, 1))
        assert lower == 0
        np.testing.assert_allclose(upper, wanted, rtol=1e-6)


def test_ends_are_nested() -> None:
    imputed, truth = made(3000, zeros=0.3)
    table = Table.fit(imputed, truth, np.ones(imputed.shape, bool))
    before = None
    for level in np.arange(0.02, 0.99, 0.02):
        lower, upper = ends_of(table, imputed, levels(level))
        assert (lower <= upper).all()
        if before is not None:
            assert (lower <= before[0]).all()
            assert (upper >= before[1]).all()
        before = lower, upper
