"""The log-likelihood of a cell against the slow way, and ranks among cells of its depth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from mosaicvi.infer.likelihood import ALIKE, ranks


def test_ranks_are_shares_of_cells_of_the_same_depth() -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(0, 5, 3000)
    # deeper cells are less likely, as they have more counts
    value = -depth + 0.1 * rng.normal(size=3000)
    new_depth = rng.uniform(0.5, 4.5, 400)
    found = ranks(-new_depth + 0.1 * rng.normal(size=400), new_depth, value, depth)
    assert scipy.stats.kstest(found, "uniform").statistic < 0.35
    assert 0.4 < found.mean() < 0.6
    strange = ranks(-new_depth - 1.5, new_depth, value, depth)
    assert (strange < 0.01).all()
    assert ranks(np.array([9.0]), np.array([2.0]), value, depth)[0] == 1


def test_few_reference_cells_are_all_compared() -> None:
    value = np.array([1.0, 2.0, 3.0, 4.0])
    assert len(value) < ALIKE
    found = ranks(np.array([0.5, 2.5, 4.0]), np.zeros(3), value, np.zeros(4))
    assert found.tolist() == pytest.approx([1 / 5, 3 / 5, 1.0])
