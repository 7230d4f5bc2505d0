"""A saved model under the parameters and data that are given now.

Its data, and these, are a matrix of all features, as `data.read.masked` reads them.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from mudata import MuData

from mosaicvi.config import NetworkConfig
from mosaicvi.config.network import short
from mosaicvi.data.register import without_cells
from mosaicvi.data.registry import Registry
from mosaicvi.errors import InputError
from mosaicvi.fit.build import NAMES, build_network
from mosaicvi.model import MosaicVI
from mosaicvi.store.saved import network_of

FREE = {
    "beta_unobs", "beta_reverse", "beta_kl", "beta_modal", "p_feat", "p_modal", "mean_vals", "min_vals",
    "max_vals", "max_disp", "gamma",
}  # fmt: skip
COVARIATES = ("categorical_covariate_keys", "continuous_covariate_keys")


def reopened(dir_path: Path, mdata: MuData, config: NetworkConfig, registry: Registry) -> MosaicVI:
    """A saved model for these data, with the parameters that are given now where they are no shapes.

    Parameters
    ----------
    dir_path
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
    model = MosaicVI.load(dir_path)
    _check(model, config, registry)
    setup = dataclasses.replace(model.registry.setup, condition_keys=registry.setup.condition_keys)
    model.mosaic = without_cells(dataclasses.replace(model.registry, setup=setup))
    model.mosaic = model.registered(mdata)
    weights, beta = model.net.state_dict(), config.beta_modal
    new_bounds = [f for f, name in NAMES.items() if getattr(config, name) != getattr(model.config, name)]
    if new_bounds:
        fresh = build_network(model.mosaic, config, seed=0, guess=False).state_dict()
        weights |= {name: fresh[name] for name in fresh if name.rpartition("_")[0] in new_bounds}
    said = {"net": weights, "beta_modal": model.net.beta_modal.tolist() if beta == "auto" else beta}
    model.net, model.config = network_of(config, model.registry, said), config
    return model


def _check(model: MosaicVI, config: NetworkConfig, registry: Registry) -> None:
    """Refuse other columns of data, another number of covariates, and other shapes."""
    old, new = model.config.to_dict(), config.to_dict()
    for column in sorted(_columns(model.registry) ^ _columns(registry))[:1]:
        where = "the saved model" if column in _columns(model.registry) else "these data"
        raise InputError(
            f"dim_input_arr, masks: the saved model has {short(old['dim_input_arr'])} features with values, "
            f"these data {short(new['dim_input_arr'])}, and column {column} is one in {where} alone; give "
            "data of the same columns, or train a new model."
        )
    for keys in COVARIATES:
        n_old, n_new = (len(getattr(known.setup, keys)) for known in (model.registry, registry))
        if n_old != n_new:
            raise InputError(
                f"{keys}: the saved model has {n_old} columns, and {n_new} are given; give the same ones."
            )
    for name in new:
        if name not in FREE and old.get(name) != new[name]:
            raise InputError(
                f"{name}: the saved model has {short(old[name])}, but config says {short(new[name])}; give "
                "the saved model's, or train a new model."
            )


def _columns(registry: Registry) -> set[int]:
    """Columns of data that have values; names of features are of the form ``modality:column``."""
    names = [name for features in registry.features.values() for name in features.names]
    for name in names:
        if not re.fullmatch(r".*:\d+", name):
            raise InputError(
                f"dir_path: {name!r} is no feature of VAEIT, which did not save that model; open it "
                "with mosaicvi.MosaicVI.load."
            )
    return {int(name.rpartition(":")[2]) for name in names}
