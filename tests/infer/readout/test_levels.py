"""Levels of batches: of known features alone, at 0 on average, and less sure of few cells."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mosaicvi.infer.readout.levels import EQUAL_TO_NONE, Levels, Rates, offsets
from mosaicvi.infer.readout.scales import on_scale


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_as_its_own_batch_by_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, b, d = 7, 3, 5
    batch, known = rng.integers(0, b, n), rng.random((b, d)) < 0.6
    levels = Levels(known=known, offset=rng.normal(size=(b, d)))
    own, mean, other = (rng.gamma(2, 3, (n, d)) for _ in range(3))
    (found,) = levels.of(batch, Rates(own=own, mean=mean), "clr")
    share = np.eye(b)[1]
    as_other, again = levels.of(
        batch, Rates(own=own, mean=mean, asked=((share, other), (share, other))), "clr"
    )
    assert_array_equal(as_other, again)
    for i in range(n):
        for j in range(d):
            for k, rate, value in ((batch[i], own, found), (1, other, as_other)):
                step = (on_scale(rate, "clr") - on_scale(mean, "clr"))[i, j] if known[k, j] else 0.0
                assert_allclose(value[i, j], step + levels.offset[k, j])
    (as_mean,) = levels.of(batch, Rates(own=own, mean=mean, asked=((np.full(b, 1 / b), mean),)), "clr")
    assert_allclose(as_mean, np.broadcast_to(levels.offset.mean(0), (n, d)))


def test_offsets_of_batches() -> None:
    rng = np.random.default_rng(0)
    batch = np.repeat([0, 2, 3], [400, 400, 10])
    measured = np.ones((810, 3), bool)
    measured[batch == 3, 2] = False
    wanted = np.array([[1.0, 0.0, 2.0], [0, 0, 0], [-1.0, 0.0, -2.0], [30.0, 0.0, 99.0]])
    rest = wanted[batch] + 0.01 * rng.normal(size=(810, 3))
    found = offsets(batch, rest, measured, 4)
    assert_array_equal(found[1], 0)  # no cell of it is known
    assert found[3, 2] == 0  # nor of this feature
    shrunk = 30 * 10 / (10 + EQUAL_TO_NONE)
    assert_allclose(found[3, 0], shrunk - shrunk / 3, atol=0.05)
    assert_allclose(found[[0, 2], 2], [2, -2], rtol=0.06)
    assert_allclose(found.sum(0), 0, atol=1e-12)
