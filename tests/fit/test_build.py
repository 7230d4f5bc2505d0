"""Bounds and first guesses of standardised values, which the user gives in the units of the data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from mosaicvi import InputError
from mosaicvi.config import NetworkConfig
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.fit.build import FIRST_DISPERSION, build_network
from mosaicvi.nn.vae import MosaicVAE

SETUP = Setup(modalities=("peptide",), likelihoods={"peptide": "Gaussian"})


def values(seed: int = 0) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).normal(5, [0.02, 1, 1000, 3], (200, 4)).astype(np.float32)
    x[::7, 1] = np.nan
    return x


def network(mosaic: Mosaic, **parameters: Any) -> MosaicVAE:
    return build_network(mosaic, NetworkConfig.for_mosaic(mosaic, **parameters), seed=0, guess=True)


def test_bounds_are_of_the_values_that_the_network_sees() -> None:
    x = values()
    bounds = network(register(AnnData(x), SETUP)).bounds(0)
    z = (x - np.nanmean(x, 0, dtype=np.float64)) / np.nanstd(x, 0, dtype=np.float64)
    assert_array_equal(bounds.centre, np.zeros(4))
    assert_allclose(bounds.low, np.minimum(np.nanmin(z, 0), -3), rtol=1e-5)
    assert_allclose(bounds.high, np.maximum(np.nanmax(z, 0), 3), rtol=1e-5)


def test_bounds_of_the_user_are_in_the_units_of_the_data() -> None:
    mosaic = register(AnnData(values()), SETUP)
    m = mosaic.modalities[0]
    limits: dict[str, Any] = {
        "mean_vals": 5.0, "min_vals": (4.99, 4, -2000, 0), "max_vals": (5.01, 6, 3000, 9),
    }  # fmt: skip
    bounds = network(mosaic, **limits).bounds(0)
    for field, name in (("centre", "mean_vals"), ("low", "min_vals"), ("high", "max_vals")):
        back = m.raw(getattr(bounds, field).numpy()[None], None)[0]
        assert_allclose(back, np.broadcast_to(limits[name], 4), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"min_vals: larger than max_vals"):
        network(mosaic, min_vals=10_000.0)


@pytest.mark.parametrize("seed", range(20))
def test_no_answer_passes_a_bound_of_zero(seed: int) -> None:
    x = np.abs(values(seed))
    mosaic = register(AnnData(x), SETUP)
    m = mosaic.modalities[0]
    low = network(mosaic, min_vals=0.0).bounds(0).low.numpy()
    assert_array_equal(m.raw(low[None], None) >= 0, True)
    high = network(mosaic, min_vals=-1e4, max_vals=0.0).bounds(0).high.numpy()
    assert_array_equal(m.raw(high[None], None) <= 0, True)


def test_a_constant_feature_keeps_its_value() -> None:
    x = values()
    x[:, 0] = 0.1
    mosaic = register(AnnData(x), SETUP)
    bounds = network(mosaic).bounds(0)
    for bound in (bounds.low, bounds.high):
        assert mosaic.modalities[0].raw(bound.numpy()[None], None)[0, 0] == np.float32(0.1)


def test_the_first_dispersion_is_a_quarter_of_the_spread_in_every_batch() -> None:
    a = AnnData(values())
    a.obs["batch"] = ["a", "b"] * 100
    a.obs["sex"] = ["f", "f", "m", "m"] * 50
    mosaic = register(a, dataclasses.replace(SETUP, batch_key="batch", categorical_covariate_keys=("sex",)))
    net = network(mosaic)
    at = torch.log(torch.expm1(torch.tensor(FIRST_DISPERSION)))
    kernel = net.decoder.dispersion["0"].detach()
    fresh = build_network(mosaic, net.config, seed=0, guess=False).decoder.dispersion["0"].detach()
    torch.testing.assert_close(kernel, fresh + at * torch.tensor([[1.0], [1], [0], [0]]))
