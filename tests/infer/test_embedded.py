"""What is written some cells at a time is what reading, choosing and writing it whole gives."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData, set_options

from mosaicvi.data.read import mudata_as_it_is, read
from mosaicvi.data.stored import names as stored_names
from mosaicvi.data.stored.names import StoredNames
from mosaicvi.data.stored.open import open_stored
from mosaicvi.infer import embedded
from mosaicvi.infer.embedded import write_embedded


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    names = np.array([f"cellé{i}" for i in range(60)], object)
    mods = {}
    for name, which in (("rna", np.arange(60) % 3 < 2), ("atac", np.arange(60) % 3 != 1)):
        x = sp.csr_matrix(rng.poisson(1.0, (40, 5)).astype(np.float32))
        mods[name] = AnnData(
            x,
            obs=pd.DataFrame({"depth": rng.normal(size=40)}, index=names[which]),
            var=pd.DataFrame({"kind": list("aabba")}, index=[f"{name}{i}" for i in range(5)]),
        )
        mods[name].varm["measured"] = pd.DataFrame({"p": [True] * 4 + [False]}, index=mods[name].var_names)
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(np.where(np.arange(60) % 2, "b", "a")),
            "label": [f"type{i % 4}" for i in range(60)],
            "age": np.arange(60.0),
        },
        index=names,
    )
    with warnings.catch_warnings(), set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        mdata = MuData(mods, obs=pd.DataFrame(index=names))
        mdata.obs = obs
        mdata.uns["mosaicvi"] = {"note": "kept"}
        mdata.write_zarr(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


@pytest.mark.parametrize("cells", [slice(0, 60), slice(7, 41)])
def test_it_reads_back_as_the_chosen_cells(
    store: Path, cells: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_names, "MANY", 1)
    monkeypatch.setattr(embedded, "PIECE", 11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata, _ = open_stored(store, {})
        assert isinstance(mdata, MuData)
        assert isinstance(mdata.obs_names.array, StoredNames)
        latent = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)[cells]
        write_embedded(store.with_name("out.h5mu"), mdata, cells, latent, "X_z")
        found, whole = read(store.with_name("out.h5mu")), read(store)
        assert isinstance(found, MuData)
        with mudata_as_it_is():
            wanted = whole[cells].copy()
    pd.testing.assert_frame_equal(found.obs, wanted.obs)
    np.testing.assert_array_equal(found.obsm["X_z"], latent)
    assert found.uns["mosaicvi"]["note"] == "kept"
    for name, a in wanted.mod.items():
        pd.testing.assert_frame_equal(found[name].obs, a.obs)
        pd.testing.assert_frame_equal(found[name].var, a.var)
        pd.testing.assert_frame_equal(found[name].varm["measured"], a.varm["measured"])
        np.testing.assert_array_equal(found.obsm[name], wanted.obsm[name])
        np.testing.assert_array_equal(found.obsmap[name], wanted.obsmap[name])
