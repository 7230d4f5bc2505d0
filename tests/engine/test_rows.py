"""First layers by hand: what each pass sees of each cell, times the weights, and the gradient of these."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mosaicvi.engine import gemm, rows
from mosaicvi.engine.rows import ALL, MOST, NONE, SOME

CELLS, WIDTH = 310, 5  # more than are multiplied together
ENDS = np.array([0, 11, 30])  # of two blocks
LO, D = 4, 40  # the group's first feature, and features of the modality
ROW = np.where(np.arange(CELLS) % 7 == 3, -1, np.cumsum(np.arange(CELLS) % 7 != 3) - 1)
N = int(ROW.max()) + 1


def seen(how: NDArray[Any], table: NDArray[Any], choice: NDArray[Any]) -> NDArray[np.bool_]:
    """What each pass sees of each row, (P, N, D)."""
    listed = table[choice]
    kinds = how[..., None]
    return (kinds == ALL) | ((kinds == MOST) & ~listed) | ((kinds == SOME) & listed)


def values_of(
    dense: bool, x: NDArray[Any], how: NDArray[Any], table: NDArray[Any], choice: NDArray[Any]
) -> Any:
    shared = {"at": 1, "lo": LO, "width": WIDTH, "row": ROW, "how": how, "table": table, "choice": choice}
    if dense:
        return rows.Dense(routine=gemm.routine(), ends=ENDS, value=x, **shared)
    cols, values, ends = [], [], [0]
    for a, b in pairwise(ENDS):
        for of_cell in x[:, LO + a : LO + b]:
            cols += (np.flatnonzero(of_cell) + a).tolist()
            values += of_cell[of_cell != 0].tolist()
            ends.append(len(cols))
    return rows.Nonzeros(
        n=N, ends=np.array(ends), col=np.array(cols), value=np.array(values, np.float32), **shared
    )


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("n_lists", [2, N])  # shared by many cells, or each cell's own
def test_forward_and_back(dense: bool, n_lists: int) -> None:
    rng = np.random.default_rng(n_lists)
    x = np.where(rng.random((N, D)) < 0.5, rng.normal(size=(N, D)), 0).astype(np.float32)
    table = rng.random((n_lists, D)) < 0.3
    how = rng.choice([NONE, SOME, MOST, ALL], (3, N)).astype(np.int8)
    how[0] = ALL
    choice = rng.integers(0, n_lists, (3, N))
    # the second pass has no row of its own where it sees all, as the first does
    own = np.ones((3, CELLS), bool)
    own[1, ROW >= 0] = how[1, ROW[ROW >= 0]] != ALL
    place = np.cumsum(own).reshape(own.shape) - 1
    place = np.where(own, place, place[0])
    weight = rng.normal(size=(int(ENDS[-1]), WIDTH)).astype(np.float32)
    of = values_of(dense, x, how, table, choice)
    shown = np.zeros((3, CELLS, D), np.float32)
    shown[:, ROW >= 0] = np.where(seen(how, table, choice), x, 0)[:, ROW[ROW >= 0]]
    blocks = [(a, b, 1 + k * WIDTH) for k, (a, b) in enumerate(pairwise(ENDS))]

    h = np.zeros((own.sum(), 1 + 2 * WIDTH), np.float32)
    rows.add_products(h, [of], place, [weight], 0, 150)
    rows.add_products(h, [of], place, [weight], 150, CELLS)
    d_h = rng.normal(size=h.shape).astype(np.float32)
    d_weight = np.zeros_like(weight)
    rows.add_products(d_h, [of], place, [d_weight], 0, CELLS, back=True)

    assert not h[:, 0].any()
    for a, b, at in blocks:
        expected = shown[:, :, LO + a : LO + b] @ weight[a:b]
        np.testing.assert_allclose(h[place[own], at : at + WIDTH], expected[own], rtol=1e-4, atol=1e-4)
        of_rows, d = shown[:, :, LO + a : LO + b][own], d_h[place[own], at : at + WIDTH]
        np.testing.assert_allclose(d_weight[a:b], of_rows.T @ d, rtol=1e-3, atol=1e-3)
