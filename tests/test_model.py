"""What a user holds: registering, training, answers that are a cell's own, saving, and clear errors."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData
from tests import processes
from tests.builders import fingerprint, mudata_of, random_mudata

import mosaicvi.model.registering
from mosaicvi import InputError, ModelFileError, MosaicVI, MosaicWarning
from mosaicvi.data.read import read
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.store.format import checksum

SMALL: dict[str, Any] = {"dimensions": 16, "dim_latent": 4, "dim_block_enc": 8, "dim_block_dec": 8}


def set_up(mdata: MuData, **arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return MosaicVI.setup_mudata(mdata, **({"batch_key": "batch"} | arguments))


def trained(mdata: MuData, epochs: int = 2, **parameters: Any) -> MosaicVI:
    set_up(mdata, likelihoods={"atac": "Bernoulli"})
    return MosaicVI(mdata, **(SMALL | parameters)).train(epochs, batch_size=16, progress=False)


@pytest.fixture(scope="module")
def mdata() -> MuData:
    return random_mudata(11, n_cells=60, fractions=True)


@pytest.fixture(scope="module")
def model(mdata: MuData) -> MosaicVI:
    return trained(mdata)


# --- answers ------------------------------------------------------------------------------------


def answers(model: MosaicVI, data: Any = None, **choice: Any) -> dict[str, np.ndarray]:
    mean, var = model.get_latent_representation(data, return_dist=True, **choice)
    out = {"mean": mean, "var": np.asarray(var)}
    for name in model.config.uni_block_names:
        out[name] = model.get_imputed_values(data, modality=name, **choice).to_numpy()
        out[f"{name} drawn"] = model.get_imputed_values(data, modality=name, n_samples=3, **choice).to_numpy()
    return out


def test_an_answer_is_the_cells_own(model: MosaicVI) -> None:
    whole = answers(model)
    assert whole["mean"].shape == (60, 4)
    order = np.random.default_rng(0).permutation(60)
    for choice, rows in [
        ({"batch_size": 1}, np.arange(60)),
        ({"batch_size": 7}, np.arange(60)),
        ({"indices": order, "batch_size": 13}, order),
        ({"indices": [5, 5, 41]}, np.array([5, 5, 41])),
        ({"indices": [-1]}, np.array([59])),
    ]:
        for key, value in answers(model, **choice).items():
            np.testing.assert_allclose(value, whole[key][rows], rtol=2e-5, atol=1e-6, err_msg=key)


def test_the_same_question_has_the_same_answer_to_the_bit(model: MosaicVI) -> None:
    first = answers(model)
    torch.manual_seed(0)
    np.random.seed(3)  # noqa: NPY002 - the global state must not matter
    for key, value in answers(model).items():
        np.testing.assert_array_equal(value, first[key], err_msg=key)


def test_cells_are_chosen_by_position_boolean_or_name(model: MosaicVI, mdata: MuData) -> None:
    z = model.get_latent_representation()
    chosen = np.zeros(60, bool)
    chosen[[3, 8]] = True
    for indices in (
        [3, 8],
        chosen,
        pd.Series(chosen),
        list(mdata.obs_names[[3, 8]]),
        mdata.obs_names[[3, 8]],
    ):
        np.testing.assert_allclose(
            model.get_latent_representation(indices=indices), z[[3, 8]], rtol=1e-5, atol=1e-6
        )
    assert model.get_latent_representation(indices=[]).shape == (0, 4)
    for indices, message in [
        ([60], r"positions must be below 60"),
        ([True], r"1 booleans for 60 cells"),
        (["nobody"], r"no cell 'nobody'"),
    ]:
        with pytest.raises(InputError, match=message):
            model.get_latent_representation(indices=indices)


def test_other_data_in_another_order_are_answered_by_name(model: MosaicVI, mdata: MuData) -> None:
    rng = np.random.default_rng(5)
    other = mdata[rng.permutation(60)[:40]].copy()
    other = mudata_of(
        {name: other.mod[name][:, rng.permutation(other.mod[name].n_vars)].copy() for name in other.mod},
        other.obs,
    )
    before = fingerprint(other)
    at = mdata.obs_names.get_indexer(other.obs_names)
    whole, part = answers(model), answers(model, other)
    for key, value in part.items():
        np.testing.assert_allclose(value, whole[key][at], rtol=2e-5, atol=1e-6, err_msg=key)
    assert fingerprint(other) == before


def test_what_the_encoder_may_see(model: MosaicVI, mdata: MuData) -> None:
    cells = mdata.mod["rna"].obs_names
    rna = mudata_of({"rna": mdata.mod["rna"]}, mdata.obs.loc[cells])
    np.testing.assert_allclose(
        model.get_latent_representation(indices=cells, modalities=["rna"]),
        model.get_latent_representation(rna),
        rtol=1e-5,
        atol=1e-6,
    )
    blind = model.get_latent_representation(modalities=[])
    np.testing.assert_allclose(blind, blind[:1].repeat(60, 0), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"No modality 'atak'; the model has rna, adt, atac"):
        model.get_latent_representation(modalities=["atak"])


def test_a_draw_has_the_mean_and_the_variance(model: MosaicVI) -> None:
    mean, var = model.get_latent_representation(return_dist=True)
    draws = np.stack([model.get_latent_representation(give_mean=False, seed=s) for s in range(300)])
    assert draws.dtype == np.float32
    error = (draws.mean(0) - mean) / np.sqrt(var / 300)
    assert abs(error).max() < 5
    np.testing.assert_allclose(draws.var(0) / var, 1, atol=0.45)


def test_imputed_values_are_in_the_users_order_and_say_their_scale(model: MosaicVI, mdata: MuData) -> None:
    scales = {}
    for name, a in mdata.mod.items():
        frame = model.get_imputed_values(modality=name)
        assert list(frame.columns) == list(a.var_names)
        assert list(frame.index) == list(mdata.obs_names)
        assert frame.dtypes.eq(np.float32).all()
        scales[name] = frame.attrs["scale"]
    library = model.registry.median_library["rna"]
    assert scales == {
        "rna": f"expected counts at a library of {library:g}",
        "adt": "the scale of the input",
        "atac": "probability of being accessible",
    }


def test_counts_sum_to_the_library_that_was_asked_for(model: MosaicVI) -> None:
    for library in (None, 50.0):
        total = model.get_imputed_values(modality="rna", library=library).sum(axis=1)
        expected = model.registry.median_library["rna"] if library is None else library
        np.testing.assert_allclose(total, expected, rtol=1e-5)
    atac = model.get_imputed_values(modality="atac").to_numpy()
    assert ((atac > 0) & (atac < 1)).all()


def test_the_stream_is_the_table(model: MosaicVI) -> None:
    table = model.get_imputed_values(modality="adt", batch_size=9).to_numpy()
    rows = [(at, values.copy()) for at, values in model.iter_imputed_values(modality="adt", batch_size=9)]
    assert [at.stop - at.start for at, _ in rows] == [9] * 6 + [6]
    np.testing.assert_array_equal(np.concatenate([v for _, v in rows]), table)


@pytest.mark.parametrize("name", ["rna", "adt", "atac"])
def test_a_few_features_are_the_columns_of_all(model: MosaicVI, name: str) -> None:
    every = model.imputed_features(name)
    some = [every[2], every[0], every[-1]]
    for choice in ({}, {"n_samples": 2}, {"library": 70.0}, {"modalities": ["rna"]}):
        whole = model.get_imputed_values(modality=name, **choice)
        part = model.get_imputed_values(modality=name, features=some, **choice)
        assert list(part.columns) == some
        assert part.attrs == whole.attrs
        np.testing.assert_allclose(part, whole[some], rtol=1e-4, atol=1e-6)


def test_more_draws_come_closer_to_the_expectation(model: MosaicVI) -> None:
    far = model.get_imputed_values(modality="rna", n_samples=400, seed=1).to_numpy()
    near = model.get_imputed_values(modality="rna", n_samples=400, seed=2).to_numpy()
    few = model.get_imputed_values(modality="rna", n_samples=4, seed=1).to_numpy()
    assert np.abs(far - near).mean() < 0.5 * np.abs(far - few).mean()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.get_imputed_values(modality="x"), r"No modality 'x'"),
        (lambda m: m.get_imputed_values(modality="rna", features=["CD3"]), r"features: rna has no 'CD3'"),
        (lambda m: m.get_imputed_values(modality="rna", library=0), r"library: must be > 0, not 0"),
        (lambda m: m.get_imputed_values(modality="rna", library=float("nan")), r"library"),
        (lambda m: m.get_imputed_values(modality="rna", n_samples=0), r"n_samples: at least 1"),
        (lambda m: m.get_imputed_values(modality="rna", batch_size=0), r"batch_size: at least 1, not 0"),
        (lambda m: m.get_latent_representation(batch_size=-3), r"batch_size: at least 1, not -3"),
        (lambda m: m.train(0, batch_size=16), r"max_epochs: at least 1"),
        (lambda m: m.train(1, batch_size=0), r"batch_size: at least 1"),
        (lambda m: m.train(1, lr=0, batch_size=16), r"lr: must be > 0"),
        (lambda m: m.train(1, train_size=0, batch_size=16), r"train_size: in \(0, 1\]"),
        (lambda m: m.train(1, train_size=1, early_stopping=True, batch_size=16), r"needs held-out cells"),
        (lambda m: m.train(1, accelerator="tpu", batch_size=16), r"'cpu' or 'gpu', not 'tpu'"),
        (lambda m: m.train(1, devices=0, batch_size=16), r"devices: "),
        (lambda m: m.train(1, precision="int8", batch_size=16), r"precision: 'float32' or 'bf16'"),
        (lambda m: m.train(1, max_grad_norm=0, batch_size=16), r"max_grad_norm: must be > 0"),
        (lambda m: m.train(1, resume=True, batch_size=16), r"resume: name the folder of the checkpoints"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(model: MosaicVI, call: Callable[[MosaicVI], Any], message: str) -> None:
    rows = len(model.history)
    with pytest.raises(InputError, match=message) as error:
        call(model)
    assert "\n" not in str(error.value)
    assert len(model.history) == rows


# --- training -----------------------------------------------------------------------------------


def test_history_has_every_term_and_grows(mdata: MuData) -> None:
    model = trained(mdata, 2)
    assert model.is_trained
    history = model.history
    assert history.index.name == "epoch"
    for part in ("train", "validation"):
        for term in ("loss", "kl", "mmd"):
            assert np.isfinite(history[f"{part}_{term}"]).all()
        for name in ("rna", "adt", "atac"):
            assert np.isfinite(history[f"{part}_observed_{name}"]).all()
            assert np.isfinite(history[f"{part}_masked_{name}"]).all()
    assert {"grad_norm", "clipped", "lr", "gamma", "beta_rna"} <= set(history)
    model.train(3, batch_size=16, progress=False)
    assert len(model.history) == 5
    pd.testing.assert_frame_equal(model.history.iloc[:2], history)


def test_the_loss_of_the_observed_is_what_the_terms_say(mdata: MuData) -> None:
    history = trained(mdata, 3, beta_modal=1.0).history
    for part in ("train", "validation"):
        terms = [
            history[f"{part}_{kind}_{m}"] for kind in ("observed", "masked") for m in ("rna", "adt", "atac")
        ]
        total = sum(terms) + history[f"{part}_kl"] + history[f"{part}_mmd"]
        np.testing.assert_allclose(history[f"{part}_loss"], total, rtol=1e-4)
        np.testing.assert_allclose(
            history[f"{part}_observed_rna"], -0.5 * history[f"{part}_log_prob_rna"], rtol=1e-4
        )


def test_training_learns_what_holds_for_other_cells() -> None:
    data = simulated_mosaic(400, n_genes=40, n_proteins=8, n_peaks=60, n_chromosomes=2).mdata
    history = trained(data, 30).history
    for name in data.mod:
        score = history[f"validation_log_prob_{name}"]
        assert score.iloc[-3:].mean() > score.iloc[0] + 0.003 * abs(score.iloc[0]), name


@pytest.mark.parametrize("likelihood", ["NB", "ZINB", "Poisson", "Gaussian"])
def test_every_likelihood_trains(likelihood: str) -> None:
    mdata = random_mudata(3, n_cells=40)
    set_up(mdata, likelihoods={"rna": likelihood, "adt": likelihood})
    model = MosaicVI(mdata, **SMALL).train(2, batch_size=20, progress=False)
    assert np.isfinite(model.history.to_numpy()).all()
    assert np.isfinite(model.get_imputed_values(modality="adt").to_numpy()).all()


def test_an_untrained_model_and_one_of_another_object_are_told_apart(mdata: MuData) -> None:
    set_up(mdata, likelihoods={"atac": "Bernoulli"})
    assert not MosaicVI(mdata, **SMALL).is_trained
    assert "not trained" in repr(MosaicVI(mdata, **SMALL))
    with pytest.raises(InputError, match=r"not registered; call MosaicVI.setup_mudata"):
        MosaicVI(mdata.copy())
    with pytest.raises(InputError, match=r"call MosaicVI.setup_anndata"):
        MosaicVI(mdata.mod["rna"])
    other = set_up(random_mudata(1))
    with pytest.raises(InputError, match=r"registered for another model"):
        list(MosaicVI(mdata, **SMALL).iter_imputed_values(other, modality="rna"))


def test_an_untrained_model_says_so_when_it_is_asked() -> None:
    mdata = random_mudata(3, n_cells=20)
    set_up(mdata)
    model = MosaicVI(mdata, **SMALL)
    with pytest.warns(MosaicWarning, match="not trained"):
        model.get_latent_representation(indices=[0])


def test_registering_keeps_nothing_alive_and_changes_nothing() -> None:
    mdata = random_mudata(2)
    before, key = fingerprint(mdata), id(mdata)
    first, second = set_up(mdata), set_up(mdata)
    assert fingerprint(mdata) == before
    assert mosaicvi.model.registering._registered[key] is second is not first
    del mdata
    gc.collect()
    assert key not in mosaicvi.model.registering._registered


def test_one_modality_from_an_anndata() -> None:
    rng = np.random.default_rng(0)
    a = AnnData(
        sp.csr_matrix(rng.poisson(1.0, (40, 12)).astype(np.float32)),
        obs=pd.DataFrame({"batch": rng.choice(["a", "b"], 40)}, index=[f"c{i}" for i in range(40)]),
    )
    a.layers["raw"], a.X = a.X, a.X / 3
    before = fingerprint(a)
    mosaic = MosaicVI.setup_anndata(
        a, modality="gex", batch_key="batch", layer="raw", likelihood="ZINB", transform="clr"
    )
    assert [(m.name, m.likelihood, m.transform) for m in mosaic.modalities] == [("gex", "ZINB", "clr")]
    model = MosaicVI(a, **SMALL).train(2, batch_size=20, progress=False)
    assert fingerprint(a) == before
    other, own = model.get_latent_representation(a[[7, 3]]), model.get_latent_representation(indices=[7, 3])
    np.testing.assert_allclose(other, own, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"needs a MuData, not AnnData; use setup_anndata"):
        MosaicVI.setup_mudata(a)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"needs an AnnData, not MuData; use setup_mudata"):
        MosaicVI.setup_anndata(random_mudata(0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"modalities: a list of names is needed, such as \['rna'\]"):
        MosaicVI.setup_mudata(random_mudata(0), modalities="rna")


# --- saving -------------------------------------------------------------------------------------

ANSWER = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
torch.set_num_threads(1)
from mosaicvi import MosaicVI
from mosaicvi.data.read import read
model = MosaicVI.load(sys.argv[1], read(sys.argv[2]))
mean, var = model.get_latent_representation(return_dist=True)
names = model.config.uni_block_names
parts = {n: model.get_imputed_values(modality=n, n_samples=2).to_numpy() for n in names}
np.savez(sys.argv[3], mean=mean, var=var, **parts)
"""


def test_another_process_answers_the_same_to_the_bit(model: MosaicVI, mdata: MuData, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["model.json", "weights.safetensors"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata.write_h5mu(tmp_path / "data.h5mu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = read(tmp_path / "data.h5mu")
        mean, var = model.get_latent_representation(data, return_dist=True)
        names = model.config.uni_block_names
        parts = {n: model.get_imputed_values(data, modality=n, n_samples=2).to_numpy() for n in names}
    finally:
        torch.set_num_threads(threads)
    done = processes.run(["-c", ANSWER, tmp_path / "model", tmp_path / "data.h5mu", tmp_path / "out.npz"])
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as out:
        for key, value in {"mean": mean, "var": var, **parts}.items():
            np.testing.assert_array_equal(out[key], value, err_msg=key)


def test_a_loaded_model_goes_on_as_the_one_in_memory(mdata: MuData, tmp_path: Path) -> None:
    model = trained(mdata, 2)
    model.save(tmp_path / "model")
    loaded = MosaicVI.load(tmp_path / "model", mdata)
    pd.testing.assert_frame_equal(loaded.history, model.history)
    assert repr(loaded) == repr(model)
    for one in (model, loaded):
        one.train(2, batch_size=16, progress=False)
    pd.testing.assert_frame_equal(loaded.history, model.history)
    for key, value in loaded.net.state_dict().items():
        assert torch.equal(value, model.net.state_dict()[key]), key
    loaded.save(tmp_path / "again")
    again = MosaicVI.load(tmp_path / "again", mdata)
    np.testing.assert_array_equal(again.get_latent_representation(), loaded.get_latent_representation())


def test_an_untrained_and_a_seed_model_are_saved_too(mdata: MuData, tmp_path: Path) -> None:
    set_up(mdata, likelihoods={"atac": "Bernoulli"})
    for name, model in {
        "plain": MosaicVI(mdata, **SMALL),
        "published": MosaicVI(mdata, preset="published", **SMALL),
    }.items():
        model.save(tmp_path / name)
        loaded = MosaicVI.load(tmp_path / name, mdata)
        assert loaded.config == model.config
        assert not loaded.is_trained
        np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_a_model_is_never_overwritten_unasked(model: MosaicVI, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    before = (tmp_path / "model" / "model.json").read_bytes()
    with pytest.raises(InputError, match=r"exists"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model" / "model.json").read_bytes() == before
    model.save(tmp_path / "model", overwrite=True)


def edited(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Change a model's JSON and its checksum with it, as a stranger could."""
    path = folder / "model.json"
    content = json.loads(path.read_text())
    edit(content)
    content["checksum"] = checksum(content)
    path.write_text(json.dumps(content))
    return folder


def _swap(content: dict[str, Any], *path: str, value: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


INFINITE = {"$float": "7ff0000000000000"}


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["config"].__setitem__("dim_latent", 5),
        lambda d: d["config"].__setitem__("dim_latent", "four"),
        lambda d: d["config"].__setitem__("surprise", 1),
        lambda d: d["config"].__setitem__("dim_input_arr", [10**12, 4, 7]),
        lambda d: d["config"].__setitem__("dimensions", [10**9]),
        lambda d: d["config"].pop("dim_block"),
        lambda d: d["registry"]["features"].pop("adt"),
        lambda d: d["registry"]["features"]["rna"]["names"]["$tuple"].append("more"),
        lambda d: d["registry"]["likelihoods"].__setitem__("rna", "Poisson"),
        lambda d: d["registry"]["categories"]["batch"]["$tuple"].append("C"),
        lambda d: d["registry"].pop("whole"),
        lambda d: _swap(d, "registry", "standards", "adt", "spread", value=[1.0, 1, 1, 0]),
        lambda d: _swap(d, "registry", "standards", "adt", "centre", value=[1.0, 1, 1, INFINITE]),
        lambda d: _swap(d, "registry", "standards", "adt", "centre", value=[1.0, 1, 1]),
        lambda d: _swap(d, "registry", "standards", "other", value=d["registry"]["standards"]["adt"]),
        lambda d: d.pop("registry"),
        lambda d: d["beta_modal"].clear(),
        lambda d: d.__setitem__("beta_modal", None),
        lambda d: d.__setitem__("history", []),
        lambda d: d["net"].pop("decoder.last.0"),
        lambda d: d["net"].__setitem__("centre_0", d["net"]["centre_1"]),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_together_is_refused(
    model: MosaicVI, mdata: MuData, tmp_path: Path, edit: Callable[[dict[str, Any]], Any]
) -> None:
    model.save(tmp_path / "model")
    folder = edited(tmp_path / "model", lambda content: edit(content["document"]))
    with pytest.raises(ModelFileError) as error:
        MosaicVI.load(folder, mdata)
    assert "\n" not in str(error.value)


def test_a_model_from_before_values_were_standardised_takes_them_as_they_are(
    model: MosaicVI, mdata: MuData, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    folder = edited(tmp_path / "model", lambda content: content["document"]["registry"].pop("standards"))
    older = MosaicVI.load(folder, mdata)
    assert older.mosaic.modality("adt").standard is None
    low, high = (getattr(older.net.bounds(1), side).numpy() for side in ("low", "high"))
    values = older.get_imputed_values(modality="adt").to_numpy()
    assert ((values >= low) & (values <= high)).all()


# --- bad input, each in one line that names the thing and the remedy ----------------------------


def wide(seed: int = 0) -> MuData:
    return random_mudata(seed, n_cells=30, nan=False, panels=False)


def changed(mdata: MuData, name: str, change: Callable[[AnnData], Any]) -> MuData:
    mods = {k: v.copy() for k, v in mdata.mod.items()}
    mods[name] = change(mods[name]) or mods[name]
    return mudata_of(mods, mdata.obs)


def _put(value: float) -> Callable[[AnnData], None]:
    def put(a: AnnData) -> None:
        x = a.X.toarray()
        x[0, 0] = value
        a.X = sp.csr_matrix(x)

    return put


def _half(a: AnnData) -> None:
    a.layers["counts"], a.X = a.X, a.X / 2


def _repeat_feature(a: AnnData) -> None:
    a.var_names = [a.var_names[1], *a.var_names[1:]]


def _unmeasured(a: AnnData) -> None:
    a.varm["measured"] = np.array([[False]] + [[True]] * (a.n_vars - 1))
    x = a.X.toarray()
    x[:, 0] = 0
    a.X = sp.csr_matrix(x)


def _orphan() -> MuData:
    mdata = wide()
    cell = mdata.obs_names[4]
    for name, a in mdata.mod.items():
        mdata.mod[name] = a[a.obs_names != cell].copy()
    return mdata


def _repeated_cell() -> AnnData:
    a = wide().mod["rna"].copy()
    a.obs_names = [a.obs_names[1], *a.obs_names[1:]]
    return a


def _no_cells() -> MuData:
    mdata = wide()
    mdata.mod["rna"] = mdata.mod["rna"][:0].copy()
    return mdata


def _missing_batch() -> MuData:
    mdata = wide()
    mdata.obs["batch"] = mdata.obs["batch"].astype(object)
    mdata.obs.loc[mdata.obs_names[4], "batch"] = np.nan
    return mdata


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no such batch_key": (
        lambda: set_up(wide(), batch_key="lane"),
        r"batch_key: no obs column 'lane'; there are",
    ),
    "NaN in the batch column": (lambda: set_up(_missing_batch()), r"obs\['batch'\] is missing .*'cell4'"),
    "negative counts": (
        lambda: set_up(changed(wide(), "rna", _put(-1)), likelihoods={"rna": "NB"}),
        r"rna: the value -1 of cell 'cell\d+' is negative, which NB cannot be; name the layer of raw counts",
    ),
    "non-finite counts": (
        lambda: set_up(changed(wide(), "rna", _put(np.inf))),
        r"value inf of cell .* not finite",
    ),
    "NaN in sparse counts": (
        lambda: set_up(changed(wide(), "rna", _put(np.nan))),
        r"a sparse matrix holds NaN",
    ),
    "fractional values under NB with library": (
        lambda: MosaicVI(set_up(changed(wide(), "rna", _half), likelihoods={"rna": "NB"})),
        r"rna: values are fractional, so they look normalised already.*NB with a library needs raw counts",
    ),
    "duplicated obs_names": (
        lambda: MosaicVI.setup_anndata(_repeated_cell()),
        r"^obs_names: 'cell\d+' occur more than once",
    ),
    "duplicated var_names": (
        lambda: set_up(changed(wide(), "rna", _repeat_feature)),
        r"rna: var_names: 'g1' occur more than once",
    ),
    "a cell with no modality at all": (
        lambda: set_up(_orphan()),
        r"1 cells have no modality at all .*'cell4'",
    ),
    "a modality with no cells": (lambda: set_up(_no_cells()), r"'rna' has no cells; leave it out"),
    "a modality with no features": (
        lambda: set_up(changed(wide(), "rna", lambda a: a[:, :0].copy())),
        r"'rna' has no features; leave it out",
    ),
    "a feature measured by nobody": (
        lambda: set_up(changed(wide(), "rna", _unmeasured)),
        r"rna: nobody measured 'g0'; remove such features",
    ),
    "fewer cells than a minibatch": (
        lambda: MosaicVI(set_up(wide()), **SMALL).train(1, batch_size=256),
        r"batch_size: 256 is more than the 30 cells of the data; set batch_size=7",
    ),
    "an unknown likelihood": (
        lambda: set_up(wide(), likelihoods={"rna": "Negbin"}),
        r"likelihoods: unknown 'Negbin' for 'rna'",
    ),
    "an unknown parameter": (
        lambda: MosaicVI(set_up(wide()), dim_latnet=3),
        r"Unknown parameter 'dim_latnet'; did you mean 'dim_latent'\?",
    ),
    "an unknown layer": (lambda: set_up(wide(), layers={"rna": "x"}), r"rna: no layer 'x'; it has none"),
    "an unknown modality": (
        lambda: set_up(wide(), modalities=["rnaa"]),
        r"No modality 'rnaa' in the data; it has",
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_in_one_line(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        call()
    assert len(error.value.problems) == 1
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"something else", b"\x89HDF\r\n\x1a\n" + b"\0" * 64])
def test_missing_truncated_and_foreign_files(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.h5mu"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.h5mu") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_truncated_file(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mudata.write(tmp_path / "a.h5mu", wide())
    whole = (tmp_path / "a.h5mu").read_bytes()
    (tmp_path / "a.h5mu").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.h5mu") as error:
        read(tmp_path / "a.h5mu")
    assert "\n" not in str(error.value)


def test_an_all_zero_cell_is_allowed_with_a_warning() -> None:
    def empty(a: AnnData) -> None:
        x = a.X.toarray()
        x[2] = 0
        a.X = sp.csr_matrix(x)

    mdata = changed(random_mudata(0, n_cells=40, panels=False, nan=False), "rna", empty)
    cell = mdata.mod["rna"].obs_names[2]
    with pytest.warns(MosaicWarning) as warned:  # peaks of some cells are all zero besides
        MosaicVI.setup_mudata(mdata, batch_key="batch", modalities=["rna", "adt", "atac"])
    assert any(str(w.message).startswith("Modality 'rna'") and repr(cell) in str(w.message) for w in warned)
    model = MosaicVI(mdata, **SMALL).train(1, batch_size=20, progress=False)
    assert np.isfinite(model.get_latent_representation()).all()


def test_a_model_of_a_newer_version(model: MosaicVI, mdata: MuData, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    folder = edited(tmp_path / "model", lambda content: content.__setitem__("format_version", 99))
    with pytest.raises(
        ModelFileError, match=r"written by a newer mosaicvi: format version 99.*upgrade"
    ) as error:
        MosaicVI.load(folder, mdata)
    assert "\n" not in str(error.value)


def test_features_that_do_not_match(model: MosaicVI, mdata: MuData, tmp_path: Path) -> None:
    model.save(tmp_path / "model")

    def rename(a: AnnData) -> None:
        a.var_names = ["p0", "p1", "CD3", "p3"]

    with pytest.raises(InputError, match=r"'adt' does not match .* lacks 'p2' and has 'CD3' besides"):
        MosaicVI.load(tmp_path / "model", changed(mdata, "adt", rename))
    with pytest.raises(InputError, match=r"'adt' does not match .* lacks 'p1'"):
        MosaicVI.load(tmp_path / "model", changed(mdata, "adt", lambda a: a[:, [0, 2, 3]].copy()))


def test_the_published_preset_reads_peaks_as_accessible_or_not(tmp_path: Path) -> None:
    data = random_mudata(3)
    set_up(data)
    model = MosaicVI(data, preset="published", **SMALL)
    assert MosaicVI(data, **SMALL).config.distributions[2] == "Poisson"
    assert model.config.distributions[2] == "Bernoulli"
    assert model.mosaic.modality("atac").transform == "binarize"
    model.save(tmp_path / "model")
    loaded = MosaicVI.load(tmp_path / "model", data)
    assert loaded.mosaic.modality("atac").likelihood == "Bernoulli"
    np.testing.assert_array_equal(model.get_latent_representation(), loaded.get_latent_representation())
