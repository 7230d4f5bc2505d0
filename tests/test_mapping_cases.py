"""`mosaicvi map` of what others have: other files, fewer features and modalities, other names and orders."""

from __future__ import annotations

import gzip
import shutil
import warnings
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from tests.builders import mudata_of

from mosaicvi import MosaicVI, MosaicWarning
from mosaicvi.cli import run
from mosaicvi.data.read import mudata_as_it_is

CASES = Path(__file__).parents[2] / "shared" / "cases"
SMALL = {"dim_latent": 3, "dimensions": [6], "dim_block_enc": 4, "dim_block_dec": 4, "dim_block_embed": 2}
FEATURES = {"rna": [f"G{i}" for i in range(12)], "adt": [f"P{i}" for i in range(6)]}


def cells(n: int, batch: Any, seed: int) -> MuData:
    rng = np.random.default_rng(seed)
    index = pd.Index([f"cell{seed}-{i}" for i in range(n)])
    mods = {
        name: AnnData(
            sp.csr_matrix(rng.poisson(6.0, (n, len(names))).astype(np.float32) + 1),
            obs=pd.DataFrame(index=index),
            var=pd.DataFrame(index=names),
        )
        for name, names in FEATURES.items()
    }
    return mudata_of(mods, pd.DataFrame({"batch": batch}, index=index))


def write(data: MuData, path: Path) -> Path:
    with mudata_as_it_is(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write_h5mu(path)
    return path


def read(path: Path) -> MuData:
    with mudata_as_it_is(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.read_h5mu(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of one h5mu file with two batches."""
    folder = tmp_path_factory.mktemp("cases")
    path = write(cells(120, np.resize(["one", "two"], 120), 0), folder / "reference.h5mu")
    (folder / "small.toml").write_text(
        "[network]\ndim_latent = 3\ndimensions = [6]\n"
        + "".join(f"{key} = 4\n" for key in ("dim_block_enc", "dim_block_dec", "dim_block_embed"))
    )
    ask = ["train", str(path), "--batch-key", "batch", "--config", str(folder / "small.toml"), "-q"]
    assert run([*ask, "-o", str(folder / "model"), "--max-epochs", "2"]) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def query() -> MuData:
    """Cells of a known batch; so few that nothing is concluded of how they are stained."""
    return cells(25, "two", 1)


def mapped(model: Path, query: Path, *options: str) -> MuData:
    """What the command makes of it."""
    out = query.parent / "mapped.h5mu"
    assert run(["map", str(model), str(query), *options, "-q", "--overwrite", "-o", str(out)]) == 0
    found = read(out)
    assert set(found.mod) == {"rna", "adt"}
    for a in found.mod.values():
        assert np.isfinite(a.X).all()
    assert np.isfinite(found.obsm["X_umap"]).all()
    return found


def in_python(model: Path, query: MuData | AnnData) -> tuple[np.ndarray, pd.DataFrame]:
    """Latent, and imputed proteins."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        opened = MosaicVI.load(model)
        made = MosaicVI.prepare_query(query, opened)
        latent = np.asarray(opened.get_latent_representation(made))
        return latent, opened.get_imputed_values(made, modality="adt")


def assert_as_in_python(found: MuData, model: Path, query: MuData | AnnData) -> None:
    latent, proteins = in_python(model, query)
    cells_ = list(proteins.index)
    at = found.obs_names.get_indexer(cells_)
    assert sorted(at) == list(range(len(cells_)))
    np.testing.assert_allclose(found.obsm["X_mosaicvi"][at], latent, atol=1e-5)
    there = pd.DataFrame(found["adt"].X, found["adt"].obs_names, found["adt"].var_names)
    np.testing.assert_allclose(there.loc[cells_, proteins.columns], proteins, rtol=1e-4)


def test_the_same_features_of_a_known_batch(model: Path, query: MuData, tmp_path: Path) -> None:
    assert_as_in_python(mapped(model, write(query, tmp_path / "q.h5mu")), model, query)


@pytest.mark.parametrize("modality", ["rna", "adt"])
def test_one_modality_alone(model: Path, query: MuData, tmp_path: Path, modality: str) -> None:
    alone = query[modality].copy()
    alone.obs["batch"] = "two"
    alone.write_h5ad(tmp_path / "q.h5ad")
    found = mapped(model, tmp_path / "q.h5ad")
    assert found[modality].obs["measured"].all()
    assert not found["rna" if modality == "adt" else "adt"].obs["measured"].any()
    assert_as_in_python(found, model, alone)


def test_half_of_the_features(
    model: Path, query: MuData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = mudata_of(
        {name: a[:, : a.n_vars // 2].copy() for name, a in query.mod.items()}, query.obs[["batch"]]
    )
    found = mapped(model, write(half, tmp_path / "q.h5mu"))
    assert found["adt"].n_vars == 6
    assert found.uns["mosaicvi"]["features"].loc["rna", "in_the_data"] == 6
    assert_as_in_python(found, model, half)


def test_another_order_of_cells_and_features(model: Path, query: MuData, tmp_path: Path) -> None:
    turned = mudata_of(
        {name: a[::-1, ::-1].copy() for name, a in query.mod.items()}, query.obs[["batch"]].iloc[::-1]
    )
    assert_as_in_python(mapped(model, write(turned, tmp_path / "q.h5mu")), model, query)


def test_a_new_batch_and_none_are_decoded_alike(
    model: Path, query: MuData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for name, obs, words in (
        ("new", query.obs.assign(batch="three"), "has 'three', which the model has not seen"),
        ("none", query.obs.drop(columns="batch"), "there is no obs column 'batch'"),
    ):
        other = mudata_of({name: a.copy() for name, a in query.mod.items()}, obs)
        found.append(mapped(model, write(other, tmp_path / f"{name}.h5mu")))
        assert words in capsys.readouterr().err
    for name in FEATURES:
        np.testing.assert_array_equal(found[0][name].X, found[1][name].X)
    np.testing.assert_array_equal(found[0].obsm["X_mosaicvi"], found[1].obsm["X_mosaicvi"])
    assert not np.array_equal(found[0]["adt"].X, in_python(model, query)[1].to_numpy())


def test_a_10x_folder_into_a_model_of_an_h5mu(model: Path, query: MuData, tmp_path: Path) -> None:
    folder = tmp_path / "filtered_feature_bc_matrix"
    folder.mkdir()
    kinds = {"rna": "Gene Expression", "adt": "Antibody Capture"}
    lines = [f"{name}\t{name}\t{kinds[m]}" for m, a in query.mod.items() for name in a.var_names]
    with gzip.open(folder / "features.tsv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as file:
        file.write("\n".join(query.obs_names) + "\n")
    both = sp.hstack([a.X for a in query.mod.values()]).T
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, both.tocoo().astype(int), field="integer")
    found = mapped(model, folder, "--take-as", "batch=two")
    assert_as_in_python(found, model, query)


@pytest.mark.skipif(not CASES.exists(), reason="the collection of inputs is not there")
def test_one_file_of_two(tmp_path: Path) -> None:
    files = [shutil.copy(CASES / "one-file-of-two" / name, tmp_path / name) for name in ("a.h5ad", "b.h5ad")]
    model = tmp_path / "model"
    assert run(["train", *map(str, files), "-o", str(model), "--max-epochs", "1", "-q"]) == 0
    out = tmp_path / "mapped.h5mu"
    assert run(["map", str(model), str(files[0]), "-q", "-o", str(out)]) == 0
    found = read(out)
    assert found.n_obs == 80
    opened = MosaicVI.load(model)
    names = opened.registry.categories["dataset"]
    assert set(found.obs["dataset"]) == {"a"} <= set(names)
