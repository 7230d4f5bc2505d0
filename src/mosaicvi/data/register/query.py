"""Align new data, which measured other features, to the features of a model.

Legend: n cells, D_m features of the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.layers import layer_names, values_of
from mosaicvi.data.register.kinds import layer_for_model
from mosaicvi.data.register.modalities import left_out, modalities_of
from mosaicvi.data.register.names import Rules, with_known_names
from mosaicvi.data.register.panels import measured_table
from mosaicvi.data.register.unseen import with_categories
from mosaicvi.data.registry import Registry
from mosaicvi.errors import InputError, quoted, warn

FEW = 0.2  # share of a modality's features below which a warning is given
OTHERS = "the others are taken as not measured"


def told(
    data: MuData | AnnData,
    registry: Registry,
    *,
    layers: Mapping[str, str] | None = None,
    take_as: Mapping[str, str] | None = None,
    match: Rules | None = None,
) -> MuData | AnnData:
    """New data as a model reads them, by what is said of them; the user's object is not changed.

    Parameters
    ----------
    data
        The new data.
    registry
        Of the model.
    layers
        By modality, where its values are: a layer, ``"raw"`` or ``"X"``.
    take_as
        By column of obs, the category of cells of which the model has not seen theirs.
    match
        By modality, rules for features that are written otherwise than the model's.

    Returns
    -------
    The data; where features were matched, ``uns["mosaicvi"]["matches"]`` lists them.

    Raises
    ------
    InputError
        If there is no such modality, layer, column, category or rule.
    """
    if not layers and not take_as and not match:
        return data
    mods = dict(modalities_of(data, registry.setup, registry))
    uns = dict(data.uns)
    if match:
        mods, report = with_known_names(mods, registry, match)
        about = uns.get("mosaicvi")
        report.index = report.index.astype(str)
        uns["mosaicvi"] = {**(about if isinstance(about, Mapping) else {}), "matches": report}
    for name, layer in (layers or {}).items():
        if name not in mods or name not in registry.features:
            known = quoted(n for n in mods if n in registry.features)
            raise InputError(f"layers: no modality {name!r} that the model knows; there are {known}.")
        mods[name] = _with_values(name, mods[name], layer, registry.setup.layers.get(name))
    obs = with_categories(data, registry, take_as) if take_as else data.obs
    if isinstance(data, AnnData) and len(mods) == 1:
        only = next(iter(mods.values())).copy()
        only.obs = obs.copy()
        only.uns.update(uns)
        return only
    return together(mods, obs, uns)


def _with_values(name: str, a: AnnData, layer: str, wanted: str | None) -> AnnData:
    """The modality with the values of a layer where the model looks for them."""
    if layer == "X" and "X" not in a.layers:
        values = values_of("the data", name, a, None)
    elif layer in layer_names(a):
        values = values_of("the data", name, a, layer)
    else:
        raise InputError(f"{name}: no layer {layer!r}; it has {quoted(layer_names(a)) or 'none'}.")
    return AnnData(
        values if wanted is None else a.X,
        obs=a.obs.copy(),
        var=a.var.copy(),
        varm=dict(a.varm),
        layers={} if wanted is None else {wanted: values},
        uns=dict(a.uns),
    )


def together(mods: Mapping[str, AnnData], obs: pd.DataFrame, uns: Mapping[str, Any]) -> MuData:
    """Modalities with the cells, columns and notes of the whole.

    Raises
    ------
    InputError
        If a cell has none of the modalities.
    """
    has = np.any([obs.index.isin(a.obs_names) for a in mods.values()], axis=0)
    if not has.all():
        raise InputError(
            f"{int((~has).sum()):,} cells have none of the modalities {quoted(mods)} "
            f"(such as {quoted(obs.index[~has])}); "
            f"remove them: mdata = mdata[np.any([mdata.obsm[m] for m in {list(mods)!r}], axis=0)].copy()."
        )
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        out = MuData(dict(mods), obs=pd.DataFrame(index=obs.index))
        out.obs = obs.copy()
    out.uns.update(uns)
    return out


def align_to_model(data: MuData | AnnData, registry: Registry) -> MuData | AnnData:
    """A copy with the model's features: those that `data` lack are marked as not measured, others left out.

    Raises
    ------
    InputError
        If a modality has none of the model's features.
    """
    mods = modalities_of(data, registry.setup, registry)
    for note in left_out(data, mods, registry):
        warn(note)
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
    return together(made, data.obs, data.uns)


def lacking(name: str, n_measured: int, n_known: int) -> str:
    """That data have some of the features of a modality that a model knows."""
    return f"{name}: {n_measured:,} of {n_known:,} features; {OTHERS}"


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
            f"(such as {quoted(known)}); give names of the same kind: those of another column, "
            "names_from='...', or, where the data have symbols as well as Ensembl ids, "
            "match={'rna': 'ensembl'}."
        )
    if there.mean() < FEW:
        warn(
            f"Modality {name!r}: {int(there.sum()):,} of the {len(known):,} features that the model knows "
            "are in the data."
        )
    columns, table = (
        (["query"], np.ones((a.n_vars, 1), bool)) if "measured" not in a.varm else measured_table(name, a)
    )
    measured = np.zeros((len(known), len(columns)), bool)
    measured[there] = table[at[there]]
    n_measured = int(measured.any(1).sum())
    if there.mean() >= FEW and n_measured < len(known):
        warn(lacking(name, n_measured, len(known)))
    wanted = registry.setup.layers.get(name)
    layer, notes = layer_for_model(name, a, registry)
    for note in notes:
        warn(note)
    values = _columns(values_of("the data", name, a, layer), at)
    return AnnData(
        values if wanted is None else _columns(a.X, at),
        obs=a.obs.copy(),
        var=pd.DataFrame(index=known),
        varm={"measured": pd.DataFrame(measured, index=known, columns=columns)},
        layers={} if wanted is None else {wanted: values},
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
