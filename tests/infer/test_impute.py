"""Standardised features: answers are in the user's units, and the units change nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from mosaicvi import MosaicVI
from mosaicvi.metrics import correlation_per_feature

SMALL: dict[str, Any] = {"dimensions": 16, "dim_latent": 4, "dim_block_enc": 8, "dim_block_dec": 8}
D = 70


def table(n: int = 200, d: int = D, missing: float = 0.3) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values of n samples driven by 3 factors, and which are to be hidden."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)) + 0.3 * rng.normal(size=(n, d)) + rng.normal(size=d)
    hole = rng.random((n, d)) < missing
    hole[:, 0] = False
    return x.astype(np.float32), hole


def trained(x: NDArray[Any], epochs: int = 2, **parameters: Any) -> MosaicVI:
    a = AnnData(np.asarray(x, np.float32))
    a.var["kind"] = np.resize(
        ["light", "heavy", "light"], a.n_vars
    )  # blocks in another order than the features
    MosaicVI.setup_anndata(a, modality="peptide", likelihood="Gaussian", block_key="kind")
    return MosaicVI(a, **(SMALL | parameters)).train(epochs, batch_size=50, progress=False)


def answers(model: MosaicVI, **choice: Any) -> NDArray[np.float32]:
    return model.get_imputed_values(modality="peptide", **choice).to_numpy()


def test_features_times_powers_of_two_have_answers_times_the_same_to_the_bit() -> None:
    x, hole = table()
    x[hole] = np.nan
    factor = 2.0 ** np.random.default_rng(1).integers(-20, 20, D)
    plain, scaled = (trained(v, likelihood_share=0.5) for v in (x, x * factor))
    assert_array_equal(plain.history, scaled.history)
    assert_array_equal(plain.get_latent_representation(), scaled.get_latent_representation())
    assert_array_equal(answers(plain) * factor, answers(scaled))
    assert_array_equal(answers(plain, n_samples=3) * factor, answers(scaled, n_samples=3))
    some = [5, 60, 5, 2]
    chosen = answers(scaled, features=[str(j) for j in some])
    assert_allclose(chosen / factor[some], answers(plain)[:, some], rtol=1e-5, atol=1e-6)


def test_features_scaled_and_shifted_have_answers_scaled_and_shifted() -> None:
    x, hole = table()
    x[hole] = np.nan
    rng = np.random.default_rng(2)
    factor, shift = 10 ** rng.uniform(-2, 4, D), rng.normal(0, 3, D)
    plain, moved = (trained(v, likelihood_share=0.5) for v in (x, (x + shift) * factor))
    assert_allclose(answers(moved) / factor - shift, answers(plain), atol=2e-3)
    assert_allclose(moved.get_latent_representation(), plain.get_latent_representation(), atol=2e-3)


def test_features_of_any_spread_are_imputed_on_their_own_scale() -> None:
    truth, hole = table(d=20)
    truth = truth / truth.std(0)
    truth[:, 1] = 7 + 0.02 * truth[:, 1]
    truth[:, 2] *= 1e6
    x = np.where(hole, np.nan, truth)
    found = answers(trained(x, 80))
    score = correlation_per_feature(found, np.where(hole, truth, np.nan))
    for j in (1, 2):
        off, off_mean = (
            np.mean((guess - truth[:, j])[hole[:, j]] ** 2) for guess in (found[:, j], np.nanmean(x[:, j]))
        )
        assert score[j] > 0.7
        assert off < 0.6 * off_mean
        assert len(np.unique(found[:, j])) > 150


@pytest.mark.parametrize("preset", ["default", "published"])
def test_a_loaded_model_answers_the_same_also_of_new_data(preset: Any, tmp_path: Any) -> None:
    x, hole = table()
    x = np.where(hole, np.nan, 1000 + 50 * x).astype(np.float32)
    model = trained(x, preset=preset)
    assert bool(model.registry.standards) == (preset == "default")
    model.save(tmp_path / "model")
    new = AnnData(x[::-1][:40].copy())
    new.var["kind"] = np.resize(["light", "heavy", "light"], D)
    loaded = MosaicVI.load(tmp_path / "model", new)
    assert_array_equal(answers(loaded), model.get_imputed_values(new, modality="peptide").to_numpy())
    assert_allclose(answers(loaded), answers(model)[::-1][:40], rtol=1e-5)
