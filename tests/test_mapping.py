"""`mosaicvi map`: new cells on a model in one command, and the page about them."""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from tests.builders import mudata_of

from mosaicvi import MosaicVI, MosaicWarning
from mosaicvi.cli import run
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.infer.mapped import placed
from mosaicvi.report.mapped import Mapped, findings

SMALL = {"dim_latent": 4, "dimensions": [8], "dim_block_enc": 6, "dim_block_dec": 6, "dim_block_embed": 2}
TYPES = {"a": 0, "b": 1}


def cells(n: int, batch: str, seed: int) -> MuData:
    """Cells of two types that differ in half of the genes and proteins."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 2
    names = np.array([f"{batch}{i}" for i in range(n)], object)
    mods = {}
    for name, letter, d in (("rna", "g", 12), ("adt", "p", 6)):
        rate = np.where((np.arange(d) % 2)[None] == kind[:, None], 12.0, 2.0)
        x = sp.csr_matrix(rng.poisson(rate).astype(np.float32) + 1)
        mods[name] = AnnData(
            x,
            obs=pd.DataFrame(index=names),
            var=pd.DataFrame(index=np.array([f"{letter}{j}" for j in range(d)], object)),
        )
    return mudata_of(
        mods, pd.DataFrame({"batch": batch, "cell_type": np.array(["a", "b"])[kind]}, index=names)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """reference.h5mu, with places of its own, its model in model/, and query.h5ad with RNA alone."""
    folder = tmp_path_factory.mktemp("map")
    reference = cells(160, "ref", 0)
    with mudata.set_options(pull_on_update=False):
        reference.obs["batch"] = np.resize(["one", "two"], 160)
    MosaicVI.setup_mudata(reference, batch_key="batch")
    model = MosaicVI(reference, **SMALL).train(40, batch_size=40, progress=False)
    model.save(folder / "model")
    reference.obsm["X_umap"] = model.get_latent_representation()[:, :2] + 10
    query = cells(30, "new", 1)["rna"].copy()
    query.obs = pd.DataFrame(index=query.obs_names)
    query.var_names = [name.upper() for name in query.var_names]
    query[:, ::-1].copy().write_h5ad(folder / "query.h5ad")
    with mudata_as_it_is(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference.write_h5mu(folder / "reference.h5mu")
    return folder


def read(path: Path) -> MuData:
    with mudata_as_it_is(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.read_h5mu(path)


def test_one_command_from_a_file_to_all_answers_and_a_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "mapped.h5mu", tmp_path / "mapped.html"
    arguments = [str(folder / "model"), str(folder / "query.h5ad"), "--match", "rna=case", "-o", str(out)]
    assert run(["map", *arguments, "--report", str(page)]) == 0
    said = capsys.readouterr().err
    assert "rna: 12 of 12 features, 30 cells" in said
    assert "adt: not in the data, all 6 features are imputed" in said
    assert "there is no obs column 'batch'" in said
    mapped = read(out)
    model = MosaicVI.load(folder / "model")
    query = cells(30, "new", 1)["rna"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        latent = model.get_latent_representation(query)
        values = model.get_imputed_values(query, modality="adt")
        trust = model.imputation_accuracy(query=query)  # which the model remembers
    np.testing.assert_allclose(mapped.obsm["X_mosaicvi"], latent, atol=1e-5)
    np.testing.assert_allclose(mapped["adt"].X, values, rtol=1e-4)
    assert not mapped["adt"].obs["measured"].any()
    assert mapped["rna"].obs["measured"].all()
    assert mapped.obsm["X_umap"].shape == (30, 2)
    assert mapped.obs["reference_rank"].between(0, 1).all()
    assert mapped.uns["mosaicvi"]["features"].loc["rna", "in_the_data"] == 12
    text = page.read_text()
    assert "30 cells on a reference" in text
    assert "No cell measured adt" in text
    assert (trust["lacking"] == 30).all()
    assert set(trust["view"]) == {"rna"}
    of_feature = trust.set_index("feature").loc[mapped["adt"].var_names]
    np.testing.assert_array_equal(mapped["adt"].var["believe"], of_feature["believe"])
    np.testing.assert_allclose(mapped["adt"].var["accuracy_from_rna"], of_feature["score"])
    assert "features of adt that 30 cells lack" in text
    assert "when the model was saved" in text
    median = mapped.obs["reference_rank"].median()
    assert f"of reference_rank {median:.2f}, farther than {median:.0%}." in text
    assert list(mapped.obs_names) == list(query.obs_names)
    assert re.search(r"<td>G0</td><td>g0</td><td>case</td>", text)
    assert "://" not in re.sub(r"data:image/png;base64,[^\"]*", "", text)


def test_the_references_picture_is_kept_and_its_labels_are_carried_over(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "mapped.h5mu"
    arguments = [str(folder / "model"), str(folder / "query.h5ad"), "--match", "rna=case", "-q"]
    more = ["--reference", str(folder / "reference.h5mu"), "--label-key", "cell_type", "-o", str(out)]
    more += ["--interval", "0.8", "--report", str(tmp_path / "page.html")]
    assert run(["map", *arguments, *more]) == 0
    mapped, reference = read(out), read(folder / "reference.h5mu")
    around = MosaicVI.load(folder / "model", reference).get_latent_representation()
    expected = placed(around, reference.obsm["X_umap"], mapped.obsm["X_mosaicvi"])
    np.testing.assert_allclose(mapped.obsm["X_umap"], expected, rtol=1e-5)
    for a in mapped.mod.values():
        assert (a.layers["lower"] <= a.layers["upper"]).all()
    assert mapped["adt"].uns["mosaicvi"]["interval"] == 0.8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        query = cells(30, "new", 1)["rna"]
        trust = MosaicVI.load(folder / "model", reference).imputation_accuracy(query=query)
    assert set(trust["modality"]) == {"adt"}
    assert (trust["lacking"] == 30).all()
    of_feature = trust.set_index("feature").loc[mapped["adt"].var_names]
    np.testing.assert_array_equal(mapped["adt"].var["believe"], of_feature["believe"])
    np.testing.assert_allclose(mapped["adt"].var["accuracy_from_rna"], of_feature["score"])
    text = (tmp_path / "page.html").read_text()
    assert "when the model was saved" not in text
    assert "features of adt that 30 cells lack" in text
    assert "reference cells within their batches" in text
    best = trust.sort_values("score", ascending=False, kind="stable")
    for word in ("yes", "partly", "no"):
        said = [str(f) for f in best.loc[best["believe"] == word, "feature"]]
        row = f'<td>{word}</td><td class="n">{len(said)}</td><td>{", ".join(said) or "–"}</td>'
        assert row in text
    truth = np.array(["a", "b"])[np.arange(30) % 2]
    assert (mapped.obs["predicted_label"].astype(str) == truth).mean() > 0.9


def test_cells_stand_where_their_neighbours_are() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 3)).astype(np.float32)
    places = rng.normal(size=(50, 2))
    found = placed(z, places, z[:5])
    assert found.shape == (5, 2)
    low, high = places.min(0), places.max(0)
    assert ((found >= low) & (found <= high)).all()
    far = placed(z, places, z[:1] + 100)
    assert ((far >= low) & (far <= high)).all()
    same = placed(
        np.zeros((3, 3), np.float32), np.array([[0.0, 0], [3, 0], [0, 3]]), np.zeros((1, 3), np.float32)
    )
    np.testing.assert_allclose(same, [[1, 1]])


def test_options_are_checked_before_any_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is heavy to import is not even imported."""
    monkeypatch.setitem(sys.modules, "mosaicvi.infer.output", None)
    ask = ["map", str(folder / "model"), str(folder / "query.h5ad"), "-o", str(tmp_path / "x.h5mu")]
    assert run([*ask, "--label-key", "cell_type"]) == 2
    assert run([*ask, "--match", "rna"]) == 2


@pytest.mark.parametrize(("rank", "level", "shifted"), [(0.5, "note", False), (0.83, "warning", True)])
def test_a_query_that_is_shifted_as_a_whole_is_said_to_be(rank: float, level: str, shifted: bool) -> None:
    ranks = np.clip(rank + np.linspace(-0.15, 0.15, 101), 0, 0.98)
    page = Mapped(
        model="m",
        latent=np.zeros((101, 2), np.float32),
        obs=pd.DataFrame({"reference_rank": ranks}),
        places=np.zeros((101, 2), np.float32),
        background=np.zeros((3, 2), np.float32),
        features=pd.DataFrame({"known": [3], "in_the_data": [3], "left_out": [0], "cells": [101]}, ["rna"]),
        matches=None,
    )
    (finding,) = findings(page)
    assert finding.level == level
    assert finding.title.startswith("0.0% of the cells lie farther out than 99%")
    assert f"reference_rank {rank:.2f}, farther than {rank:.0%}" in finding.title
    assert ("all are shifted" in finding.text) is shifted


def test_modalities_of_which_nothing_can_be_told_are_named() -> None:
    features = pd.DataFrame(
        {"known": [3, 2], "in_the_data": [2, 0], "left_out": [0, 0], "cells": [9, 0]}, ["rna", "adt"]
    )
    page = Mapped(
        model="m",
        latent=np.zeros((9, 2), np.float32),
        obs=pd.DataFrame(index=[str(i) for i in range(9)]),
        places=np.zeros((9, 2), np.float32),
        background=np.zeros((3, 2), np.float32),
        features=features,
        matches=None,
    )
    (found,) = [f for f in findings(page) if "is not known" in f.title]
    assert (found.level, "rna, adt" in found.title) == ("warning", True)
    table = pd.DataFrame({"modality": ["adt"], "feature": ["p"], "view": ["rna"], "score": [0.9]})
    told = table.assign(
        measure="correlation", believe="yes", test_cells=50, held_out=True, lacking=9, panel=False
    )
    more = dataclasses.replace(page, trust=told, is_remembered=True)
    (found,) = [f for f in findings(more) if "is not known" in f.title]
    assert (found.level, "of rna to" in found.title) == ("note", True)
    whole = dataclasses.replace(more, features=features.assign(in_the_data=[3, 0]))
    assert not [f for f in findings(whole) if "is not known" in f.title]


def test_what_cannot_be_done_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["map", str(folder / "model"), str(folder / "query.h5ad"), "-o"]
    for arguments, words in (
        ([str(tmp_path / "x.h5ad")], "must end in .h5mu"),
        ([str(tmp_path / "x.h5mu"), "--label-key", "cell_type"], "--reference REF.h5mu"),
        ([str(tmp_path / "x.h5mu"), "--match", "adt=case"], "no modality 'adt' that the model knows"),
        ([str(tmp_path / "x.h5mu")], "none of its features"),
    ):
        assert run([*ask, *arguments]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert "Traceback" not in said
