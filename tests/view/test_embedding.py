"""mosaicvi.pl.embedding: the arguments that users of scanpy type, and what it says of others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex

from mosaicvi import InputError, MosaicWarning, pl
from mosaicvi.view.palette import MISSING


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def adata() -> AnnData:
    """Twelve cells of three types, laid out."""
    obs = pd.DataFrame({"type": list("abc") * 4, "depth": np.arange(12.0)}, index=[str(i) for i in range(12)])
    xy = np.random.default_rng(0).normal(size=(12, 2))
    var = pd.DataFrame(index=["gene 0"])
    return AnnData(np.zeros((12, 1)), obs=obs, var=var, obsm={"X_umap": xy, "X_pca": xy[:, ::-1].copy()})


def legend(ax: Any) -> dict[str, str]:
    return {h.get_label(): to_hex(h.get_color()) for h in ax.get_legend().legend_handles}


@pytest.mark.parametrize(
    ("palette", "colors"),
    [
        ({"a": "red", "b": "#00ff00", "c": (0, 0, 1)}, ["#ff0000", "#00ff00", "#0000ff"]),
        (["red", "blue"], ["#ff0000", "#0000ff", "#ff0000"]),
        ("tab10", [to_hex(c) for c in mpl.colormaps["tab10"].colors[:3]]),
        ("viridis", [to_hex(mpl.colormaps["viridis"](v)) for v in (0.0, 0.5, 1.0)]),
    ],
)
def test_a_palette_gives_names_their_colours(adata: AnnData, palette: Any, colors: list[str]) -> None:
    ax = pl.embedding(adata, color="type", palette=palette)
    assert legend(ax) == dict(zip("abc", colors, strict=True))
    points = ax.collections[0]
    drawn = {
        tuple(np.round(xy, 9)): to_hex(c)
        for xy, c in zip(points.get_offsets(), points.get_facecolor(), strict=True)
    }
    for xy, kind in zip(adata.obsm["X_umap"], adata.obs["type"], strict=True):
        assert drawn[tuple(np.round(xy, 9))] == colors["abc".index(kind)]


def test_names_that_a_palette_leaves_out_are_grey(adata: AnnData) -> None:
    ax = pl.embedding(adata, color="type", palette={"b": "red"})
    assert legend(ax) == {"b": "#ff0000", "others": MISSING.lower()}


def test_a_palette_leaves_numbers_as_they_are(adata: AnnData) -> None:
    _, numbers = pl.embedding(adata, color=["type", "depth"], palette=["red", "blue", "black"])
    usual = pl.embedding(adata, color="depth")
    np.testing.assert_array_equal(
        numbers.collections[0].get_facecolor(), usual.collections[0].get_facecolor()
    )


def test_sizes_titles_and_columns(adata: AnnData) -> None:
    axes = pl.embedding(
        adata, color=["type", "depth", "type"], ncols=2, size=7, title=["x", "y", "z"], palette="tab10"
    )
    assert [ax.get_title(loc="left") for ax in axes] == ["x", "y", "z"]
    rows = [ax.get_subplotspec().rowspan.start for ax in axes]
    assert rows == [0, 0, 1]
    assert len(axes[0].figure.axes) == 4  # three, and the bar of the numbers
    assert axes[0].collections[0].get_sizes()[0] == 7
    assert pl.embedding(adata, color="type", s=9).collections[0].get_sizes()[0] == 9
    assert not pl.embedding(adata, color="type", frameon=False).axison
    assert pl.embedding(adata, color="type").axison
    rows = [ax.get_subplotspec().rowspan.start for ax in pl.embedding(adata, color=["type"] * 5)]
    assert rows == [0, 0, 0, 0, 1]


def test_one_colour_gives_axes_and_several_a_list(adata: AnnData) -> None:
    assert isinstance(pl.embedding(adata, color=["type"]), plt.Axes)
    assert isinstance(pl.embedding(adata), plt.Axes)
    assert isinstance(pl.embedding(adata, color=[]), plt.Axes)
    assert [ax.get_title("left") for ax in pl.embedding(adata, color=("type", "depth"))] == ["type", "depth"]


def test_umap_draws_its_layout_and_a_short_basis_is_found(adata: AnnData) -> None:
    for ax, key, label in (
        (pl.umap(adata, color="type", size=3), "X_umap", "UMAP 1"),
        (pl.embedding(adata, basis="pca", color="type"), "X_pca", "PC 1"),
    ):
        order = np.random.default_rng(0).permutation(12)
        np.testing.assert_array_equal(ax.collections[0].get_offsets(), adata.obsm[key][order])
        assert ax.get_xlabel() == label
    del adata.obsm["X_umap"]
    with pytest.raises(InputError, match=r"no obsm 'X_umap'; make it with mosaicvi\.tl\.umap\(data\)"):
        pl.umap(adata, color="type")


def test_a_picture_in_axes_that_are_there(adata: AnnData) -> None:
    _, ax = plt.subplots()
    assert pl.embedding(adata, color="type", ax=ax) is ax
    with pytest.raises(InputError, match="ax: one colour can be drawn there, not 2"):
        pl.embedding(adata, color=["type", "depth"], ax=ax)


def test_a_window_opens_where_it_is_asked_for(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: opened.append(1))
    pl.embedding(adata, color="type")
    assert not opened
    pl.embedding(adata, color="type", show=True)
    assert opened == [1]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"palete": "tab10"}, "unknown argument 'palete'; did you mean 'palette'"),
        ({"colors": {"a": "red"}}, "unknown argument 'colors'; use palette="),
        ({"save": ".png"}, "unknown argument 'save'; .*savefig"),
        ({"vcenter": 0}, r"'vcenter'; .*scanpy\.pl\.embedding\(adata, basis='X_umap'\)"),
        (
            {"groups": ["a"]},
            "unknown argument 'groups'; use palette={name: colour}; names that it leaves out",
        ),
        ({"legend_loc": "in the sky"}, "legend_loc: 'right margin', 'on data' or None, not 'in the sky'"),
        ({"color_map": "no such map"}, "cmap: matplotlib has no colour map 'no such map'; .*'viridis'"),
        ({"vmax": "p99"}, "vmax: a number is needed, not 'p99'"),
        ({"components": "1,2"}, r"components: two columns, counted from 0, such as \(0, 1\); not '1,2'"),
        ({"palette": "no such map"}, "palette: matplotlib has no colour map 'no such map'"),
        ({"palette": {"a": "no colour"}}, "palette: 'no colour', for 'a', is no colour"),
        ({"title": ["one", "two"]}, "title: 2 for 1 pictures; give one for each color"),
        (
            {"color": ["type", "depth"], "values": np.zeros(12)},
            "values: 1 for 2 pictures; give a table with a column",
        ),
        (
            {"color": ["type", "gene 1"]},
            "no obs column 'gene 1', nor a feature of that name; there are .*; "
            "features with such names are 'gene 0'",
        ),
        ({"color": "gene 0", "layer": "logs"}, "the data: X has no layer 'logs'"),
        ({"ncols": 0}, "ncols: at least 1"),
        ({"size": "large"}, "size: a number is needed"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_drawing(
    adata: AnnData, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pl.embedding(adata, **({"color": "type"} | how))
    assert not plt.get_fignums()


def test_the_looks_of_scanpy_are_left_aside_and_said(adata: AnnData) -> None:
    with pytest.warns(MosaicWarning, match="^legend_fontsize, wspace: no effect in this picture"):
        ax = pl.umap(adata, color="type", wspace=0.3, legend_fontsize=10, size=4)
    assert ax.collections[0].get_sizes()[0] == 4


def test_the_scale_of_numbers(adata: AnnData) -> None:
    order = np.random.default_rng(0).permutation(12)
    steps = mpl.colormaps["Reds"](np.linspace(0, 1, 256))
    for how in ({"cmap": "Reds"}, {"color_map": mpl.colormaps["Reds"]}):
        ax = pl.umap(adata, color="depth", vmin=2, vmax=7, **how)
        level = np.clip((adata.obs["depth"].to_numpy()[order] - 2) / 5, 0, 1)
        expected = steps[np.round(255 * level).astype(int)]
        np.testing.assert_allclose(ax.collections[0].get_facecolor(), expected, atol=1 / 255)
        bar = ax.figure.axes[1]
        assert bar.get_ylim() == (2, 7)
    for how, ends in (({"vmin": 20}, (20, 21)), ({"vmax": -3}, (-4, -3))):
        assert pl.umap(adata, color="depth", **how).figure.axes[1].get_ylim() == ends


def test_each_picture_may_have_its_own_ends(adata: AnnData) -> None:
    adata.obs["other"] = 2 * adata.obs["depth"]
    axes = pl.umap(adata, color=["depth", "other"], vmin=[2, None], vmax=9)
    alone = (
        pl.umap(adata, color="depth", vmin=2, vmax=9),
        pl.umap(adata, color="other", vmax=9),
    )
    for ax, one in zip(axes, alone, strict=True):
        np.testing.assert_array_equal(ax.collections[0].get_facecolor(), one.collections[0].get_facecolor())
    with pytest.raises(InputError, match=r"vmax: 3 for 2 pictures; give one number, or one for each color\."):
        pl.umap(adata, color=["depth", "other"], vmax=[1, 2, 3])
    with pytest.raises(InputError, match="vmin: a number is needed, not 'p1'"):
        pl.umap(adata, color=["depth", "other"], vmin=["p1", 0])


def test_the_basis_may_be_given_by_place(adata: AnnData) -> None:
    first, second = pl.embedding(adata, "umap", color="depth"), pl.umap(adata, color="depth")
    np.testing.assert_array_equal(first.collections[0].get_offsets(), second.collections[0].get_offsets())
    with pytest.raises(InputError, match=r"embedding: give arguments after 'basis' by name, such as color="):
        pl.embedding(adata, "umap", "depth")
    with pytest.raises(InputError, match=r"umap: give arguments after 'data' by name, such as color="):
        pl.umap(adata, "depth")


def test_what_is_no_data_is_named() -> None:
    with pytest.raises(InputError, match="data: a MuData or an AnnData is needed, not ndarray"):
        pl.umap(np.ones((4, 2)))  # type: ignore[arg-type]


def test_where_the_names_of_colours_stand(adata: AnnData) -> None:
    assert pl.umap(adata, color="type", legend_loc="right margin").get_legend() is not None
    for nowhere in (None, "none"):
        ax = pl.umap(adata, color="type", legend_loc=nowhere)
        assert ax.get_legend() is None
        assert not ax.texts
    ax = pl.umap(adata, color="type", legend_loc="on data")
    assert ax.get_legend() is None
    xy = pd.DataFrame(adata.obsm["X_umap"]).groupby(adata.obs["type"].to_numpy()).median()
    assert {text.get_text(): text.get_position() for text in ax.texts} == {
        name: tuple(at) for name, at in zip(xy.index, xy.to_numpy(), strict=True)
    }


def test_a_feature_is_drawn_as_its_values(adata: AnnData) -> None:
    adata.X = np.arange(12.0)[:, None]
    adata.layers["twice"] = 2 * adata.X
    for how, values in (({}, adata.X), ({"layer": "twice"}, adata.layers["twice"])):
        both = pl.umap(adata, color=["type", "gene 0"], **how)
        given = pl.umap(adata, color="gene 0", values=values)
        assert both[1].get_title("left") == "gene 0"
        for ax in (both[1], given):
            assert ax.figure.axes[-1].get_ylim() == tuple(np.quantile(values, [0.01, 0.99]))
        np.testing.assert_array_equal(
            both[1].collections[0].get_facecolor(), given.collections[0].get_facecolor()
        )


def test_a_name_of_a_column_and_of_a_feature_is_not_guessed(adata: AnnData) -> None:
    adata.obs["gene 0"] = np.arange(12.0)
    with pytest.raises(InputError, match=r"'gene 0' is a column of obs and a feature.*data\.obs\['gene 0'\]"):
        pl.umap(adata, color="gene 0")
    ax = pl.umap(adata, color="gene 0", values=adata.obs["gene 0"])
    assert ax.figure.axes[1].get_ylim() == tuple(np.quantile(np.arange(12.0), [0.01, 0.99]))


def test_the_basis_of_a_umap_is_its_own(adata: AnnData) -> None:
    with pytest.raises(InputError, match=r"umap: unknown argument 'basis'; use pl\.embedding\(data, basis="):
        pl.umap(adata, basis="X_pca")


@pytest.mark.parametrize("form", ["by name", "in order", "list", "array"])
def test_values_of_several_colours(adata: AnnData, form: str) -> None:
    first, second = np.arange(12.0), np.arange(12.0)[::-1] * 3
    forms: dict[str, Any] = {
        "by name": pd.DataFrame({"other": 0.0, "g4": second, "g3": first}, adata.obs_names),
        "in order": pd.DataFrame({"x": first, "y": second}, adata.obs_names),
        "list": [first, pd.Series(second)],
        "array": np.stack([first, second], axis=1),
    }
    axes = pl.embedding(adata, color=["g3", "g4"], values=forms[form])
    for ax, name, values in zip(axes, ("g3", "g4"), (first, second), strict=True):
        alone = pl.embedding(adata, color=name, values=values)
        assert ax.get_title(loc="left") == name
        np.testing.assert_array_equal(ax.collections[0].get_facecolor(), alone.collections[0].get_facecolor())
    a, b = (ax.collections[0].get_facecolor() for ax in axes)
    assert not np.array_equal(a, b)
