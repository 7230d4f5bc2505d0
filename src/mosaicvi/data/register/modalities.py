"""Which modalities there are in a user's object, and which of them are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
from anndata import AnnData
from mudata import MuData

from mosaicvi.data.read.modalities import PROTEINS, certain, feature_types, names_modalities, split_types
from mosaicvi.data.read.remembered import checked
from mosaicvi.data.register.suspicious import technical
from mosaicvi.data.registry import Registry, Setup
from mosaicvi.errors import InputError, quoted


def without_technical(names: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """All modalities but those of hashtags, guides and other barcodes, and notes on these."""
    kept = tuple(name for name in names if technical(name) is None)
    if not kept:
        return names, []
    return kept, [
        f"Modality {name!r} holds {technical(name)}, which say nothing of a cell's state, and is left out; "
        f"modalities={[*kept, name]!r} takes it in."
        for name in names
        if name not in kept
    ]


def unread_proteins(data: MuData | AnnData) -> list[str]:
    """A note on modalities in ``obsm`` of an AnnData, which are not read."""
    if not isinstance(data, AnnData):
        return []
    return [
        f"obsm[{key!r}] is not read; to have its features as a modality, "
        "mdata = mosaicvi.to_mudata(adata); MosaicVI.setup_mudata(mdata, ...)."
        for key in [PROTEINS] * (PROTEINS in data.obsm) + [*certain(data)]
    ]


def modalities_of(data: MuData | AnnData, setup: Setup, registry: Registry | None) -> dict[str, AnnData]:
    """The modalities by name; that of an AnnData is the one whose features it has.

    Of what is asked of a model, those without a cell are left out, as a part of a mosaic may have them.
    """
    if isinstance(data, AnnData):
        types = feature_types(data)
        if registry is None:
            if len(types) > 1:
                raise InputError(
                    f"var['feature_types'] tells {quoted(types)} apart; setup_anndata takes one modality: "
                    "mdata = mosaicvi.to_mudata(adata); MosaicVI.setup_mudata(mdata, ...)."
                )
            return {setup.modalities[0] if setup.modalities else "rna": data}
        noted = checked(registry.reading).get("from_obsm", {})
        obsm = {m: key for m, key in noted.items() if ":" not in m and key in data.obsm}
        parts = split_types(data, from_obsm=obsm, of_model=True) if obsm or names_modalities(data) else {}
        if len(parts) > 1 and parts.keys() & registry.features:
            return parts
        if len(registry.features) == 1:
            return {next(iter(registry.features)): data}
        have = frozenset(data.var_names)
        return {
            max(registry.features, key=lambda m: len(have.intersection(registry.features[m].names))): data
        }
    if data.axis != 0:
        raise InputError("The MuData joins datasets of the same features, not modalities of the same cells.")
    mods = dict(data.mod)
    nested = [name for name, a in mods.items() if not isinstance(a, AnnData)]
    if nested:
        raise InputError(f"Modality {nested[0]!r} is no AnnData; give each modality as one AnnData.")
    filled = {name: a for name, a in mods.items() if a.n_obs}
    return filled if registry is not None and filled else mods


ALIKE = 0.5  # share of the fewer features from which two modalities are the same by another name


def other_names(data: MuData | AnnData, mods: Mapping[str, AnnData], registry: Registry) -> dict[str, str]:
    """What is said of modalities that the model knows by another name, which the data lack.

    Parameters
    ----------
    data
        The user's object.
    mods
        Its modalities.
    registry
        Of the model.

    Returns
    -------
    By modality of the data, whose features they are, and how it is renamed.
    """
    found = {}
    whole = "mdata = mosaicvi.to_mudata(data); " if isinstance(data, AnnData) else ""
    absent = [name for name in registry.features if name not in mods]
    for name in (n for n in mods if n not in registry.features):
        for known in absent:
            features = registry.features[known].names
            shared = int(mods[name].var_names.isin(pd.Index(features)).sum())
            if shared and shared >= ALIKE * min(len(features), mods[name].n_vars):
                found[name] = (
                    f"its features are those of {known!r}: "
                    f"rename it, {whole}mdata.mod[{known!r}] = mdata.mod.pop({name!r})."
                )
    return found


def left_out(data: MuData | AnnData, mods: Mapping[str, AnnData], registry: Registry) -> list[str]:
    """Notes on modalities that the model leaves out though it knows their features."""
    return [
        f"{name}: the model has no such modality and leaves it out; {said}"
        for name, said in other_names(data, mods, registry).items()
    ]


def unknown(mods: Mapping[str, AnnData], wanted: Iterable[str], setup: Setup) -> list[str]:
    """What is said of modalities that are not there."""
    there = f"in the data; it has {quoted(mods) or 'none'}."
    problems = [f"No modality {name!r} {there}" for name in wanted if name not in mods]
    for mapping in ("layers", "likelihoods", "transforms", "block_keys"):
        for name in getattr(setup, mapping):
            if name not in mods:
                problems.append(f"{mapping}: no modality {name!r} {there}")
    return problems
