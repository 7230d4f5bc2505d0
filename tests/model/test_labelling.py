"""Labels of a trained model's cells: right, sure where they are right, and doubtful of what nobody named."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import KNeighborsClassifier

from mosaicvi import InputError, MosaicVI
from mosaicvi.datasets import simulated_mosaic


@pytest.fixture(scope="module")
def mdata() -> MuData:
    """Cells of four types; the labels of batches C and E, and of a fifth of the others, are hidden."""
    mdata = simulated_mosaic(900, n_genes=80, n_proteins=12, n_peaks=120, n_types=4, seed=1).mdata
    hidden = mdata.obs["batch"].isin(["C", "E"]) | (np.random.default_rng(0).random(mdata.n_obs) < 0.2)
    mdata.obs["label"] = mdata.obs["cell_type"].astype(str).mask(hidden, "unknown")
    without = mdata.obs["label"].mask(mdata.obs["cell_type"] == "type01")
    mdata.obs["unseen"] = without
    return mdata


@pytest.fixture(scope="module")
def model(mdata: MuData) -> MosaicVI:
    MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mdata, dimensions=32, dim_latent=8, dim_block_enc=16, dim_block_dec=16)
    return model.train(40, batch_size=128, progress=False)


def test_labels_are_right_and_as_sure_as_they_say(model: MosaicVI, mdata: MuData) -> None:
    found = model.predict_labels("label")
    assert found.index.equals(mdata.obs_names)
    hidden = (mdata.obs["label"] == "unknown").to_numpy()
    assert found["given"].isna().to_numpy().tolist() == hidden.tolist()
    is_right = (found["label"] == mdata.obs["cell_type"].astype(str)).to_numpy()
    z = model.get_latent_representation()
    nearest = KNeighborsClassifier(15).fit(z[~hidden], mdata.obs["label"][~hidden].astype(str))
    of_nearest = nearest.predict(z[hidden]) == mdata.obs["cell_type"][hidden].astype(str)
    assert is_right[hidden].mean() > of_nearest.mean() - 0.02
    # as many are right as was said
    assert found["probability"][hidden].mean() == pytest.approx(is_right[hidden].mean(), abs=0.05)
    # and those of which it is sure more often
    sure = (found["probability"] > found["probability"].median()).to_numpy()
    assert is_right[hidden & sure].mean() > is_right[hidden & ~sure].mean() + 0.05
    assert (found["second_probability"] <= found["probability"]).all()
    assert (found["label"] != found["second_label"]).all()
    assert found.attrs["labels"] == [f"type0{i}" for i in range(1, 5)]


def test_cells_of_a_type_without_labels_lie_far(model: MosaicVI, mdata: MuData) -> None:
    found = model.predict_labels("unseen")
    stranger = (mdata.obs["cell_type"] == "type01").to_numpy()
    assert found["given"][stranger].isna().all()
    order = found["distance"].rank()
    n = stranger.sum()
    auc = (order[stranger].sum() - n * (n + 1) / 2) / (n * (~stranger).sum())
    assert auc > 0.8
    assert found["none_of_these"][stranger].mean() > found["none_of_these"][~stranger].mean()
    np.testing.assert_array_equal(found["none_of_these"], found["typicality"] < 0.01)


def test_an_answer_is_the_cells_own(model: MosaicVI) -> None:
    whole = model.predict_labels("label")
    some = [700, 3, 41]
    pd.testing.assert_frame_equal(whole.iloc[some], model.predict_labels("label", indices=some))
    pd.testing.assert_frame_equal(whole, model.predict_labels("label", batch_size=97))


def test_other_data_are_labelled_by_the_models_own(model: MosaicVI, mdata: MuData) -> None:
    batch = mdata[mdata.obs["batch"].isin(["A", "B", "C"])].copy()
    del batch.obs["label"]
    found = model.predict_labels("label", mdata=batch)
    whole = model.predict_labels("label").loc[batch.obs_names]
    pd.testing.assert_frame_equal(found, whole)


def test_a_loaded_model_labels_the_same(model: MosaicVI, mdata: MuData, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    again = MosaicVI.load(tmp_path / "m", mdata).predict_labels("label")
    pd.testing.assert_frame_equal(again, model.predict_labels("label"))


def test_what_cannot_be_labelled_is_said(model: MosaicVI, mdata: MuData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"label_key: obs has no column 'kind'; it has .*'cell_type'"):
        model.predict_labels("kind")
    every = [f"type0{i}" for i in range(2, 5)]
    with pytest.raises(InputError, match=r"'label' has 1 label on \d+ cells; at least 2 on 20"):
        model.predict_labels("label", unlabeled=["unknown", *every])
    model.save(tmp_path / "m")
    alone = MosaicVI.load(tmp_path / "m", mdata.copy())
    gc.collect()
    with pytest.raises(InputError, match="the data that the model was given are gone"):
        alone.predict_labels("label")


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_cell_is_no_stranger_because_less_of_it_was_measured(
    model: MosaicVI, mdata: MuData, share: float
) -> None:
    """It is compared with labelled cells of which no more is seen, RNA or half of it; by hand here."""
    rna = mdata["rna"].copy()
    rna.obs["batch"] = mdata.obs["batch"]
    panels = rna.varm["measured"].to_numpy(bool)
    genes = np.flatnonzero(panels[:, panels.any(0)].all(1))  # that whoever has RNA measured
    rng = np.random.default_rng(3)
    genes = np.sort(rng.permutation(genes)[: int(share * len(genes))])
    label = mdata.obs["label"].astype(str)
    able = rna[label[rna.obs_names] != "unknown", genes].copy()
    query = able[rng.permutation(able.n_obs)[:150]].copy()
    query.obs_names = [f"new {name}" for name in query.obs_names]
    found = model.predict_labels("label", mdata=MosaicVI.prepare_query(query, model))
    every = np.asarray(model.get_latent_representation(), float)
    labelled = (label != "unknown").to_numpy()
    distances = [
        _distance(np.asarray(z, float), every[labelled], label[labelled].to_numpy(str))
        for z in (
            model.get_latent_representation(MosaicVI.prepare_query(able, model)),
            model.get_latent_representation(indices=np.flatnonzero(labelled)),
        )
    ]
    expected, of_whole = (np.array([(d >= one).mean() for one in found["distance"]]) for d in distances)
    np.testing.assert_allclose(found["typicality"], expected, atol=0.01)
    assert found["typicality"].mean() == pytest.approx(0.5, abs=0.06)
    if share < 1:  # who compares with whole cells is misled
        assert of_whole.mean() < found["typicality"].mean() - 0.05
    assert found["none_of_these"].mean() < 0.03


def _distance(z: np.ndarray, places: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mahalanobis distance to the nearest label's centre."""
    names = np.unique(label)
    centres = np.stack([places[label == name].mean(0) for name in names])
    covariance = ledoit_wolf(places - centres[np.searchsorted(names, label)], assume_centered=True)[0]
    apart = z[:, None] - centres
    return np.sqrt(np.einsum("nlk,kj,nlj->nl", apart, np.linalg.inv(covariance), apart).min(1))
