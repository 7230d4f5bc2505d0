"""model/reopening.py: a saved model under other parameters, bounds and data, and what has to agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mosaicvi import InputError, MosaicVI
from mosaicvi.data.read.masked import read_masked
from mosaicvi.model.reopening import reopened

pytestmark = pytest.mark.filterwarnings("ignore:The model is not trained", "ignore:.*zeros_missing")
X = np.log1p(np.random.default_rng(0).poisson(2.0, (20, 5))).astype(np.float32)
OBS = pd.DataFrame({"batch": ["a", "b"] * 10}, index=[str(i) for i in range(20)])


def made(columns: Any = range(5), batches: bool = True, **parameters: Any) -> MosaicVI:
    """A model of some columns of one matrix, without training."""
    mdata = read_masked(X, None, None).mudata([("rna", np.array(columns))], np.zeros(5, int), OBS)
    MosaicVI.setup_mudata(
        mdata,
        likelihoods={"rna": "NB"},
        transforms={"rna": "none"},
        categorical_covariate_keys=["batch"] if batches else [],
        panel_key="pattern",
    )
    return MosaicVI(mdata, preset="published", **({"dim_latent": 2, "dimensions": 4} | parameters))


def opened_for(model: MosaicVI, folder: Path) -> MosaicVI:
    """What `folder` holds, for the data and the parameters of a model."""
    mdata = read_masked(X, None, None).mudata([("rna", np.arange(5))], np.zeros(5, int), OBS)
    return reopened(folder, mdata, model.config, model.registry)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[MosaicVI, Path]:
    model, folder = made(), tmp_path_factory.mktemp("saved") / "model"
    model.save(folder)
    return model, folder


def test_weights_are_the_saved_ones_and_the_rest_is_given_now(saved: tuple[MosaicVI, Path]) -> None:
    old, folder = saved
    new = made(beta_kl=0.5, gamma=3.0, max_vals=1.5, beta_modal=[0.7])
    found = opened_for(new, folder)
    assert found.config == found.net.config == new.config
    assert found.net.beta_modal.tolist() == pytest.approx([0.7])
    np.testing.assert_array_equal(found.get_latent_representation(), old.get_latent_representation())
    np.testing.assert_array_equal(found.net.bounds(0).high, np.full(5, 1.5))
    np.testing.assert_array_equal(found.net.bounds(0).low, old.net.bounds(0).low)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dim_latent": 3}, "dim_latent: the saved model has 2, but config says 3; give the saved model's"),
        ({"columns": [0, 1, 2, 4]}, r"has \[5\] .* these data \[4\], and column 3 is one in the saved model"),
        ({"batches": False}, "categorical_covariate_keys: the saved model has 1 columns, and 0 are given"),
    ],
)
def test_what_decides_shapes_has_to_agree(
    saved: tuple[MosaicVI, Path], how: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        opened_for(made(**how), saved[1])
