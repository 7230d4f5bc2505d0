"""Which cells measured features connect: parts of a mosaic that share none cannot be put into one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mosaicvi.data.mosaic import ModalityData
from mosaicvi.data.problems import listed


def components(names: Sequence[str], seen: Mapping[str, NDArray[np.bool_]]) -> tuple[tuple[str, ...], ...]:
    """Groups that measured features connect, directly or through other groups, the largest first.

    Parameters
    ----------
    names
        Of the groups.
    seen
        Of each modality, which group measured which feature (groups, D_m).
    """
    g_by_d = sparse.hstack([sparse.csr_matrix(seen_gd) for seen_gd in seen.values()], format="csr")
    _, label = connected_components(sparse.csr_matrix(g_by_d @ g_by_d.T), directed=False)
    found: dict[int, list[str]] = {}
    for name, i in zip(names, label, strict=True):
        found.setdefault(int(i), []).append(name)
    return tuple(sorted((tuple(names) for names in found.values()), key=len, reverse=True))


def apart(parts: Sequence[Sequence[str]]) -> list[str]:
    """A note on parts that nothing connects."""
    if len(parts) < 2:
        return []
    named = "; ".join(f"({i + 1}) {listed(names)}" for i, names in enumerate(parts))
    return [
        f"The mosaic falls into {len(parts)} parts that share no feature and no cell; "
        f"nothing connects them: {named}"
    ]


def seen_by_group(
    mods: Sequence[ModalityData], group: NDArray[np.int64], n: int
) -> dict[str, NDArray[np.bool_]]:
    """Of each modality, which condition group (numbered from 1) measured which feature (groups, D_m)."""
    seen = {}
    for m in mods:
        there = m.row_of_cell >= 0
        rows, group_of_row = m.row_of_cell[there], group[there] - 1
        seen[m.name] = np.zeros((n, m.n_features), bool)
        for code in np.unique(group_of_row * len(m.panels) + m.panel_of_row[rows]):
            g, panel = divmod(int(code), len(m.panels))
            seen[m.name][g] |= m.panels[panel]
    return seen
