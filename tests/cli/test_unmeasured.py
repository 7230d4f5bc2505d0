"""Features of which no cell has a value."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from mosaicvi.cli.unmeasured import mudata_without
from mosaicvi.data.read import mudata_as_it_is


def test_what_lies_beside_the_features_is_kept() -> None:
    names = [f"c{i}" for i in range(4)]
    with mudata_as_it_is():
        mdata = MuData(
            {
                m: AnnData(
                    np.ones((4, 3), np.float32),
                    obs=pd.DataFrame(index=names),
                    var=pd.DataFrame(index=[f"{m}{j}" for j in range(3)]),
                )
                for m in ("a", "b")
            }
        )
    mdata.obsm["X_umap"] = np.arange(8.0).reshape(4, 2)
    mdata.obsp["near"] = np.arange(16.0).reshape(4, 4)
    mdata.varm["weights"] = np.arange(6.0)[:, None]
    mdata.varp["like"] = np.arange(36.0).reshape(6, 6)
    mdata.uns["said"] = "so"
    out = mudata_without(mdata, {"a": ["a1"], "b": ["b2"]})
    assert list(out.var_names) == ["a0", "a2", "b0", "b1"]
    np.testing.assert_array_equal(out.obsm["X_umap"], mdata.obsm["X_umap"])
    np.testing.assert_array_equal(out.obsp["near"], mdata.obsp["near"])
    assert out.varm["weights"].ravel().tolist() == [0, 2, 3, 4]
    np.testing.assert_array_equal(out.varp["like"], mdata.varp["like"][np.ix_([0, 2, 3, 4], [0, 2, 3, 4])])
    assert out.varm["b"].ravel().tolist() == [False, False, True, True]
    assert out.uns["said"] == "so"
