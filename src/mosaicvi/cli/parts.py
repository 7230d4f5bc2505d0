"""Which cells a process answers for: a part that a job names, and of several processes a share of that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from mosaicvi.errors import InputError
from mosaicvi.ranks import place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mosaicvi.ranks.group import Group

Cells = Annotated[
    str | None,
    typer.Option(
        "--cells",
        metavar="I/N",
        help="Only part I of N of the cells, as the jobs of an array share them. [default: all]",
    ),
]
_PART = re.compile(r"(\d+)/(\d+)")


def is_part(text: str) -> bool:
    """Whether it has the form ``I/N``."""
    return bool(_PART.fullmatch(text))


def cells_of(part: str | None, n_cells: int) -> slice:
    """Positions of a part ``I/N`` of the cells, counted from 1; of all for None.

    Raises
    ------
    InputError
        It is no part, or there are fewer cells than parts.
    """
    if part is None:
        return slice(0, n_cells)
    found = _PART.fullmatch(part)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(
            f"--cells {part}: write I/N, the number of the part and how many there are, such as 2/8"
        )
    i, n = int(found[1]), int(found[2])
    if n > n_cells:
        raise InputError(f"--cells {part}: there are {n_cells:,} cells; ask for at most {n_cells:,} parts")
    return slice((i - 1) * n_cells // n, i * n_cells // n)


def own_share(cells: NDArray[np.int64]) -> tuple[Group | None, int, NDArray[np.int64]]:
    """The processes that answer together, and where this one's share of the cells begins, and that."""
    if place().size == 1:
        return None, 0, cells
    import torch

    from mosaicvi.data.sampling import share_of_rank
    from mosaicvi.ranks.group import join

    group = join(torch.device("cpu"))
    if group is None:
        return None, 0, cells
    return group, *share_of_rank(cells, group.rank, group.size)
