"""Mosaics in which it is known which features differ between types, and by how much.

Four types differ in a fifth of the features of each modality. All other features vary within types alone, by
states that are distributed alike in all of them. Batches have their own depth, and their own factor on each
feature.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import mudata
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

SHARE_DIFFERENT = 0.2
TYPES = 4
SIZES = {"rna": 300, "adt": 60, "atac": 500, "value": 120}
STRUCTURES = {
    "one batch": (("A", ("rna", "adt", "atac", "value"), (1, 1, 1, 1)),),
    "mosaic": (
        ("A", ("rna", "adt"), (1, 1, 1, 1)),
        ("B", ("rna", "atac", "value"), (1, 1, 1, 1)),
        ("C", ("rna", "adt", "atac", "value"), (1, 1, 1, 1)),
    ),
    "unequal": (
        ("A", ("rna", "adt", "value"), (6, 1, 2, 1)),
        ("B", ("rna", "atac", "value"), (1, 6, 1, 2)),
        ("C", ("rna", "adt", "atac"), (2, 3, 1, 6)),
    ),
    "panels": (
        ("A", ("rna", "adt", "atac", "value"), (3, 1, 1, 1)),
        ("B", ("rna", "adt", "atac", "value"), (1, 2, 1, 1)),
    ),
    "never measured": (
        ("A", ("rna", "adt", "atac", "value"), (1, 1, 1, 1)),
        ("B", ("rna", "adt", "atac", "value"), (2, 1, 1, 2)),
        ("X", ("rna",), (1, 1, 1, 1)),
        ("Y", ("adt", "atac"), (1, 1, 1, 1)),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """A mosaic, and of each modality the types' log2 means (types, d), equal where nothing differs."""

    mdata: MuData
    means: dict[str, npt.NDArray[np.float64]]


def simulated(structure: str, *, n_cells: int = 1500, seed: int = 0) -> Groups:
    """A mosaic of one of the structures."""
    rng = np.random.default_rng(seed)
    layout = STRUCTURES[structure]
    batch = np.sort(rng.integers(0, len(layout), n_cells))
    kind = np.array([rng.choice(TYPES, p=np.array(layout[b][2]) / sum(layout[b][2])) for b in batch])
    state = rng.normal(size=(n_cells, 3))
    depth = np.exp(0.4 * rng.normal(size=n_cells) + rng.normal(0, 0.3, len(layout))[batch])
    cells = pd.Index([f"cell{i:05d}" for i in range(n_cells)])
    names = np.array([b[0] for b in layout])
    obs = pd.DataFrame({"batch": names[batch], "cell_type": [f"type{t + 1}" for t in kind]}, index=cells)
    mods, means = {}, {}
    for name, d in SIZES.items():
        has = np.array([name in layout[b][1] for b in batch])
        if not has.any():
            continue
        effect = np.where(rng.random(d) < SHARE_DIFFERENT, rng.normal(0, 1.0, (TYPES, d)), 0.0)
        means[name] = effect
        load = rng.normal(0, 0.25, (3, d)) * (rng.random((3, d)) < 0.5)
        factor = 0.3 * rng.normal(size=(len(layout), d))
        log_rate = np.log(2) * effect[kind] + state @ load + factor[batch]
        x = _drawn(name, log_rate, depth, rng)[has]
        panels = _panels(structure, len(layout), d, rng)
        inside = panels[batch[has]]
        part = AnnData(sp.csr_matrix(x * inside) if name != "value" else np.where(inside, x, np.nan))
        part.obs_names, part.var_names = cells[has], _names(name, d)
        part.varm["measured"] = pd.DataFrame(panels.T, index=part.var_names, columns=names)
        mods[name] = part
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        mdata = MuData(mods, obs=pd.DataFrame(index=cells))
        mdata.obs = obs
    return Groups(mdata=mdata, means=means)


def _drawn(name: str, log_rate: Any, depth: Any, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    n, d = log_rate.shape
    if name == "value":
        return np.asarray(log_rate + 0.5 * rng.normal(size=(n, d)) + rng.normal(0, 2, d), np.float32)
    low, high, dispersion = {"rna": (-3, 1, 0.3), "adt": (1.5, 4, 0.15), "atac": (-3.5, -1, 0.05)}[name]
    rate = np.exp(log_rate + rng.uniform(low, high, d)) * depth[:, None]
    if name == "adt":
        rate = rate + 3 * np.exp(0.3 * rng.normal(size=(n, 1)))
    return rng.poisson(rate * rng.gamma(1 / dispersion, dispersion, (n, d))).astype(np.float32)


def _panels(structure: str, batches: int, d: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which batch measures which feature, (batches, d)."""
    panels = np.ones((batches, d), bool)
    if structure == "panels":
        half = rng.permutation(d)
        panels[0, half[: d // 4]] = False
        panels[1, half[-d // 4 :]] = False
    return panels


def _names(name: str, d: int) -> list[str]:
    return [f"chr1:{1000 * i}-{1000 * i + 500}" if name == "atac" else f"{name}{i:04d}" for i in range(d)]
