"""The mosaics that speed and memory are measured on, as files and as registered data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from mosaicvi import Mosaic, MosaicVI, datasets

GENES, GENE_DENSITY = 1_677, 0.07  # of `mop`
PEAKS, PEAK_DENSITY = 25_734, 0.004
CHROMOSOMES = 20
GROUPS = ("rna+atac", "rna", "atac")
# Weights of the modalities as the reference implementation's tutorials set them by hand.
HAND_WEIGHTS = {"rna+adt": {"rna": 0.14, "adt": 0.86}, "rna+atac": {"rna": 0.93, "atac": 0.07}}


def simulated_sparse(n_cells: int, *, genes: int = GENES, peaks: int = PEAKS, seed: int = 0) -> MuData:
    """A third of the cells paired, a third RNA, a third ATAC, as sparse as real ones; never dense."""
    group = np.resize(np.array(GROUPS), n_cells)
    cells = pd.Index([f"cell{i:07d}" for i in range(n_cells)])
    obs = pd.DataFrame(
        {
            "batch": np.char.add("batch", (np.arange(n_cells) // 3 % 3).astype(str)),
            "group": group,
            "celltype": "unknown",
        },
        index=cells,
    )
    parts = {
        "rna": (genes, GENE_DENSITY, gene_names(genes)),
        "atac": (peaks, PEAK_DENSITY, peak_names(peaks)),
    }
    mods = {}
    for i, (name, (width, density, names)) in enumerate(parts.items()):
        has = np.char.find(group, name) >= 0
        x = datasets.simulated_counts(int(has.sum()), width, density, seed=seed + i)
        mods[name] = AnnData(_never_empty(x), obs=obs.loc[has].copy(), var=pd.DataFrame(index=names))
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        out = MuData(mods, obs=pd.DataFrame(index=cells))
        out.obs = obs
    return out


def _never_empty(x: sp.csr_matrix) -> sp.csr_matrix:
    """One count for every cell and feature without any, as real data are filtered."""
    row = np.flatnonzero(np.diff(x.indptr) == 0)
    col = np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]) == 0)
    if not len(row) and not len(col):
        return x
    rows = np.concatenate([row, col % x.shape[0]])
    cols = np.concatenate([row % x.shape[1], col])
    extra = sp.coo_matrix((np.ones(len(rows), np.float32), (rows, cols)), shape=x.shape)
    return sp.csr_matrix(x + extra.tocsr())


def gene_names(n: int) -> list[str]:
    """Names of n genes."""
    return [f"gene{i:05d}" for i in range(n)]


def peak_names(n: int) -> list[str]:
    """Names of n peaks on chromosomes of equal size."""
    chromosomes = min(CHROMOSOMES, n)
    return [f"chr{i * chromosomes // n + 1}:{1000 * i + 1}-{1000 * i + 500}" for i in range(n)]


def write_simulated(folder: Path, *, quick: bool) -> None:
    """Write the simulated task as ``simulated.h5mu``."""
    small = {"genes": 200, "peaks": 1_000} if quick else {}
    mdata = simulated_sparse(300 if quick else 10_000, **small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata.write_h5mu(folder / "simulated.h5mu")


def registered(folder: Path, task: str) -> Mosaic:
    """Read a task and register it with its batches."""
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        mdata = mudata.read_h5mu(folder / f"{task}.h5mu")
        return MosaicVI.setup_mudata(mdata, batch_key="batch")


def hand_weights(mosaic: Mosaic) -> Mapping[str, float] | float:
    """The tutorials' weights of these modalities; 1 for modalities that they do not show."""
    return HAND_WEIGHTS.get("+".join(m.name for m in mosaic.modalities), 1.0)


def like_for_like(mosaic: Mosaic) -> dict[str, Any]:
    """Parameters that make our network the reference's as its tutorials set it, width by width."""
    several = {m.name: len(m.block_sizes) > 1 for m in mosaic.modalities}
    width = {m.name: 16 if several[m.name] else 256 if m.n_features > 500 else 128 for m in mosaic.modalities}
    embed = {m.name: 2 if several[m.name] else 32 if m.n_features > 500 else 16 for m in mosaic.modalities}
    return {
        "preset": "published",
        "dim_block_embed": embed,
        "dim_block_enc": width,
        "dim_block_dec": width,
        "dimensions": [256],
        "dim_latent": 32,
        "beta_kl": 1.0,
        "beta_unobs": 2 / 3,
        "beta_reverse": 0.0,
        "beta_modal": hand_weights(mosaic),
        "p_feat": 0.2,
    }
