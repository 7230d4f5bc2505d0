"""`mosaicvi map`: new cells on a model in one command, and the page about them."""

from __future__ import annotations

import dataclasses
import html
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
from mosaicvi.store.format import load_bundle, save_bundle

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
    said = "What to believe was asked of cells with all features; these have 2 of 3 of rna."
    assert [f.level for f in findings(more) if f.title == said] == ["warning"]
    of_just_these = dataclasses.replace(more, is_remembered=False)
    assert not [f for f in findings(of_just_these) if f.title == said]
    whole = dataclasses.replace(more, features=features.assign(in_the_data=[3, 0]))
    assert not [f for f in findings(whole) if "is not known" in f.title or "was asked of" in f.title]


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


# --- what the file and the page say of the values ------------------------------------------------------


def mapped_of(
    folder: Path, query: MuData | AnnData, tmp_path: Path, *options: str, name: str | None = None
) -> MuData:
    """What the command makes of cells, in a file that may be given a name."""
    path = tmp_path / ("query.h5mu" if isinstance(query, MuData) else "query.h5ad")
    with mudata_as_it_is(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        query.write(path)
    given, out = str(path) if name is None else f"{name}={path}", tmp_path / "mapped.h5mu"
    assert run(["map", str(folder / "model"), given, *options, "-q", "--overwrite", "-o", str(out)]) == 0
    return read(out)


def test_what_the_query_measured_is_said_to_be_measured(folder: Path, tmp_path: Path) -> None:
    query = cells(60, "new", 2)
    half = mudata_of({"rna": query["rna"].copy(), "adt": query["adt"][:, :3].copy()}, query.obs)
    found = mapped_of(folder, half, tmp_path)
    assert (found["rna"].var["believe"] == "measured").all()
    believed = found["adt"].var["believe"]
    assert (believed.iloc[:3] == "measured").all()
    assert set(believed.iloc[3:]) <= {"yes", "partly", "no"}
    # where some cells lack it, that is no measured feature
    some = mudata_of({"rna": query["rna"].copy(), "adt": query["adt"][:20].copy()}, query.obs)
    assert set(mapped_of(folder, some, tmp_path)["adt"].var["believe"]) <= {"yes", "partly", "no"}


def test_as_which_batch_and_on_which_level_values_are_is_said_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = cells(60, "new", 2)
    page = tmp_path / "page.html"
    found = mapped_of(folder, query, tmp_path, "--report", str(page))
    assert "cells are decoded with the mean of these" in capsys.readouterr().err
    mean = "mean of the batches that measured it"
    assert found.uns["mosaicvi"]["batch"] == {"rna": mean, "adt": mean}
    level = "the mean of the reference's batches 'one', 'two'"
    staining = found.uns["mosaicvi"]["staining"]["adt"]
    assert staining.startswith(level)
    assert "counts of 'new'" in staining
    assert found["adt"].uns["mosaicvi"]["staining"] == staining
    text = html.unescape(page.read_text())
    assert f"<td>{mean}</td><td>{staining}</td>" in text
    model = MosaicVI.load(folder / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        values = model.get_imputed_values(query, modality="adt")
        ends = model.get_imputed_intervals(query, modality="adt")
    assert values.attrs["batch"] == ends.lower.attrs["batch"] == mean
    query.obs["batch"] = np.where(np.arange(60) < 30, "one", "new")
    found = mapped_of(folder, query, tmp_path)
    expected = f"each cell's own batch, or {mean} where the model has not seen that"
    assert found.uns["mosaicvi"]["batch"]["adt"] == expected
    staining = found.uns["mosaicvi"]["staining"]["adt"]
    assert "for others that of their own batch" in staining
    assert "counts of 'new' are taken as they are, with 30 cells too few to compare" in staining
    query.obs["batch"] = "one"
    found = mapped_of(folder, query, tmp_path)
    assert found.uns["mosaicvi"]["batch"]["adt"] == "each cell's own batch"


def test_how_much_more_strongly_a_new_batch_is_stained_is_said(folder: Path, tmp_path: Path) -> None:
    query = cells(80, "new", 2)
    x = query["adt"].X.toarray()
    x[:, 0] *= 8
    query["adt"].X = sp.csr_matrix(x)
    said = mapped_of(folder, query, tmp_path).uns["mosaicvi"]["staining"]["adt"]
    high = float(re.search(r"counts of 'new' were divided by \S+ to (\S+), as it is stained", said)[1])
    model = MosaicVI.load(folder / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        levels = model.registered(query).levels["adt"]["new"]
    assert high == pytest.approx(np.exp(max(levels.values())), rel=0.05)
    assert high > 3


@pytest.mark.parametrize("name", ["one", "other"])
def test_the_name_of_a_file_is_its_batch(
    folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    query = cells(60, "new", 2)
    del query.obs["batch"]
    found = mapped_of(folder, query, tmp_path, name=name)
    assert set(found.obs["batch"]) == {name}
    said = capsys.readouterr().err
    assert "there is no obs column" not in said
    assert ("has 'other', which the model has not seen" in said) == (name == "other")
    adata = query["rna"].copy()
    assert set(mapped_of(folder, adata, tmp_path, name=name).obs["batch"]) == {name}


def test_several_named_files_are_batches(folder: Path, tmp_path: Path) -> None:
    paths = []
    for name, seed in (("one", 2), ("other", 3)):
        adata = cells(30, name, seed)["rna"].copy()
        adata.obs = pd.DataFrame(index=adata.obs_names)
        paths.append(f"{name}={tmp_path / name}.h5ad")
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    out = tmp_path / "mapped.h5mu"
    assert run(["map", str(folder / "model"), *paths, "-q", "-o", str(out)]) == 0
    assert read(out).obs["batch"].value_counts().to_dict() == {"one": 30, "other": 30}


def test_a_model_without_what_intervals_need_names_the_option(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle(folder / "model", kind="model")
    old = {**bundle.document, "spreads": None}
    tensors = {k: v for k, v in bundle.tensors.items() if not k.startswith("spreads.")}
    save_bundle(tmp_path / "model", tensors, old, kind="model")
    ask = ["map", str(tmp_path / "model"), str(folder / "query.h5ad"), "--match", "rna=case"]
    ask += ["--interval", "0.9", "-o", str(tmp_path / "out.h5mu")]
    assert run([*ask, "-q"]) == 2
    said = capsys.readouterr().err
    assert "--reference REF.h5mu" in said
    assert run([*ask, "-q", "--reference", str(folder / "reference.h5mu")]) == 0


def test_what_is_learnt_is_said_but_quietly(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["map", str(folder / "model"), str(folder / "query.h5ad"), "--match", "rna=case"]
    ask += ["--reference", str(folder / "reference.h5mu"), "--overwrite", "-o", str(tmp_path / "out.h5mu")]
    assert run(ask) == 0
    assert "learning how well each feature is imputed" in capsys.readouterr().err
    assert run([*ask, "-q"]) == 0
    assert "learning" not in capsys.readouterr().err
    reference = cells(60, "ref", 0)
    MosaicVI.setup_mudata(reference, batch_key="batch")
    for progress, says in ((True, True), (None, False), (False, False)):
        model = MosaicVI(reference, **SMALL).train(1, batch_size=40, progress=False)
        model.save(tmp_path / "saved", overwrite=True, progress=progress)
        said = capsys.readouterr().err
        assert ("learning how counts are read out" in said) is says
        assert ("learning how wide intervals are" in said) is says
