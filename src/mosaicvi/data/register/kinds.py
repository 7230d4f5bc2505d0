"""What kind of values a modality has: its likelihood, its transform, and whether the values allow them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from mosaicvi import likelihoods
from mosaicvi.config import Distribution
from mosaicvi.data.blocks import Matrix
from mosaicvi.data.counts import USUALLY_COUNTS, settled_layers, taken
from mosaicvi.data.layers import RAW, layer_names, values_of
from mosaicvi.data.looks import Looks, first_value, is_whole, no_count
from mosaicvi.data.register.suspicious import looks_log_normalised, looks_sparse, scale
from mosaicvi.data.registry import Registry, Setup
from mosaicvi.data.transforms import TRANSFORMS, Transform
from mosaicvi.errors import InputError, quoted
from mosaicvi.likelihoods import FOR_FRACTIONS, Evidence

FEW = 0.05  # share of the non-zero values up to which fractions among counts are an error
FILLED = 0.2  # share of counts above 0 from which ratios to their geometric mean make sense


def with_counts(setup: Setup, mods: Mapping[str, AnnData]) -> tuple[Setup, list[str]]:
    """The setup with layers of counts that nobody had to name, and notes on these."""
    layers, found = settled_layers(mods, setup.layers, meant={**setup.likelihoods, **setup.transforms})
    notes = [
        f"{taken(name, layer)}. likelihoods={{{name!r}: {FOR_FRACTIONS!r}}} takes X instead."
        for name, layer in found.items()
    ]
    return dataclasses.replace(setup, layers=layers), notes


def choose_likelihood(
    name: str, a: AnnData, x: Matrix, looks: Looks, peaks: bool, setup: Setup
) -> Distribution:
    """The user's choice, else the family that recognises the values.

    Parameters
    ----------
    name, a
        The modality.
    x, looks
        Its values, and what they look like.
    peaks
        Whether its features are named by chromosome.
    setup
        The user's choices.

    Raises
    ------
    InputError
        If the likelihood is unknown, if many zeros among fractions suggest that counts were normalised, or
        if a few values among counts are none.
    """
    said = setup.likelihoods.get(name)
    if said is not None:
        if said not in likelihoods.names():
            raise InputError(
                f"likelihoods: unknown {said!r} for {name!r}; use one of {', '.join(likelihoods.names())}."
            )
        return said
    unlikely = scale(name, looks, counts_in=counts_in(a))
    if unlikely is not None and (looks.whole or looks.least >= 0):
        raise InputError(unlikely)
    if not looks.whole:
        _check_fractions(name, a, x, looks)
    evidence = Evidence(whole=looks.whole, peaks=peaks, any_above_one=lambda: looks.most > 1)
    return likelihoods.choose(evidence).name


def _check_fractions(name: str, a: AnnData, x: Matrix, looks: Looks) -> None:
    """Raise `InputError` for fractions that look like counts gone wrong."""
    if 0 < looks.share_no_count < FEW:
        raise InputError(
            f"{name}: {first_value(a.obs_names, x, no_count)} is no count, though all but a few values are; "
            "correct it (NaN in a dense matrix means not measured), "
            f"or set likelihoods={{{name!r}: {FOR_FRACTIONS!r}}}."
        )
    if looks.least >= 0 and looks_sparse(looks):
        raise InputError(looks_normalised(name, a))


def guessed_gaussian(name: str, a: AnnData, looks: Looks) -> list[str]:
    """A note on fractions where counts are expected: z-scores, or logarithms of counts in a dense matrix."""
    counts = counts_in(a)
    if looks.least < 0:
        kind = "below 0"
        unlikely = scale(name, looks, counts_in=counts)
        if not (counts or name.lower() in USUALLY_COUNTS):
            return [] if unlikely is None else [unlikely]
    elif name.lower() in USUALLY_COUNTS and looks_log_normalised(looks):
        kind = "with zeros, like log-normalised counts"
    else:
        return []
    where = f"layers={{{name!r}: {counts or '...'!r}}}"
    return [
        f"Modality {name!r}: values are fractional and {kind}, so they are modelled as {FOR_FRACTIONS}. "
        f"Raw counts are better where there are any: {where}. "
        f"likelihoods={{{name!r}: {FOR_FRACTIONS!r}}} says that this is meant."
    ]


def counts_in(a: AnnData) -> str | None:
    """A layer, or ``"raw"``, that holds whole numbers for all features; None if there is none."""
    for layer in layer_names(a):
        try:
            values = values_of("the data", "", a, layer)
        except InputError:
            continue
        in_memory = isinstance(values, np.ndarray | sp.csr_matrix | sp.csc_matrix)
        if in_memory and values.dtype.kind in "biuf" and is_whole(values):
            return layer
    return None


def layer_for_model(name: str, a: AnnData, registry: Registry) -> tuple[str | None, list[str]]:
    """Where new data have the values that a model takes: where those in training had them, if they fit.

    Parameters
    ----------
    name, a
        The modality of the new data.
    registry
        Of the model.

    Returns
    -------
    A layer, ``"raw"`` or None for ``X``, and a note if that is elsewhere than in training.

    Raises
    ------
    InputError
        If the layer of the model is not there, and nothing else can be meant.
    """
    layer = registry.setup.layers.get(name)
    is_there = a.X is not None if layer is None else layer in layer_names(a)
    whole = registry.whole[name] and likelihoods.get(registry.likelihoods[name]).whole
    if is_there and not (whole and not _holds_counts(a, layer)):
        return layer, []
    other = counts_in(a) if whole else None
    if layer is not None and a.X is not None and _holds_counts(a, None) == whole:
        return None, [_elsewhere(name, layer, None, is_there)]
    if other is not None and other != layer:
        return other, [_elsewhere(name, layer, other, is_there)]
    if is_there:
        return layer, []  # what is wrong with the values is said when they are read
    wanted = "counts" if whole else "such values"
    there = quoted(["X"] * (a.X is not None) + layer_names(a)) or "none"
    raise InputError(
        f"{name}: no {_place(layer)}, where the model's data had their values, and no other place certainly "
        f"holds {wanted} (there are {there}); say which to take: "
        f"{_say_layer(name)}."
    )


def _say_layer(name: str) -> str:
    return f"MosaicVI.prepare_query(data, model, layers={{{name!r}: ...}})"


def _place(layer: str | None) -> str:
    return "X" if layer is None else RAW if layer == RAW else f"layer {layer!r}"


def _elsewhere(name: str, layer: str | None, other: str | None, is_there: bool) -> str:
    why = "holds no counts" if is_there else "is not there"
    return (
        f"Modality {name!r}: the model was trained on {_place(layer)}, which {why} in these data; "
        f"{_place(other)} fits and is taken."
    )


def _holds_counts(a: AnnData, layer: str | None) -> bool:
    """Whether the values of a layer, or of ``X``, are whole numbers >= 0; those of a file count as such."""
    values = values_of("the data", "", a, layer)
    in_memory = isinstance(values, np.ndarray | sp.csr_matrix | sp.csc_matrix)
    return not in_memory or (values.dtype.kind in "biuf" and is_whole(values))


def looks_normalised(name: str, a: AnnData, *, of_model: bool = False) -> str:
    """The message for fractions where counts are needed, in training or because a model takes them."""
    layers = f" (it has {quoted(layer_names(a))})" if layer_names(a) else ""
    is_raw = counts_in(a) == RAW
    if of_model:
        return (
            f"{name}: values are fractional, so they look normalised already, but the model takes counts; "
            f"say where they are{layers}: {_say_layer(name)}."
        )
    where = f"layers={{{name!r}: {RAW!r}}}" if is_raw else f"layers={{{name!r}: ...}}{layers}"
    return (
        f"{name}: values are fractional, so they look normalised already, but counts are needed; "
        f"name the layer of raw counts, {where}, "
        f"or set likelihoods={{{name!r}: {FOR_FRACTIONS!r}}}."
    )


def choose_transform(
    name: str, likelihood: Distribution, whole: bool, filled: bool, setup: Setup
) -> Transform:
    """The user's choice, else what suits the likelihood; `InputError` if it is unknown.

    Parameters
    ----------
    name, likelihood
        The modality.
    whole, filled
        Whether its values are whole numbers >= 0, and whether they are often above 0.
    setup
        What the user said.
    """
    said = setup.transforms.get(name)
    if said is not None:
        if said not in TRANSFORMS:
            raise InputError(
                f"transforms: unknown {said!r} for {name!r}; use one of {', '.join(TRANSFORMS)}."
            )
        return said
    chosen = likelihoods.get(likelihood).transform(whole=whole, filled=filled)
    return next(transform for transform in TRANSFORMS if transform == chosen)


def is_filled(looks: Looks) -> bool:
    """Whether enough of the values are above 0 for ratios to their geometric mean; NaN do not count."""
    return looks.n_positive > FILLED * looks.n_entries


def check_range(
    name: str,
    a: AnnData,
    x: Matrix,
    looks: Looks,
    likelihood: Distribution,
    transform: Transform,
    *,
    of_model: bool = False,
) -> None:
    """Raise `InputError` for values which the likelihood or the transform cannot have."""
    family = likelihoods.get(likelihood)
    if family.binary and transform in ("log1p_cp10k", "clr"):
        raise InputError(f"transforms: {name!r} is {likelihood}, which needs 'binarize', not {transform!r}.")
    user = likelihood if family.least >= 0 else transform
    if user not in ("none", "binarize") and looks.least < 0:
        value = first_value(a.obs_names, x, lambda v: v < 0)
        if of_model:
            raise InputError(
                f"{name}: {value} is negative, which {user} cannot be; "
                f"say where the values are that the model takes: {_say_layer(name)}."
            )
        raise InputError(
            f"{name}: {value} is negative, which {user} cannot be; "
            f"name the layer of raw counts, layers={{{name!r}: ...}}, "
            f"or set likelihoods={{{name!r}: {FOR_FRACTIONS!r}}} with transforms={{{name!r}: 'none'}}."
        )
    if transform == "none" and looks.most > family.most:
        remedy = f"set transforms={{{name!r}: 'binarize'}}" if family.binary else "choose another likelihood"
        remedy = f"say where the values are that the model takes: {_say_layer(name)}" if of_model else remedy
        raise InputError(
            f"{name}: {first_value(a.obs_names, x, lambda v: v > family.most)} is above {family.most:g}, "
            f"which {likelihood} cannot be; {remedy}."
        )
