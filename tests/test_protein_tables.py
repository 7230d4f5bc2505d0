"""Tables of proteins as MaxQuant and DIA-NN write them, from files to answers on the command line alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.builders import protein_tables

from mosaicvi import read_mudata
from mosaicvi.cli import run
from mosaicvi.data.read.remembered import checked
from mosaicvi.store.saved import read_model

pytestmark = pytest.mark.filterwarnings("ignore")
N, D = 60, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of each program of 24 genes, 12 of them in both, and a table of the samples of the first."""
    return protein_tables(tmp_path_factory.mktemp("tables"), N, D, nobody=3, decoy=True)


QUICK = ["--max-epochs", "1", "-q", "--overwrite"]
ONE = ["--as", "prot", "--columns", "^LFQ intensity ", "--names-from", "Gene names", "--log2", "prot"]


def said_by(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_a_table_is_trained_on_and_read_again_in_the_same_way(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, model = str(folder / "proteinGroups.txt"), str(tmp_path / "model")
    with_samples = ["--obs", str(folder / "samples.csv")]
    assert run(["train", table, *ONE, *with_samples, "--batch-key", "plate", "-o", model, *QUICK]) == 0
    words = said_by(capsys)
    assert "left out 1 of 18 rows, marked as no proteins of the sample (Reverse 1)" in words
    assert "prot: left out the features of which no cell has a value (1): 'GENE3'" in words
    assert "samples.csv: 1 of its 61 lines are of no cell ('S99')" in words
    registry = read_model(Path(model)).registry
    assert registry.features["prot"].names == tuple(f"GENE{j}" for j in range(17) if j != 3)
    assert registry.likelihoods["prot"] == "Gaussian"
    assert registry.categories["plate"][:2] == ("p1", "p2")
    assert checked(registry.reading)["names_from"] == "Gene names"
    assert checked(registry.reading)["log2"] == ["prot"]

    out = tmp_path / "imputed.h5mu"
    assert run(["impute", model, table, *with_samples, "-o", str(out), "--interval", "0.9"]) == 0
    words = said_by(capsys)
    assert "--as prot --columns '^LFQ intensity ' --names-from 'Gene names'" in words
    assert "--log2 prot" in words
    with h5py.File(out) as file:
        found = file["mod/prot/X"][:]
        assert (
            (file["mod/prot/layers/lower"][:] <= found) & (found <= file["mod/prot/layers/upper"][:])
        ).all()
        assert file["mod/prot/uns/mosaicvi/scale"].asstr()[()] == "log2 of the input"
    assert found.shape == (N, 16)
    assert 10 < found.min() < found.max() < 40


def test_some_samples_of_a_table_may_lack_a_protein_that_the_model_knows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, model = folder / "proteinGroups.txt", str(tmp_path / "model")
    assert run(["train", str(table), *ONE, "-o", model, *QUICK]) == 0
    few = pd.read_csv(table, sep="\t").iloc[:, : 4 + 5]
    few.loc[few["Gene names"] == "GENE1;GENE1L", few.columns[4:]] = 0
    few.to_csv(tmp_path / "few.txt", sep="\t", index=False)
    capsys.readouterr()
    assert run(["embed", model, str(tmp_path / "few.txt"), "-o", str(tmp_path / "few.csv")]) == 0
    assert "GENE3" in said_by(capsys)
    assert len(pd.read_csv(tmp_path / "few.csv")) == 5


def test_what_is_remembered_is_passed_over_where_it_was_done_elsewhere(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, model = folder / "proteinGroups.txt", str(tmp_path / "model")
    assert run(["train", str(table), *ONE, "-o", model, *QUICK]) == 0
    out = tmp_path / "values.h5mu"
    assert run(["combine", str(table), *ONE, "-o", str(out)]) == 0
    prot = read_mudata(out)["prot"]
    x = np.nan_to_num(np.asarray(prot.X), nan=np.nanmean(prot.X))
    AnnData(
        x, obs=pd.DataFrame(index=prot.obs_names.str.lower()), var=pd.DataFrame(index=prot.var_names)
    ).write_h5ad(tmp_path / "logs.h5ad")
    capsys.readouterr()
    ask = ["embed", model, str(tmp_path / "logs.h5ad"), "-o"]
    assert run([*ask, str(tmp_path / "logs.csv")]) == 0
    words = said_by(capsys)
    assert "--names-from 'Gene names'; names of features where there is that column" in words
    assert "prot: its values look like logarithms already, so --log2 of training is not done again" in words
    AnnData(
        np.exp2(x), obs=pd.DataFrame(index=prot.obs_names), var=pd.DataFrame(index=prot.var_names)
    ).write_h5ad(tmp_path / "logs.h5ad")
    assert run([*ask, str(tmp_path / "raw.csv")]) == 0
    assert "not done again" not in said_by(capsys)
    logs, raw = (pd.read_csv(tmp_path / f"{name}.csv", index_col=0) for name in ("logs", "raw"))
    np.testing.assert_allclose(logs, raw, atol=1e-3)


def test_two_tables_are_one_mosaic_by_the_names_of_genes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [str(folder / "proteinGroups.txt"), str(folder / "report.pg_matrix.tsv")]
    how = ["--columns", "proteinGroups.txt=^LFQ intensity ", "--columns", r"report.pg_matrix.tsv=\.raw$"]
    how += ["--names-from", "proteinGroups.txt=Gene names", "--names-from", "report.pg_matrix.tsv=Genes"]
    out = tmp_path / "both.h5mu"
    assert run(["combine", *tables, *how, "--as", "prot", "-o", str(out)]) == 0
    words = said_by(capsys)
    assert (
        "prot: its values look like raw intensities in proteinGroups, report.pg_matrix; take their "
        "logarithm, with zeros as missing: --log2 prot." in words
    )
    command = ["combine", *tables, *how, "--as", "prot", "--log2", "prot", "-o", str(out), "--overwrite"]
    assert run([*command, "--obs", str(folder / "samples.csv")]) == 0
    words = said_by(capsys)
    assert "raw intensities" not in words
    assert r"60 of 120 cells have no line in it ('D:\\raw\\plate1\\S0.raw'" in words
    prot = read_mudata(out)["prot"]
    assert prot.shape == (2 * N, D - 1)
    assert list(prot.var_names[:4]) == ["GENE0", "GENE1", "GENE2", "GENE4"]
    assert prot.varm["measured"].sum().tolist() == [16, 18]
    mdata = read_mudata(out)
    assert mdata.obs["plate"].notna().sum() == N
    model = str(tmp_path / "model")
    assert run(["train", str(out), "--batch-key", "dataset", "-o", model, *QUICK]) == 0


def test_a_mosaic_that_was_named_by_an_annotation_is_not_named_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(folder / "report.pg_matrix.tsv")
    how = ["--columns", r"\.raw$", "--names-from", "Genes", "--as", "prot", "--log2", "prot"]
    out, model = tmp_path / "two.h5mu", str(tmp_path / "model")
    assert run(["combine", f"a={table}", f"b={shutil.copy(table, tmp_path)}", *how, "-o", str(out)]) == 0
    mdata = read_mudata(out)
    del mdata["prot"].var["Genes"]
    mdata.write_h5mu(out)
    assert run(["train", str(out), "--batch-key", "dataset", "-o", model, *QUICK]) == 0
    assert run(["embed", model, str(out), "-o", str(tmp_path / "two.csv")]) == 0
    capsys.readouterr()
    assert run(["embed", model, f"a={table}", "-o", str(tmp_path / "one.csv")]) == 0
    assert "raw intensities" not in said_by(capsys)
    one, two = (pd.read_csv(tmp_path / f"{name}.csv", index_col=0) for name in ("one", "two"))
    np.testing.assert_allclose(one.to_numpy(), two.to_numpy()[:N], rtol=1e-4, atol=1e-5)


def test_a_table_of_samples_that_does_not_fit_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, model = str(folder / "proteinGroups.txt"), str(tmp_path / "model")

    def error_of(text: str | None) -> str:
        path = tmp_path / "sheet.csv"
        if text is not None:
            path.write_text(text)
        assert run(["train", table, *ONE, "--obs", str(path), "-o", model, *QUICK]) == 2
        return said_by(capsys)

    assert "no such file" in error_of(None)
    assert "none of its names is that of a cell; it has 'S1'" in error_of("sample,plate\nS1,a\nS2,b\n")
    assert "'S1' stand in its first column more than once" in error_of("sample,plate\nS1,a\nS1,b\n")
    assert "at least one column beside them" in error_of("sample\nS1\n")
    assert run(["train", table, *ONE[:-1], "rna", "-o", model, *QUICK]) == 2
    assert "--log2: no dataset has a modality 'rna'; there are: prot" in said_by(capsys)
