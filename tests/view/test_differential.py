"""Pictures of features that differ: every feature is there, coloured and placed as the table says."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from mosaicvi import InputError, pl
from mosaicvi.view.differential import HIGHER, LARGEST_DOT, LOWER


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def table() -> pd.DataFrame:
    """Two comparisons of five features; g0 and g1 differ, g4 by imputed values."""
    one = pd.DataFrame(
        {
            "lfc_mean": [2.0, -1.0, 0.1, 0.0, 1.0],
            "p_value": [1e-8, 1e-4, 0.5, np.nan, 1e-3],
            "is_de_fdr_0.05": [True, True, False, False, True],
            "non_zeros_proportion1": [0.9, 0.1, 0.5, np.nan, np.nan],
            "evidence": ["measured", "measured", "measured", "none", "imputed"],
            "comparison": "B vs Rest",
            "group1": "B",
        },
        index=[f"g{i}" for i in range(5)],
    )
    other = one.assign(comparison="T vs Rest", group1="T", lfc_mean=-one["lfc_mean"])
    out = pd.concat([one, other])
    out.attrs["effect"] = "log2 ratio"
    return out


def test_a_volcano_has_each_feature_at_its_place(table: pd.DataFrame) -> None:
    ax = pl.volcano(table, comparison="B vs Rest", top=2)
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    wanted = {(2.0, 8.0), (-1.0, 4.0), (0.1, 0.301), (1.0, 3.0)}
    assert {(round(x, 3), round(y, 3)) for x, y in points} == wanted
    colors = {tuple(map(float, o)): c.get_edgecolors()[0] for c in ax.collections for o in c.get_offsets()}
    assert tuple(colors[2.0, 8.0]) == to_rgba(HIGHER)
    assert tuple(colors[-1.0, 4.0]) == to_rgba(LOWER)
    hollow = [c for c in ax.collections if len(c.get_offsets()) and not len(c.get_facecolors())]
    assert [c.get_offsets().tolist() for c in hollow] == [[[1.0, 3.0]]]
    assert [t.get_text() for t in ax.texts] == ["g0", "g1"]
    assert ax.get_title(loc="left") == "B vs Rest: 3 of 4 differ"
    assert "log2 ratio" in ax.get_xlabel()


def test_dots_are_as_large_as_the_share_and_coloured_by_the_effect(table: pd.DataFrame) -> None:
    ax = pl.dotplot(table, features=["g1", "g0"])
    dots = ax.collections[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["g1", "g0"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["B vs Rest", "T vs Rest"]
    np.testing.assert_allclose(dots.get_sizes() / LARGEST_DOT, [0.1, 0.9, 0.1, 0.9])
    np.testing.assert_allclose(dots.get_array(), [-1, 2, 1, -2])
    assert dots.get_clim() == (-2, 2)


def test_dots_of_the_highest_of_each_comparison(table: pd.DataFrame) -> None:
    ax = pl.dotplot(table, n=1, ax=plt.figure().add_subplot())
    assert [t.get_text() for t in ax.get_xticklabels()] == ["g0", "g1"]


def test_what_cannot_be_drawn_is_said(table: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"comparison: choose one of 'B vs Rest', 'T vs Rest'"):
        pl.volcano(table)
    with pytest.raises(InputError, match=r"comparison: the table has no 'X'"):
        pl.volcano(table, comparison="X")
    with pytest.raises(InputError, match=r"features: the table has no 'g9'"):
        pl.dotplot(table, features=["g9"])
    with pytest.raises(InputError, match=r"table: no column 'p_value'"):
        pl.volcano(table.drop(columns="p_value"))
    with pytest.raises(InputError, match="nothing is higher"):
        pl.dotplot(table.assign(**{"is_de_fdr_0.05": False}))
