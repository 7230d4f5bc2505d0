"""A model that others' cells join: batches it has not seen, and no data of its own."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from tests.builders import mudata_of

from mosaicvi import InputError, ModelFileError, MosaicVI, MosaicWarning, datasets
from mosaicvi.cli import run
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.infer.reference import ReferenceCells
from mosaicvi.store.format import load_bundle, save_bundle

SMALL = {"dim_latent": 4, "dimensions": [8], "dim_block_enc": 6, "dim_block_dec": 6, "dim_block_embed": 2}


@pytest.fixture(scope="module")
def data() -> MuData:
    data = datasets.simulated_mosaic(240, n_genes=20, n_proteins=5, n_peaks=20, n_chromosomes=2).mdata
    for a in data.mod.values():
        del a.varm["measured"]  # of which panels a new batch has nothing is known
    return data


@pytest.fixture(scope="module")
def model(data: MuData) -> MosaicVI:
    # as genes of which few are above zero, which are not compared with the reference's levels
    MosaicVI.setup_mudata(data, batch_key="batch", transforms={"rna": "log1p_cp10k"})
    return MosaicVI(data, **SMALL).train(3, batch_size=64, progress=False)


@pytest.fixture(scope="module")
def folder(model: MosaicVI, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "model"
    model.save(folder)
    return folder


def renamed(data: MuData, to: str | None) -> MuData:
    """The same cells of a new batch, or of none."""
    out = MuData({name: a.copy() for name, a in data.mod.items()})
    with mudata.set_options(pull_on_update=False):
        out.obs = data.obs.drop(columns="batch") if to is None else data.obs.assign(batch=to)
    for a in out.mod.values():
        a.obs = a.obs.drop(columns="batch", errors="ignore")
    return out


# --- cells of a batch that the model has not seen ---------------------------------------------------


@pytest.mark.parametrize("batch", ["new", None])
def test_the_latent_does_not_depend_on_the_batch(model: MosaicVI, data: MuData, batch: str | None) -> None:
    """But for how strongly a new one is stained, of which tests/data/test_staining.py asks."""
    query, name = renamed(data, batch), model.registry.categories["batch"][0]
    expected = model.get_latent_representation(aligned=False)
    named = MosaicVI.prepare_query(query, model, take_as={"batch": name})
    assert np.array_equal(model.get_latent_representation(named, aligned=False), expected)
    others = [name for name, transform in model.registry.transforms.items() if transform != "clr"]
    assert others
    with pytest.warns(MosaicWarning, match="mean of"):
        latent = model.get_latent_representation(query, aligned=False, modalities=others)
    expected = model.get_latent_representation(aligned=False, modalities=others)
    assert np.array_equal(latent, expected)


def test_a_new_batch_is_decoded_with_the_mean_of_those_that_measured_the_modality(
    model: MosaicVI, data: MuData
) -> None:
    query = renamed(data, "new")
    lacking = [b for b in model.registry.categories["batch"] if b not in model.registry.measured_in["adt"]]
    assert lacking  # a batch without proteins is decoded the same way
    cells = data.obs_names[data.obs["batch"] == lacking[0]]
    with pytest.warns(MosaicWarning):
        found = model.get_imputed_values(query, modality="adt", indices=cells)
    pd.testing.assert_frame_equal(found, model.get_imputed_values(modality="adt", indices=cells))


def test_a_named_batch_answers_as_that_batch(model: MosaicVI, data: MuData) -> None:
    query = renamed(data, "new")
    name = model.registry.measured_in["rna"][0]
    made = MosaicVI.prepare_query(query, model, take_as={"batch": name})
    cells = data.obs_names[data.obs["batch"] == name]
    found = model.get_imputed_values(made, modality="rna", indices=cells)
    pd.testing.assert_frame_equal(found, model.get_imputed_values(modality="rna", indices=cells))


def test_what_it_has_no_weights_for_is_not_trained_on(folder: Path, data: MuData) -> None:
    with pytest.warns(MosaicWarning, match="has not seen"):
        opened = MosaicVI.load(folder, renamed(data, "new"))
    with pytest.raises(InputError, match=r"obs\['batch'\] has 'new', which the model has no weights for"):
        opened.train(1)


# --- a model without its data -------------------------------------------------------------------------


def test_a_model_opens_without_data_and_answers_for_any(
    model: MosaicVI, folder: Path, data: MuData, tmp_path: Path
) -> None:
    opened = MosaicVI.load(folder)
    assert np.array_equal(opened.get_latent_representation(data), model.get_latent_representation())
    pd.testing.assert_frame_equal(
        opened.get_imputed_values(data, modality="rna"), model.get_imputed_values(modality="rna")
    )
    assert "Mosaic of 0 cells" in repr(opened)
    for asked in (
        opened.get_latent_representation,
        lambda: opened.get_imputed_values(modality="rna"),
        lambda: opened.train(1),
    ):
        with pytest.raises(InputError, match="opened without data; give the data to each answer"):
            asked()
    opened.save(tmp_path / "again")
    weights = [where / "weights.safetensors" for where in (tmp_path / "again", folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    pd.testing.assert_frame_equal(opened.history, model.history)


def test_a_model_says_what_it_knows(model: MosaicVI, folder: Path, data: MuData) -> None:
    for reference in (model.reference, MosaicVI.load(folder).reference):
        assert reference.modalities.loc["rna", ["likelihood", "features", "panels"]].tolist() == ["NB", 20, 1]
        assert reference.categories == {"batch": tuple(sorted(set(data.obs["batch"])))}
        sizes = data.obs["batch"].value_counts()
        assert reference.cells["cells"].to_dict() == {str(k): int(v) for k, v in sizes.items()}
        with_rna = data.obs.loc[data["rna"].obs_names, "batch"].value_counts()
        assert reference.cells["rna"].sum() == with_rna.sum() == data["rna"].n_obs
        assert reference.panels["adt"].shape == (5, 1)
        assert reference.training["epochs"] == 3
        assert re.search(r"Reference of 240 cells.*rna +NB.*batch \(\d\)", repr(reference), re.DOTALL)
        assert json.loads(json.dumps(reference.to_dict()))["modalities"]["adt"]["features"] == 5


def test_how_far_cells_lie_from_the_reference(model: MosaicVI, folder: Path, data: MuData) -> None:
    z = model.get_latent_representation()
    opened = MosaicVI.load(folder)
    far = opened.distance_to_reference(data)
    by_hand = np.sort(np.linalg.norm(z[:, None] - z[None], axis=2), axis=1)
    np.testing.assert_allclose(far["distance"], by_hand[:, :15].mean(1), rtol=1e-4)
    assert list(far.index) == list(data.obs_names)
    pd.testing.assert_frame_equal(model.distance_to_reference(batch_size=37), far)
    # of each set of modalities, cells of which just that is seen are compared with one another
    kept = opened.reference_cells()
    assert kept is not None
    own = np.sort(by_hand[:, 1:16].mean(1)).astype(np.float32)
    np.testing.assert_allclose(kept.distance, own, rtol=1e-4)
    is_rna = np.isin(data.obs_names, data["rna"].obs_names)
    rna = model.get_latent_representation(modalities=["rna"], indices=np.flatnonzero(is_rna))
    apart = np.linalg.norm(rna[:, None] - z[None], axis=2)
    apart[np.arange(len(rna)), np.flatnonzero(is_rna)] = np.inf  # itself
    (whole,) = [u for u in kept.usual if u.modalities == ("rna",) and u.depth == pytest.approx(np.log(20))]
    np.testing.assert_allclose(whole.distance, np.sort(np.sort(apart, 1)[:, :15].mean(1)), rtol=1e-3)
    shown = {tuple(u.modalities) for u in kept.usual}
    assert ("adt",) in shown
    assert ("rna", "adt") in shown or ("adt", "rna") in shown
    with pytest.raises(InputError, match="opened without data; give the data"):
        opened.distance_to_reference()


@pytest.mark.parametrize("which", ["half of the features", "rna alone", "all"])
def test_cells_of_which_less_is_seen_are_no_strangers(which: str) -> None:
    """They lie farther out, but are compared with the reference's own cells of which as little is seen."""
    data = datasets.simulated_mosaic(1200, n_genes=60, n_proteins=8, n_peaks=30, n_types=3, seed=2).mdata
    names = data["rna"].obs_names.intersection(data["adt"].obs_names)
    rest, query = (
        mudata_of({m: data[m][some].copy() for m in ("rna", "adt")}, data.obs.loc[some, ["batch"]])
        for some in (names[np.arange(len(names)) % 3 > 0], names[::3])
    )
    for a in (*rest.mod.values(), *query.mod.values()):
        del a.varm["measured"]
    MosaicVI.setup_mudata(rest, batch_key="batch")
    model = MosaicVI(rest, **SMALL).train(30, batch_size=64, progress=False)
    if which == "rna alone":
        alone = query["rna"].copy()
        alone.obs["batch"] = query.obs["batch"]
        query = alone
    elif which == "half of the features":
        half = {}
        for name, a in query.mod.items():
            columns = np.sort(np.random.default_rng(1).permutation(a.n_vars)[: a.n_vars // 2])
            half[name] = a[:, columns].copy()
        query = mudata_of(half, query.obs[["batch"]])
    far = model.distance_to_reference(MosaicVI.prepare_query(query, model))
    assert far["rank"].median() == pytest.approx(0.5, abs=0.15)
    assert (far["rank"] > 0.95).mean() == pytest.approx(0.05, abs=0.07)
    kept = model.reference_cells()
    assert kept is not None
    if which != "all":  # who is compared with cells of which all is seen lies farther out
        plain = np.searchsorted(kept.distance, far["distance"].to_numpy(np.float32)) / len(kept.distance)
        assert np.median(plain) > far["rank"].median() + 0.1


def test_a_reference_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    bundle = load_bundle(folder, kind="model")
    for name in ("short", "narrow"):
        tensors, document = dict(bundle.tensors), json.loads(json.dumps(bundle.document))
        saved = document["reference"]
        if name == "short":
            saved["distance"]["shape"] = [saved["distance"]["shape"][0] - 1]
            key = saved["distance"]["$array"]
            tensors[key] = tensors[key][:-4]
        else:
            saved["latent"]["shape"] = [480, 2]
        save_bundle(tmp_path / name, tensors, document, kind="model")
        with pytest.raises(ModelFileError, match="its kept cells do not fit"):
            MosaicVI.load(tmp_path / name)
    with pytest.raises(ValueError, match="is not finite"):
        ReferenceCells(
            n_cells=2,
            cells={},
            panels={},
            latent=np.full((2, 2), np.nan, np.float32),
            distance=np.zeros(2, np.float32),
        )


# --- the command line -----------------------------------------------------------------------------------


def test_describe_prints_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", str(folder)]) == 0
    assert "Reference of 240 cells" in capsys.readouterr().out
    assert run(["describe", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["epochs"] == 3


def test_files_without_obs_are_a_new_batch_or_a_named_one(
    model: MosaicVI, folder: Path, data: MuData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame(data["rna"].X.toarray(), index=data["rna"].obs_names, columns=data["rna"].var_names)
    table.to_csv(tmp_path / "genes.csv", index_label="cell")
    ask = ["embed", str(folder), str(tmp_path / "genes.csv"), "-q", "-o"]
    assert run([*ask, str(tmp_path / "mean.csv")]) == 0
    said = capsys.readouterr().err
    assert "there is no obs column 'batch'" in said
    assert "--take-as batch=..." in said
    name = model.registry.categories["batch"][0]
    assert run([*ask, str(tmp_path / "named.csv"), "--take-as", f"batch={name}"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert (tmp_path / "named.csv").read_bytes() == (tmp_path / "mean.csv").read_bytes()
    wrong = [*ask, str(tmp_path / "wrong.csv"), "--take-as", "batch=nobody"]
    assert run(wrong) == 2
    assert "has not seen 'nobody' in 'batch'; it knows 'A'" in capsys.readouterr().err


def test_a_file_alone_has_the_name_that_its_dataset_was_given(
    data: MuData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for i, folder in enumerate(("one", "two", "three")):
        (tmp_path / folder).mkdir()
        a = data["rna"][i::3].copy()
        a.obs = pd.DataFrame(index=a.obs_names)
        paths.append(tmp_path / folder / "filtered.h5ad")
        a.write_h5ad(paths[-1])
    model, quick = str(tmp_path / "model"), ["--max-epochs", "1", "-q"]
    assert run(["train", f"x={paths[0]}", f"y={paths[1]}", "-o", model, *quick]) == 0
    assert MosaicVI.load(model).registry.files == {"x": "one/filtered.h5ad", "y": "two/filtered.h5ad"}
    capsys.readouterr()
    for path, name in ((paths[0], "x"), (paths[1], "y"), (paths[2], None)):
        out = tmp_path / "out.h5mu"
        assert run(["embed", model, str(path), "-q", "--overwrite", "-o", str(out)]) == 0
        assert ("has not seen" in capsys.readouterr().err) == (name is None)
        with mudata_as_it_is(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert set(mudata.read_h5mu(out).obs["dataset"]) == {name or "filtered"}
