"""Tables as text, Parquet or Excel: cells × features, features × cells, or a line for each value."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read.lines import first_lines
from mosaicvi.data.read.long import long_columns, read_long
from mosaicvi.data.read.names import (
    BARCODE,
    CELL_HEADERS,
    FEATURE_HEADERS,
    FEATURE_ID,
    NAMED_BARCODE,
    mostly,
    plain,
)
from mosaicvi.data.read.programs import no_proteins, sample_columns
from mosaicvi.errors import InputError, warn

Orientation = Literal["cells", "features"]

MISSING = ["", "NA", "NaN", "nan", "N/A", "n/a", "#N/A", "NULL", "null", "None"]
PARQUET, EXCEL = (".parquet", ".pq"), (".xlsx", ".xls", ".xlsm", ".ods")
COMMA_NUMBER = re.compile(r"-?\d+,\d+([eE][-+]?\d+)?")
LOOK_AT = 20  # lines, to find out the decimal sign


def read_table(path: Path, *, orientation: Orientation | None = None, columns: str | None = None) -> AnnData:
    """Read a table of numbers with names on both sides, or a long one with a line for each value.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv`` or ``.txt``, plain or ``.gz``; ``.parquet``; or ``.xlsx``, its first sheet. In
        text, the separator is the most frequent in the first line of tab, comma and semicolon; the decimal
        sign is a comma where the numbers have no point.
    orientation
        What the rows are. By default the first rule that decides, see :func:`find_orientation`.
    columns
        A regular expression that the names of the columns of numbers match; the others are annotations of
        the rows. Rows that MaxQuant marks as no proteins of the sample (``Reverse``, ``Potential
        contaminant``, ``Only identified by site``) are left out, with a warning.

    Returns
    -------
    Cells × features; dense with NaN where a value is missing, CSR if none is.
    """
    suffix = path.suffix.lower()
    frame = _parquet(path) if suffix in PARQUET else _excel(path) if suffix in EXCEL else _text(path)
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise InputError(problem("table-shape", name=path))
    if columns is None and orientation is None:
        flat = frame.reset_index(names=str(frame.index.name or ""))
        long = long_columns(flat) if flat.columns.is_unique else None
        if long is not None:
            return read_long(path, flat, long)
    _check_row_names(path, frame)
    rows = orientation or find_orientation(frame)
    if rows is None:
        raise InputError(problem("orientation", name=path))
    notes = pd.DataFrame(index=_strings(frame.index))
    if columns is not None:
        frame, notes = _without_no_proteins(path, *_chosen(path, frame, columns))
    values = _numbers(path, frame)
    others = pd.DataFrame(index=_strings(frame.columns))
    if rows == "features":
        values = values.T
        notes, others = others, notes
    x_nd = np.ascontiguousarray(values) if np.isnan(values).any() else sparse.csr_matrix(values)
    return AnnData(x_nd, obs=notes, var=others)


def find_orientation(frame: pd.DataFrame) -> Orientation | None:
    """What the rows of a table are, by the first of these rules that decides.

    1. The header of the first column: ``cell``, ``barcode``, … or ``gene``, ``feature``, ``protein``, ….
    2. The side on which most names are bare cell barcodes (``AAACCTGAGAAACCAT-1``) is the cells'.
    3. The side on which most names are Ensembl ids, UniProt ids or ``chr1:100-200`` is the features'.
    4. The side on which most names end in a cell barcode after a prefix is the cells'.

    Returns
    -------
    ``"cells"``, ``"features"``, or None where no rule decides.
    """
    header = plain(frame.index.name)
    if header in CELL_HEADERS:
        return "cells"
    if header in FEATURE_HEADERS:
        return "features"
    for pattern, rows, columns in (
        (BARCODE, "cells", "features"),
        (FEATURE_ID, "features", "cells"),
        (NAMED_BARCODE, "cells", "features"),
    ):
        in_rows, in_columns = mostly(frame.index, pattern), mostly(frame.columns, pattern)
        if in_rows != in_columns:
            return rows if in_rows else columns  # type: ignore[return-value]
    return None


def _text(path: Path) -> pd.DataFrame:
    lines = first_lines(path, LOOK_AT)
    separator = max("\t,;", key=lines[0].count)
    rows = list(csv.reader([line for line in lines if line], delimiter=separator))
    header, values = rows[0] if rows else [], rows[1] if len(rows) > 1 else []
    if len(header) == len(values) - 1:  # R leaves out the header of the row names
        header = ["", *header]
    if len(header) < 2 or not values:
        raise InputError(problem("table-shape", name=path))
    columns = [str(i) for i in range(len(header))]
    # pandas would rename repeated columns and read a gene called NA as missing.
    frame = pd.read_csv(
        path,
        sep=separator,
        decimal="," if _decimal_commas(rows[1:]) else ".",
        header=None,
        skiprows=1,
        names=columns,
        index_col=False,
        dtype={columns[0]: str},
        keep_default_na=False,
        na_values=dict.fromkeys(columns[1:], MISSING),
        compression="gzip" if path.name.lower().endswith(".gz") else None,
        encoding="utf-8-sig",
        low_memory=False,
    ).set_index(columns[0])
    frame.columns = pd.Index(header[1:], dtype=object)
    frame.index.name = header[0]
    return frame


def _decimal_commas(rows: list[list[str]]) -> bool:
    """Whether numbers are written ``1,5``: some are, and none has a point."""
    values = [value for row in rows for value in row[1:]]
    points = any(re.fullmatch(r"-?\d+\.\d+", value) for value in values)
    return not points and any(COMMA_NUMBER.fullmatch(value) for value in values)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        text = problem("extra", name=path, format="Parquet", package="pyarrow", extra="parquet")
        raise InputError(text) from error
    return _first_text_as_names(frame)


def _excel(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_excel(path, na_values=MISSING, keep_default_na=False)
    except ImportError as error:
        package = "odfpy" if path.suffix.lower() == ".ods" else "openpyxl"
        text = problem("extra", name=path, format="Excel", package=package, extra="excel")
        raise InputError(text) from error
    frame.columns = frame.columns.map(str)
    unnamed = frame.columns[:1].str.startswith("Unnamed:")
    return _first_text_as_names(frame.rename(columns={frame.columns[0]: ""}) if unnamed.any() else frame)


def _first_text_as_names(frame: pd.DataFrame) -> pd.DataFrame:
    """A table without an index, with its first column as names: of text, or headed as names are."""
    if not isinstance(frame.index, pd.RangeIndex) or not frame.shape[1]:
        return frame
    first = frame.columns[0]
    named = plain(first) in CELL_HEADERS | FEATURE_HEADERS or not first
    return frame.set_index(first) if named or not pd.api.types.is_numeric_dtype(frame[first]) else frame


def _check_row_names(path: Path, frame: pd.DataFrame) -> None:
    """Refuse a first column of numbers: the names are missing, and it would become them."""
    header = plain(frame.index.name)
    if header in CELL_HEADERS | FEATURE_HEADERS:
        return
    numbers = pd.to_numeric(pd.Series(frame.index.astype(str)), errors="coerce").to_numpy(np.float64)
    fractional = (numbers != np.rint(numbers)).any()
    if np.isnan(numbers).any() or not (header or fractional or isinstance(frame.index, pd.RangeIndex)):
        return
    if fractional or len(np.unique(numbers)) < len(numbers) or isinstance(frame.index, pd.RangeIndex):
        value = frame.iloc[0, 0] if isinstance(frame.index, pd.RangeIndex) else frame.index[0]
        column = frame.columns[0] if isinstance(frame.index, pd.RangeIndex) else frame.index.name
        raise InputError(problem("no-names", name=path, column=str(column), value=str(value)))


def _chosen(path: Path, frame: pd.DataFrame, pattern: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The columns whose names match, and the others as annotations of the rows."""
    try:
        matches = np.array([re.search(pattern, str(name)) is not None for name in frame.columns])
    except re.error as error:
        raise InputError(problem("pattern", name=path, pattern=pattern, reason=error)) from error
    if not matches.any():
        raise InputError(problem("no-columns", name=path, pattern=pattern, columns=listed(frame.columns)))
    if matches.sum() == 1:
        only = str(frame.columns[int(np.argmax(matches))])
        text = f"{path}: columns={pattern!r} matches one column, {only!r}; the others are annotations."
        warn(text)
    notes = frame.loc[:, ~matches].set_index(_strings(frame.index))
    notes.columns = notes.columns.map(lambda name: str(name).replace("/", "_"))
    return frame.loc[:, matches], notes.loc[:, ~notes.columns.duplicated()]


def _without_no_proteins(
    path: Path, frame: pd.DataFrame, notes: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that are not marked as decoys, contaminants or the like."""
    marked, counts = no_proteins(notes)
    if not marked.any():
        return frame, notes
    by = ", ".join(f"{column} {n:,}" for column, n in counts.items())
    n = f"{marked.sum():,} of {len(marked):,}"
    text = f"{path}: left out {n} rows, marked as no proteins of the sample ({by})."
    warn(text)
    return frame[~marked], notes[~marked].drop(columns=[*counts])


def _strings(names: pd.Index[str]) -> pd.Index[str]:
    return pd.Index([str(name) for name in names], dtype=object)


def _numbers(path: Path, frame: pd.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    for i, is_number in enumerate(numeric):
        if is_number:
            continue
        column = frame.iloc[:, i].dropna()
        wrong = column[pd.to_numeric(column, errors="coerce").isna()]
        value = wrong.iloc[0] if len(wrong) else column.iloc[0] if len(column) else ""
        numbers = [str(name) for name, is_it in zip(frame.columns, numeric, strict=True) if is_it]
        pattern = sample_columns(numbers) or f"^{numbers[0] if numbers else 'S'}"
        raise InputError(
            problem(
                "not-number",
                name=path,
                column=str(frame.columns[i]),
                value=str(value)[:60],
                pattern=pattern,
            )
        )
    return frame.to_numpy(dtype=np.float32, na_value=np.nan)
