"""Sums over what cells measured, and comparisons of groups made from them.

Legend: n cells, g groups, s strata, d features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.differential.contrast import Score
from mosaicvi.infer.differential.kinds import Kind
from mosaicvi.infer.differential.moments import Ints, Moments, moments

ROWS = 8192
MOST_SUMS = 2_000_000  # groups x strata x features at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two groups, each the cells of one or several codes."""

    name1: str
    name2: str
    first: tuple[int, ...]
    second: tuple[int, ...]


def strata_of(mosaic: Mosaic, data: ModalityData, *, by_batch: bool) -> tuple[Ints, int]:
    """Stratum of each row of a modality, and how many there are: its panel, in its batch if asked."""
    cells = np.empty(data.n_cells, np.int64)
    there = np.flatnonzero(data.row_of_cell >= 0)
    cells[data.row_of_cell[there]] = there
    batch = mosaic.batch[cells] if by_batch else np.zeros(data.n_cells, np.int64)
    found, code = np.unique(np.c_[batch, data.panel_of_row], axis=0, return_inverse=True)
    return np.asarray(code.reshape(-1), np.int64), len(found)


def sums(
    data: ModalityData, kind: Kind, code: Ints, stratum: Ints, n_groups: int, n_strata: int, columns: Ints
) -> Moments:
    """Sums of some features over the cells of each group in each stratum, rows g * n_strata + s.

    Parameters
    ----------
    data, kind
        The modality, and how it is compared.
    code, stratum
        Group (-1 for none) and stratum of each row of the modality.
    n_groups, n_strata
        How many there are.
    columns
        Features, positions in the network's order.
    """
    total: Moments | None = None
    for start in range(0, data.n_cells, ROWS):
        rows = slice(start, start + ROWS)
        value, raw = kind.value(data, rows, columns)
        at = code[rows]
        member = np.where(at >= 0, at * n_strata + stratum[rows], -1)
        measured: NDArray[np.bool_] | None = None
        if data.entry_measured is not None or not data.panels[:, columns].all():
            measured = data.measured(rows)[:, columns]
        part = moments(value, raw, kind.exposure(data, rows), member, n_groups * n_strata, measured)
        total = part if total is None else total + part
    assert total is not None
    return total


def column_chunks(n_features: int, n_sums: int) -> Sequence[Ints]:
    """Features that are summed together, such that the sums need little memory."""
    width = max(1, min(n_features, MOST_SUMS // max(n_sums, 1)))
    return [np.arange(i, min(i + width, n_features)) for i in range(0, n_features, width)]


def score_of(found: Moments, comparison: Comparison, n_groups: int, n_strata: int, kind: Kind) -> Score:
    """The two groups of a comparison, stratum by stratum."""
    first, second = (
        _group(found, codes, n_groups, n_strata) for codes in (comparison.first, comparison.second)
    )
    return Score(first, second, is_ratio=kind.is_ratio)


def _group(found: Moments, codes: tuple[int, ...], n_groups: int, n_strata: int) -> Moments:
    weight = np.zeros((n_strata, n_groups * n_strata))
    for code in codes:
        weight[np.arange(n_strata), code * n_strata + np.arange(n_strata)] = 1
    return found.of(weight)
