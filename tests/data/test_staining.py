"""Batches that are stained otherwise: how much is found, what is left alone, and what a model makes of it."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from tests.builders import mudata_of

from mosaicvi import ModelFileError, MosaicVI, MosaicWarning
from mosaicvi.data import staining
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.registry import Registry
from mosaicvi.data.staining import Staining, as_reference, at_level, levels_of_batches, staining_of
from mosaicvi.model.registering import read_as
from mosaicvi.store.format import load_bundle, save_bundle
from mosaicvi.store.saved import _check_fits

SMALL = {"dim_latent": 3, "dimensions": [8], "dim_block_enc": 6, "dim_block_dec": 6, "dim_block_embed": 2}
STAIN = np.array([8.0, 1, 0.25, 1, 1, 2, 1, 0.5])  # its logarithms add up to log 2


def counts(n: int, seed: int, stain: np.ndarray | float = 1.0, types: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """Proteins of cells of some types, which differ in half of them."""
    rng = np.random.default_rng(seed)
    kind = np.resize(types, n)[:, None]
    rate = np.where(np.arange(8) % 2 == kind, 400.0, 60.0) * stain * rng.gamma(20, 1 / 20, (n, 1))
    return rng.poisson(rate).astype(np.float32)


def mosaic_of(parts: dict[str, np.ndarray]) -> MuData:
    """Batches of proteins."""
    obs = pd.DataFrame({"batch": np.repeat(list(parts), [len(x) for x in parts.values()])})
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"p{i}" for i in range(8)])
    x = sp.csr_matrix(np.concatenate(list(parts.values())))
    return mudata_of({"adt": AnnData(x, obs=pd.DataFrame(index=obs.index), var=var)}, obs)


def reference() -> MuData:
    return mosaic_of({"A": counts(90, 0), "B": counts(80, 1, 1.5), "C": counts(70, 2)})


def read(data: MuData, model: MosaicVI) -> Mosaic:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return model.registered(data)


@pytest.fixture(scope="module")
def model() -> MosaicVI:
    data = reference()
    MosaicVI.setup_mudata(data, batch_key="batch")
    return MosaicVI(data, **SMALL).train(12, batch_size=40, progress=False)


def test_levels_are_the_ends_of_logarithms_by_batch(model: MosaicVI) -> None:
    data = model.mosaic.modality("adt")
    assert data.transform == "clr"
    found = staining_of(model.mosaic)["adt"]
    x = np.log1p(data.x.toarray()).astype(float)
    for b in range(3):
        own = x[model.mosaic.batch == b]
        np.testing.assert_allclose(found.low[b], np.quantile(own, 0.05, 0), rtol=1e-6)
        np.testing.assert_allclose(found.high[b], np.quantile(own, 0.95, 0), rtol=1e-6)


def test_of_many_cells_some_tell(monkeypatch: pytest.MonkeyPatch, model: MosaicVI) -> None:
    whole = staining_of(model.mosaic)["adt"]
    monkeypatch.setattr(staining, "MOST_CELLS", 50)
    some = staining_of(model.mosaic)["adt"]
    assert not np.array_equal(some.high, whole.high)
    np.testing.assert_allclose(some.high, whole.high, atol=0.3)
    np.testing.assert_array_equal(some.high, staining_of(model.mosaic)["adt"].high)


def test_what_is_stained_otherwise_is_found_whatever_the_depth(model: MosaicVI) -> None:
    known = staining_of(model.mosaic)["adt"]
    one = Staining(low=known.low[:1], high=known.high[:1])
    alone = Staining(low=known.low[:1] * 1, high=known.high[:1] * 1)
    for depth in (0.3, 1.0, 3.0):
        more = np.log(STAIN) + np.log(depth)
        gaps = alone.differences(Staining(low=one.low + more, high=one.high + more))
        np.testing.assert_allclose(gaps, [np.log(STAIN) - np.log(STAIN).mean()], atol=1e-9)


def test_what_moves_one_end_alone_is_not_staining() -> None:
    known = Staining(low=np.full((1, 4), -3.0), high=np.full((1, 4), 3.0))
    low = np.array([[2.0, -1.0, 1.0, -2.0]])  # which add up to 0, as do those below
    high = np.array([[1.0, -2.0, -1.0, 2.0]])
    gaps = known.differences(Staining(low=low - 3, high=high + 3))
    np.testing.assert_allclose(gaps, [[1.0, -1.0, 0.0, 0.0]])  # the smaller one, if both agree


def test_features_that_one_of_them_lacks_do_not_count() -> None:
    ends = np.array([[1.0, 2, 3, np.nan], [1.5, 2.5, np.nan, 4]])
    known = Staining(low=ends, high=ends + 4)
    row = np.array([[3.0, 2, 3, np.nan]])
    gaps = known.differences(Staining(low=row, high=row + 4))
    # to the first batch (2, 0, 0) less 2/3, to the second (1.5, -.5) less .5
    expected = np.array([(4 / 3 + 1) / 2, (-2 / 3 - 1) / 2, -2 / 3])
    np.testing.assert_allclose(gaps, [[*expected, 0]])
    alone = Staining(low=np.array([[np.nan, np.nan, 3, 1]]), high=np.array([[np.nan, np.nan, 3, 1]]))
    assert not alone.differences(known)[0].any()


def test_cells_of_one_type_are_left_nearly_as_they_are(model: MosaicVI) -> None:
    known = staining_of(model.mosaic)

    def levels(types: tuple[int, ...]) -> list[float]:
        query = mosaic_of({"new": counts(100, 3, types=types)})
        mosaic = MosaicVI.load_query_data(query, model).mosaic  # with its batch as a fourth
        raw = dataclasses.replace(
            mosaic, modalities=(dataclasses.replace(mosaic.modality("adt"), x=query["adt"].X),)
        )
        return list(levels_of_batches(raw, known, [3])["adt"]["new"].values())

    far = np.log(400 / 60) / 2  # what the mean of one type differs by from that of both
    assert np.abs(levels((0, 1))).max() < 0.1
    for types in ((1,), (0, 0, 0, 0, 0, 0, 0, 0, 1)):
        assert np.abs(levels(types)).max(initial=0) < 0.25 * far


def test_new_batches_come_to_the_level_of_those_known(model: MosaicVI) -> None:
    x = counts(400, 4)
    small, known = counts(20, 5, STAIN), counts(60, 6, STAIN)
    data = mosaic_of({"new": x * STAIN.astype(np.float32) * 4, "few": small, "A": known})
    found = read(data, model)
    values = found.modality("adt").x.toarray()
    np.testing.assert_array_equal(values[400:], np.concatenate([small, known]))
    ratio = np.log1p(values[:400]).mean(0) - np.log1p(x).mean(0)
    assert np.ptp(ratio) < 0.15 < np.ptp(np.log(STAIN))
    total = found.modality("adt").library
    np.testing.assert_allclose(total, values.sum(1), rtol=1e-5)


def test_values_that_stay_in_their_file_come_to_the_same(model: MosaicVI, tmp_path: Path) -> None:
    data = mosaic_of({"new": counts(100, 4, STAIN)})
    alone = data["adt"].copy()
    alone.obs = data.obs
    alone.write_h5ad(tmp_path / "query.h5ad")
    model.save(tmp_path / "model")
    both = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        for in_memory in (True, False):
            opened = MosaicVI.load(tmp_path / "model", tmp_path / "query.h5ad", in_memory=in_memory)
            assert opened.mosaic.modality("adt").on_disk != in_memory
            both.append(opened.get_latent_representation())
    np.testing.assert_array_equal(*both)


def test_a_model_answers_for_a_new_staining_as_for_its_own(model: MosaicVI) -> None:
    x = counts(120, 7)
    plain, other = mosaic_of({"A": x}), mosaic_of({"new": x * (4 * STAIN).astype(np.float32)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        expected, found = (model.get_latent_representation(d, aligned=False) for d in (plain, other))
        named = MosaicVI.prepare_query(other, model, take_as={"batch": "A"})
        as_it_is = model.get_latent_representation(named, aligned=False)
    near, far = (np.square(z - expected).mean() for z in (found, as_it_is))
    assert near < 0.1 * far


def test_a_grown_model_remembers_the_staining(model: MosaicVI, tmp_path: Path) -> None:
    query = mosaic_of({"new": counts(400, 8, STAIN)})
    grown = MosaicVI.load_query_data(query, model).train(1, batch_size=40, progress=False)
    levels = grown.reference.levels["adt"]
    assert levels.index.tolist() == ["new"]
    expected = STAIN / np.exp(np.log(STAIN).mean())
    found = levels.loc["new"].reindex([f"p{i}" for i in range(8)]).fillna(1.0)
    np.testing.assert_allclose(found, expected, rtol=0.15)
    grown.save(tmp_path / "grown")
    opened = MosaicVI.load(tmp_path / "grown")
    some = mosaic_of({"new": counts(10, 9, STAIN)})  # too few to tell
    same = [m.get_latent_representation(some) for m in (grown, opened)]
    np.testing.assert_array_equal(*same)
    again = MosaicVI.load_query_data(mosaic_of({"D": counts(60, 10)}), tmp_path / "grown")
    assert set(again.registry.levels["adt"]) == {"new", "D"}
    np.testing.assert_array_equal(again.get_latent_representation(some), same[0])
    assert np.array_equal(
        again.get_latent_representation(reference()), model.get_latent_representation(reference())
    )


def test_levels_that_do_not_fit_are_refused(model: MosaicVI, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    bundle = load_bundle(tmp_path / "model", kind="model")
    table = bundle.document["reference"]["staining"]["adt"]["low"]
    table["shape"] = [table["shape"][0] * 2, table["shape"][1] // 2]
    save_bundle(tmp_path / "odd", bundle.tensors, bundle.document, kind="model")
    with pytest.raises(ModelFileError, match="its kept cells do not fit"):
        MosaicVI.load(tmp_path / "odd")


def test_without_batches_nothing_is_changed() -> None:
    data = mosaic_of({"A": counts(90, 0)})
    MosaicVI.setup_mudata(data)
    model = MosaicVI(data, **SMALL)
    assert as_reference(model.mosaic, staining_of(model.mosaic)) is model.mosaic
    assert at_level(model.mosaic, {}).modality("adt").x is model.mosaic.modality("adt").x


def test_a_model_that_grows_again_keeps_the_levels(model: MosaicVI) -> None:
    def named(data: MuData, name: str) -> MuData:
        for one in (data, *data.mod.values()):
            one.obs_names = [f"{name}{i}" for i in range(one.n_obs)]
        return data

    first = named(mosaic_of({"new": counts(100, 8, STAIN)}), "new")
    grown = MosaicVI.load_query_data(first, model).train(1, batch_size=40, progress=False)
    second = named(mosaic_of({"D": counts(60, 10)}), "D")
    again = MosaicVI.load_query_data(second, grown, unfrozen=True).train(1, batch_size=40, progress=False)
    of_batch = grown.registry.levels["adt"]["new"]
    assert set(again.registry.levels["adt"]) == {"new", "D"}
    assert again.registry.levels["adt"]["new"] == of_batch
    rehearsed = grown.mosaic.cells.get_indexer(again.mosaic.cells[60:])  # at the level that they were
    values, before = (one.mosaic.modality("adt").x.toarray() for one in (again, grown))
    np.testing.assert_array_equal(values[60:], before[rehearsed])
    assert again.get_imputed_values(modality="adt").shape == (len(again.mosaic.cells), 8)


@pytest.mark.parametrize(
    "level",
    [
        {"nobody": 0.1},
        {"p0": float("inf")},
        {"p0": float("nan")},
    ],
)
def test_levels_of_a_registry_that_do_not_fit_are_refused(
    model: MosaicVI, tmp_path: Path, level: dict[str, Any]
) -> None:
    registry = Registry.from_dict({**model.registry.to_dict(), "levels": {"adt": {"A": level}}})
    with pytest.raises(ValueError, match="level"):
        _check_fits(model.config, registry)
    other = Registry.from_dict({**model.registry.to_dict(), "levels": {"adt": {"Z": level}}})
    with pytest.raises(ValueError, match="not of its batches"):
        _check_fits(model.config, other)


def test_two_panels_of_a_new_batch_are_of_one_level(model: MosaicVI) -> None:
    with pytest.warns(MosaicWarning):
        raw = read_as(mosaic_of({"new": counts(120, 8, STAIN)}), model.registry)
    adt = raw.modality("adt")
    panels = np.array([np.arange(8) < 5, np.arange(8) >= 3])
    x = adt.x.copy().toarray() * panels[np.arange(120) // 60]
    two = dataclasses.replace(
        adt, x=sp.csr_matrix(x), panels=panels, panel_of_row=np.arange(120) // 60, known_digest=None
    )
    found = as_reference(dataclasses.replace(raw, modalities=(two,)), staining_of(model.mosaic))
    levels = levels_of_batches(dataclasses.replace(raw, modalities=(two,)), staining_of(model.mosaic), [3])
    assert {f"p{i}" for i in (0, 2, 5, 7)} <= set(levels["adt"]["new"])
    ratio = np.log1p(found.modality("adt").x.toarray()) - np.log1p(x)
    assert (ratio[:60, 0] < -0.5).all()
    assert (ratio[60:, 7] > 0.2).all()
