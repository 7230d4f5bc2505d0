"""Columns of several tables put one below the other, with a dtype that files can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def stack_columns(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables one below the other, in order, with all columns of all of them.

    Where a table lacks a column, its rows are missing there. Numbers stay numbers, with NaN for missing; text
    and categories become categories; what is text in one table and a number in another becomes text.
    """
    columns = dict.fromkeys(column for table in tables for column in table.columns)
    stacked = {
        column: _stack([table.get(column) for table in tables], [len(table) for table in tables])
        for column in columns
    }
    n_rows = sum(len(table) for table in tables)
    return pd.DataFrame(stacked, index=pd.RangeIndex(n_rows))


def _kind(series: pd.Series) -> str:
    values = series.cat.categories.to_series() if isinstance(series.dtype, pd.CategoricalDtype) else series
    inferred = pd.api.types.infer_dtype(values, skipna=True)
    return "number" if inferred in {"integer", "floating", "mixed-integer-float"} else inferred


def _stack(pieces: Sequence[pd.Series | None], lengths: Sequence[int]) -> pd.Series:
    given = [piece for piece in pieces if piece is not None and piece.notna().any()]
    kinds = {_kind(piece) for piece in given}
    missing = len(given) < len(pieces) or any(piece.isna().any() for piece in given)
    if kinds <= {"number"} and not _any_categories(given):
        return _numbers(pieces, lengths)
    values = [
        np.full(n, None, dtype=object) if piece is None else piece.astype(object).to_numpy()
        for piece, n in zip(pieces, lengths, strict=True)
    ]
    column = pd.Series(np.concatenate(values), dtype=object)
    column = column.where(column.notna(), None)
    if kinds == {"boolean"} and not _any_categories(given):
        return column.astype("boolean" if missing else bool)
    if kinds not in ({"number"}, {"boolean"}):
        column = column.map(str, na_action="ignore")
    return _categories(column, given)


def _any_categories(given: Sequence[pd.Series]) -> bool:
    return any(isinstance(piece.dtype, pd.CategoricalDtype) for piece in given)


def _numbers(pieces: Sequence[pd.Series | None], lengths: Sequence[int]) -> pd.Series:
    values = []
    for piece, n in zip(pieces, lengths, strict=True):
        if piece is None or piece.isna().any():
            floats = np.nan if piece is None else piece.to_numpy(dtype=np.float64, na_value=np.nan)
            values.append(np.broadcast_to(floats, n))
        else:
            whole = pd.api.types.is_integer_dtype(piece.dtype)
            values.append(piece.to_numpy(dtype=np.int64 if whole else np.float64))
    return pd.Series(np.concatenate(values) if values else np.empty(0))


def _categories(column: pd.Series, given: Sequence[pd.Series]) -> pd.Series:
    """Categories in the order of the tables, the order kept where all tables have the same ordered ones."""
    dtypes = [piece.dtype for piece in given]
    if dtypes and all(isinstance(d, pd.CategoricalDtype) and d == dtypes[0] for d in dtypes):
        first = dtypes[0]
        if isinstance(first, pd.CategoricalDtype) and _kind(given[0]) in {"string", "number", "boolean"}:
            return column.astype(first)
    categories = list(dict.fromkeys(column.dropna()))
    if len(categories) == len(column) and not _any_categories(given):
        return column  # names of their own, such as ids
    return column.astype(pd.CategoricalDtype(categories))


def join_columns(tables: Mapping[str, pd.DataFrame], index: pd.Index[str]) -> pd.DataFrame:
    """Annotations of the same features from several datasets side by side.

    A column on which all datasets agree, feature by feature, stays one column. Where two contradict each
    other, each dataset's is kept as ``<column>-<dataset>``.

    Parameters
    ----------
    tables
        For each dataset, one row a feature, indexed by its common name; of repeated names the first counts.
    index
        The common names of all features.
    """
    tables = {name: table[~table.index.duplicated()] for name, table in tables.items()}
    joined = pd.DataFrame(index=index)
    for column in dict.fromkeys(column for table in tables.values() for column in table.columns):
        owners = {name: table[column] for name, table in tables.items() if column in table}
        stacked = stack_columns([series.to_frame() for series in owners.values()])[column]
        stacked.index = pd.Index(np.concatenate([series.index.to_numpy() for series in owners.values()]))
        known = stacked[stacked.notna() & stacked.index.isin(index)]
        if (known.groupby(level=0, observed=True).nunique() <= 1).all():
            joined[column] = _fitted(known[~known.index.duplicated()], index)
        else:
            for name, series in owners.items():
                joined[f"{column}-{name}"] = _fitted(series[series.index.isin(index)], index)
    return joined


def _fitted(series: pd.Series, index: pd.Index[str]) -> pd.Series:
    """The column for all features, missing where the series says nothing."""
    rest = index.difference(series.index, sort=False)
    column = stack_columns([series.to_frame("x"), pd.DataFrame(index=rest)])["x"]
    column.index = series.index.append(rest)
    return column.reindex(index)
