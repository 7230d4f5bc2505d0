"""The draw of the latent and the KL terms: those of torch within the clips, and compiled the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi.nn import compiled
from mosaicvi.nn.losses import EXPONENT, diagonal_kl, sample_and_kl

Way = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def both(seed: int, n: int, width: int, weights: list[float], spread: float) -> list[list[torch.Tensor]]:
    """Latent, KL and gradients, compiled and as they are defined."""
    generator = torch.Generator().manual_seed(seed)
    shape = ((len(weights) + 1) * n, width)
    mean, log_var, noise, d_z = (spread * torch.randn(shape, generator=generator) for _ in range(4))
    found = []
    for way in (compiled.sample_and_kl, sample_and_kl):
        inputs = [v.clone().requires_grad_() for v in (mean, log_var)]
        z, kl = way(*inputs, noise, weights)
        grads = torch.autograd.grad((z * d_z).sum() + 1.7 * kl, inputs)
        found.append([z, kl, *grads])
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000), n=st.integers(1, 9), width=st.integers(1, 5),
    weights=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=2), spread=st.sampled_from([0.1, 1.0, 6.0]),
)  # fmt: skip
def test_compiled_it_is_the_same(seed: int, n: int, width: int, weights: list[float], spread: float) -> None:
    for a, b in zip(*both(seed, n, width, weights, spread), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.detach().abs().max()) + 1e-6)


@pytest.mark.parametrize("way", [compiled.sample_and_kl, sample_and_kl])
def test_inference_sees_one_pass_and_has_no_kl(way: Way) -> None:
    mean = torch.ones(3, 2)
    z, kl = way(mean, torch.zeros(3, 2), torch.full((3, 2), 0.5), [])
    torch.testing.assert_close(z, mean + 0.5)
    assert float(kl) == 0


@pytest.mark.parametrize("way", [compiled.sample_and_kl, sample_and_kl])
def test_a_nan_is_not_lost(way: Way) -> None:
    mean, log_var = torch.zeros(4, 2), torch.zeros(4, 2)
    mean[1, 0] = np.nan
    z, kl = way(mean, log_var, torch.zeros(4, 2), [1.0])
    assert torch.isnan(z[1, 0])
    assert torch.isnan(kl)


def test_kl_is_that_of_torch_within_the_clips_and_finite_beyond() -> None:
    g = torch.Generator().manual_seed(0)
    m0, m1, v0, v1 = (torch.randn(9, 4, generator=g, dtype=torch.float64) for _ in range(4))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(m0, torch.exp(v0 / 2)), normal(m1, torch.exp(v1 / 2))
    ).sum(1).mean()  # fmt: skip
    torch.testing.assert_close(diagonal_kl(m0, v0, m1, v1), expected)
    assert float(diagonal_kl(m0, v0, m0, v0)) == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(diagonal_kl(m0, v0 + 500, m1, v1 - 500))
    far = (torch.full((6, 2), 0.0), torch.cat([torch.full((3, 2), -40.0), torch.full((3, 2), 40.0)]))
    _, kl = sample_and_kl(*far, torch.zeros(6, 2), [1.0])
    assert float(kl) == pytest.approx(float(diagonal_kl(far[0][3:], far[1][3:], far[0][:3], far[1][:3])))
    assert float(kl) == pytest.approx(0.5 * 2 * (np.exp(EXPONENT) - 1 - 80), rel=1e-5)
