"""Imputed values of one modality -> tables of text, minibatch by minibatch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mosaicvi.infer.output import ImputedModality
from mosaicvi.store.files import atomic_path

SEPARATORS = {".csv": ",", ".tsv": "\t"}
ENDS = ("lower", "upper")


def tables_of(output: Path, *, with_interval: bool) -> list[Path]:
    """The files that are written: ``adt.csv``, and ``adt.lower.csv`` and ``adt.upper.csv`` with intervals."""
    ends = [output.with_suffix(f".{end}{output.suffix}") for end in ENDS] if with_interval else []
    return [output, *ends]


def write_tables(
    output: Path, part: ImputedModality, *, overwrite: bool, advance: Callable[[int], None] | None = None
) -> list[Path]:
    """Write imputed values, cells by features, and the ends of intervals as two more tables; all or none.

    Parameters
    ----------
    output
        A .csv or .tsv.
    part
        The modality, whose values come in the order of its cells.
    overwrite
        Whether files may be replaced.
    advance
        Called with the number of rows written.

    Returns
    -------
    The files.
    """
    paths = tables_of(output, with_interval=part.interval is not None)
    separator = SEPARATORS[output.suffix.lower()]
    header = pd.DataFrame(columns=part.var.index, index=pd.Index([], name="cell"))
    with ExitStack() as held:
        temporary = [held.enter_context(atomic_path(path, overwrite=overwrite)) for path in paths]
        files = [held.enter_context(path.open("w", encoding="utf-8", newline="")) for path in temporary]
        for file in files:
            header.to_csv(file, sep=separator, lineterminator="\n")
        for rows, values in part.values:
            _append(files[0], part.cells[rows], values, separator)
            if advance is not None:
                advance(len(values))
        for rows, *ends in part.interval or ():
            for file, end in zip(files[1:], ends, strict=True):
                _append(file, part.cells[rows], end, separator)
            if advance is not None:
                advance(len(ends[0]))
    return paths


def _append(file: TextIO, cells: pd.Index, values: NDArray[np.float32], separator: str) -> None:
    table = pd.DataFrame(values, index=cells)
    table.to_csv(file, sep=separator, header=False, float_format="%.6g", lineterminator="\n")
