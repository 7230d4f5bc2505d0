"""Neighbours and distances against the slow way, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from mosaicvi.infer.labels import reference as module
from mosaicvi.infer.labels.reference import Reference


def reference(seed: int = 0, n: int = 90, k: int = 3, labels: int = 4, batches: int = 3) -> Reference:
    rng = np.random.default_rng(seed)
    code = np.concatenate([np.arange(labels), rng.integers(0, labels, n - labels)])
    place = 3 * rng.normal(size=(labels, k))[code] + rng.normal(size=(n, k))
    return Reference.of(place, rng.uniform(0.2, 2, (n, k)), code, rng.integers(0, batches, n))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), leaves_out=st.booleans())
def test_neighbours_are_the_nearest_that_are_allowed(seed: int, leaves_out: bool) -> None:
    known = reference(seed)
    rng = np.random.default_rng(seed + 1)
    own = np.where(rng.random(20) < 0.5, rng.permutation(90)[:20], -1)
    place, width = rng.normal(size=(20, 3)), rng.uniform(0.2, 2, (20, 3))
    place[own >= 0], width[own >= 0] = known.place[own[own >= 0]], known.width[own[own >= 0]]
    but = rng.integers(0, 3, 20) if leaves_out else None
    near = known.near(place, width, own=own, but=but)
    assert near.code.shape[1] >= 20
    for i in range(20):
        allowed = [j for j in range(90) if j != own[i] and (but is None or known.batch[j] != but[i])]
        nearest = sorted(allowed, key=lambda j: float(((place[i] - known.place[j]) ** 2).sum()))
        for rank, j in enumerate(nearest[: near.code.shape[1]]):
            assert near.code[i, rank] == known.code[j]
            apart = ((place[i] - known.place[j]) ** 2 / (width[i] + known.width[j])).sum()
            assert near.apart[i, rank] == pytest.approx(apart)


def test_chunks_do_not_change_the_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    known = reference()
    ask = {"own": np.arange(90), "but": known.batch}
    whole = known.near(known.place, known.width, **ask)
    monkeypatch.setattr(module, "CHUNK", 700)
    parts = known.near(known.place, known.width, **ask)
    np.testing.assert_array_equal(whole.code, parts.code)
    np.testing.assert_array_equal(whole.apart, parts.apart)


def test_squares_are_mahalanobis_distances_to_the_centres() -> None:
    known = reference()
    centres = np.stack([known.place[known.code == label].mean(0) for label in range(4)])
    covariance, _ = ledoit_wolf(known.place - centres[known.code], assume_centered=True)
    found = known.squares(known.place[:7])
    for i in range(7):
        for label in range(4):
            right = mahalanobis(known.place[i], centres[label], np.linalg.inv(covariance)) ** 2
            assert found[i, label] == pytest.approx(right, rel=1e-4)


def test_centres_without_a_batch_are_those_of_the_other_cells() -> None:
    known = reference()
    only = known.code == 2
    batch = np.where(only, 1, known.batch)
    known = Reference.of(known.place, known.width, known.code, batch)
    found = known.squares(known.place[:5], but=np.full(5, 1))
    assert np.isinf(found[:, 2]).all()
    rest = (batch != 1) & (known.code == 0)
    away = (known.place[:5] - known.place[rest].mean(0)) @ known.whitening
    np.testing.assert_allclose(found[:, 0], (away**2).sum(1))
