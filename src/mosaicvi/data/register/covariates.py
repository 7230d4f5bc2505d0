"""Columns of obs -> covariates, batches and condition groups of n cells; C covariates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.mosaic import ModalityData
from mosaicvi.data.registry import Setup
from mosaicvi.errors import InputError, quoted

USUAL_BATCHES = (
    "batch", "donor", "sample", "dataset", "library", "patient", "individual", "subject",
    "experiment", "study",
)  # fmt: skip
MAX_CATEGORIES = 1000  # more would be a column of names; each becomes a covariate
TOGETHER = 1 << 20  # cells that are grouped together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Covariates:
    """What the columns say of each cell, and what a model must remember of them.

    Attributes
    ----------
    table
        One-hot batches and other categories, then standardised numbers, float32 (n, C).
    batch
        Batch of each cell, (n,), a position in ``categories[batch_key]``.
    categories, centre, spread
        As in `Registry`.
    unseen
        By column, categories that a trained model has not seen; `batch` counts them after those it knows.
    """

    table: NDArray[np.float32]
    batch: NDArray[np.int64]
    categories: Mapping[str, tuple[str, ...]]
    centre: Mapping[str, float]
    spread: Mapping[str, float]
    unseen: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def read_covariates(data: MuData | AnnData, setup: Setup) -> Covariates:
    """Read the batch and all other covariates of data to train on.

    Parameters
    ----------
    data
        The user's object.
    setup
        Names of the columns.

    Raises
    ------
    InputError
        With every problem found, one per line.
    """
    n = data.n_obs
    batch = np.zeros(n, np.int64)
    categories: dict[str, tuple[str, ...]] = {}
    centre: dict[str, float] = {}
    spread: dict[str, float] = {}
    parts: list[NDArray[np.float32]] = []
    problems: list[str] = []
    if setup.batch_key is None:
        parts.append(np.ones((n, 1), np.float32))
    else:
        categories[setup.batch_key] = ()
    categories |= dict.fromkeys(setup.categorical_covariate_keys, ())
    for key in list(categories):
        argument = "batch_key" if key == setup.batch_key else "categorical_covariate_keys"
        try:
            code, categories[key] = _categorical(complete_column(data, key, argument), key)
        except InputError as error:
            problems += error.problems
            continue
        hot = np.zeros((n, len(categories[key])), np.float32)
        hot[np.arange(n), code] = 1
        parts.append(hot)
        batch = code if key == setup.batch_key else batch
    for key in setup.continuous_covariate_keys:
        try:
            values = numbers(complete_column(data, key, "continuous_covariate_keys"), key)
        except InputError as error:
            problems += error.problems
            continue
        centre[key] = float(values.mean())
        spread[key] = float(values.std()) or 1.0
        parts.append(((values - centre[key]) / spread[key])[:, None].astype(np.float32))
    if problems:
        raise InputError(problems)
    table = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return Covariates(table=table, batch=batch, categories=categories, centre=centre, spread=spread)


def complete_column(data: MuData | AnnData, key: str, argument: str) -> pd.Series[Any]:
    """A column of obs that has a value for every cell.

    Raises
    ------
    InputError
        If there is none, or a value is missing.
    """
    column = obs_column(data, key)
    if column is None:
        there = quoted(_columns(data)) or "none"
        raise InputError(f"{argument}: no obs column {key!r}; there are {there}.")
    missing = column.isna()
    if missing.any():
        raise InputError(
            f"obs[{key!r}] is missing (NaN) for {int(missing.sum()):,} cells "
            f"(such as {quoted(column.index[missing])}); fill it in, or remove those cells."
        )
    return column


def obs_column(data: MuData | AnnData, key: str) -> pd.Series[Any] | None:
    """A column of obs by cell, with NaN where it has no value; None if there is no such column.

    In a MuData it may be a column of the whole, of its modalities, or of both: what the whole does
    not say, they may. A modality's column is matched by ``obs_names``.

    Raises
    ------
    InputError
        If modalities contradict one another.
    """
    said = _only(data.obs, key)
    if isinstance(data, AnnData) or (said is not None and not said.isna().any()):
        return said
    for name, a in data.mod.items():
        other = _only(a.obs, key)
        other = _only(data.obs, f"{name}:{key}") if other is None else other
        if other is None:
            continue
        other = other.astype(object).reindex(data.obs_names)
        if said is None:
            said = other
            continue
        said = said.astype(object)
        if key not in data.obs:
            both = (said.notna() & other.notna()).to_numpy()
            differ = labels(said[both]) != labels(other[both])
            if differ.any():
                bad = said.index[both][differ]
                raise InputError(
                    f"obs[{key!r}] differs between modalities for {len(bad):,} cells "
                    f"(such as {quoted(bad)}); "
                    f"say which holds in the obs of the whole, mdata.obs[{key!r}] = ...."
                )
        said = said.where(said.notna(), other)
    return said


def likely_batch(data: MuData | AnnData) -> str | None:
    """A complete column of obs that looks like one of batches by its name and its values, if there is any."""
    tables = [data.obs, *(a.obs for a in data.mod.values())] if isinstance(data, MuData) else [data.obs]
    columns = dict.fromkeys(str(c) for table in tables for c in table.columns if ":" not in str(c))
    about = data.uns.get("mosaicvi")
    named = about.get("panel_key") if isinstance(about, Mapping) else None
    combined = [_plain(str(named).removesuffix("_panel"))] if named else []
    for usual in (*combined, *USUAL_BATCHES):
        names = {usual, f"{usual}id", f"{usual}name", f"{usual}key"}
        for key in columns:
            if _plain(key) not in names:
                continue
            try:
                column = obs_column(data, key)
            except InputError:
                continue
            if column is None or column.isna().any() or pd.api.types.is_float_dtype(column):
                continue
            if 2 <= column.nunique() <= min(MAX_CATEGORIES, data.n_obs // 2):
                return key
    return None


def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace(".", "")


def _only(obs: pd.DataFrame, key: str) -> pd.Series[Any] | None:
    if key not in obs:
        return None
    column: Any = obs[key]
    if isinstance(column, pd.DataFrame):
        raise InputError(f"obs has more than one column {key!r}; rename all but one.")
    return column  # type: ignore[no-any-return]


def labels(values: pd.Series[Any] | pd.Index[Any]) -> NDArray[np.object_]:
    """Values as names: the same batch is "1" whether it is stored as 1, 1.0 or "1"."""
    code, distinct = pd.factorize(values, use_na_sentinel=False)
    names = np.array([_label(v) for v in distinct], dtype=object)
    return names[code] if len(names) else np.empty(0, object)


def _label(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def check_categories(key: str, n: int) -> None:
    """Raise `InputError` if a column has too many different values to be one of categories."""
    if n > MAX_CATEGORIES:
        raise InputError(
            f"obs[{key!r}] has {n:,} different values, more than {MAX_CATEGORIES:,} categories; "
            "name a column of batches, or numbers in continuous_covariate_keys."
        )


def _categorical(column: pd.Series[Any], key: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    code, distinct = pd.factorize(column, use_na_sentinel=False)
    names = [_label(value) for value in distinct]
    known = tuple(sorted(set(names)))
    check_categories(key, len(known))
    place = {name: i for i, name in enumerate(known)}
    return np.array([place[name] for name in names], np.int64)[code], known


def numbers(column: pd.Series[Any], key: str, *, allow_missing: bool = False) -> NDArray[np.float64]:
    """A column as numbers, finite or perhaps missing; `InputError` if it holds something else."""
    try:
        found = np.asarray(column, np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"obs[{key!r}] does not hold numbers; name it in categorical_covariate_keys instead."
        ) from None
    if np.isinf(found).any() or (np.isnan(found).any() and not allow_missing):
        raise InputError(f"obs[{key!r}] holds infinite values; remove or replace them.")
    return found


def condition_groups(
    mods: Sequence[ModalityData], batch: NDArray[np.int64], batches: Sequence[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Condition group of each cell, from 1, and their names: the batch and the modalities that it has.

    Parameters
    ----------
    mods
        The modalities.
    batch
        Batch of each cell, (n,).
    batches
        Their names.
    """
    parts: list[tuple[NDArray[np.int64], NDArray[Any]]] = []
    first: dict[int, int] = {}  # cell of each code
    for start in range(0, len(batch), TOGETHER):
        some = slice(start, start + TOGETHER)
        code = batch[some].copy()
        for m in mods:
            code = 2 * code + (m.row_of_cell[some] >= 0)
        found, at, of = np.unique(code, return_index=True, return_inverse=True)
        parts.append((found, of.astype(np.min_scalar_type(len(found)))))
        first = dict(zip(found.tolist(), (at + start).tolist(), strict=True)) | first
    known = np.array(sorted(first), np.int64)
    names = [
        f"{batches[batch[i]]}: " + "+".join(m.name for m in mods if m.row_of_cell[i] >= 0)
        for i in (first[c] for c in known.tolist())
    ]
    group = np.empty(len(batch), np.int64)
    for i, (found, of) in enumerate(parts):
        group[i * TOGETHER : (i + 1) * TOGETHER] = np.searchsorted(known, found)[of] + 1
    return group, tuple(names)


def named_conditions(
    data: MuData | AnnData, keys: Sequence[str], *, needed: bool
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Groups that columns of obs name, (n, k), and their names; a cell without a value is in none, 0.

    Parameters
    ----------
    data
        The user's object.
    keys
        The k columns. No group occurs in two of them.
    needed
        Whether a column that is not there is an error; else no cell has a value in it.

    Raises
    ------
    InputError
        If there is no such column.
    """
    columns: list[NDArray[np.int64]] = []
    names: list[str] = []
    for key in keys:
        column = obs_column(data, key)
        if column is None and needed:
            raise InputError(
                f"condition_keys: no obs column {key!r}; there are {quoted(_columns(data)) or 'none'}."
            )
        group = np.zeros(data.n_obs, np.int64)
        if column is not None:
            there = column.notna().to_numpy()
            known = labels(column[there])
            found = sorted(set(known))
            check_categories(key, len(found))
            group[there] = pd.Index(found, dtype=object).get_indexer(pd.Index(known, dtype=object)) + 1
            group[there] += len(names)
            names += [f"{key}: {value}" for value in found]
        columns.append(group)
    return np.stack(columns, axis=1), tuple(names)


def _columns(data: MuData | AnnData) -> list[str]:
    """Names of the columns of obs, of the whole and of the modalities."""
    have = [str(c) for c in data.obs.columns if ":" not in str(c)]
    if isinstance(data, MuData):
        have += [str(c) for a in data.mod.values() for c in a.obs.columns]
    return list(dict.fromkeys(have))
