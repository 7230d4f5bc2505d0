"""What an object is at one time, so that a change after registering is noticed."""

from __future__ import annotations

import hashlib
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from mosaicvi.data.layers import layer_names, values_of
from mosaicvi.data.registry import Setup


def state_digest(data: MuData | AnnData, setup: Setup) -> str:
    """SHA-256 of names, covariates, and the shape and sums of all values that a model uses.

    Values of a file are not read: of them only the shape counts.
    """
    mods = dict(data.mod) if isinstance(data, MuData) else {next(iter(setup.modalities), "rna"): data}
    wanted = setup.modalities if isinstance(data, MuData) and setup.modalities else tuple(mods)
    digest = hashlib.sha256(_of_names(data.obs_names))
    keys = (
        setup.batch_key,
        setup.panel_key,
        *setup.categorical_covariate_keys,
        *setup.continuous_covariate_keys,
        *setup.condition_keys,
    )
    for table in (data.obs, *(a.obs for a in mods.values())):
        for key in keys:
            if key is not None and key in table:
                digest.update(_of_names(table[key]))
    for name in wanted:
        if name not in mods:
            digest.update(b"gone")
            continue
        a = mods[name]
        digest.update(_of_names(a.obs_names) + _of_names(a.var_names))
        layer = setup.layers.get(name)
        there = a.X is not None if layer is None else layer in layer_names(a)
        digest.update(_of_values(values_of("the data", name, a, layer)) if there else b"gone")
    return digest.hexdigest()


def _of_names(names: Any) -> bytes:
    return pd.util.hash_array(np.asarray(names, dtype=object).astype(str).astype(object)).tobytes()


def _of_values(x: Any) -> bytes:
    shape = repr(x.shape).encode()
    if isinstance(x, h5py.Dataset) or (not isinstance(x, np.ndarray) and not sp.issparse(x)):
        return shape
    values = x.data if sp.issparse(x) else x
    if values.dtype.kind not in "biuf":
        return shape
    with np.errstate(all="ignore"):
        return shape + np.asarray([np.nansum(values, dtype=np.float64), np.count_nonzero(values)]).tobytes()
