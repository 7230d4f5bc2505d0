"""A saved model under another config, other data and other epochs; what is said where they do not fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.builders import mudata_of

import mosaicvi.scvaeit
from mosaicvi import InputError, MosaicVI
from mosaicvi.scvaeit import VAEIT

BATCHES = np.arange(40) % 2
CONFIG: dict[str, Any] = {
    "dim_input_arr": [5, 4], "dist_block": "NB", "dim_block_enc": 4, "dim_block_dec": 4, "dim_block_embed": 2,
    "dimensions": 4, "dim_latent": 2,
}  # fmt: skip


def made(masks: Any = None, conditions: Any = BATCHES, **config: Any) -> VAEIT:
    x = np.log1p(np.random.default_rng(0).poisson(2.0, (40, 9))).astype(np.float32)
    return VAEIT(CONFIG | config, x, masks, None, BATCHES, None, conditions)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a model of two epochs, without alignment, is."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    made().train(num_epoch=2, batch_size=20, checkpoint_dir=folder)
    return folder


def test_weights_of_the_loss_are_those_of_the_present_config(folder: Path) -> None:
    new = {
        "gamma": 3.0, "beta_kl": 0.5, "beta_modal": [0.2, 0.7], "p_feat": 0.4, "p_modal": [0.9, 0.1],
        "beta_unobs": 0.8, "beta_reverse": 0.1, "max_disp": 5.0, "max_vals": 2.5,
    }  # fmt: skip
    old, model = made(), made(**new)
    old.load_model(folder)
    model.load_model(folder)
    np.testing.assert_array_equal(model.get_latent_z(), old.get_latent_z())
    assert model.get_denoised_data(L=2).max() <= 2.5
    config = model.model.config
    assert model.vae.config is model.vae.encoder.config is model.vae.decoder.config is config
    assert config == made(**new).model.config
    for at in range(2):
        np.testing.assert_array_equal(model.vae.bounds(at).high, np.full((5, 4)[at], 2.5, np.float32))
    model.train(init_epoch=3, num_epoch=3, batch_size=20)
    row = model.model.history.iloc[-1]
    assert (row["gamma"], row["beta_M-0"], row["beta_M-1"]) == pytest.approx((3.0, 0.2, 0.7))
    assert row["train_mmd"] > 0
    old.train(init_epoch=3, num_epoch=3, batch_size=20)
    assert old.model.history["train_mmd"].iloc[-1] == 0


def test_training_goes_on_from_a_folder_by_the_present_config(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    first = made()
    first.load_model(folder)
    first.save_model(copy)
    model = made(gamma=3.0, beta_kl=0.5)
    model.train(init_epoch=3, num_epoch=3, batch_size=20, checkpoint_dir=copy)
    assert model.model.history["gamma"].tolist() == [0, 0, 3]
    again = made(conditions=None, gamma=3.0)  # of no effect without them
    again.load_model(copy)
    assert again.model.config.gamma(5) == 0
    assert MosaicVI.load(copy).config.beta_kl == 0.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dim_latent": 5}, "dim_latent: the saved model has 2, but config says 5; give the saved model's"),
        ({"dimensions": [4, 4]}, r"dimensions: the saved model has \[4\], but config says \[4, 4\]"),
        ({"dim_block_enc": [4, 3]}, r"dim_block_enc: the saved model has \[4, 4\], but config says \[4, 3\]"),
        ({"dim_block_embed": 3}, r"dim_block_embed: the saved model has \[2, 2\], but config says \[3, 3\]"),
        ({"dist_block": ["NB", "Gaussian"]}, r"dist_block: .*\['NB', 'NB'\], .*\['NB', 'Gaussian'\]"),
        ({"skip_conn": True}, "skip_conn: the saved model has False, but config says True"),
        ({"dim_input_arr": [6, 3]}, r"dim_input_arr: the saved model has \[5, 4\], but config says \[6, 3\]"),
        ({"uni_block_names": ["rna", "adt"]}, r"block_names: the saved model has \['M-0', 'M-1'\], but"),
    ],
)
def test_what_decides_shapes_has_to_agree(folder: Path, config: dict[str, Any], message: str) -> None:
    model = made(**config)
    before = model.model
    with pytest.raises(InputError, match=message):
        model.load_model(folder)
    with pytest.raises(InputError, match=message):
        model.train(init_epoch=3, num_epoch=4, checkpoint_dir=folder)
    assert model.model is before


@pytest.mark.filterwarnings("ignore:No cell has a value")
def test_the_columns_have_to_be_those_of_the_saved_model(folder: Path, tmp_path: Path) -> None:
    masks = np.zeros((40, 9))
    masks[:, 7] = -1
    fewer = made(masks)
    with pytest.raises(
        InputError, match=r"\[5, 4\] .* data \[5, 3\], and column 7 is one in the saved model"
    ):
        fewer.load_model(folder)
    fewer.save_model(tmp_path / "fewer")
    with pytest.raises(InputError, match=r"\[5, 3\] .* data \[5, 4\], and column 7 is one in these data"):
        made().load_model(tmp_path / "fewer")
    x = np.ones((40, 9), np.float32)
    with pytest.raises(InputError, match="batches_cate: the saved model has 1 columns, and 0 are given"):
        VAEIT(CONFIG, x).load_model(folder)


@pytest.mark.filterwarnings("ignore:Modality")
def test_a_model_of_another_interface_is_not_read(tmp_path: Path) -> None:
    model = made()
    rna = model._mdata["M-0"].copy()
    rna.var_names = [f"gene {i}" for i in range(5)]
    mdata = mudata_of({"M-0": rna}, model._mdata.obs.copy())
    MosaicVI.setup_mudata(mdata, likelihoods={"M-0": "NB"}, transforms={"M-0": "none"}, panel_key="pattern")
    MosaicVI(mdata, preset="published", dim_latent=2).save(tmp_path / "other")
    with pytest.raises(InputError, match=r"path_to_weights: 'gene 0' is no feature of VAEIT"):
        model.load_model(tmp_path / "other")


def test_the_first_epoch_is_the_next_one(folder: Path) -> None:
    model = made()
    for first in (2, 301):
        with pytest.raises(InputError, match=rf"init_epoch: {first}, .*trained for 2 epochs; use 3 to go on"):
            model.train(init_epoch=first, num_epoch=400, batch_size=20, checkpoint_dir=folder)
    with pytest.raises(InputError, match="trained for 1 epochs of num_repeat=2 passes; use 2"):
        model.train(init_epoch=3, num_epoch=3, num_repeat=2, batch_size=20, checkpoint_dir=folder)
    assert not model.model.is_trained
    assert len(MosaicVI.load(folder).history) == 2


def test_a_loaded_model_has_its_history_and_a_new_one_none(folder: Path) -> None:
    model = made()
    model.load_model(folder)
    assert model.hist["train"]["total"] == model.model.history["train_loss"].tolist()
    assert len(model.hist["train"]["kl"]) == 2
    model.reset()
    assert model.hist == {}


def test_the_model_before_training_is_read_without_history(tmp_path: Path) -> None:
    model = made()
    model.save_model(tmp_path / "fresh")
    model.load_model(tmp_path / "fresh")
    assert model.hist == {}


def test_the_module_of_the_class_has_its_name() -> None:
    from mosaicvi.scvaeit.VAEIT import VAEIT as same

    assert same is VAEIT is mosaicvi.scvaeit.VAEIT
    assert sys.modules["mosaicvi.scvaeit.VAEIT"].VAEIT is VAEIT


def test_adata_is_not_there_before_it_is_made() -> None:
    model = made()
    assert not hasattr(model, "adata")
    with pytest.raises(InputError, match=r"adata: there is nothing yet; call update_z\(\) first"):
        _ = model.adata
