"""Which modalities there are in a user's object, and which of them are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from anndata import AnnData
from mudata import MuData

from mosaicvi.data.read.modalities import PROTEINS, certain, feature_types, names_modalities, split_types
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
    """The modalities by name; that of an AnnData is the one whose features it has."""
    if isinstance(data, AnnData):
        types = feature_types(data)
        if registry is None:
            if len(types) > 1:
                raise InputError(
                    f"var['feature_types'] tells {quoted(types)} apart; setup_anndata takes one modality: "
                    "mdata = mosaicvi.to_mudata(adata); MosaicVI.setup_mudata(mdata, ...)."
                )
            return {setup.modalities[0] if setup.modalities else "rna": data}
        parts = split_types(data) if names_modalities(data) else {}
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
    return mods


def unknown(mods: Mapping[str, AnnData], wanted: Iterable[str], setup: Setup) -> list[str]:
    """What is said of modalities that are not there."""
    there = f"in the data; it has {quoted(mods) or 'none'}."
    problems = [f"No modality {name!r} {there}" for name in wanted if name not in mods]
    for mapping in ("layers", "likelihoods", "transforms", "block_keys"):
        for name in getattr(setup, mapping):
            if name not in mods:
                problems.append(f"{mapping}: no modality {name!r} {there}")
    return problems
