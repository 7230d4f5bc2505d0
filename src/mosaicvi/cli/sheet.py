"""Tables of samples or cells beside the data: their columns go into ``obs``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaicvi.cli.say import warning
from mosaicvi.errors import InputError, quoted
from mosaicvi.store.files import shown

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

SEPARATORS = "\t,;"  # a space, as R writes it, where there is none of these


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Columns of cells by name.

    Attributes
    ----------
    name
        The option with the files that it was read from, for what is said of it.
    table
        Cells x columns, indexed by their names.
    """

    name: str
    table: pd.DataFrame

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Sheet:
        """Read text tables whose first column holds the names of the cells, as one with the lines of all.

        Raises
        ------
        InputError
            There is no such file, it is no table, or two of them say the same column of a cell.
        """
        import pandas as pd

        tables = [_read(path) for path in paths]
        name = f"--obs {', '.join(map(str, map(shown, paths)))}"
        index = pd.concat([table.iloc[:, :0] for table in tables]).index.unique()
        columns = {}
        for column in dict.fromkeys(column for table in tables for column in table):
            values = pd.concat([_tidy(table[column]) for table in tables if column in table])
            twice = values.index[values.index.duplicated()].unique()
            if len(twice):
                raise InputError(
                    f"{name}: {quoted(twice)} have {str(column)!r} in two of them; keep one of the lines"
                )
            columns[column] = _tidy(values).reindex(index)
        return cls(name=name, table=pd.DataFrame(columns, index=index))

    def add_to(self, data: AnnData | MuData, *, names: str | None = None) -> None:
        """Add the columns to ``obs``; what fits only one of the two is said.

        Parameters
        ----------
        data
            Is changed.
        names
            Column of ``obs`` with the names that the cells had in their files, which the table may give
            where it does not have their own, and no two cells share them.

        Raises
        ------
        InputError
            No name is that of a cell, one is that of several, or the data have a column of that name.
        """
        cells = data.obs_names.astype(str)
        if names is not None:
            cells = self._called(cells, data.obs[names].astype(str).to_numpy(object))
        is_there = cells.isin(self.table.index)
        strangers = self.table.index[~self.table.index.isin(cells)]
        if not is_there.any():
            raise InputError(
                f"{self.name}: none of its names is that of a cell; it has {quoted(strangers)}, "
                f"the data {quoted(cells)}"
            )
        taken = [str(column) for column in self.table if column in data.obs]
        if taken:
            raise InputError(
                f"{self.name}: the data have a column {taken[0]!r} already; rename that of the table"
            )
        left = cells[~is_there]
        if len(left):
            warning(f"{self.name}: {len(left):,} of {len(cells):,} cells have no line in it ({quoted(left)})")
        if len(strangers):
            n = f"{len(strangers):,} of its {len(self.table):,}"
            warning(f"{self.name}: {n} lines are of no cell ({quoted(strangers)})")
        for column in self.table:
            data.obs[str(column)] = self.table[column].reindex(cells).set_axis(data.obs_names)

    def _called(self, own: pd.Index[str], before: Any) -> pd.Index[str]:
        """What the table calls cells: by their own names, or else by those that they had in their files."""
        import numpy as np
        import pandas as pd

        original = pd.Index(before, dtype=object)
        is_own = own.isin(self.table.index)
        shared = original.duplicated(keep=False) & original.isin(self.table.index) & ~is_own
        if shared.any():
            name = original[shared][0]
            raise InputError(
                f"{self.name}: {name!r} is the name of several cells; "
                f"call them {quoted(own[original == name])} in the table"
            )
        return pd.Index(np.where(is_own, own, original), dtype=object)


def _read(path: Path) -> pd.DataFrame:
    """One table, indexed by its first column as text."""
    import pandas as pd

    if not path.is_file():
        raise InputError(f"--obs {shown(path)}: no such file; check the path")
    try:
        separator, names, used = _layout(path)
        table = pd.read_csv(
            path,
            sep=separator,
            names=names,
            header=0,
            usecols=used,
            index_col=False,
            dtype={names[0]: str} if names else None,
            low_memory=False,
            encoding="utf-8-sig",
        )
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"--obs {shown(path)}: no table ({reason}); give a csv or tsv") from None
    if table.shape[1] < 2:
        raise InputError(
            f"--obs {shown(path)}: it needs the names of the cells, and at least one column beside them"
        )
    table = table.set_index(table.columns[0])
    table.index = table.index.astype(str)
    twice = table.index[table.index.duplicated()].unique()
    if len(twice):
        raise InputError(
            f"--obs {shown(path)}: {quoted(twice)} stand in its first column more than once; "
            "keep one line for each cell"
        )
    return table


def _layout(path: Path) -> tuple[str, list[str], list[int]]:
    """How a table is written: its separator, the names of its columns, and the positions of those to read.

    R writes no name above the names of rows, so lines have one field more than the header; a separator at
    the end of each line gives one more as well, which is empty.
    """
    import pandas as pd

    with path.open(encoding="utf-8-sig", newline="") as lines:
        header = next(lines, "")
        separator = max(SEPARATORS, key=header.count)
        separator = separator if separator in header else " "
        rows = [row for row in csv.reader(lines, delimiter=separator) if row]
    head = pd.read_csv(path, sep=separator, nrows=0, index_col=False, encoding="utf-8-sig")
    names = [str(column) for column in head.columns]
    if rows and all(len(row) == len(names) + 1 for row in rows):
        names = [*names, ""] if all(not row[-1] for row in rows) else ["", *names]
    for row in rows:
        if len(row) > len(names):
            raise ValueError(f"a line has {len(row)} fields, the header {len(names)}: {quoted(row)}")
    return separator, names, [at for at, name in enumerate(names) if name or at == 0]


def _tidy(values: pd.Series[Any]) -> pd.Series[Any]:
    """A column that can be written with gaps: true, false or missing; or text where it has text at all."""
    import pandas as pd

    if values.dtype != bool and values.dtype != object:
        return values
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind == "boolean":
        return values.astype("boolean")
    return values if kind in ("string", "empty") else values.astype(str).where(values.notna())
