"""What pictures ask of a MuData or AnnData, without changing it: a column, what was measured, coordinates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.errors import InputError

PATTERN = "modalities"
"""The name under which every cell's set of measured modalities can be asked for, like a column of obs."""


def column(
    data: MuData | AnnData, key: str, *, near: Callable[[], Sequence[str]] | None = None
) -> pd.Series[Any]:
    """A column of ``obs``, of the whole or put together from the modalities; or `PATTERN`.

    Parameters
    ----------
    data
        Where it is looked for.
    key
        Its name, or ``modality:name`` for that of one modality.
    near
        Finds features of near names for the message, where features were looked for as well.

    Raises
    ------
    InputError
        There is none of that name.
    """
    if key in data.obs:
        whole: pd.Series[Any] = data.obs[key]
        return whole
    if key == PATTERN:
        return measured_pattern(data)
    parts = _of_modalities(data, key)
    if not parts:
        have = ", ".join(repr(c) for c in column_names(data)[:8])
        nor = "" if near is None else ", nor a feature of that name"
        alike = ", ".join(map(repr, near())) if near is not None else ""
        more = f"; features with such names are {alike}" if alike else ""
        raise InputError(f"no obs column {key!r}{nor}; there are {have or 'none'}{more}")
    joined = pd.concat([p.astype(object) for p in parts])
    whole = joined[~joined.index.duplicated()].reindex(data.obs_names).infer_objects()
    return whole


def has_column(data: MuData | AnnData, key: str) -> bool:
    """Whether `column` finds one."""
    return key in data.obs or bool(_of_modalities(data, key))


def _of_modalities(data: MuData | AnnData, key: str) -> list[pd.Series[Any]]:
    """The column of each modality that has it, or of the one that is named."""
    if isinstance(data, AnnData):
        return []
    named = {name: key.removeprefix(f"{name}:") for name in data.mod}
    return [a.obs[key] for a in data.mod.values() if key in a.obs] or [
        data.mod[name].obs[own] for name, own in named.items() if own != key and own in data.mod[name].obs
    ]


def column_names(data: MuData | AnnData) -> list[str]:
    """Columns of ``obs`` that `column` finds, those of the modalities without their prefix."""
    names = [str(c) for c in data.obs.columns if ":" not in str(c)]
    if isinstance(data, MuData):
        names += [str(c) for a in data.mod.values() for c in a.obs.columns]
    return list(dict.fromkeys(names))


def measured_pattern(data: MuData | AnnData) -> pd.Series[Any]:
    """The modalities that each cell has, joined by ``+``, in the order of the data."""
    if isinstance(data, AnnData):
        return pd.Series("measured", index=data.obs_names, name=PATTERN)
    has = np.stack([data.obs_names.isin(a.obs_names) for a in data.mod.values()], axis=1)
    return pattern_of(has, list(data.mod), data.obs_names)


def pattern_of(has: NDArray[np.bool_], names: list[str], index: pd.Index) -> pd.Series[Any]:
    """Names of the modalities that each cell has, joined by ``+``, from cells × modalities."""
    kinds, code = np.unique(has, axis=0, return_inverse=True)
    label = ["+".join(n for n, h in zip(names, kind, strict=True) if h) or "nothing" for kind in kinds]
    return pd.Series(np.asarray(label, object)[code.ravel()], index=index, name=PATTERN)


def representation(data: MuData | AnnData, key: str, *, remedy: str) -> NDArray[np.float64]:
    """An array of ``obsm``, cells × dimensions.

    Raises
    ------
    InputError
        There is none of that name, or it is no matrix of finite numbers; the message ends in `remedy`.
    """
    if key not in data.obsm:
        raise InputError(f"no obsm {key!r}; {remedy}")
    values: Any = np.asarray(data.obsm[key])
    if values.ndim != 2 or values.shape[1] < 2 or not np.issubdtype(values.dtype, np.number):
        raise InputError(f"obsm {key!r} has shape {values.shape}; cells × 2 or more numbers are needed")
    values = values.astype(np.float64)
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise InputError(
            f"obsm {key!r} is not finite for {int(bad.sum()):,} cells, such as {data.obs_names[bad][0]!r}"
        )
    return np.asarray(values)
