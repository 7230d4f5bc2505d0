"""Intervals of a model: they cover hidden values, are a cell's own, and are saved to the bit."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from tests.builders import random_mudata
from tests.infer.readout.test_readout import paired, trained

from mosaicvi import InputError, ModelFileError, MosaicVI, MosaicWarning
from mosaicvi.infer.intervals import read_spreads

SMALL: dict[str, Any] = {"dimensions": 16, "dim_latent": 4, "dim_block_enc": 8, "dim_block_dec": 8}
OWN = "log(1 + counts per 10,000 of the cell's own total)"


@pytest.fixture(scope="module")
def made() -> tuple[MosaicVI, MuData, np.ndarray]:
    mdata, adt = paired()
    return trained(mdata), mdata, adt


def per_10k(x: np.ndarray) -> np.ndarray:
    return np.log1p(x / x.sum(1, keepdims=True) * 1e4)


def test_they_cover_hidden_values(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    model, mdata, adt = made
    hidden = np.flatnonzero((mdata.obs["batch"] == "rna").to_numpy())
    truth, known = per_10k(adt[hidden]), per_10k(np.delete(adt, hidden, 0))
    for level in (0.5, 0.8, 0.9):
        lower, upper = model.get_imputed_intervals(modality="adt", level=level, indices=hidden)
        inside = ((truth >= lower - 1e-4) & (truth <= upper + 1e-4)).to_numpy()
        assert abs(inside.mean() - level) < 0.08
        ends = np.quantile(known, [(1 - level) / 2, (1 + level) / 2], axis=0)
        assert (upper - lower).to_numpy().mean() < 0.95 * (ends[1] - ends[0]).mean()
        assert lower.attrs == upper.attrs
        assert lower.attrs["level"] == level
        assert lower.attrs["scale"] == OWN


def test_counts_cover_at_a_library_for_each_cell(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    model, mdata, adt = made
    hidden = np.flatnonzero((mdata.obs["batch"] == "rna").to_numpy())
    for level in (0.5, 0.9):
        lower, upper = model.get_imputed_intervals(
            modality="adt", level=level, indices=hidden, scale="counts", library=adt[hidden].sum(1)
        )
        assert (lower.to_numpy() == np.round(lower.to_numpy())).all()
        inside = (adt[hidden] >= lower.to_numpy()) & (adt[hidden] <= upper.to_numpy())
        assert level - 0.08 < inside.mean() < level + 0.15


def test_they_are_the_cells_own_and_repeat(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    model = made[0]
    for choice in ({}, {"scale": "counts"}, {"transform_batch": "mean"}):
        whole = model.get_imputed_intervals(modality="adt", **choice)  # type: ignore[arg-type]
        again = model.get_imputed_intervals(modality="adt", **choice)  # type: ignore[arg-type]
        few = model.get_imputed_intervals(
            modality="adt",
            indices=[401, 3],
            features=["p5", "p0"],
            batch_size=1,
            **choice,  # type: ignore[arg-type]
        )
        for one, two, some in zip(whole, again, few, strict=True):
            pd.testing.assert_frame_equal(one, two, check_exact=True)
            np.testing.assert_allclose(some, one.iloc[[401, 3]][["p5", "p0"]], rtol=1e-5)
        assert (whole.lower <= whole.upper).all(axis=None)


def test_looking_up_few_values_at_a_time_changes_nothing(
    made: tuple[MosaicVI, MuData, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    choices: list[dict[str, Any]] = [{}, {"scale": "counts"}, {"transform_batch": "mean"}]
    before = [made[0].get_imputed_intervals(modality="adt", **choice) for choice in choices]
    monkeypatch.setattr("mosaicvi.infer.intervals.answers.MOST_AT_ONCE", 900)
    for choice, tables in zip(choices, before, strict=True):
        for one, two in zip(tables, made[0].get_imputed_intervals(modality="adt", **choice), strict=True):
            pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_wider_levels_hold_narrower_ones(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    for scale in ("counts", "log1p_cp10k"):
        narrow, wide = (
            made[0].get_imputed_intervals(modality="adt", level=level, scale=scale)  # type: ignore[arg-type]
            for level in (0.5, 0.95)
        )
        assert (wide.lower <= narrow.lower).all(axis=None)
        assert (wide.upper >= narrow.upper).all(axis=None)


def test_a_loaded_model_has_the_same_to_the_bit(
    made: tuple[MosaicVI, MuData, np.ndarray], tmp_path: Path
) -> None:
    model, mdata, _ = made
    model.save(tmp_path / "m")
    loaded = MosaicVI.load(tmp_path / "m", mdata)
    for name in ("rna", "adt"):
        for one, two in zip(
            model.get_imputed_intervals(modality=name),
            loaded.get_imputed_intervals(modality=name),
            strict=True,
        ):
            pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_saved_spreads_that_do_not_fit_are_refused(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    model = made[0]
    spreads = model.spreads()
    assert spreads is not None
    plain = spreads.to_dict()
    again = read_spreads(plain, model.config, Path("m"))
    assert again is not None
    assert set(again.parts) == set(spreads.parts)
    part = plain["parts"][0]
    earlier = {key: value for key, value in part.items() if key != "stretch_of_features"}
    assert read_spreads({"parts": [earlier]}, model.config, Path("m")) is None
    for broken in (
        {**part, "modality": "atac"},
        {**part, "stretch": np.zeros(3)},
        {**part, "stretch": -part["stretch"]},
        {**part, "stretch_of_features": -part["stretch_of_features"]},
        {**part, "stretch_of_features": np.ones(3)},
        {**part, "shift": np.zeros((3, 2))},
        {**part, "known": np.ones((3, 2), bool)},
        {**part, "table_of": part["table_of"] + 9},
        {**part, "table_of": part["table_of"] - 9},
        {**part, "of_likelihood": part["of_likelihood"][:, ::-1]},
        {**part, "stretch_of_likelihood": np.zeros((2, 3))},
        {**part, "shown": {"rna": np.ones(3, bool)}},
        {**part, "tables": [{**part["tables"][0], "values": np.zeros((2, 2, 2))}]},
        {key: value for key, value in part.items() if key != "tables"},
    ):
        with pytest.raises(ModelFileError, match="its spreads do not fit"):
            read_spreads({"parts": [broken]}, model.config, Path("m"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"level": 1.0}, r"level: above 0 and up to 0\.99, not 1\.0"),
        ({"level": 0}, "level: above 0"),
        ({"scale": "value"}, "scale: adt has no values on the scale 'value'"),
        ({"library": 100.0}, "library: a value on the scale 'log1p_cp10k' is over the cell's own total"),
        ({"scale": "counts", "library": [1.0, 2.0]}, "library: give one number, or one for each"),
    ],
)
def test_wrong_arguments_are_named(
    made: tuple[MosaicVI, MuData, np.ndarray], wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        made[0].get_imputed_intervals(modality="adt", **wrong)


def test_peaks_and_real_values_with_single_entries_missing() -> None:
    mdata = random_mudata(1, n_cells=160, fractions=True, modalities=("adt", "atac"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mosaic, **SMALL)
    with pytest.warns(MosaicWarning), pytest.raises(InputError, match="Intervals need a trained model"):
        model.get_imputed_intervals(modality="adt")
    model.train(3, batch_size=40, progress=False, accelerator="cpu")
    lower, upper = model.get_imputed_intervals(modality="adt", level=0.9)
    assert lower.attrs["scale"] == "the scale of the input"
    x = mdata["adt"].to_df().reindex(index=lower.index, columns=lower.columns)
    there = x.notna().to_numpy()
    inside = ((x >= lower) & (x <= upper)).to_numpy()[there]
    assert 0.8 < inside.mean() < 1
    lower, upper = model.get_imputed_intervals(modality="atac")
    assert lower.attrs["scale"].startswith("counts at a library of ")
    with pytest.raises(InputError, match="scale: of atac there are intervals of counts alone"):
        model.get_imputed_intervals(modality="atac", scale="log1p_cp10k")


def test_other_cells_without_saved_spreads_are_refused(
    made: tuple[MosaicVI, MuData, np.ndarray], tmp_path: Path
) -> None:
    model, mdata, _ = made
    model.save(tmp_path / "m")
    other = MosaicVI.load(tmp_path / "m", mdata[:100].copy())
    assert other.get_imputed_intervals(modality="adt").lower.shape == (100, 8)
    other._spreads = None
    with pytest.raises(InputError, match="saved without what its intervals need"):
        other.get_imputed_intervals(modality="adt")
    assert dataclasses.is_dataclass(model.spreads())
