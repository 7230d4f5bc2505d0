"""The gradient's norm is that of torch, by compiled loops and where these cannot be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi import device
from mosaicvi.fit.norm import CHUNK, gradient_norm


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 7, CHUNK, 3 * CHUNK + 5]), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_the_norm_is_that_of_torch(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(n, generator=generator) for n in sizes] + [torch.randn(3, 4, generator=generator).T]
    expected = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
    assert float(gradient_norm(grads)) == pytest.approx(expected, rel=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "is_apart", lambda tensor: True)
        assert float(gradient_norm(grads)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_lost(bad: float) -> None:
    grads = [torch.zeros(5), torch.tensor([1.0, bad])]
    assert not math.isfinite(float(gradient_norm(grads)))
