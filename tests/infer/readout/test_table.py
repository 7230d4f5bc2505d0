"""Tables with single missing entries: what is read out of them comes nearer than the decoder, and covers."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import RidgeCV

from mosaicvi import ModelFileError, MosaicVI, MosaicWarning
from mosaicvi.data.registry import Standard
from mosaicvi.infer.readout import read_readout, table_parts
from mosaicvi.infer.readout.regression import PENALTIES
from mosaicvi.infer.readout.table import QUANTILES, TablePart, TableReadOut, Values
from mosaicvi.infer.readout.table_levels import Levels
from mosaicvi.infer.readout.table_parts import _part, fit_parts, left_out, ridge
from mosaicvi.metrics import correlation_per_feature

N, D, BATCHES = 330, 36, 3
SMALL: dict[str, Any] = {"dimensions": 16, "dim_latent": 4, "dim_block_enc": 8, "dim_block_dec": 8}


def simulated(seed: int = 0) -> tuple[AnnData, np.ndarray]:
    """Log intensities in three batches, each of which lacks a sixth of the features, and their truth."""
    rng = np.random.default_rng(seed)
    batch = np.arange(N) % BATCHES
    x = rng.normal(size=(N, 4)) @ rng.normal(size=(4, D)) + 0.5 * rng.normal(size=(N, D))
    x = x + rng.normal(10, 3, D) + np.array([0.0, 1.0, -2.0])[batch, None]
    x = x + 0.3 * rng.normal(size=(BATCHES, D))[batch]
    seen = np.where(rng.random((N, D)) < 0.1, np.nan, x)
    for b in range(BATCHES):
        seen[np.ix_(batch == b, np.arange(D) % 6 == b)] = np.nan
    obs = pd.DataFrame({"batch": np.array(["A", "B", "C"])[batch]}, index=[f"c{i}" for i in range(N)])
    return AnnData(seen.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"p{j}" for j in range(D)])), x


def trained(adata: AnnData, epochs: int = 20, **parameters: Any) -> MosaicVI:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_anndata(adata, modality="ms", batch_key="batch", likelihood="Gaussian")
    model = MosaicVI(mosaic, **SMALL, **parameters)
    return model.train(epochs, batch_size=60, progress=False, accelerator="cpu")


@pytest.fixture(scope="module")
def made() -> tuple[MosaicVI, AnnData, np.ndarray]:
    adata, truth = simulated()
    return trained(adata), adata, truth


def never(adata: AnnData) -> np.ndarray:
    """Which entries are of features that no cell of the batch measured."""
    batch = adata.obs["batch"].to_numpy()
    there = ~np.isnan(adata.X)
    return np.stack([~there[batch == b].any(0) for b in batch])


def of_decoder(model: MosaicVI, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(MosaicVI, "readout", lambda *_: None)
        return model.get_imputed_values(modality="ms").to_numpy()


def values(adata: AnnData) -> tuple[Values, Standard]:
    x = np.asarray(adata.X, np.float64)
    standard = Standard(centre=np.nanmean(x, 0), spread=np.nanstd(x, 0))
    batch = pd.Categorical(adata.obs["batch"]).codes.astype(np.int64)
    z = np.nan_to_num(standard.standardised(x))
    return Values(value=z, measured=~np.isnan(x), batch=batch), standard


def test_it_comes_nearer_to_missing_values_than_the_decoder(
    made: tuple[MosaicVI, AnnData, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adata, truth = made
    found = model.get_imputed_values(modality="ms").to_numpy()
    decoded, missing, lacking = of_decoder(model, monkeypatch), np.isnan(adata.X), never(adata)
    for which, least in ((lacking, 0.8), (missing & ~lacking, 0.8)):
        off = [float(((guess - truth)[which] ** 2).mean()) for guess in (found, decoded)]
        assert off[0] < 0.8 * off[1]
        assert np.nanmean(correlation_per_feature(found, np.where(which, truth, np.nan))) > least
    assert_array_equal(found[~missing], decoded[~missing])


def test_answers_are_the_cells_own(made: tuple[MosaicVI, AnnData, np.ndarray]) -> None:
    model = made[0]
    for choice in ({}, {"transform_batch": "mean"}, {"transform_batch": ["A", "B"]}, {"n_samples": 2}):
        whole = model.get_imputed_values(modality="ms", **choice)  # type: ignore[arg-type]
        some = model.get_imputed_values(
            modality="ms",
            indices=[301, 3, 77],
            features=["p5", "p0"],
            batch_size=2,
            **choice,  # type: ignore[arg-type]
        )
        assert_allclose(some, whole.iloc[[301, 3, 77]][["p5", "p0"]], rtol=1e-5)


def test_as_a_batch_values_have_its_level(made: tuple[MosaicVI, AnnData, np.ndarray]) -> None:
    model, adata, _ = made
    missing = np.isnan(adata.X)
    low, high = (model.get_imputed_values(modality="ms", transform_batch=b).to_numpy() for b in ("C", "B"))
    assert_allclose((high - low)[missing & ~never(adata)].mean(), 3.0, atol=0.5)


def test_a_batch_that_is_not_known_has_the_mean_of_the_others(
    made: tuple[MosaicVI, AnnData, np.ndarray],
) -> None:
    model, adata, truth = made
    new = adata[:40].copy()
    new.obs["batch"] = "D"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        found = model.get_imputed_values(new, modality="ms").to_numpy()
    missing = np.isnan(new.X)
    assert np.isfinite(found).all()
    assert np.corrcoef(found[missing], truth[:40][missing])[0, 1] > 0.7


def test_what_no_cell_shows_is_the_decoders(
    made: tuple[MosaicVI, AnnData, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made[0]
    blind = model.get_imputed_values(modality="ms", modalities=[])
    monkeypatch.setattr(MosaicVI, "readout", lambda *_: None)
    pd.testing.assert_frame_equal(
        blind, model.get_imputed_values(modality="ms", modalities=[]), check_exact=True
    )


def test_intervals_cover_missing_values(made: tuple[MosaicVI, AnnData, np.ndarray]) -> None:
    model, adata, truth = made
    missing, lacking = np.isnan(adata.X), never(adata)
    for level in (0.5, 0.9):
        lower, upper = (end.to_numpy() for end in model.get_imputed_intervals(modality="ms", level=level))
        inside = (truth >= lower) & (truth <= upper)
        assert abs(inside[missing & ~lacking].mean() - level) < 0.08
        assert abs(inside[lacking].mean() - level) < 0.12
        few = model.get_imputed_intervals(
            modality="ms", level=level, indices=[9, 2], features=["p7", "p1"], batch_size=1
        )
        assert_allclose(few.lower, lower[[9, 2]][:, [7, 1]], rtol=1e-5)


def test_a_loaded_model_answers_to_the_bit(
    made: tuple[MosaicVI, AnnData, np.ndarray], tmp_path: Path
) -> None:
    model, adata, _ = made
    model.save(tmp_path / "m")
    loaded = MosaicVI.load(tmp_path / "m", adata)
    before, after = (
        [one.get_imputed_values(modality="ms"), *one.get_imputed_intervals(modality="ms")]
        for one in (model, loaded)
    )
    for first, second in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert_array_equal(
        MosaicVI.load(tmp_path / "m", adata[5:9].copy()).get_imputed_values(modality="ms").isna(), False
    )


def test_a_saved_table_that_does_not_fit_is_refused(made: tuple[MosaicVI, AnnData, np.ndarray]) -> None:
    model = made[0]
    readout = model.readout()
    assert readout is not None
    plain = readout.to_dict()
    table = plain["tables"]["ms"]
    assert set(read_readout(plain, model.config, Path("m"), n_batches=model._n_batches).tables) == {"ms"}
    part, differences = table["parts"][0], table["differences"]
    for broken in (
        {**table, "weights": np.ones(3)},
        {**table, "quantiles": table["quantiles"][:, ::-1]},
        {**table, "pattern_of_batch": table["pattern_of_batch"] + 99},
        {**table, "reference": table["reference"][:, 1:]},
        {**table, "differences": {**differences, "spread": 0 * differences["spread"]}},
        {**table, "differences": {**differences, "level": np.full_like(differences["level"], np.nan)}},
        {**table, "parts": [{**part, "features": part["features"] + D}]},
        {**table, "parts": [{**part, "cells": part["cells"][1:]}]},
        {**table, "parts": [{**part, "axes": part["axes"][1:]}]},
        {**table, "parts": [{**part, "error": -part["error"]}]},
        {key: value for key, value in table.items() if key != "taught"},
    ):
        with pytest.raises(ModelFileError, match="its read-out does not fit"):
            read_readout(
                {**plain, "tables": {"ms": broken}}, model.config, Path("m"), n_batches=model._n_batches
            )
    with pytest.raises(ModelFileError, match="its read-out does not fit"):
        read_readout({**plain, "tables": {"rna": table}}, model.config, Path("m"), n_batches=model._n_batches)
    older = {key: value for key, value in plain.items() if key != "tables"}
    assert not read_readout(older, model.config, Path("m"), n_batches=model._n_batches).tables


def test_few_cells_and_the_published_preset_have_none() -> None:
    adata, _ = simulated(1)
    assert trained(adata, 1, preset="published").readout() is None
    readout = trained(adata[:60].copy(), 1).readout()
    assert readout is not None
    assert not readout.tables


@settings(max_examples=20, deadline=None)
@given(n=st.integers(6, 40), p=st.integers(1, 8), seed=st.integers(0, 10_000))
def test_the_ridge_is_that_of_one_cell_left_out_at_a_time(n: int, p: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * 3
    y = x @ rng.normal(size=p) + rng.normal(size=n) + 4
    weight, intercept, error = ridge(x, y)
    errors = []
    for penalty in PENALTIES:
        left = []
        for i in range(n):
            rest = np.arange(n) != i
            centre, mean = x[rest].mean(0), y[rest].mean()
            z = x[rest] - centre
            inside = np.linalg.solve(z.T @ z + penalty * np.eye(p), z.T @ y[rest])
            left.append(y[i] - mean - (x[i] - centre) @ inside)
        errors.append(np.mean(np.square(left)))
    assert_allclose(error, np.sqrt(min(errors)), rtol=1e-6)
    found = RidgeCV(PENALTIES).fit(x, y)
    if found.alpha_ == PENALTIES[int(np.argmin(errors))]:
        assert_allclose(weight, found.coef_, rtol=1e-6, atol=1e-8)
        assert_allclose(intercept, found.intercept_, rtol=1e-6)


def test_levels_of_what_was_not_measured_follow_the_other_batches() -> None:
    adata, truth = simulated(2)
    of, standard = values(adata)
    levels = Levels.of(of, standard, BATCHES)
    in_units = levels.level * standard.spread + standard.centre
    real = np.stack([truth[of.batch == b].mean(0) for b in range(BATCHES)])
    assert levels.known.sum() == D * 5 // 2
    assert np.abs(in_units - real)[~levels.known].mean() < 0.6  # of 3, by which features differ
    assert np.abs(in_units - real)[levels.known].mean() < 0.1
    centred = dataclasses.replace(of, value=of.value - np.where(of.measured, levels.level[of.batch], 0))
    flat = Levels.of(centred, Standard(centre=np.zeros(D), spread=np.ones(D)), BATCHES)
    assert_allclose(flat.level, 0, atol=0.1)


def test_differences_are_winsorised_in_spreads_of_the_batch() -> None:
    of, standard = values(simulated(3)[0])
    found = Levels.of(of, standard, BATCHES).differences(of, np.ones(D))
    z = found(of)
    assert np.abs(z).max() == 2
    assert (z[~of.measured] == 0).all()
    for b in range(BATCHES):
        off = ((of.value - found.level[b]) / found.spread[b])[(of.batch == b)[:, None] & of.measured]
        assert_allclose(np.sqrt((off**2).mean()), 1)
    assert_array_equal(found.row(np.array([0, 7])), [0, BATCHES])


def table_of(of: Values, standard: Standard, weight: np.ndarray) -> TableReadOut:
    differences = Levels.of(of, standard, BATCHES).differences(of, weight)
    parts = fit_parts(differences, of, np.arange(N) % 10 == 0)
    return TableReadOut(
        differences=differences,
        patterns=parts.patterns,
        pattern_of_batch=parts.pattern_of_batch,
        parts=parts.parts,
        weights=np.array([[1.0, 0, 0], [0.5, 0.5, 0]]),
        reference=differences(of).astype(np.float32),
        taught=of.measured,
        quantiles=np.zeros((2, len(QUANTILES))),
    )


def test_what_a_cell_measured_of_a_feature_tells_nothing_of_it() -> None:
    of, standard = values(simulated(4)[0])
    table = table_of(of, standard, np.ones(D))
    feature = 20
    hidden = of.without(np.array([feature]))
    assert not hidden.measured[:, feature].any()
    read, _ = table.ways(hidden)
    level = table.levels(of, None)[0]
    there = of.measured[:, feature]
    score = np.corrcoef((read + level)[there, feature], of.value[there, feature])[0, 1]
    assert 0.5 < score < 0.99
    assert np.isnan(table.error(of)[of.measured]).all()


def test_held_out_cells_teach_only_what_a_batch_never_measured() -> None:
    of, standard = values(simulated(8)[0])
    table = table_of(of, standard, np.ones(D))
    for part in table.parts:
        is_known = table.patterns[part.pattern][part.features]
        assert is_known.all() or not is_known.any()
        assert part.cells[::10].any() == (not is_known.any())


def test_too_many_kinds_of_batches_share_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    of, standard = values(simulated(5)[0])
    assert len(table_of(of, standard, np.ones(D)).patterns) == BATCHES + 1
    monkeypatch.setattr("mosaicvi.infer.readout.table_parts.MOST_PARTS", 3)
    table = table_of(of, standard, np.ones(D))
    assert len(table.parts) == len(table.patterns) == 1
    assert np.isfinite(table.error(of)[~of.measured]).all()


def test_batches_left_out_tell_which_comparison_is_better() -> None:
    of, standard = values(simulated(6)[0])
    levels = Levels.of(of, standard, BATCHES)
    agreement = []
    for weight in (np.ones(D), 10.0 ** np.arange(D)[::-1]):
        differences = levels.differences(of, weight / np.sqrt((weight**2).mean()))
        across = left_out(differences, levels.expected, of, np.random.default_rng(0))
        agreement.append(across.agreement)
        assert 0.3 < across.slope <= 1
        assert np.isfinite(across.errors).all()
    assert agreement[0] > agreement[1] + 0.1 > 0.3


def test_more_batches_are_as_one_that_is_not_known() -> None:
    of, standard = values(simulated(7)[0])
    table = table_of(of, standard, np.ones(D))
    more = table.with_more(BATCHES + 2)
    new = dataclasses.replace(of, batch=np.full(N, BATCHES))
    assert len(more.differences.level) == BATCHES + 3
    for one, two in zip(table.ways(new), more.ways(new), strict=True):
        assert_array_equal(one, two)


def test_a_model_that_grew_without_its_cells_keeps_what_they_taught(
    made: tuple[MosaicVI, AnnData, np.ndarray], tmp_path: Path
) -> None:
    model, adata, _ = made
    model.save(tmp_path / "m")
    query = simulated(8)[0]
    query.obs["batch"], query.obs_names = "D", [f"d{i}" for i in range(N)]
    query.X += 5
    grown = MosaicVI.load_query_data(query, tmp_path / "m").train(1, batch_size=60, progress=False)
    readouts = [m.readout() for m in (model, grown)]
    assert readouts[0] is not None
    assert readouts[1] is not None
    before, after = (readout.tables["ms"].differences.level for readout in readouts)
    assert_array_equal(after[:BATCHES], before[:BATCHES])
    assert np.abs(after[BATCHES] - before[:BATCHES].mean(0)).max() > 0.5
    as_c = [m.get_imputed_values(adata, modality="ms", transform_batch="C") for m in (model, grown)]
    np.testing.assert_allclose(as_c[1], as_c[0], rtol=1e-5)
    for mine, theirs in zip(
        model.get_imputed_intervals(adata, modality="ms"),
        grown.get_imputed_intervals(adata, modality="ms"),
        strict=True,
    ):
        assert_array_equal(mine, theirs)
    grown.save(tmp_path / "grown")
    opened = MosaicVI.load(tmp_path / "grown")
    assert_array_equal(opened.get_imputed_values(adata, modality="ms", transform_batch="C"), as_c[1])


def test_the_work_of_leaving_batches_out_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    of, standard = values(simulated(9)[0])
    levels = Levels.of(of, standard, BATCHES)
    differences, fitted = levels.differences(of, np.ones(D)), []

    def counted(*arguments: Any) -> TablePart | None:
        fitted.append(arguments)
        return _part(*arguments)

    monkeypatch.setattr(table_parts, "_part", counted)
    monkeypatch.setattr(table_parts, "MOST_PARTS_TRIED", 4)
    across = left_out(differences, levels.expected, of, np.random.default_rng(0))
    assert len(fitted) == 4
    assert np.isfinite(across.errors).all()


def test_features_of_which_few_values_are_tried_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_parts, "MOST_CELLS_TRIED", 8)
    of, standard = values(simulated(9)[0])
    here = np.flatnonzero(of.measured[:, 5] & (of.batch == 0))
    of.measured[here[1:], 5] = False
    levels = Levels.of(dataclasses.replace(of, value=np.where(of.measured, of.value, 0)), standard, BATCHES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        across = left_out(levels.differences(of, np.ones(D)), levels.expected, of, np.random.default_rng(0))
    assert 0 < across.agreement < 1


def test_a_table_of_other_batches_is_refused(made: tuple[MosaicVI, AnnData, np.ndarray]) -> None:
    readout = made[0].readout()
    assert readout is not None
    with pytest.raises(ModelFileError, match="its read-out does not fit"):
        read_readout(readout.to_dict(), made[0].config, Path("m"), n_batches=BATCHES + 1)


def test_the_share_of_what_is_predicted_does_not_depend_on_units() -> None:
    of, slopes = values(simulated(10)[0])[0], []
    for unit in (1.0, 30.0):
        scaled = dataclasses.replace(of, value=of.value * unit)
        levels = Levels.of(scaled, None, BATCHES)
        found = levels.differences(scaled, np.ones(D))
        slopes.append(left_out(found, levels.expected, scaled, np.random.default_rng(0)).slope)
    assert_allclose(slopes[1], slopes[0], atol=0.03)
