"""Where new data have the values that a model takes: where those in training had them, if they fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mosaicvi import InputError, MosaicWarning
from mosaicvi.data.register import register
from mosaicvi.data.register.query import align_to_model, told
from mosaicvi.data.registry import Registry, Setup

COUNTS = np.random.default_rng(0).poisson(2.0, (5, 3)).astype(np.float32) + 1
LOGS = np.log1p(COUNTS)


def data(x: np.ndarray | None, **layers: np.ndarray) -> AnnData:
    obs, var = pd.DataFrame(index=[f"c{i}" for i in range(5)]), pd.DataFrame(index=["g0", "g1", "g2"])
    return AnnData(x, obs=obs, var=var, layers=layers)


def trained_on(layer: str | None, likelihood: str = "NB") -> Registry:
    setup = Setup(
        modalities=("rna",),
        layers={} if layer is None else {"rna": layer},
        likelihoods={"rna": likelihood},
    )
    x = COUNTS if likelihood == "NB" else LOGS
    return register(data(x) if layer is None else data(None, **{layer: x}), setup).registry


def values(query: AnnData, registry: Registry) -> np.ndarray:
    """What is read of it, directly and after its features were aligned."""
    x, aligned = (
        register(q, registry.setup, registry=registry).modality("rna").x
        for q in (query, align_to_model(query, registry))
    )
    x, aligned = (v if isinstance(v, np.ndarray) else v.toarray() for v in (x, aligned))
    np.testing.assert_array_equal(x, aligned)
    return x


@pytest.mark.parametrize(
    ("layer", "query", "words"),
    [
        (None, data(COUNTS), ""),
        ("counts", data(LOGS, counts=COUNTS), ""),
        ("counts", data(COUNTS), "trained on layer 'counts', which is not there in these data; X fits"),
        (
            "counts",
            data(COUNTS, counts=LOGS),
            "trained on layer 'counts', which holds no counts in these data; X fits",
        ),
        ("counts", data(LOGS, umis=COUNTS), "which is not there in these data; layer 'umis' fits"),
        (
            None,
            data(LOGS, counts=COUNTS),
            "trained on X, which holds no counts in these data; layer 'counts' fits",
        ),
        (
            None,
            data(None, counts=COUNTS),
            "trained on X, which is not there in these data; layer 'counts' fits",
        ),
    ],
)
def test_counts_are_taken_from_where_they_are(layer: str | None, query: AnnData, words: str) -> None:
    registry = trained_on(layer)
    if words:
        with pytest.warns(MosaicWarning, match=words):
            found = values(query, registry)
    else:
        found = values(query, registry)
    np.testing.assert_array_equal(found, COUNTS)


def test_fractions_are_taken_from_x_alone() -> None:
    registry = trained_on("logs", "Gaussian")
    with pytest.warns(
        MosaicWarning, match="trained on layer 'logs', which is not there in these data; X fits"
    ):
        np.testing.assert_array_equal(values(data(LOGS), registry), LOGS)
    with pytest.raises(InputError, match=r"no layer 'logs'.*prepare_query\(data, model, layers=.*'rna'"):
        values(data(COUNTS, other=LOGS), registry)


def test_what_does_not_fit_is_refused_with_a_remedy_that_helps() -> None:
    with pytest.raises(InputError, match="look normalised"):
        values(data(LOGS), trained_on(None))
    registry = trained_on("counts")
    query = data(LOGS, other=LOGS)
    with pytest.raises(InputError, match=r"rna: no layer 'counts'.*there are 'X', 'other'"):
        values(query, registry)
    query.layers["umis"], query.layers["more"] = COUNTS, 2 * COUNTS
    np.testing.assert_array_equal(values(told(query, registry, layers={"rna": "more"}), registry), 2 * COUNTS)
    query.X = COUNTS
    np.testing.assert_array_equal(values(told(query, registry, layers={"rna": "X"}), registry), COUNTS)
    with pytest.raises(InputError, match="rna: no layer 'nowhere'; it has"):
        told(query, registry, layers={"rna": "nowhere"})
    with pytest.raises(InputError, match="layers: no modality 'adt' that the model knows; there are 'rna'"):
        told(query, registry, layers={"adt": "umis"})


def test_who_asks_a_model_is_told_what_can_be_done_there() -> None:
    registry = trained_on(None)
    with pytest.raises(InputError, match="values are fractional") as caught:
        register(data(LOGS), registry.setup, registry=registry)
    assert "MosaicVI.prepare_query(data, model, layers={'rna': ...})" in str(caught.value)
    assert "likelihoods=" not in str(caught.value)


def test_panels_of_cells_are_noted_where_nothing_says_them() -> None:
    registry, query = trained_on(None), data(COUNTS * [1, 1, 0])
    query.varm["measured"] = pd.DataFrame({"p": True, "q": [True, True, False]}, index=query.var_names)
    with pytest.raises(InputError, match="2 panels, and nothing says which cell has which") as caught:
        register(query, registry.setup, registry=registry)
    assert "data.uns['mosaicvi'] = {'panel_key': ...}" in str(caught.value)
    query.obs["site"], query.uns["mosaicvi"] = ["p", "q", "q", "q", "q"], {"panel_key": "site"}
    found = register(query, registry.setup, registry=registry).modality("rna")
    assert found.measured()[:, 2].tolist() == [True, False, False, False, False]
    query.obs["site"] = ["p", "other", "q", "q", "q"]
    with pytest.raises(InputError, match=r"add them, or note the column of obs that does"):
        register(query, registry.setup, registry=registry)
