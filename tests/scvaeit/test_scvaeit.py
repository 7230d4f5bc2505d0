"""mosaicvi.scvaeit: what it does right that the original did not, and its own arguments."""

from __future__ import annotations

import ast
import inspect
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mosaicvi.scvaeit as scVAEIT
from mosaicvi import InputError, MosaicWarning
from mosaicvi.scvaeit import VAEIT

SMALL = {"dim_block_enc": 4, "dim_block_dec": 4, "dim_block_embed": 2, "dimensions": 4, "dim_latent": 2}


def data_of(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Values of two modalities, 5 + 4 features, and masks under which half of the cells lack the second."""
    x = np.log1p(np.random.default_rng(0).poisson(2.0, (n, 9))).astype(np.float32)
    masks = np.zeros((n, 9))
    masks[n // 2 :, 5:] = -1
    return x, masks


@pytest.fixture(scope="module")
def model() -> VAEIT:
    x, masks = data_of()
    model = VAEIT({"dim_input_arr": [5, 4], "dist_block": "NB", **SMALL}, x, masks)
    model.train(num_epoch=2, batch_size=20)
    return model


def test_masks_of_an_answer_hide_what_was_measured(model: VAEIT) -> None:
    x, masks = data_of()
    hidden = np.zeros((40, 9), int)
    hidden[:20, 5:] = 1
    z = model.get_latent_z(hidden)
    fewer = VAEIT({"dim_input_arr": [5, 4], "dist_block": "NB", **SMALL}, x, masks)
    fewer.model = model.model
    assert (np.abs(z - model.get_latent_z())[:20] > 1e-6).any(1).all()
    np.testing.assert_allclose(z[20:], model.get_latent_z()[20:], atol=1e-6)
    np.testing.assert_array_equal(model.get_latent_z(hidden, zero_out=False), model.get_latent_z())
    seen = model.model.get_latent_representation(modalities=["M-0"])
    np.testing.assert_allclose(z, seen, atol=1e-6)
    theirs = model.model.get_imputed_values(modality="M-1", modalities=["M-0"], n_samples=3)
    np.testing.assert_allclose(model.get_denoised_data(hidden, L=3)[:, 5:], theirs, rtol=1e-4)
    with pytest.raises(InputError, match=r"nothing is left to see of 20 cells \(such as 20"):
        model.get_latent_z(np.where(np.arange(9) < 5, -1, 0) * np.ones((40, 1)))


def test_the_config_holds_what_was_not_given_too(model: VAEIT) -> None:
    config = model.config
    assert (config.beta_kl, config.beta_unobs, config.beta_reverse, config.p_feat) == (2, 0.5, 0, 0.2)
    assert (config.skip_conn, tuple(config.p_modal), tuple(config.beta_modal)) == (False, (0.5, 0.5), (1, 1))
    assert (config.dim_latent, config.dimensions) == (2, 4)  # as they were given
    x, masks = data_of()
    bare = VAEIT({}, x, masks)
    before = bare.model.config
    bare.reset()
    assert bare.model.config == before
    assert bare.config.dim_latent == before.dim_latent


def test_an_answer_is_that_of_the_cell_alone(model: VAEIT) -> None:
    np.testing.assert_allclose(model.get_latent_z(batch_size_inference=3), model.get_latent_z(), atol=1e-5)
    np.testing.assert_allclose(
        model.get_denoised_data(L=2, batch_size_inference=7), model.get_denoised_data(L=2), rtol=1e-4
    )


def test_answers_of_all_entries_are_in_memory_once() -> None:
    x = np.random.default_rng(0).poisson(1.0, (4000, 100)).astype(np.float32)
    large = VAEIT({"dist_block": "NB", **SMALL}, x)
    with pytest.warns(MosaicWarning, match="not trained"):
        large.get_denoised_data(L=1)  # imports and compiles
    tracemalloc.start()
    answer = large.get_denoised_data(L=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * answer.nbytes


def test_a_batch_that_the_saved_model_never_met_is_named_by_the_argument(tmp_path: Path) -> None:
    x, masks = data_of()
    config = {"dim_input_arr": [5, 4], "dist_block": "NB", **SMALL}
    VAEIT(config, x, masks, batches_cate=np.arange(40) % 2).save_model(tmp_path / "model")
    other = VAEIT(config, x, masks, batches_cate=np.arange(40) % 3)
    said = r"^batches_cate\[:, 0\] has '2', which the model has not seen"
    with pytest.warns(MosaicWarning, match=said):
        other.load_model(tmp_path / "model")
    for answer in (other.get_latent_z, other.get_denoised_data):
        with pytest.warns(MosaicWarning, match=said):
            answer(np.zeros(9))


def test_features_that_nobody_measured_are_nan() -> None:
    x, masks = data_of()
    masks[:, [1, 7]] = -1
    config = {"dim_input_arr": [5, 4], "dist_block": "NB", "max_vals": np.arange(1.0, 10), **SMALL}
    with pytest.warns(MosaicWarning, match=r"no value of 2 features|No cell has a value of 2 features"):
        model = VAEIT(config, x, masks)
    model.train(num_epoch=1, batch_size=20)
    answer = model.get_denoised_data(L=2)
    assert np.isnan(answer[:, [1, 7]]).all()
    known = np.delete(answer, [1, 7], axis=1)
    assert (known <= np.delete(np.arange(1.0, 10), [1, 7])).all()
    assert np.isfinite(known).all()
    bounds = torch.cat([model.vae.bounds(0).high, model.vae.bounds(1).high])
    np.testing.assert_array_equal(bounds, np.delete(np.arange(1.0, 10), [1, 7]))


def test_every_column_of_conditions_is_aligned_alone() -> None:
    x, masks = data_of()
    one, two = np.arange(40) % 2, np.where(np.arange(40) < 10, np.nan, np.arange(40) % 3)
    both = np.c_[one, two]
    config = {"dim_input_arr": [5, 4], "dist_block": "NB", "gamma": 1.0, **SMALL}

    def mmd(conditions: Any) -> float:
        model = VAEIT(config, x, masks, conditions=conditions)
        return model.train(num_epoch=1, batch_size=40)["train"]["mmd"][0]

    assert mmd(one) > 0
    assert mmd(both) == pytest.approx(mmd(one) + mmd(two), rel=1e-5)
    assert mmd(None) == 0


def test_held_out_cells_end_training_and_the_model_is_seen_on_the_way(tmp_path: Path) -> None:
    x, masks = data_of()
    model = VAEIT({"dim_input_arr": [5, 4], "dist_block": "NB", **SMALL}, x, masks)
    hist = model.train(
        valid=True, test_size=10, learning_rate=0.5, num_epoch=40, batch_size=30, early_stopping_patience=2
    )
    n = len(hist["val"]["total"])
    assert n == len(hist["train"]["total"]) < 40
    assert n - 1 - int(np.argmin(hist["val"]["total"])) == 2
    assert model.model.held_out().sum() == 10
    seen: list[float] = []
    model.reset()
    model.train(
        num_epoch=5,
        save_every_epoch=2,
        eval_func=lambda vae: seen.append(vae.encoder.mean.weight.sum().item()),
    )
    assert len(seen) == len(set(seen)) == 3  # after the epochs 2, 4 and 5


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (
            {},
            {"data": data_of()[0] - 1},
            r"is negative, which NB cannot be; give counts, or 'Gaussian' in dist_",
        ),
        (
            {"dist_block": "Bernoulli"},
            {"data": 2 * data_of()[0]},
            r"Bernoulli cannot be; give 0 and 1, such as 1\.0 \* \(data > 0\), or another dist_block",
        ),
        (
            {},
            {"batches_cate": [None] * 2 + ["a"] * 38},
            r"^batches_cate\[:, 0\] is missing \(NaN\) for 2 cells",
        ),
        ({}, {"batches_cont": ["a"] * 40}, r"^batches_cont\[:, 0\] is missing \(NaN\) for 40 cells"),
    ],
)
def test_messages_name_what_was_given(config: dict[str, Any], given: dict[str, Any], message: str) -> None:
    x, masks = data_of()
    with pytest.raises(InputError, match=message):
        VAEIT(
            {"dim_input_arr": [5, 4], "dist_block": "NB", **config}, **({"data": x, "masks": masks} | given)
        )


def test_what_the_history_of_validation_holds() -> None:
    x, masks = data_of()
    model = VAEIT({"dim_input_arr": [5, 4], "dist_block": "NB", **SMALL}, x, masks)
    model.train(num_epoch=1, batch_size=20)
    hist = model.train(init_epoch=2, num_epoch=3, batch_size=20, valid=True)
    assert [len(hist[part]["kl"]) for part in ("train", "val")] == [3, 2]
    assert np.isfinite(hist["val"]["total"]).all()


def test_a_new_run_does_not_go_on_from_an_old_one(tmp_path: Path) -> None:
    x, masks = data_of()

    def trained(**how: Any) -> VAEIT:
        model = VAEIT({"dim_input_arr": [5, 4], "dist_block": "NB", **SMALL}, x, masks)
        model.train(num_epoch=2, batch_size=20, checkpoint_dir=tmp_path / "ckpt", **how)
        return model

    assert [len(trained().model.history) for _ in range(2)] == [2, 2]
    with pytest.warns(MosaicWarning, match="delete_existing=False: training goes on from epoch 2 of .*ckpt"):
        assert len(trained(delete_existing=False).model.history) == 4
    again = VAEIT({"dim_input_arr": [5, 4], "dist_block": "NB", **SMALL}, x, masks)
    hist = again.train(init_epoch=5, num_epoch=5, batch_size=20, checkpoint_dir=tmp_path / "ckpt")
    assert hist["train"]["total"] == again.model.history["train_loss"].tolist()  # of earlier epochs as well
    assert len(hist["train"]["total"]) == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.csv").write_text("1")
    with pytest.raises(InputError):
        trained().save_model(tmp_path / "mine")
    assert (tmp_path / "mine" / "results.csv").read_text() == "1"


def test_nothing_goes_on_from_nothing(tmp_path: Path) -> None:
    x, masks = data_of()
    model = VAEIT({"dim_input_arr": [5, 4], "dist_block": "NB", **SMALL}, x, masks)
    with pytest.raises(InputError, match=r"init_epoch: there is no trained model for 3 to go on from; use 1"):
        model.train(init_epoch=3, num_epoch=4, checkpoint_dir=tmp_path / "none")
    with pytest.raises(InputError, match=r"adata: there is nothing yet; call update_z\(\) first"):
        model.visualize_latent()
    with pytest.raises(InputError, match="method: 'UMAP' or 'PCA', not 2;"):
        model.visualize_latent(2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="visualize_latent: unknown argument 'basis'; use method='UMAP'"):
        model.visualize_latent(basis="X_pca")


def test_the_seed_is_that_of_the_next_model() -> None:
    x, masks = data_of()

    def weights(seed: float) -> np.ndarray:
        scVAEIT.reset_random_seeds(seed)
        made = VAEIT({"dim_input_arr": [5, 4], "dist_block": "NB", **SMALL}, x, masks)
        return made.vae.encoder.mean.weight.detach().numpy()

    np.testing.assert_array_equal(weights(3), weights(3.0))
    assert not np.allclose(weights(3), weights(4))
    scVAEIT.reset_random_seeds(0)


def test_arguments_stand_in_the_order_of_the_original() -> None:
    def names(method: str) -> list[str]:
        return list(inspect.signature(getattr(VAEIT, method)).parameters)[1:]

    assert names("__init__") == [
        "config", "data", "masks", "id_dataset", "batches_cate", "batches_cont", "conditions",
    ]  # fmt: skip
    assert names("train")[:8] == [
        "valid", "stratify", "test_size", "random_state", "learning_rate", "num_repeat", "batch_size",
        "batch_size_inference",
    ]  # fmt: skip
    assert names("get_latent_z") == ["masks", "zero_out", "batch_size_inference"]
    assert names("get_denoised_data") == ["masks", "zero_out", "batch_size_inference", "return_mean", "L"]
    assert names("visualize_latent")[:2] == ["method", "color"]


def test_the_page_has_the_defaults_of_training() -> None:
    page = (Path(__file__).parents[2] / "docs" / "from-scvaeit.md").read_text(encoding="utf-8")
    table = page.partition("The arguments of `train`:")[2].partition("Given the")[0]
    rows = [line.split(" | ")[:2] for line in table.splitlines() if line.startswith("| `")]
    names, defaults = (re.findall(r"`([^`]+)`", " ".join(column)) for column in zip(*rows, strict=True))
    said = dict(zip(names, map(ast.literal_eval, defaults), strict=True))
    train = inspect.signature(VAEIT.train).parameters
    assert said == {name: of.default for name, of in train.items() if name != "self"}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"init_epoch": 5, "num_epoch": 4}, "init_epoch: 5 is beyond num_epoch=4"),
        ({"num_epoch": 0}, "num_epoch: at least 1, not 0"),
        ({"learning_rate": "fast"}, "learning_rate: a number is needed"),
        ({"learning_rate": -1.0}, r"^learning_rate: must be > 0, not -1\.0"),
        ({"batch_size": 2.5}, "batch_size: a whole number is needed"),
        (
            {"valid": True, "test_size": 40},
            r"test_size: .* or a number below 40, not 40\.",
        ),
        ({"valid": True, "test_size": 0.001}, "^test_size: it leaves no cell to validate; raise it"),
    ],
)
def test_training_names_what_cannot_be(model: VAEIT, how: dict[str, Any], message: str) -> None:
    before = len(model.model.history)
    with pytest.raises(InputError, match=message):
        model.train(**how)
    assert len(model.model.history) == before


def test_a_folder_with_other_files_is_refused_before_the_first_epoch(tmp_path: Path) -> None:
    x, masks = data_of()
    model = VAEIT({"dim_input_arr": [5, 4], **SMALL}, x, masks)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        model.train(num_epoch=2, valid=True, checkpoint_dir=tmp_path / "own")
    assert not len(model.model.history)
    model.train(num_epoch=1, batch_size=20, checkpoint_dir=tmp_path / "new" / "place")
    assert (tmp_path / "new" / "place" / "model.json").exists()


def test_numbers_may_be_arrays_without_a_dimension() -> None:
    x, masks = data_of()
    said = {"p_feat": np.array(0.5), "gamma": np.array(2.0), "beta_kl": np.array(1)}
    model = VAEIT({"dim_input_arr": [5, 4], **SMALL, **said}, x, masks, conditions=np.arange(40) % 2)
    assert (model.model.config.p_feat, model.model.config.gamma(0), model.model.config.beta_kl) == (
        0.5,
        2.0,
        1,
    )
