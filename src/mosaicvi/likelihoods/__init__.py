"""The likelihoods by name. Everything else asks here; a family of one's own is registered in the same way."""

from __future__ import annotations

from mosaicvi.errors import InputError
from mosaicvi.likelihoods.base import Evidence, Family, Parameters, Summary
from mosaicvi.likelihoods.bernoulli import Bernoulli
from mosaicvi.likelihoods.gaussian import Gaussian
from mosaicvi.likelihoods.nb import NegativeBinomial
from mosaicvi.likelihoods.poisson import Poisson
from mosaicvi.likelihoods.zinb import ZeroInflated

__all__ = ["Evidence", "Family", "Parameters", "Summary", "choose", "get", "names", "register"]

FOR_FRACTIONS = "Gaussian"  # what messages suggest for fractional values

_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Make a family known by its name.

    Raises
    ------
    InputError
        If the name is taken.
    """
    if family.name in _FAMILIES:
        raise InputError(f"likelihoods: {family.name!r} is registered already; choose another name.")
    _FAMILIES[family.name] = family


def names() -> tuple[str, ...]:
    """Names of all families, in the order in which they were registered."""
    return tuple(_FAMILIES)


def get(name: str) -> Family:
    """One family; `InputError` if there is none of the name."""
    if name not in _FAMILIES:
        raise InputError(f"likelihoods: unknown {name!r}; use one of {', '.join(_FAMILIES)}.")
    return _FAMILIES[name]


def choose(evidence: Evidence) -> Family:
    """The family that recognises such values; one that was registered later is asked first."""
    return next(family for family in reversed(_FAMILIES.values()) if family.recognises(evidence))


for _family in (NegativeBinomial(), ZeroInflated(), Poisson(), Bernoulli(), Gaussian()):
    register(_family)
