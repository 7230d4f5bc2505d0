"""Levels of batches: of known features alone, at 0 on average, and less sure of few cells."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mosaicvi import MosaicVI
from mosaicvi.infer.readout.levels import Levels, Rates, known_by_batch, offsets, trust
from mosaicvi.infer.readout.scales import on_scale


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_as_its_own_batch_by_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, b, d = 7, 3, 5
    batch, known = rng.integers(0, b, n), rng.random((b, d)) < 0.6
    levels = Levels(known=known, trust=rng.random(d), offset=rng.normal(size=(b, d)))
    own, mean, other = (rng.gamma(2, 3, (n, d)) for _ in range(3))
    as_own = {"own": own, "mean": mean, "share": np.eye(b)[batch]}
    (found,) = levels.of(Rates(**as_own), "clr")
    share = np.eye(b)[1]
    as_other, again = levels.of(Rates(**as_own, asked=((share, other), (share, other))), "clr")
    assert_array_equal(as_other, again)
    for i in range(n):
        for j in range(d):
            for k, rate, value in ((batch[i], own, found), (1, other, as_other)):
                step = (on_scale(rate, "clr") - on_scale(mean, "clr"))[i, j] if known[k, j] else 0.0
                assert_allclose(value[i, j], levels.trust[j] * step + levels.offset[k, j])
    (as_mean,) = levels.of(Rates(**as_own, asked=((np.full(b, 1 / b), mean),)), "clr")
    assert_allclose(as_mean, np.broadcast_to(levels.offset.mean(0), (n, d)))


def test_offsets_of_batches() -> None:
    rng = np.random.default_rng(0)
    batch = np.repeat([0, 2, 3], [400, 400, 400])
    measured = np.ones((1200, 3), bool)
    measured[batch == 3, 2] = False
    wanted = np.array([[1.0, 0.0, 2.0], [0, 0, 0], [-2.0, 0.0, -2.0], [1.0, 0.0, 99.0]])
    rest = wanted[batch] + rng.normal(size=(1200, 3))
    found = offsets(batch, rest, measured, 4)
    assert_array_equal(found[1], 0)  # no cell of it is known
    assert found[3, 2] == 0  # nor of this feature
    assert_allclose(found[[0, 2, 3], 0], [1, -2, 1], atol=0.15)
    assert_allclose(found[[0, 2], 2], [2, -2], atol=0.15)


def test_cells_of_batches_that_a_model_has_not_seen_say_nothing_of_levels() -> None:
    rng = np.random.default_rng(3)
    batch, rest, measured = rng.integers(0, 4, 60), rng.normal(size=(60, 5)), rng.random((60, 5)) < 0.8
    seen = batch < 3
    assert_array_equal(offsets(batch, rest, measured, 3), offsets(batch[seen], rest[seen], measured[seen], 3))


def test_what_batches_that_a_model_has_not_seen_measured_is_not_known() -> None:
    panels = np.array([[True, False, True], [False, True, True]])
    obs = pd.DataFrame({"batch": ["a", "a", "b"]}, index=list("xyz"))
    x = np.array([[1.5, 0.0, 4.5], [2.5, 0.0, 5.5], [0.0, 3.5, 6.5]])
    adata = AnnData(x, obs=obs, var=pd.DataFrame(index=list("fgh")))
    adata.varm["measured"] = pd.DataFrame(panels.T, index=list("fgh"), columns=["a", "b"])
    mosaic = MosaicVI.setup_anndata(adata, batch_key="batch", likelihood="Gaussian")
    assert_array_equal(known_by_batch(mosaic, mosaic.modality("rna")), panels)
    fewer = dataclasses.replace(mosaic.registry, categories={"batch": ("a",)})
    unseen = dataclasses.replace(mosaic, registry=fewer)
    assert_array_equal(known_by_batch(unseen, mosaic.modality("rna")), panels[:1])


def test_offsets_that_may_be_chance_are_drawn_to_none() -> None:
    rng = np.random.default_rng(1)
    batch = rng.integers(0, 12, 600)
    rest = rng.normal(size=(600, 400))
    found = offsets(batch, rest, np.ones((600, 400), bool), 12)
    plain = np.stack([rest[batch == b].mean(0) for b in range(12)])
    assert (found**2).mean() < 0.2 * (plain**2).mean()


def test_steps_are_trusted_as_far_as_they_are_borne_out() -> None:
    rng = np.random.default_rng(2)
    step = rng.normal(size=(2000, 4))
    rest = step * [1.0, 0.5, 0.0, -1.0] + 0.1 * rng.normal(size=(2000, 4))
    found = trust(step, rest)
    of_all = 0.125
    assert_allclose(found, np.clip((np.array([1.0, 0.5, 0.0, -1.0]) + of_all) / 2, 0, 1), atol=0.02)
    assert_array_equal(trust(np.zeros((5, 2)), np.ones((5, 2))), 0)
