"""The MMD term: both estimates against pair by pair, in either precision, and what they mean."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from tests.oracles import mmd as slow_mmd

from mosaicvi.config import NetworkConfig
from mosaicvi.likelihoods.base import Bounds
from mosaicvi.nn import compiled
from mosaicvi.nn.losses import mmd
from mosaicvi.nn.vae import MosaicVAE


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    groups=st.integers(1, 5),
    spread=st.sampled_from([1e-3, 1.0, 30.0]),
    unbiased=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    is_compiled=st.booleans(),
)
def test_value_and_gradient_are_those_pair_by_pair(
    seed: int, n: int, groups: int, spread: float, unbiased: bool, dtype: torch.dtype, is_compiled: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    mean = spread * torch.randn(n, 3, generator=g, dtype=torch.float64)
    group = torch.randint(0, groups + 1, (n,), generator=g)
    ours, theirs = mean.to(dtype).requires_grad_(), mean.to(dtype).double().requires_grad_()
    way = compiled.mmd if is_compiled and dtype == torch.float32 else mmd
    fast, slow = way(ours, group, unbiased=unbiased), slow_mmd(theirs, group, unbiased=unbiased)
    assert fast.dtype == dtype
    loose = {"rtol": 1e-4, "atol": 3e-6} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(fast.double(), slow, **loose)
    (a,) = torch.autograd.grad(fast, ours)
    if not slow.requires_grad:  # no two groups
        assert not bool(a.any())
        return
    (b,) = torch.autograd.grad(slow, theirs)
    torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5 * max(1.0, float(b.abs().max())))


def test_cells_at_one_point_pull_nowhere() -> None:
    mean = torch.zeros(6, 4, requires_grad=True)
    for unbiased in (True, False):
        (grad,) = torch.autograd.grad(mmd(mean, torch.tensor([1, 1, 1, 2, 2, 2]), unbiased=unbiased), mean)
        assert not bool(grad.any())


@pytest.mark.parametrize("sizes", [(4, 4), (2, 3, 40), (1, 30, 30)])
def test_unbiased_is_zero_on_average_for_groups_alike_and_biased_is_not(sizes: tuple[int, ...]) -> None:
    group = torch.repeat_interleave(torch.arange(len(sizes)) + 1, torch.tensor(sizes))
    g = torch.Generator().manual_seed(0)
    draws = [torch.randn(len(group), 8, generator=g) for _ in range(2000)]
    fair = torch.stack([mmd(d, group, unbiased=True) for d in draws])
    assert abs(float(fair.mean())) < 4 * float(fair.std()) / len(draws) ** 0.5
    assert min(float(mmd(d, group, unbiased=False)) for d in draws[:50]) > 0


def test_groups_apart_are_drawn_together() -> None:
    g = torch.Generator().manual_seed(0)
    group = torch.repeat_interleave(torch.tensor([1, 2]), 50)
    mean = torch.randn(100, 5, generator=g) + 3.0 * (group == 2)[:, None]
    mean.requires_grad_()
    value = mmd(mean, group, unbiased=True)
    assert float(value.detach()) > 0.1
    (grad,) = torch.autograd.grad(value, mean)
    assert bool((grad[group == 1].mean(0) < 0).all())  # a step against it goes towards the other group
    assert bool((grad[group == 2].mean(0) > 0).all())


@pytest.mark.parametrize("unbiased", [False, True])
def test_several_ways_to_group_cells_are_aligned_each_alone(unbiased: bool) -> None:
    config = NetworkConfig(
        dim_input_arr=(2,), dim_block=(2,), dist_block=("Gaussian",), dim_block_embed=(1,),
        dim_block_enc=(0,), dim_block_dec=(0,), block_names=("a",), uni_block_names=("a",), dimensions=(2,),
        dim_latent=3, unbiased_mmd=unbiased,
    )  # fmt: skip
    bounds = Bounds(centre=torch.zeros(2), low=-torch.ones(2), high=torch.ones(2))
    net = MosaicVAE(config, 1, [bounds], torch.Generator().manual_seed(0))
    mean = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    group = torch.stack([torch.arange(12) % 4, torch.arange(12) // 5, torch.zeros(12, dtype=torch.int64)], 1)
    apart = sum(slow_mmd(mean.double(), column, unbiased=unbiased) for column in group.T)
    torch.testing.assert_close(net._mmd(mean, group, 0.5, None).double(), 0.5 * apart, rtol=1e-4, atol=1e-6)
