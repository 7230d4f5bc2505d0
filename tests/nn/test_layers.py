"""Layers: the sparse product, norms whose statistics stay within a pass, first weights, block groups."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi.config import NetworkConfig
from mosaicvi.nn import compiled
from mosaicvi.nn.blocks import block_groups
from mosaicvi.nn.layers import HiddenStack, PassBatchNorm, glorot_, make_linear


def test_batch_norm_is_of_each_pass_alone_and_running_statistics_follow() -> None:
    g = torch.Generator().manual_seed(0)
    norm = PassBatchNorm(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2, 3]))
        norm.bias.copy_(torch.tensor([0.0, -1, 1]))
    mean, var, seen = torch.zeros(3), torch.ones(3), 0
    for _ in range(120):
        h = 2 * torch.randn(10, 3, generator=g) + torch.tensor([5.0, 0, -5])
        out = norm(h, 2)
        for p, part in enumerate(h.split(5)):
            centred = (part - part.mean(0)) / torch.sqrt(part.var(0, correction=0) + 1e-3)
            expected = centred * norm.weight + norm.bias
            torch.testing.assert_close(out[5 * p : 5 * p + 5], expected.detach(), rtol=1e-4, atol=1e-5)
            keep = min(seen / (seen + 1), 0.99)
            mean, var = (
                keep * mean + (1 - keep) * part.mean(0),
                keep * var + (1 - keep) * part.var(0, correction=0),
            )
            seen += 1
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, var, rtol=1e-4, atol=1e-5)
    norm.eval()
    before = norm.running_mean.clone()
    h = torch.randn(4, 3, generator=g)
    expected = (h - mean) / torch.sqrt(var + 1e-3) * norm.weight + norm.bias
    torch.testing.assert_close(norm(h, 1), expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm(h[:1], 1), norm(h, 1)[:1])
    assert torch.equal(norm.running_mean, before)


def test_a_single_cell_normalises_to_the_bias() -> None:
    norm = PassBatchNorm(2)
    h = torch.tensor([[3.0, 4.0]], requires_grad=True)
    out = norm(h, 1)
    torch.testing.assert_close(out, torch.zeros(1, 2), rtol=0, atol=1e-5)
    out.sum().backward()
    assert h.grad is not None
    assert torch.isfinite(h.grad).all()


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_hidden_stack(norm: str) -> None:
    g = torch.Generator().manual_seed(0)
    stack = HiddenStack(4, (6, 3), norm, g)  # type: ignore[arg-type]
    assert stack.n_out == 3
    assert HiddenStack(4, (), "layer", g).n_out == 4
    h = torch.randn(8, 4, generator=g)
    expected = h
    for linear in stack.linear:
        expected = expected @ linear.weight.T + linear.bias
        expected = torch.where(expected > 0, expected, 0.3 * expected)
        if norm == "layer":
            spread = torch.sqrt(expected.var(1, correction=0, keepdim=True) + 1e-5)
            expected = (expected - expected.mean(1, keepdim=True)) / spread
        else:
            parts = expected.split(4)
            expected = torch.cat([(p - p.mean(0)) / torch.sqrt(p.var(0, correction=0) + 1e-3) for p in parts])
    torch.testing.assert_close(stack(h, 2), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    n=st.sampled_from([3, 130, 300]),
    norm=st.sampled_from(["layer", "batch"]),
    widths=st.sampled_from([(5,), (16, 3), (8, 8, 8)]),
)
def test_the_compiled_stack_is_the_definition(
    seed: int, n: int, widths: tuple[int, ...], norm: Literal["layer", "batch"]
) -> None:
    g = torch.Generator().manual_seed(seed)
    stack = HiddenStack(7, widths, norm, g)
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(torch.randn(p.shape, generator=g), alpha=0.3)
    x, weight = torch.randn(2 * n, 7, generator=g), torch.randn(2 * n, widths[-1], generator=g)
    found = []
    ways = (
        (compiled.hidden, torch.float32),
        (HiddenStack.forward, torch.float32),
        (HiddenStack.forward, torch.float64),
    )
    for way, to in ways:
        given_x = x.to(to, copy=True).requires_grad_()
        out = way(stack.to(to), given_x, 2)
        wanted = [given_x, *stack.parameters()]
        found.append([out, *torch.autograd.grad((out * weight).sum(), wanted)])
    for ours, rounded, exact in zip(*found, strict=True):
        # norms of nearly equal values magnify rounding, in the definition as well
        rounding = float((rounded.double() - exact).detach().abs().max())
        torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-4 + 10 * rounding)


def test_first_weights_are_glorots_and_the_generator_decides() -> None:
    weight = torch.empty(300, 200)
    glorot_(weight, 200, 300, torch.Generator().manual_seed(0))
    limit = math.sqrt(6 / 500)
    assert float(weight.abs().max()) <= limit
    assert float(weight.std()) == pytest.approx(limit / math.sqrt(3), rel=0.01)
    a, b = (make_linear(5, 3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a.weight, b.weight)
    assert not a.bias.any()


def test_blocks_of_a_modality_with_equal_widths_are_a_group() -> None:
    config = NetworkConfig(
        dim_input_arr=(5, 10),
        dim_block=(5, 3, 4, 2, 1),
        dist_block=("NB", *["Bernoulli"] * 4),
        dim_block_embed=(2, 1, 1, 1, 3),
        dim_block_enc=(4, 2, 2, 6, 6),
        dim_block_dec=(4, 2, 2, 6, 6),
        block_names=("rna", *["atac"] * 4),
        uni_block_names=("rna", "atac"),
        dimensions=(8,),
        dim_latent=2,
    )
    groups = block_groups(config)
    assert [(g.modality, g.first, g.lo, g.hi, g.sizes, g.embed_at) for g in groups] == [
        (0, 0, 0, 5, (5,), 0),
        (1, 0, 0, 7, (3, 4), 2),
        (1, 2, 7, 9, (2,), 4),
        (1, 3, 9, 10, (1,), 5),
    ]
    assert groups[1].spans == [(0, 3), (3, 7)]
