"""Sums against loops; tests whose p-values are right, also where counts are few; effects that are known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi.infer.differential.contrast import Contrast, Score, adjusted, centre_of, upper_tail
from mosaicvi.infer.differential.moments import Moments, moments


def drawn(
    seed: int,
    *,
    n: int = 600,
    d: int = 1500,
    share: float = 0.1,
    low: float = -3.0,
    high: float = 1.5,
    strata: int = 2,
    deeper: float = 1.0,
    effect: Any = 0.0,
) -> tuple[Any, Any, Any, Any]:
    """Overdispersed counts (n, d), exposures, groups 0 and 1, and strata with their own factors."""
    rng = np.random.default_rng(seed)
    stratum, group = rng.integers(0, strata, n), (rng.random(n) < share).astype(int)
    exposure = np.exp(0.4 * rng.normal(size=n)) * np.where(group == 1, deeper, 1)
    log_rate = rng.uniform(low, high, d) + 0.3 * rng.normal(size=(strata, d))[stratum]
    rate = exposure[:, None] * np.exp(log_rate) * np.exp2(effect * group[:, None])
    return rng.poisson(rate * rng.gamma(3, 1 / 3, rate.shape)), exposure, group, stratum


def score(x: Any, exposure: Any, group: Any, stratum: Any, *, is_ratio: bool = True) -> Score:
    strata = int(stratum.max()) + 1
    found = moments(sp.csr_matrix(x), sp.csr_matrix(x), exposure, group * strata + stratum, 2 * strata)
    ones, zeros = found.at(np.arange(strata, 2 * strata)), found.at(np.arange(strata))
    return Score(ones, zeros, is_ratio=is_ratio)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), dense=st.booleans(), holes=st.booleans())
def test_sums_are_those_of_a_loop(seed: int, dense: bool, holes: bool) -> None:
    rng = np.random.default_rng(seed)
    n, d, c = 13, 4, 3
    x = rng.poisson(1.0, (n, d)).astype(float)
    measured = rng.random((n, d)) < 0.7 if holes else None
    x = x if measured is None else x * measured
    value = np.log2(1 + x)
    exposure, member = rng.uniform(0.5, 2, n), rng.integers(-1, c, n)
    as_given = (lambda a: a) if dense else sp.csr_matrix
    found = moments(as_given(value), as_given(x), exposure, member, c, measured)
    right = {field.name: np.zeros((c, d)) for field in dataclasses.fields(Moments)}
    for i in range(n):
        for j in range(d):
            if member[i] < 0 or (measured is not None and not measured[i, j]):
                continue
            v, e = value[i, j], exposure[i]
            terms = {"n": 1, "l1": e, "l2": e**2, "l3": e**3, "y1": v, "y2": v**2, "y3": v**3}
            terms |= {"y1l1": v * e, "y2l1": v**2 * e, "y1l2": v * e**2, "positive": x[i, j] > 0}
            for name, term in {**terms, "raw": x[i, j]}.items():
                right[name][member[i], j] += term
    for name, expected in right.items():
        np.testing.assert_allclose(getattr(found, name), expected, err_msg=name)
    theta = rng.uniform(0, 1, (c, d))
    inside = np.ones((n, d)) if measured is None else measured
    for k in range(c):
        off = (value - theta[k] * exposure[:, None]) * inside * (member == k)[:, None]
        np.testing.assert_allclose(found.squares(theta)[k], (off**2).sum(0), atol=1e-9)
        np.testing.assert_allclose(found.cubes(theta)[k], (off**3).sum(0), atol=1e-9)


DESIGNS = {
    "few against many": {"share": 0.05, "n": 1200},
    "half": {"share": 0.5},
    "the group is sequenced deeper": {"deeper": 2.0},
    "hardly any counts": {"low": -6.0, "high": -2.0, "share": 0.08, "n": 1500},
    "hardly any counts, most in one group": {"low": -6.0, "high": -2.0, "share": 0.92, "n": 1500},
}


@pytest.mark.parametrize("name", list(DESIGNS))
def test_p_values_without_a_difference_are_right(name: str) -> None:
    p = np.concatenate([score(*drawn(seed, **DESIGNS[name])).p_value(0.0) for seed in (1, 2)])
    assert 0.02 < (p < 0.05).mean() < 0.06
    assert (p < 0.01).mean() < 0.014
    assert (p < 0.001).mean() < 0.003


def test_differences_of_numbers_are_those_of_a_t_test() -> None:
    rng = np.random.default_rng(0)
    x, group = rng.normal(3, 1, (2000, 50)), (rng.random(2000) < 0.4).astype(int)
    x[group == 1, :10] += 0.2
    found = score(x, np.ones(2000), group, np.zeros(2000, int), is_ratio=False)
    right = scipy.stats.ttest_ind(x[group == 1], x[group == 0], axis=0)
    np.testing.assert_allclose(found.p_value(0.0), right.pvalue, rtol=0.1, atol=1e-4)
    contrast = found.contrast()
    np.testing.assert_allclose(contrast.effect, x[group == 1].mean(0) - x[group == 0].mean(0))
    np.testing.assert_allclose(contrast.error, np.abs(contrast.effect / right.statistic), rtol=0.15)


def test_known_ratios_are_found_within_their_errors() -> None:
    effect = np.where(np.arange(1500) % 3 == 0, np.random.default_rng(5).normal(0, 1, 1500), 0.0)
    contrast = score(*drawn(3, n=4000, share=0.3, effect=effect)).contrast()
    off = (contrast.effect - effect) / contrast.error
    assert abs(np.median(off)) < 0.1
    assert 0.85 < off.std() < 1.15


def test_strata_are_not_compared_with_one_another() -> None:
    """All of group 1 in the stratum with ten times the counts: no difference within strata."""
    x, exposure, group, stratum = drawn(4, share=0.3)
    x[stratum == 1] *= 10
    group[(stratum == 0) & (np.arange(600) % 10 != 0)] = 0
    p = score(x, exposure, group, stratum).p_value(0.0)
    assert (p < 0.05).mean() < 0.07
    together = score(x, exposure, group, np.zeros(600, int)).p_value(0.0)
    assert (together < 0.05).mean() > 0.3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), is_ratio=st.booleans(), delta=st.sampled_from([0.0, 0.25, 1.0]))
def test_exchanged_groups_have_the_opposite_effect_and_the_same_p(
    seed: int, is_ratio: bool, delta: float
) -> None:
    x, exposure, group, stratum = drawn(seed, n=80, d=12, share=0.4)
    exposure = exposure if is_ratio else np.ones(80)
    one, other = (score(x, exposure, g, stratum, is_ratio=is_ratio) for g in (group, 1 - group))
    np.testing.assert_allclose(one.contrast().effect, -other.contrast().effect, atol=1e-9)
    np.testing.assert_allclose(one.p_value(delta), other.p_value(delta), rtol=1e-6, atol=1e-12)
    unlikely = one.p_value(delta) < 0.05
    assert (one.p_value(0.0)[unlikely] < 0.06).all()


def test_features_that_nobody_compares_are_not_usable() -> None:
    x, exposure, _, stratum = drawn(6, n=60, d=3)
    apart = score(x, exposure, stratum, stratum)
    assert not apart.contrast().usable.any()
    assert np.isnan(apart.p_value(0.0)).all()


@pytest.mark.parametrize("n", [10, 25, 50])
@pytest.mark.parametrize("delta", [0.0, 0.25])
def test_few_cells_of_a_type_do_not_differ_from_its_others(n: int, delta: float) -> None:
    """A few cells hold most counts of some features; a small group by chance has none of them."""
    rng = np.random.default_rng(n)
    wrong = 0
    for _ in range(20):
        cells, d = 600, 400
        rate = np.exp(rng.uniform(-4, 2, d)) * rng.gamma(0.1, 10, (cells, d))
        x, exposure = rng.poisson(rate), np.exp(0.4 * rng.normal(size=cells))
        group = (np.arange(cells) < n).astype(int)
        p = score(x, exposure, group, np.zeros(cells, int)).p_value(delta)
        assert (p > 0).all()
        wrong += bool((adjusted(p) <= 0.05).any())
    assert wrong <= 3


@settings(max_examples=30, deadline=None)
@given(z=st.floats(0, 8), skew=st.floats(-5, 0))
def test_the_short_tail_is_at_least_a_normal_one(z: float, skew: float) -> None:
    assert upper_tail(np.array(z), np.array(skew)) >= scipy.stats.norm.sf(z)


def test_a_feature_without_evidence_has_a_wide_error() -> None:
    """All counts are in one cell of the larger group: the test sees nothing, and nor may the effect."""
    x = np.zeros((600, 1), int)
    x[599] = 900
    group = (np.arange(600) < 100).astype(int)
    found = score(x, np.ones(600), group, np.zeros(600, int))
    assert found.p_value(0.0) > 0.3
    contrast = found.contrast()
    assert abs(contrast.effect / contrast.error) < 1


def test_tails_are_those_of_the_gamma_distribution() -> None:
    k = 4.0  # of a gamma variable, whose skewness is 2 / sqrt(k)
    z = np.linspace(-1.5, 4, 9)
    right = scipy.stats.gamma.sf(k + z * np.sqrt(k), k)
    np.testing.assert_allclose(upper_tail(z, np.full(9, 2 / np.sqrt(k))), right)
    np.testing.assert_allclose(upper_tail(z, np.zeros(9)), scipy.stats.norm.sf(z))


def test_adjusted_p_values() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    right = [0.04, np.nan, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5]
    np.testing.assert_allclose(adjusted(p), right)
    assert np.isnan(adjusted(np.array([np.nan]))).all()


@given(seed=st.integers(0, 10**6), shift=st.floats(-1, 1))
@settings(max_examples=20, deadline=None)
def test_the_centre_is_where_most_effects_lie(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    error = rng.uniform(0.02, 0.2, 400)
    effect = shift + error * rng.normal(size=400)
    effect[:100] += rng.uniform(1, 3, 100)  # a quarter differs, all the same way
    full = np.full(400, 100.0)
    contrast = Contrast(
        effect=effect, error=error, level1=full, level2=full, fewest=full, usable=np.ones(400, bool)
    )
    assert centre_of(contrast, is_ratio=True) == pytest.approx(shift, abs=0.05)
    few = dataclasses.replace(contrast, fewest=np.full(400, 1.0))
    assert centre_of(few, is_ratio=True) == 0
