"""Draws: a cell's own, of the likelihood that the network says, and good for pooling."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from mudata import MuData
from tests.builders import random_mudata

from mosaicvi import InputError, MosaicVI, MosaicWarning, likelihoods
from mosaicvi.infer.draws import generator_of, latent_noise
from mosaicvi.likelihoods import Parameters

SMALL: dict[str, Any] = {"dimensions": 16, "dim_latent": 4, "dim_block_enc": 8, "dim_block_dec": 8}


@pytest.fixture(scope="module")
def made() -> tuple[MosaicVI, MuData]:
    mdata = random_mudata(3, n_cells=60, nan=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
    return MosaicVI(mosaic, **SMALL).train(3, batch_size=20, progress=False, accelerator="cpu"), mdata


@pytest.mark.parametrize("modality", ["rna", "adt", "atac"])
def test_a_cells_draws_are_its_own(made: tuple[MosaicVI, MuData], modality: str) -> None:
    model, mdata = made
    draws = model.posterior_predictive_sample(modality=modality, n_samples=3, seed=5)
    assert draws.dtype == np.float32
    assert draws.shape == (3, 60, len(model.imputed_features(modality)))
    assert (draws == np.round(draws)).all()
    assert (draws >= 0).all()
    names = list(mdata.obs_names[[40, 7, 3]])
    some = model.posterior_predictive_sample(
        modality=modality, n_samples=2, seed=5, indices=names, batch_size=2
    )
    np.testing.assert_array_equal(some, draws[:2, [40, 7, 3]])
    features = list(model.imputed_features(modality)[[3, 1]])
    few = model.posterior_predictive_sample(modality=modality, n_samples=3, seed=5, features=features)
    np.testing.assert_array_equal(few, draws[:, :, [3, 1]])
    other = mdata[np.arange(60) % 3 > 0].copy()
    again = model.posterior_predictive_sample(other, modality=modality, n_samples=3, seed=5)
    np.testing.assert_array_equal(again, draws[:, mdata.obs_names.get_indexer(other.obs_names)])
    assert (model.posterior_predictive_sample(modality=modality, n_samples=3, seed=6) != draws).any()
    assert (draws[0] != draws[1]).any()


def test_draws_of_the_latent_are_those_of_the_posterior(made: tuple[MosaicVI, MuData]) -> None:
    model = made[0]
    draws = model.get_latent_representation(n_samples=400, seed=1, aligned=False)
    mean, var = model.get_latent_representation(return_dist=True, aligned=False)
    assert draws.shape == (400, *mean.shape)  # type: ignore[union-attr]
    off = (np.asarray(draws) - mean) / np.sqrt(var)
    assert abs(off.mean()) < 0.02
    np.testing.assert_allclose(off.std(0), 1, atol=0.2)
    one = model.get_latent_representation(give_mean=False, seed=1, indices=[9], aligned=False)
    np.testing.assert_allclose(np.asarray(one)[0], draws[0][9], rtol=1e-5)


def test_the_mean_of_draws_is_the_decoders(made: tuple[MosaicVI, MuData], monkeypatch: Any) -> None:
    model = made[0]
    monkeypatch.setattr(MosaicVI, "readout", lambda *_: None)
    for modality, library in (("rna", 50.0), ("atac", None)):
        drawn = model.posterior_predictive_sample(modality=modality, n_samples=300, library=library)
        wanted = model.get_imputed_values(modality=modality, n_samples=300, library=library)
        np.testing.assert_allclose(drawn.mean((0, 1)), wanted.to_numpy().mean(0), rtol=0.1)


def test_a_library_for_each_cell(made: tuple[MosaicVI, MuData]) -> None:
    model = made[0]
    library = np.where(np.arange(60) < 30, 10.0, 1000.0)
    total = model.posterior_predictive_sample(modality="rna", n_samples=50, library=library).sum(2).mean(0)
    np.testing.assert_allclose([total[:30].mean(), total[30:].mean()], [10, 1000], rtol=0.1)


def test_several_batches_take_turns(made: tuple[MosaicVI, MuData]) -> None:
    model = made[0]
    choice: dict[str, Any] = {"modality": "rna", "n_samples": 4, "library": 200.0}
    a, b, both = (
        model.posterior_predictive_sample(transform_batch=batch, **choice) for batch in ("A", "B", ["A", "B"])
    )
    np.testing.assert_array_equal(both, np.stack([a[0], b[1], a[2], b[3]]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_samples": 0}, "n_samples: at least 1, not 0"),
        ({"library": -1}, r"library: must be > 0, not -1\.0"),
        ({"library": [1.0, 2.0]}, "library: give one number, or one for each of the 60 cells"),
        ({"library": "many"}, "library: give one number"),
        ({"transform_batch": "Z"}, "transform_batch: 'Z' is unknown"),
        ({"features": ["CD3"]}, "features: rna has no 'CD3'"),
    ],
)
def test_wrong_arguments_are_named(
    made: tuple[MosaicVI, MuData], wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        made[0].posterior_predictive_sample(modality="rna", **wrong)


def test_noise_of_a_cell_depends_on_seed_purpose_and_name() -> None:
    one = generator_of(0, "a", "latent").random(3)
    for other in (
        generator_of(1, "a", "latent"),
        generator_of(0, "b", "latent"),
        generator_of(0, "a", "rna"),
    ):
        assert (other.random(3) != one).all()
    noise = latent_noise(0, ["a", "b"], 5, 3)
    np.testing.assert_array_equal(noise[:2, 1:], latent_noise(0, ["b"], 2, 3))
    assert latent_noise(0, [], 2, 3).shape == (2, 0, 3)


@pytest.mark.parametrize("name", ["NB", "ZINB", "Poisson", "Bernoulli", "Gaussian"])
def test_drawn_values_are_quantiles(name: str) -> None:
    family, rng = likelihoods.get(name), np.random.default_rng(0)
    parameters = Parameters(
        location=torch.from_numpy(rng.normal(0, 2, (30, 7))).float(),
        dispersion=torch.from_numpy(rng.gamma(1, 1, (30, 7))).float() if family.has_dispersion else None,
        inflation=torch.from_numpy(rng.uniform(0.1, 0.5, 7)).float() if family.has_inflation else None,
    )
    uniform = rng.random((30, 7))
    np.testing.assert_array_equal(family.at(uniform, parameters), family.quantile(uniform, parameters))
