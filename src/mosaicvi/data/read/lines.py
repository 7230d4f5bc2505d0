"""The first lines of a text file, plain or gz, however long the file makes them."""

from __future__ import annotations

import gzip
from pathlib import Path

from mosaicvi.data.problems import problem
from mosaicvi.errors import InputError

LONGEST = 1 << 26  # characters; a million names of cells


def first_lines(path: Path, n: int) -> list[str]:
    """The first `n` lines, "" for those that are not there.

    Raises
    ------
    InputError
        One is too long for a line of names, or no text.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        lines = [file.readline(LONGEST) for _ in range(n)]
    if any(len(line) == LONGEST or "\0" in line for line in lines):
        raise InputError(problem("long-line", name=path, most=f"{LONGEST >> 20} million characters"))
    return lines
