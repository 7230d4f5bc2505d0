"""What the encoder sees of a value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mosaicvi.data.transforms import TRANSFORMS, apply, cell_scale

COUNTS = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.integers(0, 10**6)
)


def expected(transform: str, x: np.ndarray) -> np.ndarray:
    if transform == "log1p_cp10k":
        return np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * 1e4)
    if transform == "clr":
        return np.log1p(x / np.exp(np.log1p(x).mean(1, keepdims=True)))
    return (x > 0).astype(float) if transform == "binarize" else x


@pytest.mark.parametrize("transform", TRANSFORMS)
@given(x=COUNTS)
def test_values_are_those_of_the_formula(transform: str, x: np.ndarray) -> None:
    scale = cell_scale(transform, x.sum(1), np.log1p(x).mean(1))  # type: ignore[arg-type]
    assert scale.dtype == np.float32
    out = apply(transform, torch.from_numpy(x.astype(np.float32)), torch.from_numpy(scale)[:, None])  # type: ignore[arg-type]
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out, expected(transform, x), rtol=2e-5)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_zero_stays_zero_and_large_libraries_stay_finite(transform: str) -> None:
    scale = torch.from_numpy(cell_scale(transform, np.array([0.0, 1e7]), np.array([0.0, 16.0])))  # type: ignore[arg-type]
    assert torch.equal(apply(transform, torch.zeros(2), scale), torch.zeros(2))  # type: ignore[arg-type]
    assert torch.isfinite(apply(transform, torch.tensor([0.0, 1e6]), scale)).all()  # type: ignore[arg-type]


def test_cp10k_of_a_cell_sums_to_ten_thousand() -> None:
    x = torch.tensor([3.0, 0.0, 7.0, 90.0])
    scale = torch.from_numpy(cell_scale("log1p_cp10k", np.array([100.0]), np.zeros(1)))
    torch.testing.assert_close(torch.expm1(apply("log1p_cp10k", x, scale)).sum(), torch.tensor(1e4))
