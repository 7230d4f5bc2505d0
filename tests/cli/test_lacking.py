"""New files that lack features of a model: how many are there is said, and counted right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import read_h5mu

from mosaicvi.cli import run

pytestmark = pytest.mark.filterwarnings("ignore")


def write(path: Path, seed: int, genes: list[str]) -> str:
    x = np.random.default_rng(seed).poisson(3, (30, len(genes))).astype(np.float32) + 1
    cells = [f"{path.stem}{i}" for i in range(30)]
    AnnData(x, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes)).write_h5ad(path)
    return str(path)


def test_a_file_with_half_of_the_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    genes = [f"g{i}" for i in range(20)]
    files = [write(tmp_path / "a.h5ad", 0, genes[:15]), write(tmp_path / "b.h5ad", 1, genes[5:])]
    model, out = str(tmp_path / "model"), tmp_path / "mapped.h5mu"
    assert run(["train", *files, "--max-epochs", "1", "-q", "-o", model]) == 0
    new = write(tmp_path / "new.h5ad", 2, [*genes[4:14], "h0", "h1", "h2"])
    capsys.readouterr()
    assert run(["embed", model, new, "-o", str(tmp_path / "z.csv")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("rna: 10 of 20 features; the others are taken as not measured") == 1
    assert said.count("features") == 1
    assert run(["map", model, new, "--interval", "0.8", "-o", str(out)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("rna: 10 of 20 features, 30 cells") == said.count("features") == 1
    found = read_h5mu(out).uns["mosaicvi"]["features"].loc["rna"]
    assert found[["known", "in_the_data", "left_out", "cells"]].tolist() == [20, 10, 3, 30]
    assert "rna: 30 of 30 cells are of a batch that the model has not seen ('new')" in said
