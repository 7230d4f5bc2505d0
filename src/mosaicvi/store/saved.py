"""The folder of a saved model: what is written, and how it is checked before a network is made of it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mosaicvi.config import NetworkConfig
from mosaicvi.data.registry import Registry
from mosaicvi.data.splits import Split
from mosaicvi.errors import ModelFileError
from mosaicvi.likelihoods.base import Bounds
from mosaicvi.nn.growth import Known, cut, places
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.store.format import check_bundle_output, load_bundle, save_bundle
from mosaicvi.store.state import flatten, unflatten


def described(
    *,
    net: MosaicVAE,
    registry: Registry,
    history: pd.DataFrame,
    splits: Sequence[Split],
    readout: Mapping[str, Any] | None,
    alignment: Mapping[str, Any] | None,
    spreads: Mapping[str, Any] | None,
    accuracy: Mapping[str, Any] | None,
    reference: Mapping[str, Any] | None,
    lineage: Sequence[Mapping[str, Any]],
    met: Mapping[str, Any] | None,
    grown: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """All that is written of a model but its weights and the state of its training.

    Parameters
    ----------
    net, registry
        The network, and what it knows of its data.
    history, splits
        How it was trained.
    readout
        How counts are read out, as plain values and arrays; None for a model whose decoder alone imputes.
    alignment
        How the groups of its latent are aligned, likewise; None for a model whose latent is the encoder's.
    reference
        What is kept of the cells in training, likewise; None for nothing.
    spreads
        How far values lie from what is imputed, likewise; None for an untrained model.
    accuracy
        How well each feature is imputed, likewise; None where that was not measured.
    lineage
        The models that it grew from, the first one first.
    met
        How many cells it and these learnt from, and what they measured; None of a model that did not grow.
    grown
        Of a model that grew with frozen weights: ``base``, what this function says of the one that it grew
        from, and ``sees``; None for others.
    """
    return {
        "beta_modal": net.beta_modal.tolist(),
        "config": net.config.to_dict(),
        "registry": registry.to_dict(),
        "history": history,
        "splits": [dataclasses.asdict(s) for s in splits],
        "readout": readout,
        "alignment": alignment,
        "spreads": spreads,
        "accuracy": accuracy,
        "reference": reference,
        "lineage": [dict(one) for one in lineage],
        "met": met,
        "grown": grown,
    }


def write_model(
    folder: Path,
    said: Mapping[str, Any],
    *,
    net: MosaicVAE,
    fit: Mapping[str, Any] | None,
    overwrite: bool,
) -> None:
    """Write a model, whole or not at all.

    Parameters
    ----------
    folder
        Where to.
    said
        From `described`.
    net
        The network.
    fit
        The state of its training, to go on from, of which the weights are left out; None if there is none.
    overwrite
        Replace a model that is there.
    """
    check_bundle_output(folder, overwrite=overwrite)
    state: dict[str, Any] = {
        **said,
        "net": {k: v.cpu() for k, v in net.state_dict().items()},
        "engine": net.engine(),
        "fit": None if fit is None else {**fit, "net": None, "best": {}},
    }
    save_bundle(folder, *flatten(state), kind="model", overwrite=overwrite)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """What a model folder holds, checked and built.

    Attributes
    ----------
    base, sees
        Of a model that grew with frozen weights: what it was before, and what its encoder learns to see.
    """

    config: NetworkConfig
    registry: Registry
    net: MosaicVAE
    rows: list[dict[str, float]]
    fit: dict[str, Any] | None
    splits: tuple[Split, ...]
    readout: Mapping[str, Any] | None
    alignment: Mapping[str, Any] | None
    spreads: Mapping[str, Any] | None
    accuracy: Mapping[str, Any] | None
    reference: Mapping[str, Any] | None
    lineage: tuple[dict[str, Any], ...]
    met: Mapping[str, Any] | None
    base: Saved | None
    sees: tuple[str, ...]
    written_by: Mapping[str, str]


def read_model(folder: Path) -> Saved:
    """What a folder holds.

    Raises
    ------
    ModelFileError
        If it is damaged, foreign, too new, or does not fit together.
    """
    bundle = load_bundle(folder, kind="model")
    try:
        return _read(unflatten(bundle.tensors, bundle.document), bundle.written_by)
    except ModelFileError:
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        IndexError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"{folder}: the model does not fit together ({reason}); it was not written by mosaicvi."
        ) from None


def _read(state: Mapping[str, Any], written_by: Mapping[str, str]) -> Saved:
    config = NetworkConfig.from_dict(state["config"])
    registry = Registry.from_dict(state["registry"])
    _check_fits(config, registry)
    net = network_of(config, registry, state)
    lineage = tuple(_ancestor(one) for one in state.get("lineage", ()))
    if lineage and lineage[-1].get("frozen") and state.get("grown") is None:
        raise ValueError("what it was before it grew is missing")
    base: Saved | None = None
    sees: tuple[str, ...] = ()
    if state.get("grown") is not None:
        base = _base(state["grown"]["base"], net, registry, written_by)
        if not lineage or lineage[-1]["weights"] != weights_digest(base.net):
            raise ValueError("its weights are not those of the model that it grew from")
        sees = tuple(str(name) for name in state["grown"]["sees"])
        if not set(sees) <= set(base.registry.features):
            raise ValueError("it names a modality that it did not grow from")
    return Saved(
        config=config,
        registry=registry,
        net=net,
        rows=[{str(k): float(v) for k, v in row.items()} for row in state["history"].to_dict("records")],
        fit=state.get("fit"),
        splits=tuple(Split.from_dict(s) for s in state.get("splits", ())),
        readout=state.get("readout"),
        alignment=state.get("alignment"),
        spreads=state.get("spreads"),
        accuracy=state.get("accuracy"),
        reference=state.get("reference"),
        lineage=lineage,
        met=state.get("met"),
        base=base,
        sees=sees,
        written_by=written_by,
    )


def _base(
    state: Mapping[str, Any], net: MosaicVAE, registry: Registry, written_by: Mapping[str, str]
) -> Saved:
    """What a model was before it grew, of which the weights are a part of its own."""
    config, before = NetworkConfig.from_dict(state["config"]), Registry.from_dict(state["registry"])
    _check_fits(config, before)
    where = places(known_of(config, before), known_of(net.config, registry))
    bounds = [Bounds(centre=e, low=e, high=e) for e in map(torch.zeros, config.dim_input_arr)]
    with torch.device("meta"):
        shell = MosaicVAE(config, len(before.covariate_names), bounds, torch.Generator())
    weights = cut(net.state_dict(), list(shell.state_dict()), where)
    return _read({**state, "net": weights}, written_by)


def _ancestor(said: Mapping[str, Any]) -> dict[str, Any]:
    frozen = {"frozen": bool(said["frozen"])} if "frozen" in said else {}  # older models do not say
    new = {"new": _new(said["new"])} if "new" in said else {}
    return {
        "weights": str(said["weights"]),
        "cells": None if said["cells"] is None else int(said["cells"]),
        "epochs": int(said["epochs"]),
        **frozen,
        **new,
    }


def _new(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "categories": {str(key): [str(name) for name in names] for key, names in said["categories"].items()},
        "modalities": [str(name) for name in said["modalities"]],
        "features": {str(name): int(n) for name, n in said["features"].items()},
    }


def known_of(config: NetworkConfig, registry: Registry) -> Known:
    """What a model has weights for."""
    features = {name: of.names for name, of in registry.features.items()}
    return Known(config=config, features=features, covariates=registry.covariate_names)


def weights_digest(net: MosaicVAE) -> str:
    """SHA-256 of the names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_fits(config: NetworkConfig, registry: Registry) -> None:
    """Raise `ValueError` if the data that a model remembers are not those of its network."""
    sizes = tuple(len(f.names) for f in registry.features.values())
    blocks = tuple(s for f in registry.features.values() for s in f.sizes)
    likelihoods = tuple(registry.likelihoods[name] for name in registry.features)
    if (tuple(registry.features), sizes, blocks, likelihoods) != (
        config.uni_block_names,
        config.dim_input_arr,
        config.dim_block,
        config.distributions,
    ):
        raise ValueError("the features are not those of the network")
    for f in registry.features.values():
        if sorted(f.order) != list(range(len(f.names))):
            raise ValueError("the order of the features is no order")
        if f.scaled is not None and f.scaled.shape != (len(f.names),):
            raise ValueError("the features that set the scale are not one per feature")
    for name, table in registry.panels.items():
        if table.shape[1:] != (len(registry.features[name].names),):
            raise ValueError("what batches measured is not of its features")
    _check_levels(registry)
    for name, standard in registry.standards.items():
        size = (len(registry.features[name].names),)
        if not (standard.centre.shape == standard.spread.shape == size):
            raise ValueError("centre and spread are not one per feature")
        if not (np.isfinite(standard.centre).all() and np.isfinite(standard.spread).all()):
            raise ValueError("a centre or a spread is not finite")
        if not (standard.spread > 0).all():
            raise ValueError("a spread is not above 0")


def _check_levels(registry: Registry) -> None:
    key = registry.setup.batch_key
    known = () if key is None else registry.categories[key]
    for name, batches in registry.levels.items():
        if name not in registry.features or not set(batches) <= set(known):
            raise ValueError("the levels of batches are not of its batches")
        for gaps in batches.values():
            if not set(gaps) <= set(registry.features[name].names):
                raise ValueError("the levels of batches are not of its features")
            if not np.isfinite(list(gaps.values())).all():
                raise ValueError("a level of a batch is not finite")
    for name, table in registry.input_levels.items():
        if name not in registry.features or table.shape[1:] != (len(registry.features[name].names),):
            raise ValueError("what the encoder sees values without is not of its features")
        if len(table) > len(known) or not np.isfinite(table).all():
            raise ValueError("what the encoder sees values without is not finite, or of more batches")


def network_of(config: NetworkConfig, registry: Registry, state: Mapping[str, Any]) -> MosaicVAE:
    """The network with its weights; sizes are compared before anything large is made."""
    weights = state["net"]
    n_covariates = len(registry.covariate_names)
    bounds = [
        Bounds(centre=weights[f"centre_{m}"], low=weights[f"low_{m}"], high=weights[f"high_{m}"])
        for m in range(len(config.dim_input_arr))
    ]
    for size, of_modality in zip(config.dim_input_arr, bounds, strict=True):
        if any(v.shape != (size,) for v in (of_modality.centre, of_modality.low, of_modality.high)):
            raise ValueError("the bounds are not one per feature")
    with torch.device("meta"):
        shell = MosaicVAE(config, n_covariates, bounds, torch.Generator())
    wanted = {k: tuple(v.shape) for k, v in shell.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in weights.items()}
    if wanted != found:
        odd = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))[0]
        raise ValueError(f"weight {odd!r} has shape {found.get(odd)}, not {wanted.get(odd)}")
    net = MosaicVAE(config, n_covariates, bounds, torch.Generator())
    net.load_state_dict(weights)
    beta = [float(b) for b in state["beta_modal"]]
    if len(beta) != len(config.dim_input_arr) or not all(b >= 0 for b in beta):
        raise ValueError("beta_modal is not one weight per modality")
    net.set_beta_modal(beta)
    return net
