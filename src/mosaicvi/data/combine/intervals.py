"""Peaks of different peak sets on one set of intervals: the unions of those that overlap."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

PEAK = r"^(?P<chromosome>.+?)[:_-](?P<start>[\d,]+)(?:[:_-]|\.\.)(?P<end>[\d,]+)$"
MAIN = re.compile(r"(?:chr)?(\d{1,2}[LR]?|[WXYZ]|MT?)", re.IGNORECASE)


def chromosome(name: str) -> str:
    """A chromosome as UCSC names it: ``1``, ``chr1`` and ``Chr1`` are ``chr1``, ``MT`` is ``chrM``.

    Scaffolds and other names stay as they are.
    """
    found = MAIN.fullmatch(name)
    if found is None:
        return name
    short = found[1].upper()
    return "chrM" if short == "MT" else f"chr{short}"


def parse_peaks(names: Sequence[str] | pd.Index[str]) -> pd.DataFrame:
    """Chromosome, start and end of peaks.

    They may be written ``chr1:100-200``, ``chr1-1,000-2,000``, ``chr1:100:200``, ``chr1:100..200`` or
    ``1_100_200``.

    Returns
    -------
    One row a name: ``chromosome`` (as :func:`chromosome` names it), ``start``, ``end``; start and end are −1
    where the name is no interval, or one that ends before it starts.
    """
    parts = pd.Series(list(names), dtype=object).astype(str).str.extract(PEAK)
    spelled = {name: chromosome(name) for name in parts["chromosome"].dropna().unique()}
    start, end = (
        pd.to_numeric(parts[key].str.replace(",", ""), errors="coerce").fillna(-1).astype(np.int64)
        for key in ("start", "end")
    )
    valid = end > start
    return pd.DataFrame(
        {
            "chromosome": parts["chromosome"].map(spelled),
            "start": start.where(valid, -1),
            "end": end.where(valid, -1),
        }
    )


def unify_peaks(peaks: Mapping[str, Sequence[str] | pd.Index[str]]) -> dict[str, list[str]]:
    """Name each peak by the union of all peaks that overlap it, directly or through others.

    Intervals are half open, as in BED: ``chr1:100-200`` and ``chr1:200-300`` touch but do not overlap.

    Parameters
    ----------
    peaks
        The names of each dataset's peaks.

    Returns
    -------
    For each dataset, the union of each peak as ``chr1:100-300``; peaks of one dataset may share one. A name
    that is no interval stays.
    """
    every = pd.concat(
        [parse_peaks(names).assign(dataset=dataset, name=list(names)) for dataset, names in peaks.items()],
        ignore_index=True,
    )
    union = every["name"].astype(object).copy()
    placed = every[every["end"] > 0].sort_values(["chromosome", "start", "end"], kind="stable")
    if len(placed):
        # A peak opens a new union where it starts at or after the end of all before it.
        reach = placed.groupby("chromosome")["end"].cummax().shift(fill_value=-1)
        moved = placed["chromosome"] != placed["chromosome"].shift()
        group = (moved | (placed["start"] >= reach)).cumsum()
        start = placed["start"].groupby(group).transform("min").astype(str)
        end = placed["end"].groupby(group).transform("max").astype(str)
        union.loc[placed.index] = placed["chromosome"] + ":" + start + "-" + end
    return {dataset: union[every["dataset"] == dataset].tolist() for dataset in peaks}
