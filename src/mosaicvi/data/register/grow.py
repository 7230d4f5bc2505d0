"""What a model remembers, extended by what new data have besides: categories, features, modalities."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.data.register.features import chromosomes
from mosaicvi.data.register.join import in_memory
from mosaicvi.data.register.modalities import modalities_of, other_names
from mosaicvi.data.register.query import align_to_model, together
from mosaicvi.data.register.register import register
from mosaicvi.data.register.suspicious import technical
from mosaicvi.data.register.unseen import read_new_covariates, with_new_categories
from mosaicvi.data.registry import ModalityFeatures, Registry, Setup, Standard
from mosaicvi.errors import InputError, quoted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """New data, registered with all that they have besides.

    Attributes
    ----------
    mosaic
        The data, whose registry knows what the model knew and what is new.
    sees
        Known modalities of whose new features the encoder has to learn, as some cells have nothing else.
    notes
        What is said of it.
    """

    mosaic: Mosaic
    sees: tuple[str, ...]
    notes: tuple[str, ...]


def grow(
    data: MuData | AnnData,
    registry: Registry,
    *,
    new_features: Collection[str] = (),
    modalities: Collection[str] = (),
    likelihoods: Mapping[str, str] | None = None,
    layers: Mapping[str, str] | None = None,
) -> Growth:
    """Register new data of a model with what is new in them.

    Parameters
    ----------
    data
        The user's object, which is not changed.
    registry
        Of the model.
    new_features
        Known modalities of which further features are learnt; of others they are left out.
    modalities
        New modalities to learn; all but technical ones where none is named.
    likelihoods
        Of new modalities, where they are not to be chosen by the values.
    layers
        Of new modalities, where their values are, if not in ``X``.

    Raises
    ------
    InputError
        If a name is not there, or there is nothing of what the model knows and nothing new.
    """
    mods = modalities_of(data, registry.setup, registry)
    strange = [name for name in new_features if name not in registry.features or name not in mods]
    if strange:
        known = quoted(name for name in mods if name in registry.features) or "none"
        raise InputError(f"new_features: no modality {strange[0]!r} that the model knows; there are {known}.")
    new = [name for name in mods if name not in registry.features]
    absent = [name for name in modalities if name not in new]
    if absent:
        known = "; the model knows it, and reads it anyway" if absent[0] in registry.features else ""
        raise InputError(
            f"modalities: no new modality {absent[0]!r} in the data{known}; "
            f"there are {quoted(new) or 'none'}."
        )
    new = [name for name in new if (name in modalities if modalities else technical(name) is None)]
    if not new and not any(name in registry.features for name in mods):
        raise InputError(f"The data have {quoted(mods)}; the model knows {quoted(registry.features)}.")
    strange = [name for name in layers or () if name not in new]
    if strange:
        raise InputError(
            f"layers: {strange[0]!r} is no new modality; there are {quoted(new) or 'none'}. Of known ones "
            "prepare_query(data, model, layers=...) says where values are."
        )
    obs, notes = with_new_categories(data, registry)
    if notes:
        data = together(mods, obs, data.uns)
    further, left_out = _further(mods, registry, new_features)
    notes += left_out
    notes += [
        f"{name}: the model has no such modality and learns it as a new one; {said}"
        for name, said in other_names(data, mods, registry).items()
        if name in new and name not in modalities
    ]
    fresh = _registered_alone(
        {**further, **{name: mods[name] for name in new}}, data, registry, likelihoods, layers
    )
    grown = _extended(registry, fresh, data)
    mosaic = register(align_to_model(data, grown), grown.setup, registry=grown)
    grown = dataclasses.replace(
        grown,
        measured_in=_measured_in(registry, mosaic),
        median_library=_median_library(registry, mosaic, fresh),
    )
    mosaic = dataclasses.replace(mosaic, registry=grown)
    return Growth(mosaic=mosaic, sees=_blind_otherwise(registry, mosaic), notes=tuple(notes))


def _further(
    mods: Mapping[str, AnnData], registry: Registry, new_features: Collection[str]
) -> tuple[dict[str, AnnData], list[str]]:
    """Of known modalities the features that the model does not know, and notes on those left out."""
    found, notes = {}, []
    for name, features in registry.features.items():
        if name not in mods:
            continue
        is_new = ~mods[name].var_names.isin(pd.Index(features.names))
        if name in new_features and is_new.any():
            found[name] = mods[name][:, is_new]
        elif is_new.any():
            notes.append(
                f"Modality {name!r}: {int(is_new.sum()):,} features of the data are not the model's (such as "
                f"{quoted(mods[name].var_names[is_new])}) and are left out; new_features=[{name!r}] learns "
                "them."
            )
    return found, notes


def _registered_alone(
    mods: Mapping[str, AnnData],
    data: MuData | AnnData,
    registry: Registry,
    likelihoods: Mapping[str, str] | None,
    new_layers: Mapping[str, str] | None,
) -> Mosaic | None:
    """What is new as a mosaic of its own, by which likelihoods, scales and blocks are found."""
    if not mods:
        return None
    there = pd.Index(data.obs_names)
    has = np.any([there.isin(a.obs_names) for a in mods.values()], axis=0)
    copies = {name: a.copy() for name, a in mods.items()}
    for a in copies.values():
        a.varm.pop("measured", None)  # panels are read with the whole
    alone = together(copies, data.obs[has], {})
    known = {name: registry.likelihoods[name] for name in mods if name in registry.likelihoods}
    transforms = {name: registry.transforms[name] for name in known}
    layers = {name: layer for name, layer in registry.setup.layers.items() if name in mods}
    layers |= new_layers or {}
    setup = Setup(likelihoods={**(likelihoods or {}), **known}, transforms=transforms, layers=layers)
    return register(alone, setup)


def _extended(registry: Registry, fresh: Mosaic | None, data: MuData | AnnData) -> Registry:
    covariates, _ = read_new_covariates(data, registry)
    categories = {
        key: (*known, *covariates.unseen.get(key, ())) for key, known in registry.categories.items()
    }
    parts = {} if fresh is None else {m.name: m for m in fresh.modalities}
    features, standards = dict(registry.features), dict(registry.standards)
    levels = dict(registry.input_levels)
    for name, part in parts.items():
        if name not in features:
            features[name] = part.features
            if part.standard is not None:
                standards[name] = part.standard
            continue
        features[name], from_old, from_new = _more_features(features[name], part.features)
        if name in levels:
            known = levels[name]
            levels[name] = np.zeros((len(known), len(from_old) + len(from_new)), np.float32)
            levels[name][:, from_old] = known
        if name in standards:
            assert part.standard is not None
            standards[name] = _more_standards(standards[name], part.standard, from_old, from_new)
    new = {name: part for name, part in parts.items() if name not in registry.features}
    setup = registry.setup
    found = {} if fresh is None else fresh.registry.setup.layers
    setup = dataclasses.replace(
        setup,
        modalities=(*setup.modalities, *new) if setup.modalities else (),
        layers={**setup.layers, **{name: layer for name, layer in found.items() if name in new}},
    )
    return dataclasses.replace(
        registry,
        setup=setup,
        features=features,
        standards=standards,
        input_levels=levels,
        panels={name: table for name, table in registry.panels.items() if name not in parts},
        categories=categories,
        likelihoods={**registry.likelihoods, **{name: part.likelihood for name, part in new.items()}},
        transforms={**registry.transforms, **{name: part.transform for name, part in new.items()}},
        whole={**registry.whole, **{name: part.whole for name, part in new.items()}},
        median_library={**registry.median_library, **{name: 1.0 for name in new}},
        measured_in={**registry.measured_in, **{name: () for name in new}},
    )


def _more_features(
    old: ModalityFeatures, new: ModalityFeatures
) -> tuple[ModalityFeatures, NDArray[np.int64], NDArray[np.int64]]:
    """Features in block order, and where the old and the new ones stand among them.

    New features join the block of their chromosome, or the last one.
    """
    label = chromosomes(pd.Index(new.names)) if len(old.blocks) > 1 else None
    last = len(old.blocks) - 1
    block_of = {name: b for b, name in enumerate(old.blocks)}
    of_new = np.array([block_of.get(c, last) for c in label] if label else [last] * len(new.names), np.int64)
    of_all = np.r_[np.repeat(np.arange(len(old.blocks)), old.sizes), of_new]
    place = np.argsort(of_all, kind="stable")
    where = np.empty_like(place)
    where[place] = np.arange(len(place))
    n = len(old.names)
    names = np.array([*old.names, *new.names], object)[place]
    order = np.r_[old.order, n + new.order][place]
    scaled = np.r_[np.ones(n, bool) if old.scaled is None else old.scaled, np.zeros(len(new.names), bool)]
    grown = ModalityFeatures(
        names=tuple(names),
        order=order,
        blocks=old.blocks,
        sizes=tuple(int(s) for s in np.bincount(of_all, minlength=len(old.blocks))),
        scaled=scaled[place],
    )
    return grown, where[:n], where[n:]


def _more_standards(
    old: Standard, new: Standard, from_old: NDArray[np.int64], from_new: NDArray[np.int64]
) -> Standard:
    parts = {}
    for field in ("centre", "spread"):
        parts[field] = np.empty(len(from_old) + len(from_new))
        parts[field][from_old], parts[field][from_new] = getattr(old, field), getattr(new, field)
    return Standard(**parts)


def _measured_in(registry: Registry, mosaic: Mosaic) -> dict[str, tuple[str, ...]]:
    found = {}
    for m in mosaic.modalities:
        here = [mosaic.batches[b] for b in np.unique(mosaic.batch[m.row_of_cell >= 0])]
        before = registry.measured_in.get(m.name, ())
        found[m.name] = (*before, *(name for name in here if name not in before))
    return found


def _median_library(registry: Registry, mosaic: Mosaic, fresh: Mosaic | None) -> dict[str, float]:
    """That of new modalities; of known ones with new features, so much larger as these add counts."""
    found = dict(registry.median_library)
    for m in () if fresh is None else fresh.modalities:
        if m.name not in found:
            found[m.name] = fresh.registry.median_library[m.name] if fresh is not None else 1.0
            continue
        whole = mosaic.modality(m.name)
        assert whole.features.scaled is not None
        known = np.asarray(in_memory(whole)[0][:, np.flatnonzero(whole.features.scaled)].sum(1)).ravel()
        both = known > 0
        if both.any():
            found[m.name] *= float(np.median(whole.library[both] / known[both]))
    return found


def _blind_otherwise(registry: Registry, mosaic: Mosaic) -> tuple[str, ...]:
    """Known modalities with new features, if some cell has nothing that the model knew."""
    grown = [m for m in mosaic.modalities if m.name in registry.features and m.features.scaled is not None]
    if not grown:
        return ()
    sighted = np.zeros(mosaic.n_cells, bool)
    for m in mosaic.modalities:
        if m.name in registry.features:
            rows = has_known(m, registry.features[m.name].names)
            sighted |= rows[m.row_of_cell]
    return () if sighted.all() else tuple(m.name for m in grown)


def has_known(m: ModalityData, names: Collection[str]) -> NDArray[np.bool_]:
    """Which rows of a modality measured any of these features; one more row for cells without it."""
    is_known = pd.Index(m.features.names).isin(pd.Index(list(names)))
    _, entry = in_memory(m)
    any_of: NDArray[np.bool_] = np.any((m.panels if entry is None else entry)[:, is_known], axis=1)
    return np.append(any_of[m.panel_of_row] if entry is None else any_of, False)
