"""The folder of a saved model: what is written, and how it is checked before a network is made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mosaicvi.config import NetworkConfig
from mosaicvi.data.mosaic import Registry
from mosaicvi.data.splits import Split
from mosaicvi.errors import ModelFileError
from mosaicvi.likelihoods.base import Bounds
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.store.format import check_bundle_output, load_bundle, save_bundle
from mosaicvi.store.state import flatten, unflatten


def write_model(
    folder: Path,
    *,
    net: MosaicVAE,
    registry: Registry,
    history: pd.DataFrame,
    splits: Sequence[Split],
    fit: Mapping[str, Any] | None,
    readout: Mapping[str, Any] | None,
    alignment: Mapping[str, Any] | None,
    spreads: Mapping[str, Any] | None,
    reference: Mapping[str, Any] | None,
    overwrite: bool,
) -> None:
    """Write a model, whole or not at all.

    Parameters
    ----------
    folder
        Where to.
    net, registry
        The network, and what it knows of its data.
    history, splits
        How it was trained.
    fit
        The state of its training, to go on from, of which the weights are left out; None if there is none.
    readout
        How counts are read out, as plain values and arrays; None for a model whose decoder alone imputes.
    alignment
        How the groups of its latent are aligned, likewise; None for a model whose latent is the encoder's.
    reference
        What is kept of the cells in training, likewise; None for nothing.
    spreads
        How far values lie from what is imputed, as plain values and arrays; None for an untrained model.
    overwrite
        Replace a model that is there.
    """
    check_bundle_output(folder, overwrite=overwrite)
    state: dict[str, Any] = {
        "net": {k: v.cpu() for k, v in net.state_dict().items()},
        "beta_modal": net.beta_modal.tolist(),
        "config": net.config.to_dict(),
        "registry": registry.to_dict(),
        "history": history,
        "engine": net.engine(),
        "splits": [dataclasses.asdict(s) for s in splits],
        "readout": readout,
        "alignment": alignment,
        "spreads": spreads,
        "reference": reference,
        "fit": None if fit is None else {**fit, "net": None, "best": {}},
    }
    save_bundle(folder, *flatten(state), kind="model", overwrite=overwrite)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """What a model folder holds, checked and built."""

    config: NetworkConfig
    registry: Registry
    net: MosaicVAE
    rows: list[dict[str, float]]
    fit: dict[str, Any] | None
    splits: tuple[Split, ...]
    readout: Mapping[str, Any] | None
    alignment: Mapping[str, Any] | None
    spreads: Mapping[str, Any] | None
    reference: Mapping[str, Any] | None
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
        state = unflatten(bundle.tensors, bundle.document)
        config = NetworkConfig.from_dict(state["config"])
        registry = Registry.from_dict(state["registry"])
        _check_fits(config, registry)
        net = _network(config, registry, state)
        rows = [{str(k): float(v) for k, v in row.items()} for row in state["history"].to_dict("records")]
        splits = tuple(Split.from_dict(s) for s in state.get("splits", ()))
        return Saved(
            config=config,
            registry=registry,
            net=net,
            rows=rows,
            fit=state["fit"],
            splits=splits,
            readout=state.get("readout"),
            alignment=state.get("alignment"),
            spreads=state.get("spreads"),
            reference=state.get("reference"),
            written_by=bundle.written_by,
        )
    except ModelFileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"{folder}: the model does not fit together ({reason}); it was not written by mosaicvi."
        ) from None


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
    for name, standard in registry.standards.items():
        size = (len(registry.features[name].names),)
        if not (standard.centre.shape == standard.spread.shape == size):
            raise ValueError("centre and spread are not one per feature")
        if not (np.isfinite(standard.centre).all() and np.isfinite(standard.spread).all()):
            raise ValueError("a centre or a spread is not finite")
        if not (standard.spread > 0).all():
            raise ValueError("a spread is not above 0")


def _network(config: NetworkConfig, registry: Registry, state: Mapping[str, Any]) -> MosaicVAE:
    """The network with its weights; sizes are compared before anything large is made."""
    weights = state["net"]
    n_covariates = sum(map(len, registry.categories.values())) + len(registry.centre)
    n_covariates += registry.setup.batch_key is None
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
