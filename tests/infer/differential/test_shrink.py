"""Effects drawn towards a fitted prior: probabilities that hold, and distributions against numbers drawn."""

from __future__ import annotations

import numpy as np
import pytest

from mosaicvi.infer.differential.shrink import Posterior


def estimates(seed: int, null: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    effect = np.where(rng.random(n) < null, 0.0, rng.normal(0, 1, n))
    error = rng.uniform(0.1, 0.6, n)
    return effect, effect + error * rng.normal(size=n), error


@pytest.mark.parametrize("null", [0.5, 0.9])
@pytest.mark.parametrize("delta", [0.0, 0.25])
def test_probabilities_of_an_effect_hold(null: float, delta: float) -> None:
    effect, estimate, error = estimates(0, null)
    p = Posterior.of(estimate, error).beyond(delta)
    is_so = np.abs(effect) > delta
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.001)):
        here = (p >= low) & (p < high)
        if here.sum() < 50:
            continue
        # a prior in favour of no effect may err to that side
        assert -0.05 < is_so[here].mean() - p[here].mean() < 0.12


def test_effects_are_nearer_the_truth_than_their_estimates() -> None:
    effect, estimate, error = estimates(1, 0.8)
    found = Posterior.of(estimate, error)
    assert ((found.mean() - effect) ** 2).mean() < 0.4 * ((estimate - effect) ** 2).mean()
    z = (effect - found.mean()) / found.deviation()
    assert 0.85 < z.std() < 1.15


def test_without_effects_nothing_is_probable() -> None:
    _, estimate, error = estimates(2, 1.0)
    found = Posterior.of(estimate, error)
    assert found.beyond(0.0).max() < 0.5
    np.testing.assert_array_equal(found.median()[np.abs(estimate) < error], 0)


def test_mean_median_and_shares_are_those_of_draws() -> None:
    found = Posterior(
        share=np.array([[0.3, 0.2, 0.5]]),
        centre=np.array([[0.0, 0.4, 1.0]]),
        spread=np.array([[0.0, 0.2, 0.5]]),
    )
    rng = np.random.default_rng(0)
    part = rng.choice(3, 200_000, p=[0.3, 0.2, 0.5])
    draws = found.centre[0][part] + found.spread[0][part] * rng.normal(size=200_000)
    assert found.mean()[0] == pytest.approx(draws.mean(), abs=0.01)
    assert found.deviation()[0] == pytest.approx(draws.std(), abs=0.01)
    assert found.median()[0] == pytest.approx(np.median(draws), abs=0.01)
    assert found.beyond(0.5)[0] == pytest.approx((np.abs(draws) > 0.5).mean(), abs=0.01)
    assert found.beyond(0.0)[0] == pytest.approx(0.7)
