"""Pictures of features that differ: every feature is there, coloured and placed as the table says."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_rgba
from matplotlib.text import Text

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


def test_names_of_a_volcano_are_on_both_sides_and_not_on_one_another() -> None:
    rng = np.random.default_rng(0)
    n = 60
    effect = np.where(np.arange(n) % 6, 1, -1) * rng.uniform(1, 4, n)
    table = pd.DataFrame(
        {
            "lfc_mean": effect,
            "p_value": 10.0 ** -np.where(effect > 0, rng.uniform(20, 21, n), rng.uniform(5, 6, n)),
            "is_de_fdr_0.05": True,
            "non_zeros_proportion1": 0.5,
            "comparison": "B vs Rest",
            "group1": "B",
        },
        index=[f"GENE{i}" for i in range(n)],
    )
    ax = pl.volcano(table, top=12)
    ax.figure.canvas.draw()
    assert len(ax.texts) == 12
    sides = [float(np.sign(table.loc[t.get_text(), "lfc_mean"])) for t in ax.texts]
    assert sides.count(1.0) == sides.count(-1.0) == 6
    assert [t.get_ha() for t in ax.texts] == ["left" if side > 0 else "right" for side in sides]
    boxes = [Text.get_window_extent(t) for t in ax.texts]  # without the lines to their points
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert not a.shrunk(1, 0.9).overlaps(b.shrunk(1, 0.9))
    few = pl.volcano(table[table["lfc_mean"] > 0], top=5)
    assert len(few.texts) == 5


def test_dots_are_as_large_as_the_share_and_coloured_by_the_effect(table: pd.DataFrame) -> None:
    ax = pl.dotplot(table, features=["g1", "g0"])
    dots = ax.collections[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["g1", "g0"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["B vs Rest", "T vs Rest"]
    np.testing.assert_allclose(dots.get_sizes() / LARGEST_DOT, [0.1, 0.9, 0.1, 0.9])
    np.testing.assert_allclose(dots.get_array(), [-1, 2, 1, -2])
    assert dots.get_clim() == (-2, 2)
    legend = ax.get_legend()
    assert legend.get_title().get_text() == "cells above zero"
    assert [t.get_text() for t in legend.get_texts()] == ["25%", "50%", "100%"]
    sizes = [h.get_sizes()[0] / LARGEST_DOT for h in legend.legend_handles]
    np.testing.assert_allclose(sizes, [0.25, 0.5, 1])


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


def test_arguments_of_scanpys_dotplot_are_told(table: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"dotplot: give arguments after 'table' by name, such as features="):
        pl.dotplot(table, ["g0"], "group1")
    with pytest.raises(InputError, match=r"volcano: unknown argument 'n_genes'; use top=\.\.\."):
        pl.volcano(table, n_genes=3)
    adata = AnnData(np.ones((2, 1), np.float32))
    with pytest.raises(InputError, match=r"table: what differential_expression .* not AnnData; scanpy"):
        pl.dotplot(adata, features=["g0"])
