"""Values of one gene, protein or peak in each cell, for a picture."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.layers import values_of
from mosaicvi.data.register.covariates import likely_batch
from mosaicvi.data.register.panels import measured_table, panel_column, read_panels
from mosaicvi.errors import InputError


def feature(
    data: MuData | AnnData, key: str, *, layer: str | None = None, use_raw: bool | None = None
) -> pd.Series[Any] | None:
    """Values of a feature; missing where a cell, or the panel of a cell, did not measure it.

    Parameters
    ----------
    data
        Where it is looked for, in all modalities.
    key
        Its name, or ``modality:name``.
    layer
        Where its values are; ``X`` where None.
    use_raw
        Whether they are in ``.raw``; where None they are, if it has the feature and no layer is named.

    Returns
    -------
    One value a cell, or None where no feature is called so.

    Raises
    ------
    InputError
        Several features are called so, or the values are not there.
    """
    if use_raw and layer is not None:
        raise InputError("use_raw: layer=... says where the values are; give one of the two.")
    mods = dict(data.mod) if isinstance(data, MuData) else {"": data}
    names = {modality: key for modality, a in mods.items() if _has(a, key)}
    if not names:
        parts = {modality: key.removeprefix(f"{modality}:") for modality in mods if modality}
        names = {m: own for m, own in parts.items() if own != key and _has(mods[m], own)}
    if not names:
        return None
    if len(names) > 1:
        having, one = " and ".join(map(repr, names)), f"{next(iter(names))}:{key}"
        raise InputError(f"color: {key!r} is a feature of {having}; name one, such as {one!r}.")
    ((modality, name),) = names.items()
    a = mods[modality]
    where = modality or "the data"
    if use_raw and (a.raw is None or name not in a.raw.var_names):
        raise InputError(f"use_raw: .raw of {where} has no {name!r}; leave use_raw out.")
    is_raw = use_raw or (use_raw is None and layer is None and a.raw is not None and name in a.raw.var_names)
    at = np.flatnonzero((a.raw if is_raw else a).var_names == name)
    if len(at) > 1:
        raise InputError(
            f"color: {name!r} occurs {len(at)} times in var_names of {where}; make them unique with "
            "var_names_make_unique()."
        )
    if not len(at):
        raise InputError(f"use_raw: {name!r} is in .raw of {where} alone; leave use_raw and layer out.")
    x = a.raw.X if is_raw else values_of("the data", modality or "X", a, layer)
    column = x[:, int(at[0])]
    found = np.asarray(column.toarray() if hasattr(column, "toarray") else column).ravel().astype(np.float64)
    if name in a.var_names:
        found = np.where(_measured(data, modality, a, name), found, np.nan)
    return pd.Series(found, index=a.obs_names, name=key).reindex(data.obs_names)


def near_features(data: MuData | AnnData, key: str) -> list[str]:
    """Names of features that begin as this one and are written much like it, at most five."""
    mods = dict(data.mod) if isinstance(data, MuData) else {"": data}
    own = next((key.removeprefix(f"{m}:") for m in mods if m and key.startswith(f"{m}:")), key).casefold()
    named = {n.casefold(): n for a in mods.values() for n in map(str, a.var_names)}
    return [named[n] for n in difflib.get_close_matches(own, [n for n in named if n[:2] == own[:2]], n=5)]


def _has(a: AnnData, name: str) -> bool:
    return name in a.var_names or (a.raw is not None and name in a.raw.var_names)


def _measured(data: MuData | AnnData, modality: str, a: AnnData, name: str) -> NDArray[np.bool_]:
    """Which cells of a modality had the feature in their panel."""
    if "measured" not in a.varm:
        return np.ones(a.n_obs, bool)
    at = np.flatnonzero(a.var_names == name)
    if measured_table(modality or "X", a)[1][at].all():
        return np.ones(a.n_obs, bool)
    key = panel_column(data, None, None) or likely_batch(data)
    panels, of_cell = read_panels(modality or "X", a, data, at, key, of_model=True)
    measured: NDArray[np.bool_] = panels[of_cell, 0]
    return measured
