"""The norm and the update are those of torch, by compiled loops and where these cannot be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mosaicvi.engine.optimizer import CHUNK
from mosaicvi.fit.optimizer import BETAS, Optimizer, gradient_norm


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
        patch.setenv("MOSAICVI_ENGINE", "torch")
        assert float(gradient_norm(grads)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_lost(bad: float) -> None:
    grads = [torch.zeros(5), torch.tensor([1.0, bad])]
    assert not math.isfinite(float(gradient_norm(grads)))


def parameters(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 5), (2000,), ())]


@pytest.mark.parametrize("mode", ["compiled", "torch"])
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_updates_are_those_of_torch(mode: str, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", mode)
    mine, others, generator = parameters(0), parameters(0), torch.Generator().manual_seed(1)
    own = Optimizer(mine, lr=1.0, weight_decay=0.1)
    reference = torch.optim.AdamW(others, lr=1.0, betas=BETAS, weight_decay=0.1)
    for step in range(5):
        for p, q in zip(mine, others, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        mine[1].grad, others[1].grad = (None, None) if step == 2 else (mine[1].grad, others[1].grad)
        norm = own.norm()
        assert float(norm) == pytest.approx(float(nn.utils.clip_grad_norm_(others, limit)), rel=1e-5)
        own.advance(norm, limit=limit, lr=0.01 * (step + 1))
        reference.param_groups[0]["lr"] = 0.01 * (step + 1)
        reference.step()
    for p, q in zip(mine, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        assert own.state[p]["step"] == reference.state[q]["step"]
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(own.state[p][name], reference.state[q][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", ["compiled", "torch"])
def test_a_length_that_is_not_finite_changes_nothing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", mode)
    (p,) = some = [nn.Parameter(torch.ones(3))]
    p.grad = torch.tensor([1.0, math.inf, 1.0])
    own = Optimizer(some, lr=0.1, weight_decay=0.1)
    own.advance(own.norm(), limit=1.0, lr=0.1)
    assert p.tolist() == [1.0, 1.0, 1.0]


def test_moments_that_have_vanished_become_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", "auto")  # torch's own keeps them
    (p,) = some = [nn.Parameter(torch.ones(3))]
    own = Optimizer(some, lr=0.1, weight_decay=0.0)
    own.state[p] = {
        "step": torch.tensor(800.0),
        "exp_avg": torch.tensor([1e-40, -1e-31, 1e-29]),
        "exp_avg_sq": torch.tensor([1e-40, 1e-31, 1e-29]),
    }
    p.grad = torch.zeros(3)
    own.advance(own.norm(), limit=1.0, lr=0.1)
    assert own.state[p]["exp_avg"].tolist() == [0.0, 0.0, pytest.approx(0.9e-29)]
    assert own.state[p]["exp_avg_sq"].tolist() == [0.0, 0.0, pytest.approx(0.99e-29)]


def trained(seed: int) -> tuple[list[nn.Parameter], Optimizer]:
    some, generator = parameters(seed), torch.Generator().manual_seed(seed)
    own = Optimizer(some, lr=0.1, weight_decay=0.1)
    for p in some:
        p.grad = torch.randn(p.shape, generator=generator)
    own.advance(own.norm(), limit=1e6, lr=0.1)
    return some, own


def test_the_state_is_that_of_torch() -> None:
    mine, own = trained(3)
    others = [nn.Parameter(p.detach().clone()) for p in mine]
    reference = torch.optim.AdamW(others, lr=1.0, fused=True)
    reference.load_state_dict(own.state_dict())
    again = Optimizer(mine, lr=1.0, weight_decay=0.0)
    again.load_state_dict(reference.state_dict())
    for p, q in zip(mine, others, strict=True):
        q.grad = p.grad
    again.advance(again.norm(), limit=1e6, lr=0.1)
    reference.step()
    for p, q in zip(mine, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exp_avg", torch.zeros(2)),
        ("exp_avg_sq", torch.zeros(5, 3)),
        ("step", torch.zeros(2)),
        ("exp_avg", None),
    ],
)
def test_moments_of_another_shape_are_refused(name: str, value: torch.Tensor | None) -> None:
    some, own = trained(3)
    state = own.state_dict()
    state["state"][0] = state["state"][0] | {name: value}
    with pytest.raises(ValueError, match=rf"{name} of a parameter of shape \(3, 5\) does not fit"):
        Optimizer(some, lr=0.1, weight_decay=0.1).load_state_dict(state)


def test_gradients_may_lie_in_any_order() -> None:
    (p,), (q,) = ([nn.Parameter(torch.ones(3, 4))] for _ in range(2))
    p.grad, q.grad = torch.arange(12.0).view(4, 3).T, torch.arange(12.0).view(4, 3).T.contiguous()
    for one in (p, q):
        own = Optimizer([one], lr=0.1, weight_decay=0.1)
        own.advance(own.norm(), limit=1.0, lr=0.1)
    torch.testing.assert_close(p, q, rtol=1e-6, atol=0)
