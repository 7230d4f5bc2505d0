"""The learning rate of each step, and when training ends.

A run of a given number of epochs lets the rate fall along a cosine from beginning to end. A run without
one keeps the rate steady until the loss on held-out cells has stopped falling, goes back to the best
weights so far, and lets the rate fall from there. Either way the rate rises over the first steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

WARM_UP_STEPS = 50
LEAST_STEPS, MOST_STEPS = 200, 12_000  # at the steady rate
PATIENT_STEPS, PATIENT_EPOCHS = 160, 3  # without a lower loss before the rate falls: as long as both
SMOOTH_EPOCHS = 5  # the losses of so many epochs count as one, as single ones are noisy
FALL_SHARE, LEAST_FALL_STEPS = 0.3, 150  # length of the fall beside the steps that led to the best weights


@dataclasses.dataclass(kw_only=True)
class Ending:
    """Where a run without a number of epochs stands.

    Attributes
    ----------
    first_epoch
        Epoch in which the run began.
    fall_at, fall_epoch
        Step and epoch at which the rate began to fall, -1 while it is steady.
    fall_steps, last_epoch
        Steps over which it falls, and the number of epochs when that is done.
    """

    first_epoch: int = 0
    fall_at: int = -1
    fall_epoch: int = -1
    fall_steps: int = 0
    last_epoch: int = -1

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Ending:
        """Read what `dataclasses.asdict` wrote; `ValueError` for what no run can come to."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not set(saved) <= set(names):
            raise ValueError("how its training ends is told by an unknown name")
        found = cls(**{name: int(value) for name, value in saved.items()})
        steady = (found.fall_at, found.fall_epoch, found.fall_steps, found.last_epoch) == (-1, -1, 0, -1)
        falls = found.fall_at >= 0 and 0 < found.fall_epoch < found.last_epoch and found.fall_steps > 0
        falls = falls and found.first_epoch < found.fall_epoch
        if found.first_epoch < 0 or not (steady or falls):
            raise ValueError("its training cannot have ended so")
        return found

    @property
    def is_falling(self) -> bool:
        """Whether the rate has begun to fall."""
        return self.fall_at >= 0

    @property
    def is_settled(self) -> bool:
        """Whether the rate fell because the loss had stopped falling, not for the number of steps."""
        if not self.is_falling:
            return False
        steady = self.fall_at * (self.fall_epoch - self.first_epoch) / self.fall_epoch
        return steady < MOST_STEPS

    def in_words(self) -> str:
        """Why the rate falls, and until when."""
        why = (
            "the loss on held-out cells has stopped falling"
            if self.is_settled
            else f"the loss on held-out cells still falls, but {MOST_STEPS:,} steps at one rate are done"
        )
        return (
            f"After epoch {self.fall_epoch} {why}: from its best weights so far on, the learning rate falls "
            f"until epoch {self.last_epoch}, the last."
        )

    def after_epoch(
        self,
        losses: Sequence[float],
        *,
        epoch: int,
        steps_done: int,
        steps_per_epoch: int,
        patience: int | None,
    ) -> bool:
        """Take note of an epoch; True when the rate begins to fall with the next one.

        Parameters
        ----------
        losses
            Loss on held-out cells of each epoch of this run.
        epoch, steps_done
            Epochs and steps done in all.
        steps_per_epoch
            Steps of an epoch.
        patience
            Epochs without a lower loss before the rate falls; None for a number that suits the steps.
        """
        if self.is_falling:
            return False
        wait = patience_of(steps_per_epoch) if patience is None else patience
        steady = len(losses) * steps_per_epoch
        if steady < MOST_STEPS and (steady < LEAST_STEPS or not _has_stopped_falling(losses, wait)):
            return False
        best = min(range(len(losses)), key=losses.__getitem__) + 1
        epochs = math.ceil(max(LEAST_FALL_STEPS, FALL_SHARE * best * steps_per_epoch) / steps_per_epoch)
        self.fall_at, self.fall_epoch = steps_done, epoch
        self.fall_steps, self.last_epoch = epochs * steps_per_epoch, epoch + epochs
        return True


def outcome(ending: Ending, epochs: int) -> Literal["settled", "most steps"] | None:
    """How a run without a number of epochs ended; None for another run, or one that has not ended.

    Parameters
    ----------
    ending
        Where it stands.
    epochs
        Epochs done in all.
    """
    if not ending.is_falling or epochs < ending.last_epoch:
        return None
    return "settled" if ending.is_settled else "most steps"


def patience_of(steps_per_epoch: int) -> int:
    """Epochs without a lower loss after which the loss counts as flat."""
    return max(PATIENT_EPOCHS, math.ceil(PATIENT_STEPS / steps_per_epoch))


def _has_stopped_falling(losses: Sequence[float], patience: int) -> bool:
    """Whether the smoothed loss was lowest `patience` epochs ago or earlier."""
    width = min(SMOOTH_EPOCHS, patience)
    if len(losses) < width + patience:
        return False
    smooth = [sum(losses[end - width : end]) / width for end in range(width, len(losses) + 1)]
    lowest = min(range(len(smooth)), key=smooth.__getitem__)
    return len(smooth) - 1 - lowest >= patience


def rate_share(step: int, progress: float) -> float:
    """Share of the learning rate in a step: a short rise, and half a cosine down to a hundredth.

    Parameters
    ----------
    step
        Steps done.
    progress
        How far the fall has come, from 0 to 1.
    """
    rise = min(1.0, (step + 1) / WARM_UP_STEPS)
    return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
