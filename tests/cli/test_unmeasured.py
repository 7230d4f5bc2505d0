"""Features of which no cell has a value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from mosaicvi import read_mudata
from mosaicvi.cli import run
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["h5ad", "csv"])
def test_they_are_left_out_of_a_store_as_of_a_file(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        x = (rng.random((12, 4)) + 20).astype(np.float32)
        x[:, 1] = np.nan
        x[:3, 2] = np.nan
        table = pd.DataFrame(x, [f"{name}{i}" for i in range(12)], list("wxyz"))
        if suffix == "csv":
            table.to_csv(tmp_path / f"{name}.csv")
        else:
            AnnData(table).write_h5ad(tmp_path / f"{name}.h5ad")
    files = [str(tmp_path / f"{name}.{suffix}") for name in "ab"]
    said = ["--as", "prot"]
    if suffix == "csv":
        said += ["--orientation", "cells"]
    for out in ("m.h5mu", "m.zarr"):
        assert run(["combine", *files, *said, "-o", str(tmp_path / out)]) == 0
        assert "prot: left out the features of which no cell has a value (1): 'x'" in " ".join(
            capsys.readouterr().err.split()
        )
    file, store = read_mudata(tmp_path / "m.h5mu")["prot"], read_mudata(tmp_path / "m.zarr")["prot"]
    assert list(store.var_names) == list(file.var_names) == ["w", "y", "z"]
    np.testing.assert_array_equal(store.X, file.X)
    pd.testing.assert_frame_equal(store.varm["measured"], file.varm["measured"])
