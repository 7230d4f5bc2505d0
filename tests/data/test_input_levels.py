"""Levels of batches for the encoder: found whatever cells they hold, and taken off its input alone."""

from __future__ import annotations

import dataclasses
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from mudata import MuData
from tests.builders import mudata_of

from mosaicvi import InputError, Mosaic, MosaicVI, MosaicWarning
from mosaicvi.config.defaults import LEVEL_NOISE
from mosaicvi.data.blocks import is_dense
from mosaicvi.data.input_levels import levels_of
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import seen, transformed
from mosaicvi.data.registry import Registry
from mosaicvi.nn.encoder import densified
from mosaicvi.store.saved import _check_fits

ALL = [0, 1, 2, 3, 4]
N_PROTEINS = 12
SMALL = {"dim_latent": 3, "dimensions": [8], "dim_block_enc": 6, "dim_block_dec": 6, "dim_block_embed": 2}


def simulated(
    types: list[list[int]], spread: float, seed: int, n: int = 400, n_features: int = N_PROTEINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of counts of batches of some types, their batches, and the levels, whose means are 0."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(2.5, 1.5, (max(map(max, types)) + 1, n_features))
    levels = rng.normal(0, spread, (len(types), n_features))
    levels -= levels.mean(0)
    code = np.repeat(np.arange(len(types)), n)
    kind = np.concatenate([rng.choice(of, n) for of in types])
    return mean[kind] + levels[code] + rng.normal(0, 0.6, (len(code), n_features)), code, levels


def error(types: list[list[int]], spread: float, seed: int = 0) -> float:
    """Root mean square of what is not found, or found where nothing is."""
    values, code, levels = simulated(types, spread, seed)
    return float(np.sqrt(np.square(levels_of(values, code, len(types)) - levels).mean()))


@pytest.mark.parametrize("types", [[ALL, ALL, ALL], [ALL, ALL, [0, 1]], [ALL, ALL, [3]], [ALL, [2]]])
def test_levels_are_found_whatever_types_a_batch_holds(types: list[list[int]]) -> None:
    assert error(types, 0.5) < 0.12
    assert error(types, 0.0) < 0.08


@pytest.mark.parametrize("types", [[[0, 1, 2], [3, 4]], [[0], [1]], [ALL[:4], ALL[:4], [4]]])
def test_types_of_one_batch_alone_are_not_taken_for_a_level(types: list[list[int]]) -> None:
    values, code, _ = simulated(types, 0.0, 1)
    means = np.stack([values[code == b].mean(0) for b in range(len(types))])
    assert np.sqrt(np.square(means - means.mean(0)).mean()) > 0.3  # what a difference of means would take
    assert error(types, 0.0, 1) < 0.12


@pytest.mark.parametrize("types", [[[0, 1, 2], [3, 4]], [ALL[:4], ALL[:4], [4]]])
def test_levels_that_cannot_be_told_are_left(types: list[list[int]]) -> None:
    _, _, levels = simulated(types, 0.5, 2)
    assert error(types, 0.5, 2) < 1.1 * np.sqrt(np.square(levels).mean())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(0.5, 2.0))
def test_features_that_a_batch_lacks_have_no_level(seed: int, scale: float) -> None:
    values, code, levels = simulated([ALL, ALL, ALL], 0.4, seed, n=150)
    lacks = np.random.default_rng(seed).random((3, N_PROTEINS)) < 0.2
    lacks[0] = False
    values[lacks[code]] = np.nan
    found = levels_of(values, code, 3)
    assert not found[lacks].any()
    wanted = np.where(lacks, np.nan, levels)
    wanted -= np.nanmean(wanted, 0)
    assert np.sqrt(np.nanmean(np.square(found - wanted))) < 0.2
    np.testing.assert_allclose(found.sum(0), 0, atol=1e-9)
    np.testing.assert_allclose(levels_of(values + scale, code, 3), found, atol=1e-6)


def test_many_batches_take_little_memory() -> None:
    values, code, levels = simulated([ALL] * 800, 0.5, 3, n=10, n_features=4)
    tracemalloc.start()
    try:
        found = levels_of(values, code, 800)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(code) * 800  # a table of batches by cells alone would have 8 bytes an entry
    assert np.square(found - levels).mean() < np.square(levels).mean()


STAIN = np.exp(np.random.default_rng(5).normal(0, 0.8, N_PROTEINS))


def counts(n: int, seed: int, stain: np.ndarray | float = 1.0) -> np.ndarray:
    """Proteins of cells of three types."""
    rng = np.random.default_rng(seed)
    rate = np.random.default_rng(9).gamma(1, 60, (3, N_PROTEINS))[rng.integers(0, 3, n)] + 8
    return rng.poisson(rate * stain * rng.gamma(20, 1 / 20, (n, 1))).astype(np.float32)


def mosaic_of(parts: dict[str, np.ndarray]) -> MuData:
    obs = pd.DataFrame({"batch": np.repeat(list(parts), [len(x) for x in parts.values()])})
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"p{i}" for i in range(N_PROTEINS)])
    x = sp.csr_matrix(np.concatenate(list(parts.values())))
    return mudata_of({"adt": AnnData(x, obs=pd.DataFrame(index=obs.index), var=var)}, obs)


def registered(data: MuData) -> Mosaic:
    return MosaicVI.setup_mudata(data, batch_key="batch")


@pytest.fixture(scope="module")
def stained() -> MuData:
    return mosaic_of({"A": counts(200, 0), "B": counts(160, 1, STAIN), "C": counts(20, 2, STAIN)})


def seen_of(mosaic: Mosaic, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder sees of cells, and what it would without levels, (n, D) each."""
    (rows,) = MinibatchLoader(mosaic).take(cells).rows
    return tuple(densified(rows, f(rows), N_PROTEINS).numpy() for f in (seen, transformed))


def test_the_encoder_sees_batches_at_one_level_and_the_likelihood_what_was_measured(stained: MuData) -> None:
    mosaic = registered(stained)
    levels = mosaic.registry.input_levels["adt"]
    wanted = np.log(STAIN) - np.log(STAIN).mean()
    found = levels[1] - levels[0]
    assert np.abs(found - found.mean() - wanted).max() < 0.25
    assert not levels[2].any()  # of too few cells
    data, cells = mosaic.modality("adt"), np.array([3, 250, 370, 201])
    x = stained["adt"].X.toarray()[cells]
    factor = np.exp(-levels[mosaic.batch[cells]])
    with_levels, without = seen_of(mosaic, cells)
    np.testing.assert_allclose(with_levels, np.log1p(x * factor * data.scale[cells, None]), rtol=1e-5)
    np.testing.assert_allclose(without, np.log1p(x * data.scale[cells, None]), rtol=1e-5)
    np.testing.assert_array_equal(data.x.toarray()[cells], x)


def test_a_step_moves_each_level_by_chance_for_the_encoder_alone(stained: MuData) -> None:
    mosaic = registered(stained)
    cells = np.arange(0, mosaic.n_cells, 7)
    minibatch = MinibatchLoader(mosaic, device=torch.device("cpu")).take(cells)
    moved = minibatch.at_other_levels(0.3, torch.Generator().manual_seed(4))
    at = [m.name for m in mosaic.modalities].index("adt")
    before, after = minibatch.rows[at], moved.rows[at]
    assert before.factors is not None
    drawn = torch.randn(before.factors.shape, generator=torch.Generator().manual_seed(4)).numpy()
    data = mosaic.modality("adt")
    x = np.asarray(data.x[cells].todense())
    batch = mosaic.batch[cells]
    level = mosaic.registry.input_levels["adt"][batch] - 0.3 * drawn[batch]
    found = densified(after, seen(after), data.n_features).numpy()
    np.testing.assert_allclose(found, np.log1p(x * np.exp(-level) * data.scale[cells, None]), rtol=1e-5)
    torch.testing.assert_close(transformed(after), transformed(before), rtol=0, atol=0)
    assert moved.targets is minibatch.targets
    assert minibatch.at_other_levels(0.0, torch.Generator()) is minibatch


def test_noise_of_levels_is_a_part_of_our_training_and_not_of_the_published(stained: MuData) -> None:
    weights = []
    for noise in (0.0, 0.3, 0.3):
        model = MosaicVI(registered(stained), level_noise=noise, **SMALL).train(1, progress=False)
        weights.append(torch.cat([p.detach().ravel() for p in model.net.parameters()]))
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])
    assert MosaicVI(registered(stained), **SMALL).config.level_noise == LEVEL_NOISE > 0
    assert MosaicVI(registered(stained), preset="published").config.level_noise == 0
    with pytest.raises(InputError, match="level_noise: must be >= 0, not -1"):
        MosaicVI(registered(stained), level_noise=-1)


def test_sums_in_another_order_give_the_same_levels(stained: MuData, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another machine, or by another number of threads."""
    levels = registered(stained).registry.input_levels["adt"]
    np.testing.assert_array_equal(levels, np.round(levels.astype(float), 4).astype(np.float32))
    assert not np.signbit(levels[levels == 0]).any()
    rng = np.random.default_rng(0)

    def otherwise(values: np.ndarray, code: np.ndarray, n_batches: int) -> np.ndarray:
        return levels_of(values, code, n_batches) * (1 + 1e-12 * rng.normal(size=(n_batches, N_PROTEINS)))

    monkeypatch.setattr("mosaicvi.data.input_levels.levels_of", otherwise)
    again = registered(stained).registry.input_levels["adt"]
    assert again.tobytes() == levels.tobytes()


def test_a_checkpoint_goes_on_only_with_the_levels_that_it_was_made_with(
    stained: MuData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", "torch")
    mosaic = registered(stained)
    older = dataclasses.replace(mosaic, registry=dataclasses.replace(mosaic.registry, input_levels={}))
    moved = {"adt": mosaic.registry.input_levels["adt"] + np.float32(1e-4)}
    other = dataclasses.replace(mosaic, registry=dataclasses.replace(mosaic.registry, input_levels=moved))

    def trained(of: Mosaic, name: str, n_epochs: int, **how: bool) -> MosaicVI:
        return MosaicVI(of, **SMALL).train(n_epochs, checkpoint_dir=tmp_path / name, progress=False, **how)

    trained(older, "older", 1)
    trained(mosaic, "now", 1)
    assert len(trained(older, "older", 2, resume=True).history) == 2
    assert len(trained(mosaic, "now", 2, resume=True).history) == 2
    with pytest.raises(InputError, match=r"older: the checkpoint says nothing of the levels of batches"):
        trained(mosaic, "older", 2, resume=True)
    for of in (older, other):
        with pytest.raises(InputError, match=r"now: the checkpoint was made with other levels of batches"):
            trained(of, "now", 2, resume=True)


def test_both_engines_see_the_same(stained: MuData, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for engine in ("auto", "torch"):
        monkeypatch.setenv("MOSAICVI_ENGINE", engine)
        model = MosaicVI(registered(stained), **SMALL)
        with pytest.warns(MosaicWarning, match="not trained"):
            found.append(model.get_latent_representation(aligned=False))
    np.testing.assert_allclose(*found, atol=1e-5)


def test_batches_of_one_kind_lie_nearer_than_without_levels(stained: MuData) -> None:
    """The same cells, stained otherwise: the untrained encoder already tells them apart less."""
    x = counts(100, 4)
    data = mosaic_of({"A": counts(200, 0), "B": counts(200, 1, STAIN)})
    mosaic = registered(data)
    plain = dataclasses.replace(mosaic, registry=dataclasses.replace(mosaic.registry, input_levels={}))
    apart = []
    for one in (mosaic, plain):
        model = MosaicVI(one, **SMALL)
        pair = [mosaic_of({"A": x}), mosaic_of({"B": np.round(x * STAIN)})]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MosaicWarning)
            a, b = (np.asarray(model.get_latent_representation(d, aligned=False)) for d in pair)
        apart.append(np.square(a - b).sum() / np.square(a - a.mean(0)).sum())
    assert apart[0] < 0.1 * apart[1]


def test_a_saved_model_sees_what_it_saw_and_levels_that_do_not_fit_are_refused(
    stained: MuData, tmp_path: Path
) -> None:
    model = MosaicVI(registered(stained), **SMALL).train(2, progress=False)
    model.save(tmp_path / "model")
    opened = MosaicVI.load(tmp_path / "model", stained)
    z = np.asarray(model.get_latent_representation())
    np.testing.assert_array_equal(np.asarray(opened.get_latent_representation()), z)
    some = stained[:30].copy()
    np.testing.assert_allclose(
        MosaicVI.load(tmp_path / "model").get_latent_representation(some), z[:30], atol=1e-6
    )
    saved = model.registry.to_dict()
    older = {key: value for key, value in saved.items() if key != "input_levels"}
    assert Registry.from_dict(older).input_levels == {}
    good = model.registry.input_levels["adt"]
    for name, table in {
        "adt": good[:, 1:],
        "rna": good,
    }.items():
        with pytest.raises(ValueError, match="not of its features"):
            _check_fits(model.config, Registry.from_dict({**saved, "input_levels": {name: table}}))
    for table in (np.concatenate([good, good]), np.where(good > 0, np.inf, good)):
        with pytest.raises(ValueError, match="not finite, or of more batches"):
            _check_fits(model.config, Registry.from_dict({**saved, "input_levels": {"adt": table}}))


def test_the_published_preset_and_one_batch_have_no_levels(stained: MuData) -> None:
    published = MosaicVI(registered(stained), preset="published", **SMALL)
    assert published.registry.input_levels == {}
    assert registered(mosaic_of({"A": counts(200, 0)})).registry.input_levels == {}


def test_dense_values_have_no_levels(stained: MuData) -> None:
    mosaic = MosaicVI.setup_mudata(
        stained, batch_key="batch", likelihoods={"adt": "Gaussian"}, transforms={"adt": "clr"}
    )
    assert is_dense(mosaic.modality("adt").x)
    assert mosaic.modality("adt").transform == "clr"
    assert mosaic.registry.input_levels == {}


def test_a_grown_model_keeps_the_levels_of_its_batches(stained: MuData) -> None:
    model = MosaicVI(registered(stained), **SMALL).train(2, progress=False)
    query = mosaic_of({"D": counts(80, 6, 1 / STAIN)})
    query["adt"].var_names = [*query["adt"].var_names[:-1], "new"]
    query.update()
    query.obs_names = query["adt"].obs_names = [f"q{i}" for i in range(80)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        grown = MosaicVI.load_query_data(query, model, new_features=["adt"])
    names = list(grown.registry.features["adt"].names)
    before, after = model.registry.input_levels["adt"], grown.registry.input_levels["adt"]
    known = list(model.registry.features["adt"].names)
    np.testing.assert_array_equal(after[:, [names.index(name) for name in known]], before)
    assert not after[:, names.index("new")].any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        known_cells = MosaicVI.prepare_query(stained, grown)
        found = grown.get_latent_representation(known_cells, aligned=False)
    np.testing.assert_array_equal(found, model.get_latent_representation(stained, aligned=False))
