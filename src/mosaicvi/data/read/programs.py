"""Tables as programs of proteomics write them: which columns are samples, which rows are no proteins."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mosaicvi.data.read.names import plain

NO_PROTEINS = ("reverse", "potentialcontaminant", "contaminant", "onlyidentifiedbysite")  # of MaxQuant
MARK = "+"
QUANTITIES = ("lfq", "intensity", "abundance", "quantity")
SPECIAL = re.compile(r"[.^$*+?{}\[\]\\|()]")


def sample_columns(names: Sequence[str]) -> str | None:
    r"""A regular expression that most of these columns of numbers have in common and others hardly will.

    It is a beginning or end, up to a sign or a digit, of as many columns as any, or of half as many if it
    names a quantity: programs write several of each sample.

    Parameters
    ----------
    names
        Headers of columns of numbers.

    Returns
    -------
    A pattern such as ``^LFQ intensity `` or ``\.raw$``; None where no two columns have one in common.
    """
    for signs in (r"[\s\\/]", r"[\s\\/_.:-]", r"\D"):
        starts = Counter(n[: m.end()] for n in names for m in re.finditer(signs, n) if m.end() < len(n))
        ends = Counter(n[m.start() :] for n in names for m in re.finditer(r"[\s.]", n) if m.start())
        found = [(count, f"^{_escaped(text)}") for text, count in starts.items()]
        found += [(count, f"{_escaped(text)}$") for text, count in ends.items()]
        most = max((count for count, _ in found), default=0)
        if most < 2:
            continue
        best = [one for one in found if one[0] >= max(2, most / 2)]
        return max(best, key=_preference)[1]
    return None


def _preference(one: tuple[int, str]) -> tuple[float, ...]:
    """By quantity, then by how many columns have it; ends before beginnings, and short ones before long."""
    count, pattern = one
    named = [word in pattern.lower() for word in QUANTITIES]
    return (*named, count, pattern.endswith("$"), -len(pattern))


def _escaped(text: str) -> str:
    return SPECIAL.sub(lambda sign: "\\" + sign[0], text)


def no_proteins(notes: pd.DataFrame) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Rows that a program marks as no proteins of the sample, and how many each column marks.

    Parameters
    ----------
    notes
        Annotations of the rows, (n, columns).
    """
    marked = np.zeros(len(notes), bool)
    counts = {}
    for column in notes:
        if plain(column) in NO_PROTEINS:
            is_marked = notes[column].astype(str).str.strip().to_numpy() == MARK
            if is_marked.any():
                counts[str(column)] = int(is_marked.sum())
            marked |= is_marked
    return marked, counts
