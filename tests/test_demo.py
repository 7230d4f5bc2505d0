"""The demo, short, and what it compares with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from rich.console import Console

from mosaicvi import MosaicVI
from mosaicvi.baselines import mean_baseline
from mosaicvi.cli import run
from mosaicvi.data.read import read
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.demo import DemoScores, score
from mosaicvi.demo.run import NOTEBOOKS, _next
from mosaicvi.demo.scores import METHODS, _measured, _nearest, render


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "umap", None)  # compiling it takes longer than all of this
        patch.setitem(sys.modules, "mosaicvi.report.page", None)
        assert run(["demo", "-o", str(folder), "--max-epochs", "2", "--n-cells", "200", "-q"]) == 0
    return folder


def test_writes_everything(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"demo.png", "mosaic.h5mu", "truth.h5mu", "model"} <= names
    assert not [name for name in names if name.startswith(".")]
    data = read(folder / "mosaic.h5mu")
    assert not isinstance(data, AnnData)
    model = MosaicVI.load(folder / "model", data)
    np.testing.assert_array_equal(data.obsm["X_mosaicvi"], model.get_latent_representation())
    assert data.obsm["X_umap"].shape == (200, 2)
    assert 30_000 < (folder / "demo.png").stat().st_size < 1_000_000


def test_is_not_overwritten_by_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "demo.png").read_bytes()
    assert run(["demo", "-o", str(folder), "--max-epochs", "1", "--n-cells", "200"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (folder / "demo.png").read_bytes() == before


def test_says_which_commands_and_notebooks_come_next(capsys: pytest.CaptureFixture[str]) -> None:
    _next(Path("out"), Console(width=200))
    said = capsys.readouterr().out
    assert "mosaicvi embed out/model out/mosaic.h5mu --output embedded.h5mu" in said
    pages = {page.stem for page in (Path(__file__).parents[1] / "docs" / "notebooks").glob("*.md")} - {
        "index"
    }
    assert set(NOTEBOOKS) == pages
    assert all(f"docs/notebooks/{name}.md" in said for name in pages)


@pytest.fixture(scope="module")
def scores() -> DemoScores:
    data = simulated_mosaic(300, n_genes=40, n_proteins=8, n_peaks=60)
    model = MosaicVI(MosaicVI.setup_mudata(data.mdata, batch_key="batch"), dim_latent=6)
    return score(model.train(1, progress=False), data)


def test_scores_of_truth_and_chance_frame_the_model(scores: DemoScores) -> None:
    for s in scores.latent[:3]:
        assert s.chance < s.truth
        assert s.truth > 0.9
    assert abs(scores.latent[1].chance) < 0.1


def test_the_mean_of_a_feature_follows_no_cell(scores: DemoScores) -> None:
    assert list(scores.imputation.index) == ["rna", "adt", "atac"]
    for _, row in scores.imputation.iterrows():
        assert row["per_feature", "mean"] == 0
        assert row["per_feature", "nearest cells"] > 0.1


def test_nearest_cells_reach_only_what_was_measured_together() -> None:
    """No cell measured proteins and accessibility, so these get the mean; cells with RNA do not."""
    mdata = simulated_mosaic(300, n_genes=40, n_proteins=8, n_peaks=60).mdata
    without = np.flatnonzero(~np.asarray(mdata.obs_names.isin(mdata["adt"].obs_names)))
    measured = _measured(mdata, "adt", counts=True)
    mean = np.array(mean_baseline(measured, len(without)))
    near = _nearest(mdata, "adt", measured, mean, without)
    with_rna = np.asarray(mdata.obs_names[without].isin(mdata["rna"].obs_names))
    np.testing.assert_array_equal(near[~with_rna], mean[~with_rna])
    assert (near[with_rna] != mean[with_rna]).any(1).all()


def test_tables_fit_80_columns(scores: DemoScores) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    render(scores, console)
    text = console.export_text()
    for word in (*METHODS, "rna", "chance", "true states"):
        assert word in text
