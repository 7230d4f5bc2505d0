"""data/read/masked.py: masks, NaN and ids against a dense reading, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi import InputError, MosaicWarning
from mosaicvi.data.read.masked import annotation, read_masked


def said_by(mdata: Any, columns: list[tuple[str, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """Values that a MuData says were measured, (n, D); all others NaN."""
    out = np.full(shape, np.nan)
    for name, at in columns:
        a = mdata[name]
        x = a.X.toarray() if sp.issparse(a.X) else np.array(a.X)
        if "measured" in a.varm:
            x[~a.varm["measured"][mdata.obs["pattern"]].to_numpy().T] = np.nan
        out[:, at] = x
    return out


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_mosaic_holds_what_masks_and_nan_leave(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(4, 90)), data.draw(st.integers(2, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    x = rng.normal(size=(n, d)).astype(np.float32)
    condensed, sparse = data.draw(st.booleans()), data.draw(st.booleans())
    ids = rng.integers(0, 3, n)
    masks = -(rng.random((3 if condensed else n, d)) < 0.5).astype(int)
    masks[:, 0] = 0
    dense = masks[ids] if condensed else masks
    if not sparse:
        x[rng.random(x.shape) < 0.2] = np.nan
        x[:, 0] = 1
    given_x = sp.csr_matrix(x) if sparse else np.array(x, order=data.draw(st.sampled_from("CF")))
    masks = np.array(masks, order=data.draw(st.sampled_from("CF")))
    masked = read_masked(given_x, masks, ids if condensed else None)
    columns = [("a", np.arange(d // 2)), ("b", np.arange(d // 2, d))]
    obs = pd.DataFrame(index=[str(i) for i in range(n)])
    mdata = masked.mudata(columns, np.arange(d) % 2, obs)
    np.testing.assert_array_equal(said_by(mdata, columns, x.shape), np.where(dense == 0, x, np.nan))
    assert list(mdata["b"].var["block"]) == [str(j % 2) for j in range(d // 2, d)]
    assert len(masked.table) == len(np.unique(masked.table, axis=0))
    fewer = np.zeros_like(masks)
    fewer[:, 1] = data.draw(st.sampled_from([-1, 1]))
    less = masked.only(fewer)
    seen = (dense == 0) & ~np.isnan(x)
    seen[:, 1] = False
    np.testing.assert_array_equal(less.table[less.code], seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(4), None, None), r"data: a table of cells x features is needed, not the shape \(4,\)"),
        ((np.ones((0, 2)), None, None), r"data: a table of cells x features .* shape \(0, 2\)"),
        (([["gene"], ["a"]], None, None), "data: a table of numbers is needed, and nothing else .*'gene'"),
        ((np.ones((4, 2)), "all", None), "masks: a table of numbers is needed, and nothing else"),
        ((np.ones((4, 2)), np.zeros((1, 2)), [0, 1, 0, 1]), "id_dataset: 0 to 1, but masks has .* 0 to 0"),
        ((np.ones((4, 2)), np.ones((4, 2)), None), "masks: -1 is missing and 0 is seen; 1 is neither"),
        ((np.ones((4, 2)), np.full((4, 2), np.nan), None), "masks: .*nan is neither"),
        ((np.ones((4, 2)), np.zeros((2, 2)), None), r"masks: the shape \(2, 2\) fits neither data"),
        ((np.ones((4, 2)), np.zeros((4, 3)), None), r"masks: the shape \(4, 3\) fits neither data"),
        ((np.ones((4, 2)), np.zeros((2, 2)), [0, 1]), "id_dataset: 2 numbers for 4 cells"),
        (
            (np.ones((4, 2)), np.zeros((2, 2)), [0, 1, 0.5, 0]),
            "id_dataset: a whole number is needed, not 0.5",
        ),
        ((np.ones((4, 2)), np.zeros((2, 2)), [0, 1, -1, 0]), "id_dataset: at least 0, not -1"),
        (
            (np.ones((4, 2)), np.zeros((2, 2)), [1, 2, 1, 2]),
            "id_dataset: 1 to 2, but masks has the rows 0 to 1",
        ),
        ((np.ones((4, 2)), [[0, 0], [-1, -1]], [0, 1, 0, 1]), r"left to see of 2 cells \(such as 1, counted"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_masked(*arguments)


@pytest.mark.parametrize(
    "ids", [[False, True, True], ["0", "1", "1"], [[0.0], [1.0], [1.0]], pd.Series([0, 1, 1])]
)
def test_rows_of_masks_may_be_said_in_any_numbers(ids: Any) -> None:
    masked = read_masked(np.ones((3, 2)), [[0, -1], [-1, 0]], ids)
    assert masked.table[masked.code].tolist() == [[True, False], [False, True], [False, True]]


@pytest.mark.parametrize("n_features", [7, 64, 70])
def test_patterns_are_the_distinct_rows_in_order(n_features: int) -> None:
    rng = np.random.default_rng(n_features)
    some = rng.random((5, n_features)) < 0.5
    some[:, 0] = True
    seen = some[rng.integers(0, 5, 40)]
    masked = read_masked(np.ones(seen.shape), np.where(seen, 0, -1), None)
    table, code = np.unique(seen, axis=0, return_inverse=True)
    np.testing.assert_array_equal(masked.table, table)
    np.testing.assert_array_equal(masked.code, code.ravel())


def test_arrays_and_tables_become_columns() -> None:
    cate = annotation("batches_cate", ["x", "y", "x"], 3)
    assert cate.columns.tolist() == ["batches_cate[:, 0]"]
    assert cate.iloc[:, 0].tolist() == ["x", "y", "x"]
    with pytest.warns(MosaicWarning, match=r"cont\[:, 0\]: no number is given for 1 of 3 cells \(such as 1"):
        cont = annotation("batches_cont", np.array([[1.0, 2], [np.nan, 4], [3, 6]]), 3, numbers=True)
    assert cont.to_numpy().tolist() == [[1, 2], [2, 4], [3, 6]]
    groups = annotation("conditions", [0, np.nan, 1], 3)
    assert groups.isna().iloc[:, 0].tolist() == [False, True, False]
    assert annotation("batches_cate", None, 3).shape == (3, 0)
    table = pd.DataFrame({"a": ["x", "y"], "b": [1, 2]}, index=["cell 7", "cell 9"])
    cate, groups = annotation("batches_cate", table, 2), annotation("conditions", ["s", np.nan], 2)
    assert cate.to_numpy().tolist() == [["x", 1], ["y", 2]]
    assert groups.isna().iloc[:, 0].tolist() == [False, True]
    assert list(cate.index) == list(groups.index) == ["0", "1"]
    assert list(table) == ["a", "b"]
    one_hot = annotation("batches_cate", sp.csr_matrix(np.eye(2)), 2)
    assert one_hot.to_numpy().tolist() == [[1, 0], [0, 1]]
    short = annotation("batches_cate", [["x", "y"], ["x"]], 2)
    assert short.isna().to_numpy().tolist() == [[False, False], [False, True]]
    with pytest.raises(InputError, match="batches_cont: 2 rows for 3 cells"):
        annotation("batches_cont", [1.0, 2.0], 3, numbers=True)


def test_a_row_of_masks_stands_for_all_cells() -> None:
    x, row = np.ones((3, 4), np.float32), np.array([0, -1, 0, 0])
    for given_row in (row, row[None], sp.csr_matrix(row)):
        masked = read_masked(x, given_row, None)
        np.testing.assert_array_equal(masked.table[masked.code], np.tile(row == 0, (3, 1)))
        assert not masked.is_full


def test_masks_of_true_and_false_are_refused_with_what_to_give() -> None:
    x, masks = np.ones((3, 2), np.float32), np.array([[True, False]] * 3)
    with pytest.raises(InputError, match=r"-1\.0 \* masks has True missing"):
        read_masked(x, masks, None)
    masked = read_masked(x, -1.0 * masks, None)
    np.testing.assert_array_equal(masked.table[masked.code], ~masks)


def test_names_of_datasets_are_refused_with_what_counts_them() -> None:
    x, names = np.ones((3, 2), np.float32), np.array(["b", "a", "b"])
    with pytest.raises(InputError, match=r"id_dataset: .* not 'b'; pandas\.factorize"):
        read_masked(x, np.zeros((2, 2)), names)
    assert read_masked(x, np.zeros((2, 2)), pd.factorize(names)[0]).dataset.tolist() == [0, 1, 0]  # type: ignore[union-attr]


def test_masks_may_be_sparse_and_data_are_an_array() -> None:
    rng = np.random.default_rng(0)
    data = rng.poisson(2.0, (6, 4)).astype(np.float32)
    masks = np.where(rng.random((6, 4)) < 0.3, -1.0, 0.0)
    masks[:, 0] = 0
    dense, sparse = read_masked(data, masks, None), read_masked(data, sp.csr_matrix(masks), None)
    np.testing.assert_array_equal(dense.table[dense.code], sparse.table[sparse.code])
    with pytest.raises(InputError, match=r"data: an array is needed; give the values, such as data\.X"):
        read_masked(AnnData(data), None, None)


def test_features_without_any_value_are_said() -> None:
    masks = np.zeros((3, 4))
    masks[:, [1, 2]] = -1
    assert read_masked(np.ones((3, 4)), None, None).measured().all()
    with pytest.warns(MosaicWarning, match=r"No cell has a value of 2 features \(such as column 1\)"):
        found = read_masked(np.ones((3, 4)), masks, None).measured()
    assert found.tolist() == [True, False, False, True]
