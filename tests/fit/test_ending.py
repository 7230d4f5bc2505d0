"""When training without a number of epochs ends."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicvi.fit import ending
from mosaicvi.fit.ending import Ending, patience_of, rate_share


def run(losses: list[float], per_epoch: int = 10, patience: int | None = None) -> Ending:
    """What is decided after each of these epochs."""
    found = Ending()
    for epoch in range(1, len(losses) + 1):
        found.after_epoch(
            losses[:epoch],
            epoch=epoch,
            steps_done=epoch * per_epoch,
            steps_per_epoch=per_epoch,
            patience=patience,
        )
    return found


def test_a_falling_loss_goes_on_to_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "MOST_STEPS", 600)
    assert not run(list(np.linspace(100, 40, 59))).is_falling
    found = run(list(np.linspace(100, 40, 60)))
    assert (found.fall_at, found.fall_epoch) == (600, 60)
    assert found.last_epoch == 60 + 18  # three tenths of the 60 epochs that led to the best
    assert not found.is_settled
    assert (
        "After epoch 60 the loss on held-out cells still falls, but 600 steps at one rate" in found.in_words()
    )
    assert [ending.outcome(found, epochs) for epochs in (77, 78)] == [None, "most steps"]


def test_a_flat_loss_ends_when_patience_is_out() -> None:
    losses = [100.0 - i for i in range(30)] + [71.5] * 60
    found = run(losses, patience=6)
    # means of five epochs: the lowest is of epochs 30 to 34, with the 71; the next six are above it
    assert found.fall_epoch == 40
    assert found.fall_steps == ending.LEAST_FALL_STEPS
    assert found.last_epoch == 40 + 15
    assert found.is_settled
    assert found.in_words().startswith("After epoch 40 the loss on held-out cells has stopped falling: ")
    assert "until epoch 55, the last" in found.in_words()
    assert [ending.outcome(found, epochs) for epochs in (54, 55)] == [None, "settled"]
    assert ending.outcome(Ending(), 100) is None


def test_no_end_before_the_least_steps() -> None:
    assert run([1.0, *[2.0] * 40], patience=3).fall_at == ending.LEAST_STEPS


@pytest.mark.parametrize(("per_epoch", "expected"), [(1, 160), (8, 20), (40, 4), (400, 3), (10**6, 3)])
def test_patience_is_a_number_of_steps_but_some_epochs_at_least(per_epoch: int, expected: int) -> None:
    assert patience_of(per_epoch) == expected


@given(
    losses=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80),
    per_epoch=st.integers(1, 2000),
    patience=st.none() | st.integers(1, 30),
    shift=st.floats(-1e3, 1e3),
)
def test_the_end_is_decided_once_and_not_by_the_level_of_the_loss(
    losses: list[float], per_epoch: int, patience: int | None, shift: float
) -> None:
    rounded = [round(x) for x in losses]
    found = run([float(x) for x in rounded], per_epoch, patience)
    assert run([2.0 * x for x in rounded], per_epoch, patience) == found
    if found.is_falling:
        assert found.fall_epoch * per_epoch == found.fall_at >= min(ending.LEAST_STEPS, ending.MOST_STEPS)
        assert found.last_epoch * per_epoch == found.fall_at + found.fall_steps
        assert found.fall_steps >= ending.LEAST_FALL_STEPS


def test_the_rate_rises_then_falls_to_a_hundredth() -> None:
    assert rate_share(0, 0.0) == pytest.approx(1 / ending.WARM_UP_STEPS)
    assert rate_share(10**6, 0.0) == 1.0
    assert rate_share(10**6, 0.5) == pytest.approx(0.505)
    assert rate_share(10**6, 2.0) == pytest.approx(0.01)


def test_an_ending_is_read_again_and_an_impossible_one_refused() -> None:
    falling = Ending(first_epoch=1, fall_at=900, fall_epoch=10, fall_steps=200, last_epoch=14)
    for one in (Ending(), Ending(first_epoch=3), falling):
        assert Ending.from_dict(dataclasses.asdict(one)) == one
    saved = dataclasses.asdict(falling)
    for odd in ({"fall_epoch": 0}, {"last_epoch": 9}, {"fall_at": -1}, {"first_epoch": -1}, {"more": 1}):
        with pytest.raises(ValueError, match="its training"):
            Ending.from_dict(saved | odd)
