"""Counts on the scale on which they are compared, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicvi.infer.readout.scales import completed, counts_near, counts_of_ratios, on_asked_scale, on_scale


def random_counts(seed: int, n: int = 8, d: int = 6, mean: float = 20.0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, (n, d)).astype(float)


def test_centred_log_ratios_are_seurats() -> None:
    counts = random_counts(0)
    for row, found in zip(counts, on_scale(counts, "clr"), strict=True):
        np.testing.assert_allclose(found, np.log1p(row / np.exp(np.mean(np.log1p(row)))))


def test_counts_per_ten_thousand() -> None:
    counts = random_counts(1)
    found = np.expm1(on_scale(counts, "log1p_cp10k"))
    np.testing.assert_allclose(found.sum(1), 1e4)
    np.testing.assert_allclose(found / found.sum(1, keepdims=True), counts / counts.sum(1, keepdims=True))


@given(seed=st.integers(0, 10**6), mean=st.floats(2.0, 500.0))
def test_counts_of_ratios_have_these_ratios(seed: int, mean: float) -> None:
    counts = random_counts(seed, mean=mean) + 1
    ratios = on_scale(counts, "clr")
    back = counts_of_ratios(ratios)
    np.testing.assert_allclose(on_scale(back, "clr"), ratios, rtol=1e-6)
    np.testing.assert_allclose(back, counts, rtol=1e-6)


def test_what_was_not_seen_is_expected_at_the_cells_own_depth() -> None:
    counts = np.array([[4.0, 6.0, 0.0], [10.0, 0.0, 10.0]])
    seen = np.array([[True, True, False], [True, False, True]])
    expected = np.array([[1.0, 1.0, 2.0], [1.0, 3.0, 1.0]])
    np.testing.assert_allclose(completed(counts, seen, expected), [[4, 6, 10], [10, 30, 10]])
    assert completed(counts, np.ones_like(seen), expected) is counts


def test_the_scale_that_was_asked_for() -> None:
    ratios = on_scale(random_counts(2) + 1, "clr")
    counts = on_asked_scale(ratios, "clr", "counts", None)
    np.testing.assert_allclose(on_asked_scale(ratios, "clr", "counts", 50.0).sum(1), 50)
    np.testing.assert_allclose(
        on_asked_scale(ratios, "clr", "log1p_cp10k", None), on_scale(counts, "log1p_cp10k")
    )
    logs = np.array([[-0.5, 2.0]])
    np.testing.assert_array_equal(on_asked_scale(logs, "log1p_cp10k", "log1p_cp10k", None), [[0.0, 2.0]])


def test_nothing_above_zero_stays_finite() -> None:
    assert np.isfinite(counts_of_ratios(np.zeros((2, 3)))).all()
    with np.errstate(all="raise"):
        assert on_scale(np.zeros((1, 3)), "log1p_cp10k").tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("kind", ["clr", "log1p_cp10k"])
def test_one_cell_is_scaled_alone(kind: str) -> None:
    counts = random_counts(3)
    together = on_scale(counts, kind)  # type: ignore[arg-type]
    alone = np.concatenate([on_scale(row[None], kind) for row in counts])  # type: ignore[arg-type]
    np.testing.assert_array_equal(together, alone)


def test_a_depth_that_ratios_leave_open_is_a_usual_one() -> None:
    """Ratios whose geometric mean is above 1 are those of no counts: more depth always comes nearer."""
    ratios = np.log1p(np.array([[4.0, 0.3, 0.9]]))
    assert on_asked_scale(ratios, "clr", "counts", None).sum() > 1e5
    held = on_asked_scale(ratios, "clr", "counts", None, usual=100.0)
    assert 100 <= held.sum() <= 400
    np.testing.assert_allclose(held / held.sum(), np.array([[4.0, 0.3, 0.9]]) / 5.2)
    np.testing.assert_allclose(on_scale(held, "clr"), ratios, atol=0.1)


@given(seed=st.integers(0, 10**6), mean=st.floats(0.5, 200.0), error=st.floats(0.0, 0.3))
def test_counts_lie_between_the_usual_depth_and_the_implied_one(seed: int, mean: float, error: float) -> None:
    rng = np.random.default_rng(seed)
    counts = random_counts(seed, mean=mean) + 1
    usual = float(np.median(counts.sum(1)))
    ratios = np.maximum(on_scale(counts, "clr") + error * rng.standard_normal(counts.shape), 0.01)
    implied, found = counts_of_ratios(ratios), counts_near(ratios, usual)
    total, end = found.sum(1), np.minimum(implied.sum(1), 4 * usual)
    np.testing.assert_allclose(found / total[:, None], implied / implied.sum(1, keepdims=True))
    assert (total >= np.minimum(usual, end) * (1 - 1e-9)).all()
    assert (total <= np.maximum(usual, end) * (1 + 1e-9)).all()
    at_end = on_scale(implied * (end / implied.sum(1))[:, None], "clr") - ratios
    missed = ((on_scale(found, "clr") - ratios) ** 2).mean(1) / 0.05**2
    bound = (at_end**2).mean(1) / 0.05**2 + np.log(end / usual) ** 2
    assert (missed + np.log(total / usual) ** 2 <= bound + 1e-6).all()


def test_small_counts_tell_their_depth_and_large_ones_do_not() -> None:
    """Twice the depth of most cells, and ratios with errors of 3 %."""
    rng = np.random.default_rng(0)
    for mean, kept in ((1.0, (0.5, 1.0)), (300.0, (-0.1, 0.1))):
        counts = mean * rng.gamma(1.0, size=(400, 12)) + 0.05
        ratios = np.maximum(on_scale(counts, "clr") + 0.03 * rng.standard_normal(counts.shape), 0.01)
        found = counts_near(ratios, float(np.median(counts.sum(1))) / 2)
        share = np.log(2 * np.median(found.sum(1)) / np.median(counts.sum(1))) / np.log(2)
        assert kept[0] < share < kept[1] + 0.05, (mean, share)
