"""A weight that changes with the epoch and can be saved with a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import numpy as np

from mosaicvi.config.arguments import number
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
    first
        Values of the first epochs, in place of the formula.
    """

    start: float
    end: float = 0.0
    decay: float = 1.0
    first: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.start < math.inf and 0 <= self.end < math.inf):
            raise InputError(f"gamma: start and end must be >= 0, not {self.start} and {self.end}.")
        if not 0 < self.decay <= 1:
            raise InputError(f"gamma: decay must be in (0, 1], not {self.decay}.")
        if not all(0 <= value < math.inf for value in self.first):
            raise InputError(f"gamma: first must hold numbers >= 0, not {self.first!r}.")

    def __call__(self, epoch: int) -> float:
        """Value of the weight in an epoch, counted from 0."""
        if epoch < len(self.first):
            return self.first[epoch]
        return float(self.end + (self.start - self.end) * self.decay**epoch)

    @classmethod
    def tabulated(
        cls, gamma: Callable[[int], float], *, done: int, first: int, last: int, repeat: int
    ) -> Schedule:
        """Values of a function from epoch `first`, counted from 1, to `last`, each for `repeat` passes.

        They stand behind the `done` passes that are over.
        """
        values = [number("gamma", gamma(epoch)) for epoch in range(first, last + 1) for _ in range(repeat)]
        return cls(start=values[-1], end=values[-1], first=(0.0,) * done + tuple(values))

    @classmethod
    def of(cls, value: float | Schedule | Mapping[str, Any]) -> Schedule:
        """Make a schedule of a number, a mapping of its fields, or a schedule."""
        if isinstance(value, Schedule):
            return value
        if isinstance(value, Mapping):
            unknown = sorted(set(value) - {"start", "end", "decay", "first"})
            if unknown or "start" not in value:
                raise InputError(
                    f"gamma: needs 'start' and takes 'end', 'decay' and 'first'; got {sorted(value)}."
                )
            try:
                first = tuple(float(v) for v in value.get("first", ()))
                return cls(first=first, **{k: float(v) for k, v in value.items() if k != "first"})
            except (TypeError, ValueError) as error:
                raise (
                    error
                    if isinstance(error, InputError)
                    else InputError(f"gamma: numbers are needed; got {dict(value)!r}.")
                ) from None
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise InputError(
                f"gamma: a number or a Schedule(start, end, decay), not {type(value).__name__}; "
                "a function cannot be saved with the model, but its values can: "
                "Schedule(start=0, first=[f(epoch) for epoch in range(n)])."
            )
        return cls(start=float(value), end=float(value))


def is_function(gamma: object) -> TypeGuard[Callable[[int], float]]:
    """Whether it is a function of the epoch that can be tabulated, as a `Schedule` need not be."""
    return callable(gamma) and not isinstance(gamma, Schedule)
