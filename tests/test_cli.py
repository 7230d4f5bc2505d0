"""The commands on a tiny mosaic: what they write is what the model answers."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import warnings
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from tests import processes

import mosaicvi
from mosaicvi import MosaicVI, MosaicWarning
from mosaicvi.cli import run
from mosaicvi.cli.app import app
from mosaicvi.data.read import mudata_as_it_is, read
from mosaicvi.datasets import simulated_mosaic

COMMANDS = (
    "demo",
    "inspect",
    "combine",
    "train",
    "describe",
    "embed",
    "impute",
    "label",
    "compare",
    "map",
    "report",
)


def read_h5mu(path: Path) -> MuData:
    with mudata_as_it_is():
        return mudata.read_h5mu(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mosaic.h5mu, one modality as rna.h5ad, and the model of the first in model/."""
    folder = tmp_path_factory.mktemp("cli")
    data = simulated_mosaic(200, n_genes=30, n_proteins=6, n_peaks=40, n_chromosomes=2).mdata
    with mudata_as_it_is():
        data.write_h5mu(folder / "mosaic.h5mu")
    rna = data["rna"].copy()
    rna.obs["batch"] = data.obs.loc[rna.obs_names, "batch"]
    rna.layers["counts"] = rna.X.copy()
    rna.write_h5ad(folder / "rna.h5ad")
    arguments = ["--batch-key", "batch", "--max-epochs", "2", "--batch-size", "64", "--seed", "3", "-q"]
    assert run(["train", str(folder / "mosaic.h5mu"), "-o", str(folder / "model"), *arguments]) == 0
    return folder


def loaded(folder: Path) -> MosaicVI:
    with mudata_as_it_is():
        return MosaicVI.load(folder / "model", mudata.read_h5mu(folder / "mosaic.h5mu"))


# --- help ---------------------------------------------------------------------------------------


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"mosaicvi {mosaicvi.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert re.search(rf"^\W+mosaicvi {command}\b", capsys.readouterr().out, re.MULTILINE)


def test_these_are_all_commands() -> None:
    assert {c.name for c in app.registered_commands} == set(COMMANDS)


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train"]) == 2
    assert run(["nonsense"]) == 2
    assert "Traceback" not in capsys.readouterr().err


# --- inspect, combine ---------------------------------------------------------------------------


def test_inspect_prints_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(folder / "mosaic.h5mu"), "--batch-key", "batch"]) == 0
    out = capsys.readouterr().out
    assert "200 cells, 5 batches" in out
    assert "rna + adt" in out


def test_inspect_json_and_plot(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "p.png"
    files = [str(folder / "mosaic.h5mu"), str(folder / "rna.h5ad")]
    assert run(["inspect", *files, "--json", "--plot", str(picture)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["batches"] == ["mosaic", "rna"]
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.fixture
def two_tables(tmp_path: Path) -> tuple[str, str]:
    """rna.csv and proteins.csv of the same twelve cells, whose names end in -1 in one of them."""
    rng = np.random.default_rng(0)
    codes = ["".join(rng.choice(list("ACGT"), 16)) for _ in range(12)]
    for name, letters, end in (("rna", "ABC", "-1"), ("proteins", "xy", "")):
        cells = [f"{code}{end}" for code in codes]
        values = pd.DataFrame(rng.poisson(3, (12, len(letters))), cells, list(letters))
        values.to_csv(tmp_path / f"{name}.csv")
    return str(tmp_path / "rna.csv"), str(tmp_path / "proteins.csv")


def test_tables_of_the_same_cells_are_combined_by_name(
    two_tables: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rna, adt = two_tables
    out = str(tmp_path / "m.h5mu")
    ask = [f"GSM1={rna}", f"GSM1={adt}", "--as", "proteins.csv=adt", "--orientation", "cells"]
    assert run(["combine", *ask, "-o", out]) == 2
    assert "GSM1: the name of rna and proteins; add --pair if they are of the same cells" in (
        capsys.readouterr().err
    )
    assert run(["combine", *ask, "--pair", "-o", out]) == 0
    said = capsys.readouterr().err
    assert "12 names of cells agree without '-1'" in said
    assert "connects" not in said
    mdata = read_h5mu(Path(out))
    assert set(mdata.obs["dataset"]) == {"GSM1"}
    assert list(mdata.obs_names) == list(pd.read_csv(rna, index_col=0).index)
    assert (mdata["adt"].X.toarray() == pd.read_csv(adt, index_col=0).to_numpy()).all()


def test_combine_says_that_nothing_connects_what_it_wrote(
    two_tables: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = [*two_tables, "--as", "proteins=adt", "--orientation", "cells", "-q"]
    assert run(["combine", *ask, "-o", str(tmp_path / "m.h5mu")]) == 0
    said = capsys.readouterr().err
    assert "If they are the same cells, --pair makes them one" in said
    assert "nothing connects them: (1) rna: rna; (2) proteins: adt" in said
    assert "No cell and no chain of modalities connects rna and adt" in said


def test_combine_keeps_all_cells(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "c.h5mu"
    arguments = [f"one={folder / 'mosaic.h5mu'}", f"two={folder / 'rna.h5ad'}"]
    assert run(["combine", *arguments, "--match", "rna=case", "-o", str(output)]) == 0
    combined, first, second = read_h5mu(output), read(folder / "mosaic.h5mu"), read(folder / "rna.h5ad")
    assert combined.n_obs == first.n_obs + second.n_obs
    assert set(combined.obs["dataset"]) == {"one", "two"}
    assert combined["rna"].X.sum() == first["rna"].X.sum() + second.X.sum()
    assert not [c for c in combined.obs if ":" in c]


# --- train --------------------------------------------------------------------------------------


def test_train_is_what_the_api_does(folder: Path) -> None:
    mdata = read(folder / "mosaic.h5mu")
    model = MosaicVI(MosaicVI.setup_mudata(mdata, batch_key="batch"), seed=3)
    model.train(2, batch_size=64, seed=3, progress=False)
    again = loaded(folder)
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())
    pd.testing.assert_frame_equal(again.history, model.history)


def test_config_and_options(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        "[network]\nn_latent = 5\nn_hidden = 24\np_feat = 0.1\n"
        "gamma = {start = 1.0, decay = 0.5}\npreset = 'published'\n"
        "[train]\nmax_epochs = 9\nweight_decay = 0\nbatch_size = 64\n"
        "[setup]\nlayers = {rna = 'counts'}\nlikelihoods = {rna = 'Poisson'}\n"
    )
    arguments = [
        "-o",
        str(tmp_path / "m"),
        "--config",
        str(config),
        "--max-epochs",
        "1",
        "--batch-size",
        "50",
        "-q",
    ]
    arguments += ["--likelihood", "rna=ZINB", "--categorical-covariate", "batch", "--panel-key", "batch"]
    assert run(["train", str(folder / "rna.h5ad"), *arguments]) == 0
    model = MosaicVI.load(tmp_path / "m", read(folder / "rna.h5ad"))
    assert (model.config.dim_latent, model.config.p_feat, model.config.norm) == (5, 0.1, "batch")
    assert model.config.dimensions == (24,)
    assert (model.config.gamma.start, model.config.gamma.decay) == (1.0, 0.5)
    assert model.config.dist_block == ("ZINB",)
    assert model.registry.setup.layers == {"rna": "counts"}
    assert model.registry.setup.categorical_covariate_keys == ("batch",)
    assert len(model.history) == 1


def test_several_files_train_together_and_embed(folder: Path, tmp_path: Path) -> None:
    data = simulated_mosaic(100, n_genes=30, n_proteins=6, n_peaks=40).truth
    files = []
    for name in ("rna", "adt"):
        part = data[name][: 60 if name == "rna" else 50].copy()
        part.layers.clear()
        part.write_h5ad(tmp_path / f"{name}.h5ad")
        files.append(str(tmp_path / f"{name}.h5ad"))
    model, out = str(tmp_path / "m"), tmp_path / "e.h5mu"
    assert (
        run(
            ["train", *files, "--as", "adt=adt", "-o", model, "--max-epochs", "1", "--batch-size", "50", "-q"]
        )
        == 0
    )
    assert run(["embed", model, *files, "--as", "adt=adt", "-o", str(out), "-q"]) == 0
    embedded = read_h5mu(out)
    assert embedded.obsm["X_mosaicvi"].shape == (110, 32)
    assert list(embedded.obs["dataset"].unique()) == ["rna", "adt"]


def test_an_output_is_replaced_only_with_overwrite(folder: Path, tmp_path: Path) -> None:
    arguments = ["train", str(folder / "rna.h5ad"), "-o", str(tmp_path / "m"), "--panel-key", "batch"]
    arguments += ["--max-epochs", "1", "--batch-size", "50", "-q"]
    assert run(arguments) == 0
    before = (tmp_path / "m" / "model.json").read_bytes()
    assert run(arguments) == 2
    assert (tmp_path / "m" / "model.json").read_bytes() == before
    assert run([*arguments, "--overwrite", "--seed", "1"]) == 0
    assert (tmp_path / "m" / "model.json").read_bytes() != before


# --- label --------------------------------------------------------------------------------------


def test_label_writes_what_the_model_says(folder: Path, tmp_path: Path) -> None:
    data = read_h5mu(folder / "mosaic.h5mu")
    labels = data.obs["cell_type"].astype(str).mask(np.arange(200) % 3 == 0, "none yet")
    data.obs["cell_type"] = labels
    with mudata_as_it_is():
        data.write_h5mu(tmp_path / "m.h5mu")
    given = ["label", str(folder / "model"), str(tmp_path / "m.h5mu"), "--label-key", "cell_type"]
    given += ["--unlabeled", "none yet", "-q"]
    assert run([*given, "-o", str(tmp_path / "l.csv")]) == 0
    model = MosaicVI.load(folder / "model", data)
    wanted = model.predict_labels("cell_type", unlabeled="none yet")
    table = pd.read_csv(tmp_path / "l.csv", index_col="cell")
    assert table["given"].isna().tolist() == (np.arange(200) % 3 == 0).tolist()
    pd.testing.assert_frame_equal(table, wanted.rename_axis("cell"), check_dtype=False)
    assert run([*given, "-o", str(tmp_path / "l.h5mu")]) == 0
    written = read_h5mu(tmp_path / "l.h5mu")
    assert written.obs["predicted_label"].astype(str).tolist() == wanted["label"].tolist()
    np.testing.assert_allclose(written.obs["predicted_probability"], wanted["probability"])
    assert written.uns["mosaicvi"]["labels"]["label_key"] == "cell_type"
    assert written.obs["cell_type"].astype(str).tolist() == labels.tolist()


# --- compare ------------------------------------------------------------------------------------


def test_compare_writes_what_the_model_says(folder: Path, tmp_path: Path) -> None:
    data, out = folder / "mosaic.h5mu", tmp_path / "de.csv"
    given = ["compare", str(folder / "model"), str(data), "--groupby", "cell_type", "-q", "-o", str(out)]
    given += [
        "--modality",
        "adt",
        "--modality",
        "rna",
        "--group1",
        "type01",
        "--mode",
        "vanilla",
        "--fdr",
        "0.1",
    ]
    assert run(given) == 0
    found = pd.read_csv(out, index_col="feature")
    assert list(dict.fromkeys(found["modality"])) == ["adt", "rna"]
    ask = {"groupby": "cell_type", "group1": "type01", "mode": "vanilla", "fdr_target": 0.1}
    mdata = read_h5mu(data)
    model = MosaicVI.load(folder / "model", mdata)
    wanted = model.differential_expression(modality="rna", **ask)
    rna = found[found["modality"] == "rna"].drop(columns="modality").rename_axis(None)
    pd.testing.assert_frame_equal(rna, wanted, check_flags=False)


# --- embed --------------------------------------------------------------------------------------


def test_embed_keeps_the_data_and_adds_the_latent(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.h5mu"
    assert run(["embed", str(folder / "model"), str(folder / "mosaic.h5mu"), "-o", str(out), "-q"]) == 0
    before, after = read_h5mu(folder / "mosaic.h5mu"), read_h5mu(out)
    np.testing.assert_array_equal(after.obsm["X_mosaicvi"], loaded(folder).get_latent_representation())
    assert list(after.obs.columns) == list(before.obs.columns)
    assert after.obs_names.equals(before.obs_names)
    for name in before.mod:
        assert (after[name].X != before[name].X).nnz == 0
        pd.testing.assert_frame_equal(after[name].varm["measured"], before[name].varm["measured"])


def test_embed_h5ad_and_csv(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # compiling it takes longer than all of this
    model, data = str(folder / "model"), str(folder / "rna.h5ad")
    assert run(["embed", model, data, "-o", str(tmp_path / "e.h5ad"), "--umap", "-q"]) == 0
    assert run(["embed", model, data, "-o", str(tmp_path / "e.csv"), "-q"]) == 0
    adata = anndata.read_h5ad(tmp_path / "e.h5ad")
    table = pd.read_csv(tmp_path / "e.csv", index_col="cell")
    assert adata.obsm["X_umap"].shape == (adata.n_obs, 2)
    np.testing.assert_allclose(adata.obsm["X_mosaicvi"], table.to_numpy(), rtol=1e-5)
    assert list(table.index) == list(adata.obs_names)


def test_features_that_the_data_lack_may_be_taken_as_not_measured(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, full, some = str(folder / "model"), anndata.read_h5ad(folder / "rna.h5ad"), tmp_path / "some.h5ad"
    full[:, 10:].copy().write_h5ad(some)
    assert run(["embed", model, str(some), "-o", str(tmp_path / "e.h5ad"), "-q"]) == 2
    assert "--allow-missing" in " ".join(capsys.readouterr().err.split())
    allowed = [model, str(some), "--allow-missing", "-q", "-o"]
    assert run(["embed", *allowed, str(tmp_path / "e.h5ad")]) == 0
    embedded = anndata.read_h5ad(tmp_path / "e.h5ad")
    assert embedded.shape == (full.n_obs, full.n_vars - 10)
    prepared = MosaicVI.prepare_query(full[:, 10:].copy(), loaded(folder))
    wanted = loaded(folder).get_latent_representation(prepared)
    np.testing.assert_array_equal(embedded.obsm["X_mosaicvi"], wanted)
    assert run(["impute", *allowed, str(tmp_path / "i.h5ad"), "--modality", "rna"]) == 0
    assert anndata.read_h5ad(tmp_path / "i.h5ad").shape == full.shape


def test_proteins_in_obsm_are_trained_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata = anndata.read_h5ad(folder / "rna.h5ad")
    counts = np.random.default_rng(0).poisson(4.0, (adata.n_obs, 5))
    adata.obsm["protein_expression"] = pd.DataFrame(counts, adata.obs_names, [f"P{i}" for i in range(5)])
    adata.write_h5ad(tmp_path / "cite.h5ad")
    data, model = str(tmp_path / "cite.h5ad"), str(tmp_path / "model")
    short = ["--max-epochs", "1", "--batch-size", "32", "-q"]
    with warnings.catch_warnings():
        warnings.simplefilter("default", MosaicWarning)
        assert run(["train", data, "--batch-key", "batch", "-o", model, *short]) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert "its 5 proteins are read as the modality 'adt'; --modality rna leaves them out" in said
        assert run(["impute", model, data, "--modality", "adt", "-o", str(tmp_path / "i.h5mu"), "-q"]) == 0
        assert read_h5mu(tmp_path / "i.h5mu")["adt"].shape == (adata.n_obs, 5)
        loaded = MosaicVI.load(model, adata)
    assert [m.name for m in loaded.mosaic.modalities] == ["rna", "adt"]
    np.testing.assert_array_equal(loaded.mosaic.modalities[1].x.toarray(), counts)


def test_embed_may_see_less(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.h5mu"
    arguments = ["-o", str(out), "--modality", "rna", "-q"]
    assert run(["embed", str(folder / "model"), str(folder / "mosaic.h5mu"), *arguments]) == 0
    wanted = loaded(folder).get_latent_representation(modalities=["rna"])
    np.testing.assert_array_equal(read_h5mu(out).obsm["X_mosaicvi"], wanted)


def test_reading_and_writing_the_same_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.h5mu"
    path.write_bytes((folder / "mosaic.h5mu").read_bytes())
    assert run(["embed", str(folder / "model"), str(path), "-o", str(path), "--overwrite", "-q"]) == 0
    assert "X_mosaicvi" in read_h5mu(path).obsm
    assert run(["impute", str(folder / "model"), str(path), "-o", str(path), "--overwrite", "-q"]) == 0
    assert read_h5mu(path)["adt"].n_obs == 200
    assert [p.name for p in tmp_path.iterdir()] == ["same.h5mu"]


def test_several_modalities_are_no_h5ad(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("embed", "impute"):
        arguments = [str(folder / "model"), str(folder / "mosaic.h5mu"), "-o", str(tmp_path / "o.h5ad")]
        assert run([command, *arguments]) == 2
        assert "name an .h5mu" in capsys.readouterr().err


# --- impute -------------------------------------------------------------------------------------


def test_impute_writes_all_cells(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "i.h5mu"
    arguments = ["-o", str(out), "--batch-size", "64", "-q"]
    assert run(["impute", str(folder / "model"), str(folder / "mosaic.h5mu"), *arguments]) == 0
    imputed, data, model = read_h5mu(out), read_h5mu(folder / "mosaic.h5mu"), loaded(folder)
    assert list(imputed.mod) == ["rna", "adt", "atac"]
    assert imputed.obs_names.equals(data.obs_names)
    assert list(imputed.obs.columns) == ["batch", "group", "cell_type"]
    for name in imputed.mod:
        wanted = model.get_imputed_values(modality=name)
        np.testing.assert_allclose(imputed[name].X, wanted.to_numpy(), rtol=1e-5, atol=1e-6)
        assert imputed[name].X.dtype == np.float32
        assert list(imputed[name].var_names) == list(wanted.columns) == list(data[name].var_names)
        measured = data.obs_names.isin(data[name].obs_names)
        np.testing.assert_array_equal(imputed[name].obs["measured"].to_numpy(bool), measured)
        assert imputed[name].uns["mosaicvi"]["scale"] == wanted.attrs["scale"]
        assert imputed[name].uns["mosaicvi"]["batch"] == wanted.attrs["batch"]
        pd.testing.assert_frame_equal(imputed[name].varm["measured"], data[name].varm["measured"])


def test_impute_only_missing_cells_into_h5ad(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "i.h5ad"
    arguments = ["-o", str(out), "--modality", "adt", "--cells", "missing", "--n-samples", "3", "-q"]
    assert run(["impute", str(folder / "model"), str(folder / "mosaic.h5mu"), *arguments]) == 0
    imputed, data = anndata.read_h5ad(out), read_h5mu(folder / "mosaic.h5mu")
    missing = data.obs_names[~data.obs_names.isin(data["adt"].obs_names)]
    assert list(imputed.obs_names) == list(missing)
    assert not imputed.obs["measured"].any()
    assert list(imputed.obs["batch"]) == list(data.obs.loc[missing, "batch"])
    assert imputed.uns["mosaicvi"]["n_samples"] == 3
    wanted = loaded(folder).get_imputed_values(modality="adt", indices=list(missing), n_samples=3)
    np.testing.assert_allclose(imputed.X, wanted.to_numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("said", "meant"), [(["mean"], "mean"), (["A", "D"], ["A", "D"])], ids=str)
def test_impute_as_another_batch(
    folder: Path, tmp_path: Path, said: list[str], meant: str | list[str]
) -> None:
    out = tmp_path / "i.h5ad"
    arguments = ["-o", str(out), "--modality", "adt", "-q", *(a for b in said for a in ("--as-batch", b))]
    assert run(["impute", str(folder / "model"), str(folder / "mosaic.h5mu"), *arguments]) == 0
    imputed = anndata.read_h5ad(out)
    wanted = loaded(folder).get_imputed_values(modality="adt", transform_batch=meant)
    np.testing.assert_allclose(imputed.X, wanted.to_numpy(), rtol=1e-5, atol=1e-6)
    assert imputed.uns["mosaicvi"]["batch"] == wanted.attrs["batch"]


def test_impute_into_tables(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["impute", str(folder / "model"), str(folder / "mosaic.h5mu"), "-o", str(tmp_path / "adt.csv")]
    assert run(ask) == 2
    assert "a table holds one modality; choose it with --modality" in capsys.readouterr().err
    more = ["--modality", "adt", "--interval", "0.8", "--accuracy-table", str(tmp_path / "accuracy.csv")]
    assert run([*ask, *more]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *("adt.csv", "adt.lower.csv", "adt.upper.csv", "accuracy.csv"),
    }
    model = loaded(folder)
    ends = model.get_imputed_intervals(modality="adt", level=0.8)
    values = model.get_imputed_values(modality="adt", scale="log1p_cp10k")
    for name, wanted in (("adt", values), ("adt.lower", ends.lower), ("adt.upper", ends.upper)):
        found = pd.read_csv(tmp_path / f"{name}.csv", index_col="cell")
        pd.testing.assert_frame_equal(found, wanted, check_dtype=False, check_names=False, rtol=1e-4)
    accuracy = pd.read_csv(tmp_path / "accuracy.csv")
    pd.testing.assert_frame_equal(accuracy, model.imputation_accuracy(modality="adt"), check_dtype=False)


def test_impute_with_intervals(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "i.h5mu"
    arguments = ["-o", str(out), "--interval", "0.8", "--batch-size", "64"]
    assert run(["impute", str(folder / "model"), str(folder / "mosaic.h5mu"), *arguments]) == 0
    said = capsys.readouterr().err
    imputed, model = read_h5mu(out), loaded(folder)
    assert "adt: that is the scale of intervals; counts by --scale counts" in said
    without = [b for b in model.registry.categories["batch"] if b not in model.registry.measured_in["adt"]]
    n = int(np.isin(imputed.obs["batch"].astype(str), without).sum())
    words = f"{n} of 200 cells are of batches of which the model knows no adt ("
    assert f"adt: {words}" in said
    assert imputed["adt"].uns["mosaicvi"]["interval_note"].startswith(words)
    for name in imputed.mod:
        found = imputed[name]
        for layer, wanted in zip(
            ("lower", "upper"), model.get_imputed_intervals(modality=name, level=0.8), strict=True
        ):
            np.testing.assert_allclose(found.layers[layer], wanted.to_numpy(), rtol=1e-4, atol=1e-4)
        assert found.uns["mosaicvi"]["interval"] == 0.8
        assert found.uns["mosaicvi"]["scale_kind"] == model.interval_scale(name).kind


def test_impute_with_an_impossible_interval(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-o", str(tmp_path / "i.h5mu"), "--interval", "1.5"]
    assert run(["impute", str(folder / "model"), str(folder / "mosaic.h5mu"), *arguments]) == 2
    assert "--interval: above 0 and up to 0.99, not 1.5" in capsys.readouterr().err


def test_impute_as_a_batch_that_measured_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-o", str(tmp_path / "i.h5ad"), "--modality", "adt", "--as-batch", "C"]
    assert run(["impute", str(folder / "model"), str(folder / "mosaic.h5mu"), *arguments]) == 2
    assert "--as-batch: 'C' did not measure adt; use 'mean' or one of 'A', 'D'" in capsys.readouterr().err


def test_impute_what_the_data_lack(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "i.h5mu"
    assert run(["impute", str(folder / "model"), str(folder / "rna.h5ad"), "-o", str(out), "-q"]) == 0
    imputed = read_h5mu(out)
    assert imputed["adt"].n_obs == imputed["rna"].n_obs == read(folder / "rna.h5ad").n_obs
    assert imputed["rna"].obs["measured"].all()
    assert not imputed["adt"].obs["measured"].any()
    assert (imputed["adt"].X > 0).all()


def test_impute_missing_where_nothing_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-o", str(tmp_path / "i.h5mu"), "--modality", "rna", "--cells", "missing"]
    assert run(["impute", str(folder / "model"), str(folder / "rna.h5ad"), *arguments]) == 2
    assert "--cells all" in capsys.readouterr().err


def test_parts_of_the_cells_are_together_the_whole(folder: Path, tmp_path: Path) -> None:
    given = [str(folder / "model"), str(folder / "mosaic.h5mu"), "-q"]
    model, tables, cells = loaded(folder), [], []
    for part in ("1/3", "2/3", "3/3"):
        assert run(["embed", *given, "--cells", part, "-o", str(tmp_path / "z.csv"), "--overwrite"]) == 0
        tables.append(pd.read_csv(tmp_path / "z.csv", index_col="cell"))
        arguments = ["--modality", "adt", "--cells", "missing", "--cells", part, "--overwrite"]
        assert run(["impute", *given, *arguments, "-o", str(tmp_path / "i.h5ad")]) == 0
        cells += list(anndata.read_h5ad(tmp_path / "i.h5ad").obs_names)
    table = pd.concat(tables)
    assert list(table.index) == list(model.mosaic.cells)
    np.testing.assert_allclose(table.to_numpy(), model.get_latent_representation(), rtol=1e-4, atol=1e-5)
    data = read_h5mu(folder / "mosaic.h5mu")
    assert cells == list(data.obs_names[~data.obs_names.isin(data["adt"].obs_names)])


def test_a_part_of_the_data_with_its_latent(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.h5mu"
    given = [str(folder / "model"), str(folder / "mosaic.h5mu"), "-q"]
    assert run(["embed", *given, "--cells", "2/4", "-o", str(out)]) == 0
    part, n = read_h5mu(out), read_h5mu(folder / "mosaic.h5mu").n_obs
    cells = np.arange(n)[n // 4 : 2 * n // 4]
    assert list(part.obs_names) == list(loaded(folder).mosaic.cells[cells])
    latent = loaded(folder).get_latent_representation(indices=cells)
    np.testing.assert_allclose(part.obsm["X_mosaicvi"], latent, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("command", "cells", "says"),
    [
        ("embed", ["3/2"], "write I/N"),
        ("embed", ["0/2"], "write I/N"),
        ("embed", ["missing"], "write I/N"),
        ("embed", ["1/99999"], "ask for at most"),
        ("impute", ["some"], "write all, missing or I/N"),
        ("impute", ["1/2", "2/2"], "each at most once"),
        ("impute", ["1/99999"], "ask for at most"),
    ],
)
def test_parts_that_cannot_be(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    cells: list[str],
    says: str,
) -> None:
    which = [word for text in cells for word in ("--cells", text)]
    given = [str(folder / "model"), str(folder / "mosaic.h5mu"), "-o", str(tmp_path / "out.h5mu")]
    assert run([command, *given, *which]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out.h5mu").exists()


# --- what ends early ----------------------------------------------------------------------------


OFTEN = "from mosaicvi.fit import progress; progress.LINE_EVERY = 0.5; from mosaicvi.cli import main; main()"


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_with_its_code(
    number: signal.Signals, code: int, folder: Path, tmp_path: Path
) -> None:
    model, checkpoints = tmp_path / "m", tmp_path / "ckpt"
    arguments = ["train", str(folder / "mosaic.h5mu"), "--batch-key", "batch", "-o", str(model)]
    keep = ["--checkpoint", str(checkpoints)] if number == signal.SIGTERM else []
    said = tmp_path / "said"
    given = [*arguments, "--max-epochs", "100000", "--batch-size", "64", *keep]
    process = processes.start(["-c", OFTEN, *given], err=said)
    while not said.exists() or "/100000 ·" not in said.read_text():
        assert process.is_alive(), said.read_text()
        time.sleep(0.05)
    time.sleep(0.3)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(timeout=60)
    rest = said.read_text()
    assert process.exitcode == code, rest
    assert "Traceback" not in rest
    assert "Stopped after" in rest
    if keep:
        assert "--resume" in rest
        assert "No model was written yet" in rest
        assert "resume=True" not in rest
        assert "can be used as it is" not in rest
        assert not model.exists()
        assert any(checkpoints.iterdir())
    else:
        assert MosaicVI.load(model, read(folder / "mosaic.h5mu")).is_trained


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits")
@pytest.mark.parametrize("when", ["at once", "in the middle"])
def test_a_full_disk_leaves_what_was_there(when: str, folder: Path, tmp_path: Path) -> None:
    """The size of a file is limited, so that first HDF5 and then we ourselves meet the end of the room."""
    out = tmp_path / "i.h5mu"
    arguments = ["impute", str(folder / "model"), str(folder / "mosaic.h5mu"), "-o", str(out), "-q"]
    limit = 20_000
    if when == "in the middle":
        assert run(arguments) == 0
        limit = out.stat().st_size - 5_000
    out.write_text("old")
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from mosaicvi.cli import main; main()"
    )
    done = processes.run(["-c", code, *arguments, "--overwrite"])
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {out} could not be written")
    assert done.stderr.count("\n") == 1
    assert out.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["i.h5mu"]


def test_a_loss_that_is_no_number_exits_with_1(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(*args: object, **kwargs: object) -> None:
        raise mosaicvi.NonFiniteLossError("the loss of 'rna' is not a number", modality="rna")

    monkeypatch.setattr(MosaicVI, "train", explode)
    assert (
        run(["train", str(folder / "rna.h5ad"), "-o", str(tmp_path / "m"), "--panel-key", "batch", "-q"]) == 1
    )
    assert capsys.readouterr().err == "error: the loss of 'rna' is not a number\n"
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", ["batch", "Donor_ID", "orig.sample"])
def test_a_column_of_batches_is_suggested_where_none_is_given(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adata = simulated_mosaic(60, n_genes=20, n_proteins=5, n_peaks=20).mdata.mod["rna"].copy()
    del adata.varm["measured"]
    adata.obs.columns = adata.obs.columns.map(lambda c: f"other_{c}")
    adata.obs["library"] = np.linspace(1, 2, adata.n_obs)
    adata.obs[name] = np.where(np.arange(adata.n_obs) % 2, "one", "two")
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert run(["inspect", str(tmp_path / "a.h5ad")]) == 0
    said = capfd.readouterr().err
    assert (f"--batch-key {name}" in said) == (name != "orig.sample")
    assert run(["inspect", str(tmp_path / "a.h5ad"), "--batch-key", name]) == 0
    assert "add --batch-key" not in capfd.readouterr().err


def test_panels_without_a_batch_key_name_the_option(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in (["inspect"], ["train", "-o", str(tmp_path / "m")]):
        assert run([*command, str(folder / "mosaic.h5mu")]) == 2
        said = capfd.readouterr().err
        assert "perhaps --batch-key batch" in said or "--batch-key batch perhaps" in said
        assert "batch_key" not in said
