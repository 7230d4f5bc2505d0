"""Families against scipy.stats: probabilities, quantiles, samples; and the registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi import likelihoods
from mosaicvi.errors import InputError
from mosaicvi.likelihoods import Evidence, Parameters

NAMES = ("NB", "ZINB", "Poisson", "Bernoulli", "Gaussian")
COUNTS = ("NB", "ZINB", "Poisson")
SHAPE = (4, 5)


def draw(name: str, seed: int) -> tuple[Parameters, Any]:
    """Parameters of 4 x 5 values, and scipy's distribution of them without extra zeros."""
    rng = np.random.default_rng(seed)
    mean, alpha = np.exp(rng.normal(0, 2, SHAPE)), np.clip(np.exp(rng.normal(-1, 2, SHAPE)), 1e-4, 6)
    if name == "Bernoulli":
        logit = rng.normal(0, 2, SHAPE)
        return Parameters(location=torch.from_numpy(logit)), scipy.stats.bernoulli(1 / (1 + np.exp(-logit)))
    if name == "Gaussian":
        location = rng.normal(0, 3, SHAPE)
        parameters = Parameters(location=torch.from_numpy(location), dispersion=torch.from_numpy(alpha))
        return parameters, scipy.stats.norm(location, alpha)
    location = torch.from_numpy(np.log(mean))
    if name == "Poisson":
        return Parameters(location=location), scipy.stats.poisson(mean)
    pi = torch.from_numpy(rng.uniform(0.05, 0.9, SHAPE[1])) if name == "ZINB" else None
    parameters = Parameters(location=location, dispersion=torch.from_numpy(alpha), inflation=pi)
    return parameters, scipy.stats.nbinom(1 / alpha, 1 / (1 + alpha * mean))


def values(name: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if name == "Gaussian":
        return rng.normal(0, 3, SHAPE)
    return rng.integers(0, 2 if name == "Bernoulli" else 40, SHAPE).astype(float)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 10**6))
def test_probabilities_and_cumulative_ones_are_those_of_scipy(name: str, seed: int) -> None:
    family, (parameters, exact), x = likelihoods.get(name), draw(name, seed), values(name, seed)
    log_prob, cdf = (exact.logpdf if name == "Gaussian" else exact.logpmf)(x), exact.cdf(x)
    if parameters.inflation is not None:
        pi = parameters.inflation.numpy()
        log_prob = np.log((1 - pi) * np.exp(log_prob) + pi * (x == 0))
        cdf = pi + (1 - pi) * cdf
    np.testing.assert_allclose(
        family.log_prob(torch.from_numpy(x), parameters), log_prob, rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(family.cdf(x, parameters), cdf, rtol=1e-7, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES), seed=st.integers(0, 10**6),
    q=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.025, 0.5, 0.975, 1 - 1e-9])),
)  # fmt: skip
def test_a_quantile_is_the_smallest_value_that_reaches_it(name: str, seed: int, q: float) -> None:
    family, (parameters, _) = likelihoods.get(name), draw(name, seed)
    x = family.quantile(q, parameters)
    if name == "Gaussian":
        np.testing.assert_allclose(family.cdf(x, parameters), q, rtol=1e-6, atol=1e-12)
        return
    assert (x == np.floor(x)).all()
    assert (x >= 0).all()
    assert (family.cdf(x, parameters) >= q).all()
    assert ((x == 0) | (family.cdf(x - 1, parameters) < q)).all()


@pytest.mark.parametrize("name", NAMES)
def test_ends_of_the_cumulative_probability(name: str) -> None:
    family, (parameters, _) = likelihoods.get(name), draw(name, 1)
    assert (family.cdf(-np.inf, parameters) == 0).all()
    assert (family.cdf(np.inf, parameters) == 1).all()
    assert (family.quantile(1.0, parameters) == (1 if name == "Bernoulli" else np.inf)).all()
    assert (family.quantile(0.0, parameters) == (-np.inf if name == "Gaussian" else 0)).all()
    for bad in (np.nan, -0.1, 1.1):
        assert np.isnan(family.quantile(bad, parameters)).all()
    assert np.isnan(family.cdf(np.nan, parameters)).all()


@pytest.mark.parametrize("alpha", [1e-8, 1e-4, 6.0])
@pytest.mark.parametrize("mean", [1e-6, 1.0, 1e5])
def test_quantiles_at_extremes(alpha: float, mean: float) -> None:
    family = likelihoods.get("NB")
    parameters = Parameters(
        location=torch.full((1,), np.log(mean), dtype=torch.float64),
        dispersion=torch.full((1,), alpha, dtype=torch.float64),
    )
    for q in (1e-6, 0.025, 0.5, 0.975, 1 - 1e-6):
        x = family.quantile(q, parameters)
        assert family.cdf(x, parameters) >= q
        assert x == 0 or family.cdf(x - 1, parameters) < q
    if alpha == 1e-8:
        np.testing.assert_allclose(
            family.cdf(mean, parameters), scipy.stats.poisson.cdf(mean, mean), rtol=1e-3
        )


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_mean_and_the_generator_decides(name: str) -> None:
    family, (parameters, _) = likelihoods.get(name), draw(name, 3)
    many = Parameters(
        location=parameters.location.expand(4000, *SHAPE),
        dispersion=parameters.dispersion,
        inflation=parameters.inflation,
    )
    drawn = family.sample(many, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, family.sample(many, torch.Generator().manual_seed(0)))
    error = (drawn.mean(0) - family.mean(parameters)).abs() / (drawn.std(0) / 4000**0.5 + 1e-12)
    assert float(error.max()) < 5


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    family, (parameters, _) = likelihoods.get(name), draw(name, 5)
    x = torch.from_numpy(values(name, 5))
    tensors = [t for t in (parameters.location, parameters.dispersion, parameters.inflation) if t is not None]

    def log_prob(*given: torch.Tensor) -> torch.Tensor:
        rest = iter(given)
        fields = ("location", "dispersion", "inflation")
        named = {f: None if getattr(parameters, f) is None else next(rest) for f in fields}
        return family.log_prob(x, Parameters(**named))  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(log_prob, [t.clone().requires_grad_() for t in tensors])


@pytest.mark.parametrize(
    ("whole", "peaks", "above", "name"),
    [
        (True, False, True, "NB"),
        (True, False, False, "NB"),
        (True, True, True, "Poisson"),
        (True, True, False, "Bernoulli"),
        (False, False, True, "Gaussian"),
        (False, True, True, "Gaussian"),
    ],
)
def test_values_are_recognised(whole: bool, peaks: bool, above: bool, name: str) -> None:
    evidence = Evidence(whole=whole, peaks=peaks, any_above_one=lambda: above)
    assert likelihoods.choose(evidence).name == name


def test_names_are_known_once() -> None:
    assert likelihoods.names()[:5] == NAMES
    with pytest.raises(InputError, match="'NB' is registered already"):
        likelihoods.register(likelihoods.get("NB"))
    with pytest.raises(InputError, match=r"likelihoods: unknown 'nb'; use one of NB, ZINB"):
        likelihoods.get("nb")
