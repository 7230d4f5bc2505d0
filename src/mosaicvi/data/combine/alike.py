"""Names of the same cells that are written differently in two inputs: ``AAACCTG-1`` and ``AAACCTG``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from mosaicvi.data.read.names import mostly

SHARED = 0.2  # of the smaller input's cells; barcodes of two runs agree by chance in up to 7 %
FEW = 10  # names alike in two inputs that say nothing
RUNNING = re.compile(r"[A-Za-z]*[-_. ]?\d+(-\d)?")
BARCODE = re.compile(r"[ACGTN]{10,}")
SEPARATORS = "-_.:#/ "


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Two inputs whose names of cells agree but for what stands before or after them.

    Attributes
    ----------
    a, b
        The inputs.
    n_cells
        How many names agree.
    example
        One of them as `a` writes it, and as `b` does.
    around
        What stands around them where that is the same for all, such as ``-1``; empty where it differs.
    """

    a: str
    b: str
    n_cells: int
    example: tuple[str, str]
    around: tuple[str, ...]

    def in_words(self) -> str:
        """How the names agree."""
        where = f"without {' and '.join(map(repr, self.around))}" if self.around else "in their barcodes"
        return f"{self.n_cells:,} names of cells agree {where} ({self.example[0]!r} and {self.example[1]!r})"


def alike(cells: Mapping[str, pd.Index[str]]) -> list[Alike]:
    """Each two inputs of which few names are the same, and many are but for what stands around them."""
    found = []
    cores = {name: cores_of(index) for name, index in cells.items()}
    for a, b in combinations(cells, 2):
        first, second = cores[a], cores[b]
        if first is None or second is None:
            continue
        least = max(FEW, SHARED * min(len(first), len(second)))
        shared = first.index.intersection(second.index, sort=False)
        same = cells[a].intersection(cells[b])
        if len(shared) < least or len(same) >= least or mostly(shared, RUNNING):
            continue
        written = [pair for names in (first, second) for pair in names.loc[shared].items()]
        ends = {name.replace(str(core), "", 1) for core, name in written}
        example = str(first[shared[0]]), str(second[shared[0]])
        around = tuple(sorted(ends - {""})) if len(ends) < 3 else ()
        found.append(Alike(a=a, b=b, n_cells=len(shared), example=example, around=around))
    return found


def cores_of(names: pd.Index[str]) -> pd.Series[str] | None:
    """The names by what is left of them without what stands around: a barcode, or what they do not share.

    None where that is not unique, as in several runs in one input, which differ in what stands around.
    """
    written = [str(name) for name in names]
    barcodes = [BARCODE.findall(name) for name in written]
    if len(written) < FEW:
        return None
    if all(len(found) == 1 for found in barcodes):
        left = [found[0] for found in barcodes]
    else:
        start = _shared_start(written)
        end = _shared_start([name[::-1] for name in written])
        left = [name[start : len(name) - end] for name in written]
    cores = pd.Series(written, index=pd.Index(left, dtype=object))
    return cores if cores.index.is_unique and all(left) else None


def _shared_start(names: Sequence[str]) -> int:
    """Length of what all names begin with, up to its last sign between words."""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return max(first.rfind(sign, 0, same) for sign in SEPARATORS) + 1


def called_alike(members: Mapping[str, pd.Index[str]]) -> dict[str, dict[str, str]]:
    """Of each input of the same cells, its names → those of the first input that has the cell."""
    known: dict[str, str] = {}
    renamed: dict[str, dict[str, str]] = {}
    for member, names in members.items():
        cores = cores_of(names)
        own = zip(names, names, strict=True) if cores is None else cores.items()
        renamed[member] = {str(name): known.setdefault(str(core), str(name)) for core, name in own}
    return renamed
