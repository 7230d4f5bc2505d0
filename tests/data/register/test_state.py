from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from mosaicvi import MosaicVI
from mosaicvi.errors import InputError

TINY = {"dimensions": 8, "dim_latent": 3, "dim_block_enc": 4, "dim_block_dec": 4}


def data() -> AnnData:
    x = np.random.default_rng(0).poisson(2, (40, 6)).astype(np.float32)
    obs = pd.DataFrame({"batch": ["a", "b"] * 20}, index=[f"c{i}" for i in range(40)])
    return AnnData(sparse.csr_matrix(x), obs=obs)


def replace(a: AnnData) -> None:
    a.X = sparse.csr_matrix(np.ones(a.shape, np.float32))


def relabel(a: AnnData) -> None:
    a.obs["batch"] = ["b", "a"] * 20


def rename(a: AnnData) -> None:
    a.var_names = [f"new{i}" for i in range(a.n_vars)]


def shorten(a: AnnData) -> None:
    a._inplace_subset_obs(np.arange(30))


@pytest.mark.parametrize("change", [replace, relabel, rename, shorten])
def test_data_changed_after_registering_are_noticed(change: Callable[[AnnData], None]) -> None:
    adata = data()
    mosaic = MosaicVI.setup_anndata(adata, batch_key="batch")
    model = MosaicVI(adata, **TINY)
    change(adata)
    for use in (lambda: MosaicVI(adata, **TINY), lambda: MosaicVI(mosaic, **TINY), lambda: model.train(1)):
        with pytest.raises(InputError, match=r"changed after they had been registered.*setup_anndata"):
            use()
    MosaicVI.setup_anndata(adata, batch_key="batch")
    MosaicVI(adata, **TINY)


def test_new_columns_and_embeddings_are_no_change() -> None:
    adata = data()
    MosaicVI.setup_anndata(adata, batch_key="batch")
    model = MosaicVI(adata, **TINY)
    adata.obs["type"] = "T"
    adata.obsm["X_mosaicvi"] = np.ones((40, 3))
    model.train(1, batch_size=10, progress=False)
    MosaicVI(adata, **TINY)
