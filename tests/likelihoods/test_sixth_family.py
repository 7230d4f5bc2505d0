"""A likelihood of one's own, defined outside the package: nothing else is touched."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from mudata import MuData
from numpy.typing import ArrayLike
from tests.builders import random_mudata
from torch import Tensor

from mosaicvi import MosaicVI, likelihoods
from mosaicvi.errors import InputError, MosaicWarning
from mosaicvi.likelihoods import Family, Parameters, Summary
from mosaicvi.likelihoods.base import Bounds, Floats, needed


class LogNormal(Family):
    """Positive values whose logarithm is normal; the dispersion is its standard deviation."""

    name = "LogNormal"
    least, filler = 0.0, 1.0
    has_dispersion = mean_has_dispersion = True

    def link(self, output: Tensor, bounds: Bounds) -> Tensor:
        return output.clamp(-30, 30)

    def mean(self, parameters: Parameters) -> Tensor:
        return torch.exp(parameters.location + needed(parameters.dispersion).square() / 2)

    def first_output(self, seen: Summary, *, library_aware: bool) -> Floats | None:
        return np.log(seen.mean)

    def log_prob(self, x: Tensor, parameters: Parameters) -> Tensor:
        sd = needed(parameters.dispersion)
        error = (torch.log(x) - parameters.location) / sd
        return -0.5 * error.square() - torch.log(sd * x) - 0.5 * math.log(2 * math.pi)

    def cdf(self, x: ArrayLike, parameters: Parameters) -> Floats:
        location, sd, _ = parameters.arrays()
        return scipy.special.ndtr((np.log(x) - location) / sd)

    def quantile(self, q: ArrayLike, parameters: Parameters) -> Floats:
        location, sd, _ = parameters.arrays()
        return np.exp(location + sd * scipy.special.ndtri(q))


@pytest.fixture
def family() -> Iterator[LogNormal]:
    one = LogNormal()
    likelihoods.register(one)
    yield one
    del likelihoods._FAMILIES[one.name]


def mudata_of(*, missing: bool) -> MuData:
    """Counts of RNA and peaks, and proteins as positive fractions, maybe some of them not measured."""
    mdata = random_mudata(3, n_cells=60)
    adt = mdata["adt"]
    rng = np.random.default_rng(0)
    x = np.exp(rng.normal(1, 0.5, adt.shape)).astype(np.float32)
    if missing:
        x[1:, 1:][rng.random((len(x) - 1, x.shape[1] - 1)) < 0.2] = np.nan
    adt.X = x
    return mdata


@pytest.mark.parametrize("missing", [False, True])
def test_it_registers_trains_imputes_and_is_saved(family: LogNormal, tmp_path: Path, missing: bool) -> None:
    mdata = mudata_of(missing=missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        MosaicVI.setup_mudata(mdata, batch_key="batch", likelihoods={"adt": "LogNormal"})
        model = MosaicVI(mdata, dimensions=(8,), dim_latent=3)
        model.train(3, batch_size=16, progress=False)
    assert model.mosaic.modality("adt").likelihood == "LogNormal"
    losses = model.history["train_loss"]
    assert np.isfinite(losses).all()
    assert losses.iloc[-1] < losses.iloc[0]
    assert repr(model).splitlines()[0].endswith("engine torch")
    answer = model.get_imputed_values(modality="adt")
    assert (answer.to_numpy() > 0).all()
    model.save(tmp_path / "model")
    again = MosaicVI.load(tmp_path / "model", mdata)
    np.testing.assert_allclose(again.get_imputed_values(modality="adt"), answer, rtol=1e-6)


def test_values_below_its_least_are_refused(family: LogNormal) -> None:
    mdata = mudata_of(missing=False)
    mdata["adt"].X[0, 0] = -1
    with pytest.raises(InputError, match="is negative, which LogNormal cannot be"):
        MosaicVI.setup_mudata(mdata, batch_key="batch", likelihoods={"adt": "LogNormal"})
