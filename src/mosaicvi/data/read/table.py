"""Tables of numbers as text or Parquet: cells × features or features × cells."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mosaicvi.data.problems import problem
from mosaicvi.data.read.lines import first_lines
from mosaicvi.errors import InputError

Orientation = Literal["cells", "features"]

CELL_HEADERS = {"cell", "cells", "cell_id", "cellid", "cell_name", "barcode", "barcodes", "obs", "obs_names"}
FEATURE_HEADERS = {
    *("gene", "genes", "gene_id", "gene_name", "gene_symbol", "symbol", "feature", "features", "feature_id"),
    *("protein", "proteins", "peptide", "peptides", "antibody", "adt", "peak", "peaks", "var", "var_names"),
}
BARCODE = re.compile(r"[ACGT]{10,}(-\d+)?")
NAMED_BARCODE = re.compile(r".*[_:#.-][ACGT]{10,}([-_.]\w+)?")
FEATURE_ID = re.compile(r"ENS[A-Z]*G\d{6,}(\.\d+)?|(chr)?[\dXYM]{1,2}[:_-]\d+[_-]\d+|chr\w+[:_-]\d+[_-]\d+")
MISSING = ["", "NA", "NaN", "nan", "N/A", "n/a", "#N/A", "NULL", "null", "None"]


def read_table(path: Path, *, orientation: Orientation | None = None) -> AnnData:
    """Read a table of numbers with names on both sides.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv`` or ``.txt``, plain or ``.gz``, or ``.parquet``. In text, the separator is the
        most frequent in the first line of tab, comma and semicolon.
    orientation
        What the rows are. By default the first rule that decides, see :func:`find_orientation`.

    Returns
    -------
    Cells × features; dense with NaN where a value is missing, CSR if none is.
    """
    frame = _parquet(path) if path.suffix.lower() in {".parquet", ".pq"} else _text(path)
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise InputError(problem("table-shape", name=path))
    rows = orientation or find_orientation(frame)
    if rows is None:
        raise InputError(problem("orientation", name=path))
    values = _numbers(path, frame)
    row_names, column_names = _strings(frame.index), _strings(frame.columns)
    if rows == "features":
        values, row_names, column_names = values.T, column_names, row_names
    x_nd = np.ascontiguousarray(values) if np.isnan(values).any() else sparse.csr_matrix(values)
    return AnnData(x_nd, obs=pd.DataFrame(index=row_names), var=pd.DataFrame(index=column_names))


def find_orientation(frame: pd.DataFrame) -> Orientation | None:
    """What the rows of a table are, by the first of these rules that decides.

    1. The header of the first column: ``cell``, ``barcode``, … or ``gene``, ``feature``, ``protein``, ….
    2. The side on which most names are bare cell barcodes (``AAACCTGAGAAACCAT-1``) is the cells'.
    3. The side on which most names are Ensembl ids or ``chr1:100-200`` is the features'.
    4. The side on which most names end in a cell barcode after a prefix is the cells'.

    Returns
    -------
    ``"cells"``, ``"features"``, or None where no rule decides.
    """
    header = str(frame.index.name or "").strip().lower()
    if header in CELL_HEADERS:
        return "cells"
    if header in FEATURE_HEADERS:
        return "features"
    for pattern, rows, columns in (
        (BARCODE, "cells", "features"),
        (FEATURE_ID, "features", "cells"),
        (NAMED_BARCODE, "cells", "features"),
    ):
        in_rows, in_columns = _mostly(frame.index, pattern), _mostly(frame.columns, pattern)
        if in_rows != in_columns:
            return rows if in_rows else columns  # type: ignore[return-value]
    return None


def _mostly(names: pd.Index[str], pattern: re.Pattern[str], *, look_at: int = 1000) -> bool:
    looked_at = [str(name) for name in names[:look_at]]
    return 2 * sum(pattern.fullmatch(name) is not None for name in looked_at) > len(looked_at)


def _text(path: Path) -> pd.DataFrame:
    compressed = path.name.lower().endswith(".gz")
    first, second = first_lines(path, 2)
    separator = max("\t,;", key=first.count)
    header, values = (next(csv.reader([line], delimiter=separator), []) for line in (first, second))
    if len(header) == len(values) - 1:  # R leaves out the header of the row names
        header = ["", *header]
    if len(header) < 2 or not values:
        raise InputError(problem("table-shape", name=path))
    columns = [str(i) for i in range(len(header))]
    # pandas would rename repeated columns and read a gene called NA as missing.
    frame = pd.read_csv(
        path,
        sep=separator,
        header=None,
        skiprows=1,
        names=columns,
        index_col=False,
        dtype={columns[0]: str},
        keep_default_na=False,
        na_values=dict.fromkeys(columns[1:], MISSING),
        compression="gzip" if compressed else None,
        encoding="utf-8-sig",
        low_memory=False,
    ).set_index(columns[0])
    frame.columns = pd.Index(header[1:], dtype=object)
    frame.index.name = header[0]
    return frame


def _parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        text = problem("extra", name=path, format="Parquet", package="pyarrow", extra="parquet")
        raise InputError(text) from error
    has_names = not isinstance(frame.index, pd.RangeIndex)
    text_columns = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    if not has_names and text_columns and text_columns[0] == frame.columns[0]:
        frame = frame.set_index(text_columns[0])
    return frame


def _strings(names: pd.Index[str]) -> pd.Index[str]:
    return pd.Index([str(name) for name in names], dtype=object)


def _numbers(path: Path, frame: pd.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    for i, dtype in enumerate(frame.dtypes):
        if pd.api.types.is_numeric_dtype(dtype):
            continue
        column = frame.iloc[:, i].dropna()
        wrong = column[pd.to_numeric(column, errors="coerce").isna()]
        value = wrong.iloc[0] if len(wrong) else column.iloc[0] if len(column) else ""
        raise InputError(problem("not-number", name=path, column=str(frame.columns[i]), value=str(value)))
    return frame.to_numpy(dtype=np.float32, na_value=np.nan)
