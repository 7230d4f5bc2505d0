"""Dense products in shares against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mosaicvi.engine import products as module
from mosaicvi.engine.products import linear, products

pytestmark = pytest.mark.usefixtures("three_threads")


def of(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@pytest.mark.parametrize("worth", [0, 1 << 40])
@pytest.mark.parametrize("sizes", [(7, 5, 3), (1, 4, 2), (0, 4, 2), (6, 0, 2)])
def test_products_are_torchs(
    monkeypatch: pytest.MonkeyPatch, worth: int, sizes: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(module, "WORTH_SHARING", worth)
    n, m, p = sizes
    a, b, d = of(n, m, dtype=torch.float64), of(m, p, dtype=torch.float64), of(n, p, dtype=torch.float64)
    ours = products((a, b), (a.T, d))
    for found, expected in zip(ours, (a @ b, a.T @ d), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("worth", [0, 1 << 40])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("of_input", [True, False])
def test_a_linear_layer_and_its_gradients_are_torchs(
    monkeypatch: pytest.MonkeyPatch, worth: int, biased: bool, of_input: bool
) -> None:
    monkeypatch.setattr(module, "WORTH_SHARING", worth)
    found = []
    for layer in (linear, functional.linear):
        x = of(9, 14)[:, 2:7].requires_grad_(of_input)  # columns of a wider matrix
        weight, bias = of(4, 5).requires_grad_(), of(4).requires_grad_() if biased else None
        out = layer(x, weight, bias)
        (out * of(9, 4)).sum().backward()
        found.append((out, x.grad, weight.grad, None if bias is None else bias.grad))
    for ours, torchs in zip(*found, strict=True):
        assert (ours is None) == (torchs is None)
        if ours is not None:
            torch.testing.assert_close(ours, torchs)


def test_nothing_is_multiplied_for_a_frozen_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(module, "products", lambda *pairs: asked.append(len(pairs)) or products(*pairs))
    x, weight = of(3, 4).requires_grad_(), of(2, 4)
    linear(x, weight).sum().backward()
    assert asked == [1, 1]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, 4))
