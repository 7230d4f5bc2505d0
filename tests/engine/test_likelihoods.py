"""Likelihoods, compiled and defined: values and gradients against torch.distributions, scipy and sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles import log_prob, log_rising, mean_of, nb_exact
from torch import Tensor

from mosaicvi import likelihoods
from mosaicvi.engine import counts as count_kernels
from mosaicvi.engine import likelihoods as kernels
from mosaicvi.likelihoods import Parameters
from mosaicvi.likelihoods.base import Bounds
from mosaicvi.likelihoods.nb import rising_log
from mosaicvi.nn.decoder import MIN_DISPERSION, Head

COUNTS = ("NB", "ZINB", "Poisson")
DISTRIBUTIONS = (*COUNTS, "Bernoulli", "Gaussian")


def evaluate(dist: str, o: Tensor, x: Tensor, *, compiled: bool = False, **rest: Any) -> dict[str, Tensor]:
    """Log-likelihood of each row and all gradients; `x`, `alpha`, `target` and `panel` are dense (r, d)."""
    rest = {k: v for k, v in rest.items() if v is not None}
    return by_kernel(dist, o.clone(), x, **rest) if compiled else by_definition(dist, o, x, **rest)


def by_definition(
    dist: str, o: Tensor, x: Tensor, *, low: Tensor, high: Tensor, centre: Tensor,
    alpha: Tensor | None = None, target: Tensor | None = None, panel: Tensor | None = None,
    pi: Tensor | None = None, library: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """By the family, with gradients by autograd."""
    inputs = {
        k: v.clone().requires_grad_() for k, v in (("o", o), ("alpha", alpha), ("pi", pi)) if v is not None
    }
    family = likelihoods.get(dist)
    head = Head(
        m=0, features=None, family=family, library_aware=library is not None, max_disp=6.0, dispersion=None,
        inflation=None, bounds=Bounds(centre=centre, low=low, high=high),
    )  # fmt: skip
    wanted = torch.ones_like(o, dtype=torch.bool) if target is None else target > 0
    location = head.location(inputs["o"], library, None if panel is None else panel > 0)
    location = torch.where(wanted, location, torch.zeros_like(location))
    parameters = Parameters(location=location, dispersion=inputs.get("alpha"), inflation=inputs.get("pi"))
    entries = family.log_prob(x, parameters)
    value = torch.where(wanted, entries, torch.zeros_like(entries)).sum(1)
    grads = torch.autograd.grad(value.sum(), list(inputs.values()), allow_unused=True)
    found = {"value": value.detach()}
    return found | {
        k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(inputs.items(), grads, strict=True)
    }


def by_kernel(
    dist: str, o: Tensor, x: Tensor, *, low: Tensor, high: Tensor, centre: Tensor,
    alpha: Tensor | None = None, target: Tensor | None = None, panel: Tensor | None = None,
    pi: Tensor | None = None, library: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """By the compiled likelihoods; blocks of one and of the other columns change nothing."""
    r, d = o.shape
    every, whole = torch.arange(r), library is not None
    kind = kernels.kind_of(dist, library_aware=whole)
    part = kernels.likelihood_of(
        kind, low=low, high=high, centre=centre, code=every, weight=torch.ones(r), alpha=alpha, pi=pi,
        wanted=None if target is None else (target > 0, every),
        measured=None if panel is None or not whole else (panel > 0, every),
        library=None if library is None else library[:, 0],
    )  # fmt: skip
    row, col = (x if target is None else x * target).nonzero(as_tuple=True)
    first = max(1, d // 3)  # columns of the first block
    run = (col >= first).long() * r + row
    order = torch.argsort(run, stable=True)
    values = kernels.Values(
        pick=np.arange(r), n=r, ends=np.concatenate([[0], np.cumsum(np.bincount(run, minlength=2 * r))]),
        col=kernels.array(col[order]), x=kernels.array(x[row, col][order]),
        dense=kernels.array(x if dist == "Gaussian" else None, 2),
    )  # fmt: skip
    value = np.zeros(r, np.float32)
    slopes = kernels.Slopes(np.zeros(part.alpha.shape, np.float32), np.zeros(part.pi.shape, np.float32))
    for lo, hi, blocks in [(0, d, (0, 2))] if whole else [(0, first, (0, 1)), (first, d, (1, 2))]:
        tile = np.ascontiguousarray(o.numpy()[:, lo:hi])
        if hi > lo:
            kernels.tile(kind, tile, 0, lo, blocks, values, part, value, slopes)
        o[:, lo:hi] = torch.from_numpy(tile)
    found = {"value": torch.from_numpy(value), "o": -o}
    found |= {} if alpha is None else {"alpha": -torch.from_numpy(slopes.alpha)}
    return found | ({} if pi is None else {"pi": -torch.from_numpy(slopes.pi)})


def oracle(
    dist: str, o: Tensor, x: Tensor, *, alpha: Tensor | None = None, target: Tensor | None = None,
    low: Tensor, high: Tensor, centre: Tensor, pi: Tensor | None = None, library: Tensor | None = None,
    panel: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The same in float64 by autograd."""
    double = [None if v is None else v.double() for v in (o, alpha, pi)]
    o64, alpha64, pi64 = (None if v is None else v.requires_grad_() for v in double)
    assert o64 is not None
    mean = mean_of(
        dist, o64, low=low.double(), high=high.double(), centre=centre.double(),
        library=None if library is None else library.double(), panel=None if panel is None else panel > 0,
    )  # fmt: skip
    at = torch.ones_like(o, dtype=torch.bool) if target is None else target > 0
    entries = log_prob(
        dist, x.double()[at], mean[at], None if alpha64 is None else alpha64[at],
        None if pi64 is None else pi64.expand_as(o64)[at],
    )  # fmt: skip
    value = torch.zeros_like(o64).masked_scatter(at, entries).sum(1)
    inputs = {k: v for k, v in (("o", o64), ("alpha", alpha64), ("pi", pi64)) if v is not None}
    grads = torch.autograd.grad(value.sum(), list(inputs.values()), allow_unused=True)
    out = {"value": value.detach()}
    for (k, v), g in zip(inputs.items(), grads, strict=True):
        out[k] = torch.zeros_like(v) if g is None else g
    return out


def close(actual: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-4) -> None:
    for key, value in actual.items():
        want = expected[key]
        torch.testing.assert_close(
            value.double(),
            want,
            rtol=rtol,
            atol=rtol * max(1.0, float(want.abs().median())),
            msg=lambda text, key=key: f"{key}: {text}",
        )


def draw(
    dist: str, seed: int, *, aware: bool, masked: bool, panels: bool, r: int = 6, d: int = 9
) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    out: dict[str, Any] = {"o": 3 * torch.randn(r, d, generator=g)}
    low, high, centre = torch.zeros(d), 1 + 20 * rand(d), torch.zeros(d)
    x = torch.poisson(4 * rand(r, d), generator=g) * (rand(r, d) < 0.5)
    if dist == "Bernoulli":
        low, high, x = torch.full((d,), 1e-5), torch.full((d,), 1 - 1e-5), (x > 0).float()
    if dist == "Gaussian":
        centre = torch.randn(d, generator=g)
        low, high, x = centre - 4, centre + 4, 2 * torch.randn(r, d, generator=g)
    panel = (rand(r, d) < 0.7).float() if panels else None
    if panel is not None:
        panel[:, 0] = 1
        x = x * panel
    target = panel
    if masked:
        target = (rand(r, d) < 0.4).float() * (1 if panel is None else panel)
    out |= {"x": x, "low": low, "high": high, "centre": centre, "target": target}
    if aware:
        out |= {"library": x.sum(1, keepdim=True), "panel": panel}
    if dist in ("NB", "ZINB", "Gaussian"):
        out["alpha"] = torch.exp(torch.randn(r, d, generator=g)).clamp(1e-3, 6)
    if dist == "ZINB":
        out["pi"] = rand(d).clamp(0.01, 0.99)
    return out


@settings(max_examples=60, deadline=None)
@given(
    dist=st.sampled_from(DISTRIBUTIONS), seed=st.integers(0, 10**6), aware=st.booleans(),
    masked=st.booleans(), panels=st.booleans(), d=st.integers(1, 40), compiled=st.booleans(),
)  # fmt: skip
def test_values_and_gradients(
    dist: str, seed: int, aware: bool, masked: bool, panels: bool, d: int, compiled: bool
) -> None:
    aware = aware and dist in COUNTS
    arguments = draw(dist, seed, aware=aware, masked=masked, panels=panels, d=d)
    close(evaluate(dist, **arguments, compiled=compiled), oracle(dist, **arguments))


@pytest.mark.parametrize("dist", ["NB", "ZINB"])
def test_gradients_are_finite_differences_of_an_exact_sum(dist: str) -> None:
    x = np.array([[0, 1, 2, 3, 10, 250]], float)
    alpha, pi = np.array([[0.01, 0.3, 2.0, 5.9, 0.7, 0.05]]), np.array([0.3, 0.05, 0.6, 0.2, 0.1, 0.9])
    o, high = np.array([[0.3, -2, 1, 0.2, -0.5, 1.5]]), np.full(6, 300.0)

    def value(o: np.ndarray, alpha: np.ndarray, pi: np.ndarray) -> np.ndarray:
        nb = nb_exact(x, high / (1 + np.exp(-o)), alpha)
        if dist == "NB":
            return nb
        return np.where(x > 0, np.log1p(-pi) + nb, np.logaddexp(np.log(pi), np.log1p(-pi) + nb))

    to = lambda a: torch.tensor(a, dtype=torch.float64)  # noqa: E731
    got = evaluate(
        dist, to(o), to(x), alpha=to(alpha), pi=to(pi) if dist == "ZINB" else None,
        low=torch.zeros(6).double(), high=to(high), centre=torch.zeros(6).double(),
    )  # fmt: skip
    np.testing.assert_allclose(got["value"], value(o, alpha, pi).sum(1), rtol=1e-8)
    h = 1e-6
    differences = {
        "o": (value(o + h, alpha, pi) - value(o - h, alpha, pi)) / (2 * h),
        "alpha": (value(o, alpha + h, pi) - value(o, alpha - h, pi)) / (2 * h),
        "pi": ((value(o, alpha, pi + h) - value(o, alpha, pi - h)) / (2 * h)).sum(0),
    }
    for key in ("o", "alpha", "pi") if dist == "ZINB" else ("o", "alpha"):
        np.testing.assert_allclose(got[key], differences[key], rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("dist", COUNTS)
def test_probabilities_sum_to_one_and_are_those_of_scipy(dist: str) -> None:
    n, mean, a, pi = 400, 7.5, 0.4, 0.2
    x = torch.arange(n, dtype=torch.float64)[:, None]
    logit = math.log(mean) if dist == "Poisson" else math.log(mean / (100 - mean))
    one = torch.ones(1, dtype=torch.float64)
    got = evaluate(
        dist, torch.full((n, 1), logit, dtype=torch.float64), x, low=0 * one, high=100 * one, centre=0 * one,
        alpha=None if dist == "Poisson" else torch.full((n, 1), a, dtype=torch.float64),
        pi=pi * one if dist == "ZINB" else None,
    )["value"].numpy()  # fmt: skip
    assert np.exp(got).sum() == pytest.approx(1, abs=1e-9)
    k = np.arange(n)
    expected = scipy.stats.poisson.logpmf(k, mean)
    if dist != "Poisson":
        expected = scipy.stats.nbinom.logpmf(k, 1 / a, 1 / (1 + a * mean))
    if dist == "ZINB":
        expected = np.log((1 - pi) * np.exp(expected) + pi * (k == 0))
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-9)


# --- extreme values -----------------------------------------------------------------------------

ALPHAS = np.array([1e-8, 1e-6, 1e-4, 9.9e-4, 1.1e-3, 1e-2, 0.1, 1.0, 6.0])


def test_the_rising_factor_is_its_sum() -> None:
    x = np.array([0, 1, 2, 3, 7, 50, 1000, 100_000], float)
    a, n = np.meshgrid(ALPHAS, x)
    f, slope = rising_log(torch.tensor(n), torch.tensor(a))
    expected = log_rising(n, a)
    np.testing.assert_allclose(f, expected, rtol=1e-6, atol=1e-7)
    k = [np.arange(int(v)) for v in n.ravel()]
    exact = np.array([(i / (1 + i * b)).sum() for i, b in zip(k, a.ravel(), strict=True)]).reshape(a.shape)
    np.testing.assert_allclose(slope, exact, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("x", [0, 1, 2, 2.5, 0.3, 255, 256, 2047, 2047.5, 2048, 1e5, 1e8])
def test_factors_of_a_count_in_compiled_loops(x: float) -> None:
    found = np.array([count_kernels.rising(np.float32(x), np.float32(a)) for a in ALPHAS])
    many = torch.full((len(ALPHAS),), np.float32(x), dtype=torch.float64)
    f, slope = rising_log(many, torch.tensor(ALPHAS.astype(np.float32), dtype=torch.float64))
    np.testing.assert_allclose(found[:, 0], f, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(found[:, 1], slope, rtol=1e-5, atol=1e-6)
    expected = scipy.special.gammaln(np.float32(x) + 1.0)
    assert count_kernels.log_factorial(np.float32(x)) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", [0, 1, 2, 30, 1000, 100_000])
@pytest.mark.parametrize("compiled", [True, False])
def test_large_counts_and_extreme_dispersions_in_float32(alpha: float, count: int, compiled: bool) -> None:
    means = np.array([1e-3, 0.5, 20, 1000, 9e4])
    x = np.full((1, 5), float(count))
    high = np.full(5, 1e5)
    o = np.log(means / (high - means))[None].astype(np.float32)
    got = evaluate(
        "NB", torch.tensor(o), torch.tensor(x, dtype=torch.float32), alpha=torch.full((1, 5), alpha),
        low=torch.zeros(5), high=torch.tensor(high, dtype=torch.float32), centre=torch.zeros(5),
        target=None, compiled=compiled,
    )  # fmt: skip
    mean = high / (1 + np.exp(-o.astype(np.float64)))
    a = float(np.float32(alpha))
    expected = nb_exact(x, mean, np.full((1, 5), a)).sum()
    assert float(got["value"]) == pytest.approx(expected, rel=2e-5, abs=1e-4)
    slope = (x - mean) / (1 + a * mean) * (1 - mean / high)  # d value / d output
    np.testing.assert_allclose(got["o"], slope, rtol=2e-3, atol=2e-3 * max(1.0, abs(slope).max() * 1e-2))
    assert torch.isfinite(got["alpha"]).all()


@pytest.mark.parametrize("alpha", [1e-8, 1e-5, 9e-4, 2e-3])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_slope_by_dispersion_does_not_cancel(alpha: float, compiled: bool) -> None:
    x = np.array([[0.0, 0, 3, 40, 1000]])
    high, o = np.full(5, 2000.0), np.array([[-6.0, -2, -4, -3, 0]])
    to = lambda v: torch.tensor(v, dtype=torch.float32)  # noqa: E731
    got = evaluate(
        "NB",
        to(o),
        to(x),
        alpha=torch.full((1, 5), alpha),
        low=torch.zeros(5),
        high=to(high),
        centre=torch.zeros(5),
        compiled=compiled,
    )
    mean = high / (1 + np.exp(-o))
    a = float(np.float32(alpha))
    ks = [np.arange(int(v)) for v in x.ravel()]
    rise = np.array([(k / (1 + k * a)).sum() for k in ks])[None]
    t = a * mean
    small = t < 1e-3
    curve = np.where(
        small, 0.5 - 2 * t / 3 + 0.75 * t * t, (np.log1p(t) - t / (1 + t)) / np.maximum(t, 1e-12) ** 2
    )
    expected = rise + curve * mean**2 - x * mean / (1 + t)
    size = rise + curve * mean**2 + x * mean / (1 + t)
    np.testing.assert_array_less(np.abs(got["alpha"].numpy() - expected), 3e-4 * size + 1e-4)


@pytest.mark.parametrize("compiled", [True, False])
def test_without_dispersion_nb_is_poisson(compiled: bool) -> None:
    g = torch.Generator().manual_seed(0)
    mean = 30 * torch.rand(50, 8, generator=g)
    x = torch.poisson(mean, generator=g)
    ends = {"low": torch.zeros(8), "high": torch.full((8,), 40.0), "centre": torch.zeros(8)}
    nb = evaluate(
        "NB", torch.log(mean / (40 - mean)), x, alpha=torch.full((50, 8), 1e-8), **ends, compiled=compiled
    )["value"]
    poisson = evaluate("Poisson", torch.log(mean), x, **ends, compiled=compiled)["value"]
    torch.testing.assert_close(nb, poisson, rtol=1e-4, atol=1e-3)
    library = x.sum(1, keepdim=True)
    nb = evaluate(
        "NB", torch.log(mean), x, alpha=torch.full((50, 8), 1e-8), library=library, **ends, compiled=compiled
    )
    poisson = evaluate("Poisson", torch.log(mean), x, library=library, **ends, compiled=compiled)
    torch.testing.assert_close(nb["value"], poisson["value"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(nb["o"], poisson["o"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("logit", [-1000.0, -60.0, -12.0, 0.0, 12.0, 60.0, 1000.0])
@pytest.mark.parametrize("compiled", [True, False])
def test_bernoulli_at_its_bounds(logit: float, compiled: bool) -> None:
    low, high = torch.full((3,), 1e-5), torch.full((3,), 1 - 1e-5)
    o, x = torch.full((2, 3), logit), torch.tensor([[0.0, 1, 0], [1, 1, 0]])
    got = evaluate("Bernoulli", o, x, low=low, high=high, centre=torch.zeros(3), compiled=compiled)
    p = np.clip(1 / (1 + np.exp(-np.float64(max(logit, -700)))), 1e-5, 1 - 1e-5)
    expected = scipy.stats.bernoulli.logpmf(x.numpy(), p).sum(1)
    np.testing.assert_allclose(got["value"], expected, rtol=3e-3)  # 1 - 1e-5 has five digits in float32
    inside = abs(logit) <= 11.5
    np.testing.assert_allclose(got["o"], (x.numpy() - p) * inside, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dist", ["Poisson", "Gaussian"])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_mean_stays_within_its_bounds_and_has_no_gradient_there(dist: str, compiled: bool) -> None:
    o, x = torch.tensor([[-1e4, -50.0, 0.5, 50.0, 1e4]]), torch.tensor([[0.0, 1, 2, 3, 4]])
    low, high = torch.full((5,), 0.5), torch.full((5,), 9.0)
    got = evaluate(
        dist, o, x, alpha=torch.ones(1, 5), low=low, high=high, centre=torch.zeros(5), compiled=compiled
    )
    assert torch.isfinite(got["value"]).all()
    assert got["o"][0, [0, 1, 3, 4]].tolist() == [0, 0, 0, 0]
    assert got["o"][0, 2] != 0


@pytest.mark.parametrize("shift", [-1000.0, -200.0, -90.0, -30.0, 30.0, 59.0, 61.0, 200.0, 1000.0])
@pytest.mark.parametrize("dist", COUNTS)
@pytest.mark.parametrize("panels", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_softmax_does_not_see_a_common_shift(dist: str, shift: float, panels: bool, compiled: bool) -> None:
    arguments = draw(dist, 3, aware=True, masked=False, panels=panels)
    expected = evaluate(dist, **arguments, compiled=compiled)
    moved = evaluate(dist, **(arguments | {"o": arguments["o"] + shift}), compiled=compiled)
    for key, value in moved.items():
        torch.testing.assert_close(
            value, expected[key], rtol=2e-3, atol=2e-3, msg=lambda t, key=key: f"{key}: {t}"
        )
    rows = shift * torch.arange(len(arguments["o"]))[:, None] / len(arguments["o"])
    apart = evaluate(dist, **(arguments | {"o": arguments["o"] + rows}), compiled=compiled)
    for key, value in apart.items():
        torch.testing.assert_close(
            value, expected[key], rtol=2e-3, atol=2e-3, msg=lambda t, key=key: f"{key}: {t}"
        )


@pytest.mark.parametrize("dist", COUNTS)
@pytest.mark.parametrize("compiled", [True, False])
def test_features_outside_the_panel_do_not_drown_those_inside(dist: str, compiled: bool) -> None:
    arguments = draw(dist, 3, aware=True, masked=False, panels=True)
    expected = evaluate(dist, **arguments, compiled=compiled)
    inside = arguments["panel"] > 0
    got = evaluate(
        dist,
        **(arguments | {"o": torch.where(inside, arguments["o"], torch.full((), 300.0))}),
        compiled=compiled,
    )
    torch.testing.assert_close(got["value"], expected["value"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got["o"][inside], expected["o"][inside], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dist", COUNTS)
@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_million_counts_and_empty_cells_are_finite(dist: str, aware: bool, compiled: bool) -> None:
    x = torch.tensor([[0.0, 0, 0], [1e6, 0, 3], [1e6, 9e6, 1], [0, 0, 1]])
    arguments: dict[str, Any] = {
        "o": torch.tensor([[0.0, 5, -5], [-40, 20, 0], [60, -60, 0], [0, 0, 0]]),
        "x": x, "low": torch.zeros(3), "high": torch.full((3,), 1e7), "centre": torch.zeros(3),
    }  # fmt: skip
    if dist != "Poisson":
        arguments["alpha"] = torch.tensor([[1e-8, 0.1, 6.0]]).expand(4, 3).contiguous()
    if dist == "ZINB":
        arguments["pi"] = torch.tensor([1e-3, 0.5, 1 - 1e-3])
    if aware:
        arguments["library"] = x.sum(1, keepdim=True)
    for value in evaluate(dist, **arguments, compiled=compiled).values():
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("compiled", [True, False])
def test_gaussian_of_the_smallest_deviation_is_finite(compiled: bool) -> None:
    got = evaluate(
        "Gaussian", torch.zeros(1, 3), torch.tensor([[0.0, 1.0, -50.0]]), alpha=torch.full((1, 3), 1e-8),
        low=torch.full((3,), -9.0), high=torch.full((3,), 9.0), centre=torch.zeros(3),
        compiled=compiled,
    )  # fmt: skip
    assert torch.isfinite(got["value"]).all()
    assert torch.isfinite(got["o"]).all()
    assert torch.isfinite(got["alpha"]).all()


# --- parts --------------------------------------------------------------------------------------


def head_of(dist: str, **rest: Any) -> Head:
    plain = dict.fromkeys(("features", "dispersion", "inflation"))
    bounds = Bounds(**{k: rest.pop(k, torch.zeros(1)) for k in ("centre", "low", "high")})
    defaults = {"m": 0, "library_aware": False, "max_disp": 6.0, "bounds": bounds}
    return Head(family=likelihoods.get(dist), **(plain | defaults | rest))  # type: ignore[arg-type]


def test_dispersion_is_clipped_and_lets_gradients_through() -> None:
    kernel = torch.tensor([[-200.0, -3.0, 0.0, 5.0, 50.0]], requires_grad=True)
    covariates = torch.tensor([[1.0], [0.5]])
    alpha = head_of("NB", dispersion=kernel).alpha(covariates)
    assert alpha is not None
    raw = np.log1p(np.exp(np.minimum(covariates.numpy() * kernel.detach().numpy(), 30)))
    np.testing.assert_allclose(alpha.detach(), np.clip(raw, MIN_DISPERSION, 6), rtol=1e-5, atol=1e-8)
    alpha.sum().backward()
    expected = (covariates.numpy() * scipy.special.expit(covariates.numpy() * kernel.detach().numpy())).sum(0)
    assert kernel.grad is not None
    np.testing.assert_allclose(kernel.grad[0], expected, rtol=1e-5, atol=1e-12)


def test_zero_inflation_stays_between_its_bounds() -> None:
    pi = head_of("ZINB", inflation=torch.tensor([-100.0, -2, 0, 2, 100])).pi()
    assert pi is not None
    np.testing.assert_allclose(
        pi, [1e-3, 1 / (1 + math.e**2), 0.5, 1 / (1 + math.e**-2), 1 - 1e-3], rtol=1e-5
    )


@pytest.mark.parametrize("dist", DISTRIBUTIONS)
@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("panels", [True, False])
def test_means(dist: str, aware: bool, panels: bool) -> None:
    a = draw(dist, 5, aware=aware and dist in COUNTS, masked=False, panels=panels)
    panel = a.get("panel")
    head = head_of(dist, low=a["low"], high=a["high"], centre=a["centre"])
    location = head.location(a["o"], a.get("library"), None if panel is None else panel > 0)
    got = head.family.mean(Parameters(location=location, inflation=a.get("pi")))
    want = mean_of(
        dist, a["o"].double(), low=a["low"].double(), high=a["high"].double(), centre=a["centre"].double(),
        library=None if a.get("library") is None else a["library"].double(),
        panel=None if panel is None else panel > 0,
    )  # fmt: skip
    if dist == "ZINB":
        want = want * (1 - a["pi"].double())
    at = torch.ones_like(a["o"], dtype=torch.bool) if panel is None else panel > 0
    torch.testing.assert_close(got.double()[at], want[at], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dist", "aware"), [
    *((dist, aware) for dist in COUNTS for aware in (True, False)), ("Bernoulli", False), ("Gaussian", False),
])  # fmt: skip
@pytest.mark.parametrize("column", [0, 3])
def test_a_nan_is_not_lost_in_a_compiled_loop(dist: str, aware: bool, column: int) -> None:
    arguments = draw(dist, 3, aware=aware, masked=False, panels=False)
    arguments["o"][2, column] = math.nan
    got = evaluate(dist, **arguments, compiled=True)
    assert torch.isnan(got["value"]).tolist() == [i == 2 for i in range(6)]
    assert torch.isnan(got["o"][2, column])
    assert torch.isfinite(got["o"][[0, 1, 3, 4, 5]]).all()
