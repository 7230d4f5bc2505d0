"""A table of samples or cells beside the data: its columns go into ``obs``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mosaicvi.cli.say import warning
from mosaicvi.errors import InputError, quoted
from mosaicvi.store.files import shown

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Columns of cells by name.

    Attributes
    ----------
    path
        Where it was read.
    table
        Cells x columns, indexed by their names.
    """

    path: Path
    table: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> Sheet:
        """Read a text table whose first column holds the names of the cells.

        Raises
        ------
        InputError
            There is no such file, it is no table, or a name stands in it twice.
        """
        import pandas as pd

        if not path.is_file():
            raise InputError(f"--obs {shown(path)}: no such file; check the path")
        try:
            with path.open(encoding="utf-8-sig") as lines:
                separator = max("\t,;", key=next(lines, "").count)
            table = pd.read_csv(path, sep=separator, index_col=False, encoding="utf-8-sig")
        except (ValueError, UnicodeDecodeError) as error:
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
        return cls(path=path, table=table)

    def add_to(self, data: AnnData | MuData, *, names: str | None = None) -> None:
        """Add the columns to ``obs``; what fits only one of the two is said.

        Parameters
        ----------
        data
            Is changed.
        names
            Column of ``obs`` with the names that the cells had in their files; their own names where None.
        """
        cells = data.obs_names if names is None else data.obs[names].astype(str)
        is_there = cells.isin(self.table.index)
        strangers = self.table.index[~self.table.index.isin(cells)]
        name = f"--obs {shown(self.path)}"
        if not is_there.any():
            raise InputError(
                f"{name}: none of its names is that of a cell; it has {quoted(strangers)}, "
                f"the data {quoted(cells)}"
            )
        taken = [str(column) for column in self.table if column in data.obs]
        if taken:
            raise InputError(f"{name}: the data have a column {taken[0]!r} already; rename that of the table")
        left = cells[~is_there]
        if len(left):
            warning(f"{name}: {len(left):,} of {len(cells):,} cells have no line in it ({quoted(left)})")
        if len(strangers):
            n = f"{len(strangers):,} of its {len(self.table):,}"
            warning(f"{name}: {n} lines are of no cell ({quoted(strangers)})")
        for column in self.table:
            data.obs[str(column)] = self.table[column].reindex(cells).to_numpy()
