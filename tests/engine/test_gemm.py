"""Products inside compiled loops: those of NumPy, by any library, whatever lies beside the matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.extending import get_cython_function_address

from mosaicvi.engine import gemm

ROUTINES = {
    "chosen": gemm.routine(),
    "scipy": int(get_cython_function_address("scipy.linalg.cython_blas", "sgemm")),
}
FORMS: dict[str, tuple[Callable[..., None], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "a b": (gemm.product, lambda a, b: a @ b),
    "a b^T": (gemm.product_with_transpose, lambda a, b: a @ b.T),
    "a^T b": (gemm.product_of_transpose, lambda a, b: a.T @ b),
}


def part(rng: np.random.Generator, rows: int, columns: int, beside: int) -> np.ndarray:
    """A matrix with other columns beside it in memory."""
    whole = rng.normal(size=(rows, columns + 2 * beside)).astype(np.float32)
    return whole[:, beside : beside + columns]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("library", ROUTINES)
@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 40), beside=st.integers(0, 3), data=st.data()
)
def test_a_product_is_that_of_numpy(
    form: str, library: str, m: int, n: int, k: int, beside: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    compiled, expected = FORMS[form]
    a = part(rng, *((k, m) if form == "a^T b" else (m, k)), beside)
    b = part(rng, *((n, k) if form == "a b^T" else (k, n)), beside)
    c = part(rng, m, n, beside)
    whole = c.base if c.base is not None else c
    around = whole.copy()
    want = expected(a.astype(float), b.astype(float))
    for keep in (0.0, 1.0):
        before = c.astype(float)
        compiled(ROUTINES[library], a, b, c, keep)
        np.testing.assert_allclose(c, want + keep * before, rtol=1e-4, atol=1e-4)
    if beside:
        np.testing.assert_array_equal(whole[:, :beside], around[:, :beside])
        np.testing.assert_array_equal(whole[:, -beside:], around[:, -beside:])


def test_a_library_that_does_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(routine: int, a: np.ndarray, b: np.ndarray, c: np.ndarray, keep: float) -> None:
        c[:] = 7

    monkeypatch.setattr(gemm, "product", wrong)
    assert gemm._of_torch.__wrapped__() == 0
    monkeypatch.setattr(gemm, "_of_torch", lambda: 0)
    assert gemm.routine.__wrapped__() == ROUTINES["scipy"]
    with gemm.alone():
        libraries = [library for library in gemm._libraries().info() if library["user_api"] == "blas"]
        assert libraries
        assert all(library["num_threads"] == 1 for library in libraries)
