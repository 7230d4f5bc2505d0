"""Every answer repeats to the bit with its seed, and is the same however many cells are asked at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.builders import random_mudata

from mosaicvi import MosaicVI, MosaicWarning

SMALL: dict[str, Any] = {"dimensions": 16, "dim_latent": 4, "dim_block_enc": 8, "dim_block_dec": 8}
pytestmark = pytest.mark.filterwarnings("ignore::mosaicvi.MosaicWarning")


@pytest.fixture(scope="module")
def model() -> MosaicVI:
    mdata = random_mudata(2, n_cells=160, nan=False)
    rng = np.random.default_rng(0)
    mdata.obs["kind"] = rng.choice(["a", "b", "unknown"], mdata.n_obs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        model = MosaicVI(MosaicVI.setup_mudata(mdata, batch_key="batch"), **SMALL)
    model.mdata_of_test = mdata  # type: ignore[attr-defined]
    return model.train(3, batch_size=40, progress=False, accelerator="cpu")


ANSWERS: dict[str, Callable[..., Any]] = {
    "latent": lambda m, **k: m.get_latent_representation(n_samples=2, **k),
    "imputed values": lambda m, **k: m.get_imputed_values(modality="rna", n_samples=2, **k),
    "corrected values": lambda m, **k: m.get_imputed_values(modality="adt", transform_batch="A", **k),
    "intervals": lambda m, seed, **k: np.stack(m.get_imputed_intervals(modality="rna", **k)),
    "intervals of counts": lambda m, seed, **k: np.stack(m.get_imputed_intervals(modality="atac", **k)),
    "intervals as the mean": lambda m, seed, **k: np.stack(
        m.get_imputed_intervals(modality="adt", transform_batch="mean", **k)
    ),
    "draws": lambda m, **k: m.posterior_predictive_sample(modality="rna", n_samples=2, **k),
    "differential": lambda m, **k: m.differential_expression(
        m.mdata_of_test, modality="rna", groupby="kind", group1="a", group2="b", **k
    ),
    "differential, imputed": lambda m, **k: m.differential_expression(
        modality="adt",
        idx1=np.flatnonzero(m.mosaic.modality("adt").row_of_cell < 0)[::2],
        idx2=np.flatnonzero(m.mosaic.modality("adt").row_of_cell < 0)[1::2],
        **k,
    ),
    "labels": lambda m, **k: m.predict_labels("kind", mdata=m.mdata_of_test, **k),
    "fit of cells": lambda m, **k: m.cell_fit(**k),
}


def numbers(answer: Any) -> np.ndarray:
    if isinstance(answer, pd.DataFrame):
        answer = answer.select_dtypes(["number", "bool"]).to_numpy(float)
    return np.asarray(answer, float)


@pytest.mark.parametrize("name", list(ANSWERS))
def test_answers_repeat_and_do_not_depend_on_the_batch_size(
    model: MosaicVI, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaicvi.infer.latent.MOST_ROWS", 32)  # of 160 cells
    ask = ANSWERS[name]
    first = ask(model, seed=3, batch_size=64)
    again = ask(model, seed=3, batch_size=64)
    if isinstance(first, pd.DataFrame):
        pd.testing.assert_frame_equal(first, again, check_exact=True)
    else:
        np.testing.assert_array_equal(first, again)
    assert np.isfinite(numbers(first)).any()
    for batch_size in (7, 1000):
        other = ask(model, seed=3, batch_size=batch_size)
        np.testing.assert_array_equal(numbers(other), numbers(first))


def test_accuracy_repeats(model: MosaicVI) -> None:
    one, two = (model.imputation_accuracy(seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
