"""What a likelihood says of itself.

Legend: n rows, d features; shapes of values and parameters broadcast.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a modality's values when its likelihood is chosen.

    Attributes
    ----------
    whole
        Whether all are whole numbers >= 0.
    peaks
        Whether the features are named by chromosome.
    any_above_one
        Tells whether some value is above 1; a look at all of them.
    """

    whole: bool
    peaks: bool
    any_above_one: Callable[[], bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Measured values of a modality as its likelihood sees them, by feature, (d,) each.

    Attributes
    ----------
    total, n_measured
        Sum of the values, and how many cells measured the feature.
    exposure
        Sum of the libraries of these cells.
    mean, sd, least, most
        Of the values.
    most_of_block
        Largest value in the feature's block.
    """

    total: Floats
    n_measured: Floats
    exposure: Floats
    mean: Floats
    sd: Floats
    least: Floats
    most: Floats
    most_of_block: Floats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Centre and bounds of the mean, (d,) each: the published `mean_vals`, `min_vals` and `max_vals`."""

    centre: Any
    low: Any
    high: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters of a likelihood.

    Attributes
    ----------
    location
        What the family's link makes of the decoder's output: of NB, ZINB and Poisson the logarithm of the
        mean count, of Bernoulli the logit, of Gaussian the mean.
    dispersion
        Dispersion of NB and ZINB, standard deviation of Gaussian; None for families without one.
    inflation
        Probability of an extra zero; None for families without one.
    """

    location: Tensor
    dispersion: Tensor | None = None
    inflation: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Parameters:
        """All that there are, changed alike."""
        alpha, pi = self.dispersion, self.inflation
        return Parameters(
            location=change(self.location),
            dispersion=None if alpha is None else change(alpha),
            inflation=None if pi is None else change(pi),
        )

    def arrays(self) -> tuple[Floats, Floats, Floats]:
        """All three as arrays of float64; 0 in place of None."""
        parts = (self.location, self.dispersion, self.inflation)
        found = [np.zeros(()) if p is None else p.detach().double().cpu().numpy() for p in parts]
        return found[0], found[1], found[2]


class Family(ABC):
    """A likelihood: its values, its link, and its arithmetic.

    A family of one's own says at least its name, `link`, `mean`, `log_prob`, `cdf` and `quantile`.

    Attributes
    ----------
    name
        What the user writes.
    whole
        Whether values are whole numbers, most of them 0, which are kept sparse.
    least, most
        The smallest and largest value that the family can have.
    has_dispersion, has_inflation
        Which parameters besides the location the decoder must learn.
    mean_has_dispersion
        Whether the mean depends on the dispersion.
    of_peaks
        Whether it describes peaks, of which one asks whether they are there.
    published_as
        The binary family that the published implementation uses in its place; empty for itself.
    standardised
        Whether the network sees each feature less its mean and over its standard deviation, so that the
        parameters are on that scale; for dense values without a transform.
    filler
        A possible value, which stands where nothing was measured and nothing counts.
    """

    name: str
    whole: bool = False
    least: float = -np.inf
    most: float = np.inf
    has_dispersion: bool = False
    has_inflation: bool = False
    mean_has_dispersion: bool = False
    of_peaks: bool = False
    published_as: str = ""
    standardised: bool = False
    filler: float = 0.0

    # --- what data it fits ----------------------------------------------------------------------

    @property
    def counts(self) -> bool:
        """Whether values are counts, whose mean may be a library times a share."""
        return self.whole and self.most > 1

    @property
    def binary(self) -> bool:
        """Whether values are 0 or 1."""
        return self.whole and self.most == 1

    def recognises(self, evidence: Evidence) -> bool:
        """Whether such values are of this family where the user names none."""
        return False

    def transform(self, *, whole: bool, filled: bool = False) -> str:
        """What the encoder sees by default, of whole numbers or not, often above 0 or rarely."""
        return "none"

    def scale(self, *, library_aware: bool, transform: str) -> str:
        """What its means are: ``"counts"``, ``"probability"``, ``"log1p_cp10k"`` or ``"value"``."""
        if library_aware:
            return "counts"
        return "log1p_cp10k" if transform == "log1p_cp10k" else "value"

    def bounds(self, seen: Summary) -> Bounds:
        """Bounds of the mean where the user gives none."""
        low, high = np.minimum(seen.least, seen.mean - 3 * seen.sd), seen.mean + 3 * seen.sd
        return Bounds(centre=seen.mean, low=low, high=np.maximum(seen.most, high))

    def possible(self, bounds: Bounds) -> Bounds:
        """The bounds of the user, moved to what is possible."""
        return bounds

    def first_output(self, seen: Summary, *, library_aware: bool) -> Floats | None:
        """Output of the decoder that predicts each feature's mean, (d,); None to begin at 0."""
        return None

    # --- its arithmetic -------------------------------------------------------------------------

    @abstractmethod
    def link(self, output: Tensor, bounds: Bounds) -> Tensor:
        """Location, of the decoder's output (..., d), within the bounds."""

    @abstractmethod
    def mean(self, parameters: Parameters) -> Tensor:
        """Mean value."""

    @abstractmethod
    def log_prob(self, x: Tensor, parameters: Parameters) -> Tensor:
        """Logarithm of the probability, or its density, of each value."""

    @abstractmethod
    def cdf(self, x: ArrayLike, parameters: Parameters) -> Floats:
        """Probability of a value of at most x."""

    @abstractmethod
    def quantile(self, q: ArrayLike, parameters: Parameters) -> Floats:
        """Smallest value whose cumulative probability is at least q, of [0, 1]."""

    def sample(self, parameters: Parameters, generator: Generator) -> Tensor:
        """One value of each, by the quantile of a uniform number."""
        shape = np.broadcast_shapes(*(part.shape for part in parameters.arrays()))
        at = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
        return torch.from_numpy(self.at(at.cpu().numpy(), parameters)).to(parameters.location)

    def at(self, uniform: Floats, parameters: Parameters) -> Floats:
        """The value that each uniform number of (0, 1) draws, (n, d): its quantile, where need be faster."""
        return self.quantile(uniform, parameters)


def needed(value: Tensor | None) -> Tensor:
    """The parameter, which the family cannot do without."""
    if value is None:
        raise ValueError("a parameter of the likelihood is missing")
    return value


def clipped(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Within the bounds; outside there is no gradient."""
    return torch.maximum(torch.minimum(value, high), low)


def smallest_whole(cdf: Callable[[Floats], Floats], q: ArrayLike, guess: Floats) -> Floats:
    """Smallest whole number whose cumulative probability is at least q: infinite for 1, NaN for NaN.

    Parameters
    ----------
    cdf
        Cumulative probability of whole numbers, of the shape of `guess`.
    q
        Probabilities, which broadcast to it.
    guess
        Where to look first.
    """
    q = np.broadcast_to(np.asarray(q, np.float64), guess.shape)
    high = np.maximum(np.nan_to_num(np.ceil(guess), nan=0.0, posinf=0.0), 0.0)
    low = high - 1
    unknown = ~((q >= 0) & (q < 1))
    step = 1.0
    while (short := (cdf(high) < q) & ~unknown).any():
        low, high = np.where(short, high, low), np.where(short, high + step, high)
        step *= 2
        if not np.isfinite(step):
            raise ArithmeticError("the cumulative probability does not reach a quantile")
    step = 1.0
    while (over := (low >= 0) & (cdf(np.maximum(low, 0)) >= q) & ~unknown).any():
        low, high = np.where(over, np.maximum(low - step, -1), low), np.where(over, low, high)
        step *= 2
    while (apart := (high - low > 1) & ~unknown).any():
        middle = np.floor((low + high) / 2)
        enough = cdf(middle) >= q
        low, high = np.where(apart & ~enough, middle, low), np.where(apart & enough, middle, high)
    return np.where(q == 1, np.inf, np.where(unknown, np.nan, high))
