from __future__ import annotations

import base64
import gzip

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mosaicvi import MosaicVI
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.errors import InputError
from mosaicvi.report import payload
from mosaicvi.view.palette import MISSING


def unpacked(text: str, kind: type = np.uint8) -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), kind)


def steps(text: str) -> np.ndarray:
    return np.cumsum(unpacked(text), dtype=np.uint8)


def test_places_keep_their_proportions() -> None:
    xy = np.array([[0.0, 0], [4, 1], [2, 0.5]])
    places = unpacked(payload.coordinates(xy), np.uint16).reshape(2, 3)
    assert np.allclose(places / 65535 * 4, xy.T, atol=1e-4)


def test_neighbours_in_the_picture_are_neighbours_in_the_list() -> None:
    xy = np.random.default_rng(0).uniform(size=(2000, 2))
    order = payload.spatial_order(xy)
    assert sorted(order) == list(range(2000))
    gap = np.linalg.norm(np.diff(xy[order], axis=0), axis=1).mean()
    assert gap < 0.1 * np.linalg.norm(np.diff(xy, axis=0), axis=1).mean()


def test_numbers_come_back_within_a_level() -> None:
    value = np.append(np.random.default_rng(0).normal(size=500), np.nan)
    packed = payload.numeric("x", value)
    level = steps(packed["data"])
    assert level[-1] == 255
    back = packed["low"] + level[:-1] / (payload.LEVELS - 1) * (packed["high"] - packed["low"])
    inside = np.clip(value[:-1], packed["low"], packed["high"])
    assert np.abs(back - inside).max() <= (packed["high"] - packed["low"]) / (payload.LEVELS - 1) / 2 + 1e-9


@pytest.mark.parametrize("value", [np.full(5, 3.0), np.full(5, np.nan)])
def test_constant_and_missing_numbers_are_finite(value: np.ndarray) -> None:
    packed = payload.numeric("x", value)
    assert np.isfinite([packed["low"], packed["high"]]).all()


def test_names_come_back_with_missing_ones_last() -> None:
    values = pd.Series(["b", None, "a", "unknown"])
    packed = payload.categorical("x", values, {"a": "#111111", "b": "#222222"})
    names = np.array(packed["names"])[steps(packed["data"])]
    assert list(names) == ["b", "unknown", "a", "unknown"]
    assert packed["colors"] == ["#111111", "#222222", MISSING]


def test_identifiers_and_constants_are_no_columns() -> None:
    n = 400
    obs = pd.DataFrame(
        {
            "id": [f"x{i}" for i in range(n)],
            "same": "a",
            "kind": ["p", "q"] * (n // 2),
            "depth": np.arange(n),
        },
        index=[f"c{i}" for i in range(n)],
    )
    data = AnnData(np.zeros((n, 1)), obs=obs)
    first = {"batch": pd.Series("all", index=data.obs_names)}
    found = payload.columns(data, np.arange(n), first)
    assert [(c["name"], c["kind"]) for c in found] == [
        ("batch", "names"),
        ("kind", "names"),
        ("depth", "numbers"),
    ]


@pytest.fixture(scope="module")
def model() -> MosaicVI:
    made = simulated_mosaic(120, n_genes=30, n_proteins=6, n_peaks=30)
    MosaicVI.setup_mudata(made.mdata, batch_key="batch")
    return MosaicVI(made.mdata)


def test_imputed_features_are_those_of_the_model(model: MosaicVI) -> None:
    chosen = payload.choose_features(model, model.mosaic, ["gene0003", "adt:protein002"])
    order = np.arange(120)[::-1]
    z, values = payload.answers(model, model.mosaic, chosen)
    assert z == pytest.approx(model.get_latent_representation(), abs=1e-5)
    found, dropped = payload.imputed_features(model, chosen, values, order, 10**6)
    assert [(f["modality"], f["name"]) for f in found] == [("rna", "gene0003"), ("adt", "protein002")]
    assert dropped == 0
    wanted = np.log1p(model.get_imputed_values(modality="rna")["gene0003"].to_numpy())[order]
    low, high = np.quantile(wanted, [0.005, 0.995])
    assert (found[0]["low"], found[0]["high"]) == (pytest.approx(low), pytest.approx(high))
    level = np.round((np.clip(wanted, low, high) - low) / (high - low) * (payload.LEVELS - 1))
    assert np.abs(steps(found[0]["data"]).astype(int) - level).max() <= 1


def test_the_most_variable_features_come_first(model: MosaicVI) -> None:
    chosen = {c.modality: c for c in payload.choose_features(model, model.mosaic, None)}
    assert set(chosen) == {"rna", "adt", "atac"}
    values = np.log1p(model.get_imputed_values(modality="rna").astype(float))
    variance = values.var(ddof=0)
    assert list(chosen["rna"].names[:3]) == list(variance.sort_values(ascending=False).index[:3])


def test_features_beyond_the_budget_are_counted(model: MosaicVI) -> None:
    chosen = payload.choose_features(model, model.mosaic, None)
    _, values = payload.answers(model, model.mosaic, chosen)
    found, dropped = payload.imputed_features(model, chosen, values, np.arange(120), 3000)
    assert sum(len(f["data"]) for f in found) < 3000
    assert len(found) + dropped == 66
    assert {f["modality"] for f in found[:3]} == {"rna", "adt", "atac"}


def test_an_unknown_feature_is_named(model: MosaicVI) -> None:
    with pytest.raises(InputError, match="no modality has 'CD3E'"):
        payload.choose_features(model, model.mosaic, ["gene0001", "CD3E"])
