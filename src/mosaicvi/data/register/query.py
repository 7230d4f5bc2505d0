"""Align new data, which measured other features, to the features of a model.

Legend: n cells, D_m features of the model.
"""

from __future__ import annotations

import warnings
from typing import Any

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.layers import layer_names, values_of
from mosaicvi.data.mosaic import Registry
from mosaicvi.data.register.panels import measured_table
from mosaicvi.data.register.register import modalities_of
from mosaicvi.errors import InputError, MosaicWarning, quoted

FEW = 0.2  # share of a modality's features below which a warning is given


def align_to_model(data: MuData | AnnData, registry: Registry) -> MuData | AnnData:
    """A copy with the model's features: those that `data` lack are marked as not measured, others left out.

    Raises
    ------
    InputError
        If a modality has none of the model's features.
    """
    mods = modalities_of(data, registry.setup, registry)
    made, problems = {}, []
    for name in (n for n in registry.features if n in mods):
        try:
            made[name] = _modality(name, mods[name], registry)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    if isinstance(data, AnnData) and len(made) == 1:
        return next(iter(made.values()))
    if not made:
        raise InputError(
            f"The data have {quoted(mods) or 'no modality'}; the model knows {quoted(registry.features)}."
        )
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        out = MuData(made, obs=pd.DataFrame(index=data.obs_names))
        out.obs = data.obs.copy()
    out.uns.update(data.uns)
    return out


def _modality(name: str, a: AnnData, registry: Registry) -> AnnData:
    known = pd.Index(registry.features[name].names)
    if not a.var_names.is_unique:
        raise InputError(
            f"{name}: var_names occur more than once; make them unique with var_names_make_unique()."
        )
    at = np.asarray(a.var_names.get_indexer(known), np.int64)
    there = at >= 0
    if not there.any():
        raise InputError(
            f"{name}: none of its features (such as {quoted(a.var_names)}) is one of the model's "
            f"(such as {quoted(known)}); give names of the same kind."
        )
    if there.mean() < FEW:
        warnings.warn(
            f"Modality {name!r}: {int(there.sum()):,} of the {len(known):,} features that the model knows "
            "are in the data.",
            MosaicWarning,
            stacklevel=4,
        )
    columns, table = (
        (["query"], np.ones((a.n_vars, 1), bool)) if "measured" not in a.varm else measured_table(name, a)
    )
    measured = np.zeros((len(known), len(columns)), bool)
    measured[there] = table[at[there]]
    layer = registry.setup.layers.get(name)
    return AnnData(
        _columns(a.X, at),
        obs=a.obs.copy(),
        var=pd.DataFrame(index=known),
        varm={"measured": pd.DataFrame(measured, index=known, columns=columns)},
        layers={layer: _columns(values_of("the data", name, a, layer), at)}
        if layer in layer_names(a)
        else {},
        uns=dict(a.uns),
    )


def _columns(x: Any, at: NDArray[np.int64]) -> Any:
    """Columns of the model (n, D_m), `at` in the data, 0 where they have none."""
    if x is None:
        return None
    there = np.flatnonzero(at >= 0)
    some = x[:, at[there]]
    if sp.issparse(some):
        some = sp.csr_matrix(some)
        return sp.csr_matrix((some.data, there[some.indices], some.indptr), shape=(some.shape[0], len(at)))
    out = np.zeros((some.shape[0], len(at)), np.asarray(some).dtype)
    out[:, there] = some
    return out
