"""A saved model under the config that is given now, as scVAEIT restores weights into a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from mudata import MuData

from mosaicvi.config import NetworkConfig
from mosaicvi.data.register import without_cells
from mosaicvi.data.registry import Registry
from mosaicvi.errors import InputError
from mosaicvi.fit.build import NAMES, build_network
from mosaicvi.likelihoods.base import Bounds
from mosaicvi.model import MosaicVI
from mosaicvi.nn.vae import MosaicVAE

FREE = (
    "beta_unobs", "beta_reverse", "beta_kl", "beta_modal", "p_feat", "p_modal", "mean_vals", "min_vals",
    "max_vals", "max_disp", "gamma",
)  # fmt: skip
COVARIATES = {"batches_cate": "categorical_covariate_keys", "batches_cont": "continuous_covariate_keys"}


def loaded(folder: Path, mdata: MuData, config: NetworkConfig, registry: Registry) -> MosaicVI:
    """A saved model for these data, with the parameters that are given now where they are no shapes.

    Parameters
    ----------
    folder
        Where it was saved.
    mdata
        The data.
    config, registry
        Parameters and data as a new model would have them.

    Raises
    ------
    InputError
        The two differ in what decides the shapes or the meaning of weights, or in features or covariates.
    ModelFileError
        The folder is damaged, foreign or too new.
    """
    model = MosaicVI.load(folder)
    _check_data(model, config, registry)
    _check_config(model.config, config)
    setup = dataclasses.replace(model.registry.setup, condition_keys=registry.setup.condition_keys)
    model.mosaic = without_cells(dataclasses.replace(model.registry, setup=setup))
    model.mosaic = model.registered(mdata)
    model.net, model.config = _rebuilt(model, config), config
    return model


def _check_config(saved: NetworkConfig, given: NetworkConfig) -> None:
    for field in dataclasses.fields(NetworkConfig):
        old, new = getattr(saved, field.name), getattr(given, field.name)
        if field.name in FREE or old == new:
            continue
        raise InputError(
            f"{field.name}: the saved model has {_plain(old)}, but config says {_plain(new)}; give the saved "
            "model's, or train a new model."
        )


def _check_data(model: MosaicVI, config: NetworkConfig, registry: Registry) -> None:
    """Whether both know the same columns of data, and as many columns of covariates."""
    old, new = _columns(model.registry), _columns(registry)
    if old != new:
        column = min(old ^ new)
        where = "the saved model" if column in old else "these data"
        raise InputError(
            f"dim_input_arr, masks: the saved model has {_plain(model.config.dim_input_arr)} features with "
            f"values, these data {_plain(config.dim_input_arr)}, and column {column} is one in {where} "
            "alone; give data of the same columns, or train a new model."
        )
    for argument, keys in COVARIATES.items():
        n_old, n_new = (len(getattr(r.setup, keys)) for r in (model.registry, registry))
        if n_old != n_new:
            raise InputError(
                f"{argument}: the saved model has {n_old} columns, and {n_new} are given; give the same ones."
            )


def _columns(registry: Registry) -> set[int]:
    """Columns of data that have values; names of features are of the form ``modality:column``."""
    found = set()
    for modality, features in registry.features.items():
        for name in features.names:
            column = name.removeprefix(f"{modality}:")
            if column == name or not column.isdecimal():
                raise InputError(
                    f"path_to_weights: {name!r} is no feature of VAEIT, which did not save that model; open "
                    "it with mosaicvi.MosaicVI.load."
                )
            found.add(int(column))
    return found


def _rebuilt(model: MosaicVI, config: NetworkConfig) -> MosaicVAE:
    """The network with its weights and other parameters; bounds stay unless they were given otherwise."""
    old, weights = model.net, model.net.state_dict()
    changed = [f for f, name in NAMES.items() if getattr(config, name) != getattr(model.config, name)]
    places = range(len(config.dim_input_arr))
    if changed:
        fresh = build_network(model.mosaic, config, seed=0, guess=False)
        weights |= {f"{field}_{m}": fresh.get_buffer(f"{field}_{m}") for field in changed for m in places}
    bounds = [Bounds(**{field: weights[f"{field}_{m}"] for field in NAMES}) for m in places]
    net = MosaicVAE(config, old.n_covariates, bounds, torch.Generator())
    net.load_state_dict(weights)
    if config.beta_modal == "auto":
        net.set_beta_modal(old.beta_modal.tolist())
    return net


def _plain(value: Any) -> str:
    """A parameter as users write it, cut where it is long."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."
