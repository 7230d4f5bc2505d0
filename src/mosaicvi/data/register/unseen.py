"""Covariates of new cells: what the model knows, and the mean of that where it has not seen what they say."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.register.covariates import Covariates, labels, numbers, obs_column
from mosaicvi.data.registry import Registry
from mosaicvi.errors import InputError, quoted

NOT_SAID = "not said"  # the category of cells whose column has no value
QUERY = "query"  # the category as which such cells are learnt


def read_new_covariates(data: MuData | AnnData, registry: Registry) -> tuple[Covariates, list[str]]:
    """Covariates of data that a model has not been trained on.

    A cell of a category that the model has not seen, or of none, gets an equal share of each that it knows,
    and a missing number the mean of those in training.

    Parameters
    ----------
    data
        The user's object.
    registry
        Of the trained model, whose categories and scales are used.

    Returns
    -------
    The covariates, and notes on what was not known.

    Raises
    ------
    InputError
        With every problem found, one per line.
    """
    setup, n = registry.setup, data.n_obs
    batch = np.zeros(n, np.int64)
    parts = [np.ones((n, 1), np.float32)] if setup.batch_key is None else []
    unseen: dict[str, tuple[str, ...]] = {}
    problems: list[str] = []
    notes: list[str] = []
    for key, known in registry.categories.items():
        try:
            column = obs_column(data, key)
        except InputError as error:
            problems += error.problems
            continue
        code, new = _codes(column, n, known)
        batch = code if key == setup.batch_key else batch
        parts.append(_shares(code, len(known)))
        if new:
            unseen[key] = new
            notes.append(_note(key, column, new, known))
    for key in setup.continuous_covariate_keys:
        try:
            column = obs_column(data, key)
            values = np.full(n, np.nan) if column is None else numbers(column, key, allow_missing=True)
        except InputError as error:
            problems += error.problems
            continue
        if np.isnan(values).any():
            notes.append(
                f"obs[{key!r}] has no number for {int(np.isnan(values).sum()):,} of {n:,} cells; they are "
                "taken to have the mean of the cells in training."
            )
        standard = (values - registry.centre[key]) / registry.spread[key]
        parts.append(np.nan_to_num(standard)[:, None].astype(np.float32))
    if problems:
        raise InputError(problems)
    table = np.concatenate(parts, axis=1)
    found = Covariates(
        table=table,
        batch=batch,
        categories=registry.categories,
        centre=registry.centre,
        spread=registry.spread,
        unseen=unseen,
    )
    return found, notes


def with_categories(data: MuData | AnnData, registry: Registry, take_as: Mapping[str, str]) -> pd.DataFrame:
    """The obs of the whole, with cells of categories that a model has not seen in a named one that it knows.

    Parameters
    ----------
    data
        The user's object, which is not changed.
    registry
        Of the model.
    take_as
        By column, the category.

    Raises
    ------
    InputError
        If the model has no such column or category.
    """
    obs: pd.DataFrame = data.obs.copy()
    known: tuple[str, ...]
    for key, name in take_as.items():
        if key not in registry.categories:
            there = quoted(registry.categories) or "none"
            raise InputError(f"take_as: the model has no categories of {key!r}; it has {there}.")
        known = registry.categories[key]
        if name not in known:
            raise InputError(
                f"take_as: the model has not seen {name!r} in {key!r}; it knows {quoted(known)}."
            )
        column = obs_column(data, key)
        code, _ = _codes(column, len(obs), known)
        own = np.full(len(obs), name, object) if column is None else labels(column)
        obs[key] = np.where(code < len(known), own, name)
    return obs


def with_new_categories(data: MuData | AnnData, registry: Registry) -> tuple[pd.DataFrame, list[str]]:
    """The obs of the whole, with cells of which a column says nothing in a category of their own.

    Parameters
    ----------
    data
        The user's object, which is not changed.
    registry
        Of the model, which is to learn that category.

    Returns
    -------
    The table, and notes on columns that said nothing of some cells.
    """
    obs: pd.DataFrame = data.obs.copy()
    notes: list[str] = []
    for key, known in registry.categories.items():
        column = obs_column(data, key)
        own = np.full(len(obs), None, object) if column is None else labels(column)
        missing = np.ones(len(obs), bool) if column is None else column.isna().to_numpy()
        if not missing.any():
            continue
        taken = {*known, *own[~missing]}
        name = next(n for i in count(1) if (n := QUERY if i == 1 else f"{QUERY}_{i}") not in taken)
        obs[key] = np.where(missing, name, own)
        what = "there is no obs column" if column is None else "no value in obs column"
        kind = "batch" if key == registry.setup.batch_key else "category"
        notes.append(
            f"{what} {key!r}: {int(missing.sum()):,} cells are learnt as a new {kind} {name!r}. To call it "
            f"otherwise, and to be answered for as that {kind} later, they need the column: "
            f"query.obs[{key!r}] = {name!r}, or another name."
        )
    return obs, notes


def _codes(
    column: pd.Series[Any] | None, n: int, known: tuple[str, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Position of each cell's category among those known and then the new ones, and the new ones."""
    if column is None:
        return np.full(n, len(known)), (NOT_SAID,)
    label = np.where(column.isna().to_numpy(), NOT_SAID, labels(column))
    code = np.asarray(pd.Index(known, dtype=object).get_indexer(pd.Index(label, dtype=object)), np.int64)
    is_new = code < 0
    new = tuple(sorted(set(label[is_new])))
    code[is_new] = len(known) + pd.Index(new, dtype=object).get_indexer(pd.Index(label[is_new], dtype=object))
    return code, new


def _shares(code: NDArray[np.int64], n_known: int) -> NDArray[np.float32]:
    """One-hot rows for categories that are known, equal shares of all for others, (n, C)."""
    hot = np.full((len(code), n_known), 1 / n_known, np.float32)
    is_known = code < n_known
    hot[is_known] = 0
    hot[np.flatnonzero(is_known), code[is_known]] = 1
    return hot


def _note(key: str, column: pd.Series[Any] | None, new: tuple[str, ...], known: tuple[str, ...]) -> str:
    named = [name for name in new if name != NOT_SAID]
    if column is None:
        what = f"there is no obs column {key!r}"
    elif named:
        what = f"obs[{key!r}] has {quoted(named)}, which the model has not seen; it knows {quoted(known)}"
    else:
        what = f"obs[{key!r}] is missing for {int(column.isna().sum()):,} cells"
    of = "these" if named else "all that the model knows"
    return (
        f"{what}: these cells are decoded with the mean of {of}, or with one of them by "
        f"MosaicVI.prepare_query(data, model, take_as={{{key!r}: ...}})."
    )
