"""A simulated mosaic of any size as a zarr store, written piece by piece.

The cells are those of `benchmarks.tasks.simulated_sparse`: a third RNA and ATAC, a third RNA, a third ATAC,
some 150 values a cell of 30,000 features. Only their names are in memory all at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from benchmarks.tasks import GENES, gene_names, peak_names, simulated_sparse

PIECE = 60_000  # cells
PEAKS = 30_000 - GENES
HAS = {"rna": (0, 1), "atac": (0, 2)}  # of three neighbouring cells
VALUES_PER_CELL = 200  # of a modality, more than there are


def write_large(
    path: Path,
    n_cells: int,
    *,
    genes: int = GENES,
    peaks: int = PEAKS,
    piece: int = PIECE,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Write `n_cells` of which none is another's copy."""
    import zarr

    from mosaicvi.store.atlas import SparseStore

    cells = np.arange(n_cells)
    names = pd.Index([f"cell{i:08d}" for i in range(n_cells)])
    features = {"rna": gene_names(genes), "atac": peak_names(peaks)}
    batch = pd.Categorical.from_codes(cells // 3 % 3, ["batch0", "batch1", "batch2"])
    rows = {name: np.flatnonzero(np.isin(cells % 3, has)) for name, has in HAS.items()}
    shells = {
        name: AnnData(obs=pd.DataFrame(index=names[rows[name]]), var=pd.DataFrame(index=features[name]))
        for name in HAS
    }
    with (
        warnings.catch_warnings(),
        mudata.set_options(pull_on_update=False),
        anndata.settings.override(zarr_write_format=3),
    ):
        warnings.simplefilter("ignore")
        mdata = MuData(shells, obs=pd.DataFrame(index=names))
        mdata.obs = pd.DataFrame({"batch": batch}, index=names)
        mdata.write_zarr(path)
    del mdata, shells, names
    root: Any = zarr.open_group(str(path), mode="r+")
    out = {}
    for name in HAS:
        place = root[f"mod/{name}"]
        if "X" in place:
            del place["X"]
        shape = (len(rows[name]), len(features[name]))
        out[name] = SparseStore(place, shape, VALUES_PER_CELL * shape[0])
    for i, first in enumerate(range(0, n_cells, piece)):
        some = simulated_sparse(min(piece, n_cells - first), genes=genes, peaks=peaks, seed=2 * i)
        for name, store in out.items():
            store.add(some[name].X)
        advance(some.n_obs)
    for store in out.values():
        store.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(root.store)
