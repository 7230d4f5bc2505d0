"""Probabilities that hold: on cells other than those that decided, and against slow formulas."""

from __future__ import annotations

import numpy as np
import pytest

from mosaicvi.infer.labels.calibration import SPREADS, Calibration, _best, _evidence, votes
from mosaicvi.infer.labels.reference import Floats, Ints, Near, Reference


def crowd(seed: int, n: int, overlap: float = 1.6) -> tuple[Reference, Ints]:
    """Cells of four labels that overlap, the first of them frequent."""
    rng = np.random.default_rng(seed)
    code = rng.choice(4, n, p=[0.55, 0.2, 0.15, 0.1])
    code[:4] = np.arange(4)
    centres = 3 * np.random.default_rng(99).normal(size=(4, 5))
    place = centres[code] + overlap * rng.normal(size=(n, 5))
    return Reference.of(place, np.full((n, 5), 0.3), code, np.zeros(n, int)), code


def expected_error(probability: Floats, is_right: np.ndarray) -> float:
    """Expected calibration error in ten bins."""
    place = np.minimum((probability * 10).astype(int), 9)
    return sum(
        (place == b).mean() * abs(probability[place == b].mean() - is_right[place == b].mean())
        for b in range(10)
        if (place == b).any()
    )


@pytest.mark.parametrize("overlap", [0.5, 1.6, 3.0])
def test_probabilities_of_other_cells_hold(overlap: float) -> None:
    known, code = crowd(0, 900, overlap)
    own = np.arange(900)
    near, squares = known.near(known.place, known.width, own=own), known.squares(known.place)
    calibration = Calibration.fit(near, squares, code, known.share)
    others, truth = crowd(1, 4000, overlap)
    near = known.near(others.place, others.width, own=np.full(4000, -1))
    p = calibration.probabilities(near, known.squares(others.place), known.share)
    np.testing.assert_allclose(p.sum(1), 1)
    assert expected_error(p.max(1), p.argmax(1) == truth) < 0.03
    # nothing that decides knows more than where the cells lie: the true posterior is at most a little better
    centres = 3 * np.random.default_rng(99).normal(size=(4, 5))
    log_p = np.log([0.55, 0.2, 0.15, 0.1]) - ((others.place[:, None] - centres) ** 2).sum(2) / (
        2 * overlap**2
    )
    best = (log_p.argmax(1) == truth).mean()
    assert (p.argmax(1) == truth).mean() > best - 0.02


def test_votes_are_what_the_neighbours_weigh() -> None:
    near = Near(code=np.array([[0, 1, 1]]), apart=np.array([[1.0, 3.0, 5.0]]))
    share = np.array([0.5, 0.3, 0.2])
    weight = np.exp([0, -0.5, -1])
    right = (np.array([weight[0], weight[1] + weight[2], 0]) + 0.5 * share) / (weight.sum() + 0.5)
    np.testing.assert_allclose(votes(near, share, k=3, spread=2.0)[0], right)
    right = (np.array([1, 1, 0]) + 0.5 * share) / 2.5
    np.testing.assert_allclose(votes(near, share, k=2, spread=SPREADS[-1])[0], right)


def test_the_best_powers_are_a_minimum_of_the_log_loss() -> None:
    known, code = crowd(2, 300, 2.0)
    near = known.near(known.place, known.width, own=np.arange(300))
    evidence = _evidence(near, known.squares(known.place), known.share, k=15, spread=2.0)
    loss, (vote, density, noise) = _best(evidence, code, known.share)

    def by_hand(x: Floats) -> float:
        p = np.exp(x[0] * evidence[0] + x[1] * evidence[1])
        p = (1 - x[2]) * p / p.sum(1, keepdims=True) + x[2] * known.share
        return float(-np.log(p[np.arange(300), code]).mean())

    assert loss == pytest.approx(by_hand(np.array([vote, density, noise])), abs=2e-3)
    for step in ([0.1, 0, 0], [-0.1, 0, 0], [0, 0.1, 0], [0, -0.1, 0]):
        moved = np.maximum(np.array([vote, density, noise]) + step, 0)
        assert by_hand(moved) > loss - 2e-3


def majority(near: Near, n_labels: int) -> np.ndarray:
    return np.stack([(near.code[:, :15] == label).sum(1) for label in range(n_labels)], 1)


def test_plainly_the_majority_of_15_decides() -> None:
    known, code = crowd(6, 500, 3.0)
    near, squares = known.near(known.place, known.width, own=np.arange(500)), known.squares(known.place)
    found = Calibration.fit(near, squares, code, known.share, plainly=True)
    assert (found.k, found.spread, found.powers[1]) == (15, np.inf, 0)
    count, p = majority(near, 4), found.probabilities(near, squares, known.share)
    certain = np.sort(count, 1)[:, -1] > np.sort(count, 1)[:, -2] + 1
    np.testing.assert_array_equal(p.argmax(1)[certain], count.argmax(1)[certain])
    assert expected_error(p.max(1), p.argmax(1) == code) < 0.05


def test_more_than_the_majority_counts_only_where_it_is_right_more_often() -> None:
    known, code = crowd(7, 800, 1.6)
    near, squares = known.near(known.place, known.width, own=np.arange(800)), known.squares(known.place)
    count = majority(near, 4)
    share = known.share
    # nothing is gained where the majority is always right, and much where it never is
    assert Calibration.fit(near, squares, count.argmax(1), share).powers[1] == 0
    blind = Near(code=np.random.default_rng(0).permuted(near.code, axis=0), apart=near.apart)
    found = Calibration.fit(blind, squares, code, share)
    assert found.powers[1] > 0.3
    right = (found.probabilities(blind, squares, share).argmax(1) == code).mean()
    assert right > (majority(blind, 4).argmax(1) == code).mean() + 0.1


def test_typicality_of_alike_cells_is_uniform_and_of_strangers_small() -> None:
    known, code = crowd(3, 1500)
    squares = known.squares(known.place)
    near = known.near(known.place, known.width, own=np.arange(1500))
    calibration = Calibration.fit(near, squares, code, known.share)
    others, _ = crowd(4, 2000)
    found = calibration.typicality(np.sqrt(known.squares(others.place).min(1)))
    for level in (0.01, 0.1, 0.5):
        assert (found < level).mean() == pytest.approx(level, abs=3 * np.sqrt(level / 1500) + 0.005)
    far = known.squares(others.place + 20).min(1)
    assert (calibration.typicality(np.sqrt(far)) < 0.01).all()
    assert calibration.typicality(np.array([0.0]))[0] == 1


def test_strangers_far_away_leave_near_cells_their_probability() -> None:
    known, code = crowd(5, 400, 0.5)
    near, squares = known.near(known.place, known.width, own=np.arange(400)), known.squares(known.place)
    strangers = np.full(400, 30.0)
    p = Calibration.fit(near, squares, code, known.share, strangers)
    assert p.probabilities(near, squares, known.share).sum(1).min() > 0.9
    away = known.squares(known.place + 30)
    assert p.probabilities(near, away, known.share).sum(1).max() < 0.2
