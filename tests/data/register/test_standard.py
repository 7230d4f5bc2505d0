"""What is subtracted from a feature and what it is divided by: from measured entries, once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from numpy.testing import assert_allclose, assert_array_equal
from tests.builders import mudata_of, random_mudata, truth

from mosaicvi.data.register import register
from mosaicvi.data.registry import Registry, Setup

SETUP = Setup(batch_key="batch", likelihoods={"adt": "Gaussian"})
GAUSSIAN = Setup(modalities=("rna",), likelihoods={"rna": "Gaussian"})


def fractions(seed: int = 0, **choice: bool) -> MuData:
    return random_mudata(seed, fractions=True, modalities=("rna", "adt"), **choice)


@pytest.mark.parametrize("nan", [False, True])
def test_mean_and_spread_are_of_measured_entries(nan: bool) -> None:
    mdata = fractions(nan=nan)
    mosaic = register(mdata, SETUP)
    m = mosaic.modality("adt")
    x, measured = truth(mdata, "adt", m.features.names)
    hidden = np.where(measured, x.astype(np.float32), np.nan).astype(np.float64)
    assert m.standard is not None
    assert_allclose(m.standard.centre, np.nanmean(hidden, 0), rtol=1e-9)
    assert_allclose(m.standard.spread, np.nanstd(hidden, 0), rtol=1e-9)
    assert mosaic.registry.standards["adt"] is m.standard
    assert "rna" not in mosaic.registry.standards


def test_a_panel_is_not_measured_outside() -> None:
    mdata = fractions(nan=False)
    a = mdata.mod["adt"]
    panels = np.array([[1, 1], [1, 0], [1, 1], [0, 1]], bool)
    a.varm["measured"] = pd.DataFrame(panels, index=a.var_names, columns=["A", "B"])
    in_b = mdata.obs.loc[a.obs_names, "batch"].to_numpy() == "B"
    a.X[in_b, 1] = 0
    a.X[~in_b, 3] = 0
    standard = register(mdata, SETUP).modality("adt").standard
    assert standard is not None
    assert_allclose(standard.centre[1], a.X[~in_b, 1].mean(dtype=np.float64), rtol=1e-9)
    assert_allclose(standard.spread[3], a.X[in_b, 3].std(dtype=np.float64), rtol=1e-9)


def test_a_feature_without_spread_is_divided_by_one() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    x[:, 1] = 0.1  # whose sum over 30 rows rounds
    x[1:, 2] = np.nan
    standard = register(AnnData(x), GAUSSIAN).modalities[0].standard
    assert standard is not None
    assert_array_equal(standard.spread[1:], 1)
    assert_array_equal(standard.centre[1:], x[0, 1:])


def test_only_where_the_likelihood_asks_and_nothing_else_is_done_to_the_values() -> None:
    x = np.random.default_rng(0).gamma(2, size=(30, 3)).astype(np.float32)
    assert register(AnnData(x), Setup()).modalities[0].standard is not None
    for setup in (
        Setup(modalities=("rna",), transforms={"rna": "clr"}),
        Setup(modalities=("rna",), likelihoods={"rna": "Poisson"}),
    ):
        mosaic = register(AnnData(np.rint(x)) if setup.likelihoods else AnnData(x), setup)
        assert mosaic.modalities[0].standard is None
        assert mosaic.registry.standards == {}


def test_new_data_take_the_numbers_of_the_model() -> None:
    own = register(fractions(0), SETUP)
    other = fractions(1)
    new = register(other, own.registry.setup, registry=own.registry)
    assert new.modality("adt").standard is own.modality("adt").standard
    without = mudata_of({"rna": other.mod["rna"]}, other.obs.loc[other.mod["rna"].obs_names])
    absent = register(without, own.registry.setup, registry=own.registry)
    assert absent.modality("adt").standard is own.modality("adt").standard


def test_the_published_reading_has_none() -> None:
    published = register(fractions(), SETUP).as_published()
    assert all(m.standard is None for m in published.modalities)
    assert published.registry.standards == {}


def test_a_registry_comes_back_and_an_older_one_has_none() -> None:
    registry = register(fractions(), SETUP).registry
    saved = registry.to_dict()
    back = Registry.from_dict(saved).standards["adt"]
    for field in ("centre", "spread"):
        assert_array_equal(getattr(back, field), getattr(registry.standards["adt"], field))
    del saved["standards"]
    assert Registry.from_dict(saved).standards == {}
