"""A weight that changes with the epoch and can be saved with a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from mosaicvi.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A weight that decays exponentially with the epoch: ``end + (start - end) * decay ** epoch``.

    Parameters
    ----------
    start
        Value at epoch 0.
    end
        Value that it tends to.
    decay
        Factor per epoch, in (0, 1]; 1 keeps ``start`` for ever.
    """

    start: float
    end: float = 0.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.start < math.inf and 0 <= self.end < math.inf):
            raise InputError(f"gamma: start and end must be >= 0, not {self.start} and {self.end}.")
        if not 0 < self.decay <= 1:
            raise InputError(f"gamma: decay must be in (0, 1], not {self.decay}.")

    def __call__(self, epoch: int) -> float:
        """Value of the weight in an epoch, counted from 0."""
        return float(self.end + (self.start - self.end) * self.decay**epoch)

    @classmethod
    def of(cls, value: float | Schedule | Mapping[str, float]) -> Schedule:
        """Make a schedule of a number, a mapping of its fields, or a schedule."""
        if isinstance(value, Schedule):
            return value
        if isinstance(value, Mapping):
            unknown = sorted(set(value) - {"start", "end", "decay"})
            if unknown or "start" not in value:
                raise InputError(f"gamma: needs 'start' and takes 'end' and 'decay'; got {sorted(value)}.")
            try:
                return cls(**{k: float(v) for k, v in value.items()})
            except (TypeError, ValueError) as error:
                raise (
                    error
                    if isinstance(error, InputError)
                    else InputError(f"gamma: numbers are needed; got {dict(value)!r}.")
                ) from None
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise InputError(
                f"gamma: a number or a Schedule(start, end, decay), not {type(value).__name__}; "
                "a function cannot be saved with the model."
            )
        return cls(start=float(value), end=float(value))
