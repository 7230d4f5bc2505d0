"""Covariates that a model has not seen: the mean of what it knows, or a named one."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi import InputError, MosaicWarning
from mosaicvi.data.register import register
from mosaicvi.data.register.query import told
from mosaicvi.data.register.unseen import NOT_SAID
from mosaicvi.data.registry import Registry, Setup

SETUP = Setup(
    batch_key="batch",
    categorical_covariate_keys=("site",),
    continuous_covariate_keys=("age",),
    modalities=("rna",),
)


def cells(batch: list[object], site: list[object] | None = None, age: list[float] | None = None) -> AnnData:
    n = len(batch)
    obs = pd.DataFrame({"batch": batch}, index=[f"c{i}" for i in range(n)])
    obs["site"] = site or ["x"] * n
    obs["age"] = age or [40.0] * n
    return AnnData(
        np.random.default_rng(0).poisson(2.0, (n, 3)).astype(np.float32) + 1,
        obs=obs,
        var=pd.DataFrame(index=["g0", "g1", "g2"]),
    )


@pytest.fixture(scope="module")
def registry() -> Registry:
    return register(
        cells(["a", "b", "c", "a"], ["x", "y", "x", "y"], [30.0, 50.0, 30.0, 50.0]), SETUP
    ).registry


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "new", "newer", None]), st.sampled_from(["x", "y", "z"])),
        min_size=1,
        max_size=8,
    )
)
def test_a_known_category_is_one_hot_and_any_other_an_equal_share_of_all(
    rows: list[tuple[str | None, str]],
) -> None:
    known = register(
        cells(["a", "b", "c", "a"], ["x", "y", "x", "y"], [30.0, 50.0, 30.0, 50.0]), SETUP
    ).registry
    batch, site = [row[0] for row in rows], [row[1] for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        made = register(cells(batch, site), SETUP, registry=known)
    for i, (b, s) in enumerate(rows):
        expected = [1.0 if b == name else 0.0 for name in "abc"] if b in set("abc") else [1 / 3] * 3
        expected += [1.0 if s == name else 0.0 for name in "xy"] if s in set("xy") else [0.5, 0.5]
        np.testing.assert_allclose(made.covariates[i], [*expected, 0.0], rtol=1e-6)
        assert made.batches[made.batch[i]] == (b or NOT_SAID)
    new = {b or NOT_SAID for b in batch} - set("abc")
    assert made.unseen.get("batch", ()) == tuple(sorted(new))


def test_what_is_not_known_is_said(registry: Registry) -> None:
    query = cells(["a", "new", "b"], age=[30.0, 40.0, 50.0])
    with pytest.warns(
        MosaicWarning,
        match=r"obs\['batch'\] has 'new', which the model has not seen; it knows 'a', 'b', 'c'.* mean of",
    ):
        made = register(query, SETUP, registry=registry)
    np.testing.assert_allclose(made.covariates[:, -1], [-1, 0, 1])
    del query.obs["batch"], query.obs["age"]
    with pytest.warns(MosaicWarning) as said:
        made = register(query, SETUP, registry=registry)
    lines = [str(w.message) for w in said]
    assert any("there is no obs column 'batch'" in line for line in lines)
    assert any("obs['age'] has no number for 3 of 3 cells" in line for line in lines)
    assert made.group_names == (f"{NOT_SAID}: rna",)
    assert not made.covariates[:, -1].any()
    query.obs["age"] = ["old"] * 3
    with pytest.raises(InputError, match=r"obs\['age'\] does not hold numbers"):
        register(query, SETUP, registry=registry)


def test_another_category_can_be_named(registry: Registry) -> None:
    query = cells(["a", "new", np.nan], site=["y", "x", "y"])
    before = query.obs.copy()
    made = register(told(query, registry, take_as={"batch": "c"}), SETUP, registry=registry)
    assert [made.batches[b] for b in made.batch] == ["a", "c", "c"]
    assert not made.unseen
    del query.obs["site"]
    as_named = told(query, registry, take_as={"batch": "b", "site": "y"})
    np.testing.assert_array_equal(
        register(as_named, SETUP, registry=registry).covariates[:, 3:5], [[0, 1]] * 3
    )
    pd.testing.assert_frame_equal(query.obs, before.drop(columns="site"))
    for take_as, words in (
        ({"batch": "new"}, r"has not seen 'new' in 'batch'; it knows 'a', 'b', 'c'"),
        ({"donor": "a"}, r"no categories of 'donor'; it has 'batch', 'site'"),
    ):
        with pytest.raises(InputError, match=words):
            told(query, registry, take_as=take_as)
