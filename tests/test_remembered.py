"""Choices of reading are remembered by a saved model, and made for the files that it is given later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mosaicvi import MosaicVI, combine
from mosaicvi.cli import run
from mosaicvi.data.read.remembered import checked, note_reading, noted_reading
from mosaicvi.store.format import load_document

pytestmark = pytest.mark.filterwarnings("ignore")
RNA = [f"g{i}" for i in range(20)]


def counts(seed: int, n: int = 40, *, names: str = "c") -> AnnData:
    x = np.random.default_rng(seed).poisson(3, (n, 20)).astype(np.float32)
    x[:5, 4:] = 0
    return AnnData(x, obs=pd.DataFrame(index=[f"{names}{i}" for i in range(n)]), var=pd.DataFrame(index=RNA))


def train(folder: Path, *arguments: str) -> Path:
    model = folder / "model"
    options = ["--max-epochs", "1", "-q", "--output", str(model)]
    assert run(["train", *arguments, *options]) == 0
    return model


def embedded(model: Path, *arguments: str) -> pd.DataFrame:
    out = model.with_suffix(".csv")
    assert run(["embed", str(model), *arguments, "--output", str(out), "--overwrite"]) == 0
    return pd.read_csv(out, index_col=0)


def test_cuts_and_missing_zeros_of_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = counts(0)
    a.obs["batch"] = np.repeat(["x", "y"], 20)
    a.X[20:, 3] = 0
    a.write_h5ad(tmp_path / "a.h5ad")
    said = ["--min-counts", "20", "--zeros-missing", "rna", "--batch-key", "batch"]
    model = train(tmp_path, str(tmp_path / "a.h5ad"), *said)
    alone = embedded(model, str(tmp_path / "a.h5ad"))
    words = " ".join(capsys.readouterr().err.split())
    assert "Read as the data that the model was trained on: --min-counts rna=20 --zeros-missing rna" in words
    assert list(alone.index) == [f"c{i}" for i in range(5, 40)]
    again = embedded(model, str(tmp_path / "a.h5ad"), "--min-counts", "20", "--zeros-missing", "rna")
    assert "Read as" not in capsys.readouterr().err
    pd.testing.assert_frame_equal(alone, again)
    fewer = embedded(model, str(tmp_path / "a.h5ad"), "--min-counts", "0")
    assert len(fewer) == 40


@pytest.mark.parametrize("fractional", [False, True])
def test_some_cells_of_a_batch_lack_what_the_batch_lacked(tmp_path: Path, fractional: bool) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        data = counts(seed, names=name)
        data.X[:, 3] = 0 if name == "b" else data.X[:, 3]
        data.X[10:14, 7] = 0  # by chance, in the few cells that are asked for later
        if fractional:
            data.X = np.where(data.X > 0, 20 + np.log2(data.X + 1), 0).astype(np.float32)
        data.write_h5ad(tmp_path / f"{name}.h5ad")
        data[10:14].write_h5ad(tmp_path / f"few_{name}.h5ad")
    files = [str(tmp_path / f"{name}.h5ad") for name in "ab"]
    model = train(tmp_path, *files, "--zeros-missing", "rna")
    whole = embedded(model, *files)
    for name in "ab":
        few = embedded(model, f"{name}={tmp_path / f'few_{name}.h5ad'}")
        pd.testing.assert_frame_equal(few, whole.loc[few.index], rtol=0, atol=1e-5)
        assert len(few) == 4


def test_cuts_are_applied_to_values_that_would_stay_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "a.h5ad")
    counts(0).write_h5ad(path)
    model = train(tmp_path, path, "--min-counts", "20")
    alone = embedded(model, path)
    assert len(alone) == 35
    monkeypatch.setattr("mosaicvi.data.register.source.fits", lambda values: False)
    pd.testing.assert_frame_equal(embedded(model, path), alone)
    capsys.readouterr()
    out = str(tmp_path / "e.csv")
    assert run(["embed", str(model), path, "--on-disk", "--output", out]) == 2
    words = " ".join(capsys.readouterr().err.split())
    assert (
        "--on-disk: the model was trained with --min-counts rna=20, which needs the values in memory" in words
    )
    assert run(["combine", path, "--min-counts", "20", "--output", str(tmp_path / "cut.h5mu")]) == 0
    assert run(["embed", str(model), str(tmp_path / "cut.h5mu"), "--on-disk", "--output", out]) == 0
    np.testing.assert_array_equal(pd.read_csv(out, index_col=0).to_numpy(), alone.to_numpy())


def test_names_and_pairs_of_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rna, adt = counts(0).to_df(), counts(1).to_df().iloc[:, :6].add_prefix("p")
    rna.T.rename_axis("gene").to_csv(tmp_path / "first.csv")
    adt.T.rename_axis("protein").to_csv(tmp_path / "second.csv")
    files = [str(tmp_path / "first.csv"), str(tmp_path / "second.csv")]
    model = train(tmp_path, *files, "--as", "second=adt", "--as", "first=rna", "--pair")
    both = embedded(model, *files)
    words = " ".join(capsys.readouterr().err.split())
    assert "trained on: --as second=adt --as first=rna --pair" in words
    assert len(both) == 40


def test_layers_and_matrices_of_obsm_are_taken_where_they_are(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        data = counts(seed)
        if name != "c":
            data.layers["umis"] = data.X.copy()
            data.X = np.log1p(data.X)
            data.obsm["extra"] = np.random.default_rng(seed).poisson(2, (40, 4))
        data.write_h5ad(tmp_path / f"{name}.h5ad")
    a, b, c = (str(tmp_path / f"{name}.h5ad") for name in "abc")
    model = train(tmp_path, a, b, "--layer", "rna=umis", "--from-obsm", "adt=extra")
    both = embedded(model, a, b)
    alone = embedded(model, b)
    np.testing.assert_array_equal(both.to_numpy()[40:], alone.to_numpy())
    assert len(embedded(model, c)) == 40
    assert len(embedded(model, b, c)) == 80


def test_fractions_are_not_replaced_by_counts_beside_them(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        data = counts(seed)
        data.layers["counts"] = data.X.copy()
        data.X = np.log1p(data.X)
        data.write_h5ad(tmp_path / f"{name}.h5ad")
    files = [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]
    model = train(tmp_path, *files, "--likelihood", "rna=Gaussian")
    document: Any = load_document(model, kind="model")
    assert document["registry"]["whole"] == {"rna": False}
    assert len(embedded(model, *files)) == 80


def test_python_notes_it_as_well(tmp_path: Path) -> None:
    mdata = combine({"a": counts(0), "b": counts(1)}, zeros_missing=["rna"], min_counts={"rna": 20})
    model = MosaicVI(MosaicVI.setup_mudata(mdata, batch_key="dataset"), dim_latent=2)
    noted = {"zeros_missing": ["rna"], "min_counts": {"rna": 20}, "dataset_in_names": True}
    assert checked(model.registry.reading) == noted
    model.train(1, progress=False).save(tmp_path / "model")
    counts(1).write_h5ad(tmp_path / "b.h5ad")
    assert len(embedded(tmp_path / "model", str(tmp_path / "b.h5ad"))) == 35


@pytest.mark.parametrize(
    "noted",
    [
        "",
        "[",
        "[]",
        '{"zeros_missing": "rna"}',
        '{"min_counts": {"rna": "x"}}',
        '{"pair": 3, "other": "x"}',
        "[" * 9999,
    ],
)
def test_what_is_no_sound_note_is_none(noted: str) -> None:
    assert checked(noted) == {}


def test_notes_add_up() -> None:
    data = counts(0)
    assert noted_reading(data) == ""
    note_reading(data.uns, duplicates="error", rounded=(), columns=None)
    assert "mosaicvi" not in data.uns
    note_reading(data.uns, columns="^S")
    note_reading(data.uns, min_counts={"rna": 5}, rounded=["rna"])
    assert json.loads(noted_reading(data)) == {"columns": "^S", "min_counts": {"rna": 5}, "rounded": ["rna"]}
