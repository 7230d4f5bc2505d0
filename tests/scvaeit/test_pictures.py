"""Arguments of scanpy's pictures that `visualize_latent` takes, and what it says of others."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex

from mosaicvi import InputError
from mosaicvi.scvaeit.pictures import draw


@pytest.fixture
def adata() -> AnnData:
    """Twelve cells of three types, with a latent space."""
    z = np.random.default_rng(0).normal(size=(12, 3))
    adata = AnnData(z, obsm={"X_VAE": z})
    adata.obs["type"] = list("abc") * 4
    adata.obs["depth"] = np.arange(12.0)
    return adata


def drawn(adata: AnnData, color: Any = "type", **how: Any) -> Any:
    return draw(adata, "PCA", color, n_neighbors=5, show=False, **how)


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
    assert legend(drawn(adata, palette=palette)) == dict(zip("abc", colors, strict=True))


def test_sizes_titles_and_columns(adata: AnnData) -> None:
    axes = drawn(adata, ["type", "depth", "type"], ncols=2, size=7, title=["x", "y", "z"], palette="tab10")
    assert [ax.get_title(loc="left") for ax in axes] == ["x", "y", "z"]
    rows = [ax.get_subplotspec().rowspan.start for ax in axes]
    assert rows == [0, 0, 1]
    assert len(axes[0].figure.axes) == 4  # three, and the bar of the numbers
    assert axes[0].collections[0].get_sizes()[0] == 7
    assert drawn(adata, s=9).collections[0].get_sizes()[0] == 9
    assert not drawn(adata, frameon=False).axison


def test_a_picture_in_axes_that_are_there(adata: AnnData) -> None:
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert drawn(adata, ax=ax) is ax
    with pytest.raises(InputError, match="ax: one colour can be drawn there, not 2"):
        drawn(adata, ["type", "depth"], ax=ax)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"palete": "tab10"}, "palete: visualize_latent does not know it; did you mean 'palette'"),
        ({"save": ".png"}, "save: .*savefig"),
        ({"legend_loc": "on data"}, r"legend_loc: .*scanpy\.pl\.embedding\(model\.adata, basis='X_umap'\)"),
        ({"palette": "no such map"}, "palette: matplotlib has no colour map 'no such map'"),
        ({"palette": {"a": "no colour"}}, "palette: 'no colour', for 'a', is no colour"),
        ({"title": ["one", "two"]}, "title: 2 for 1 pictures; give one for each color"),
        ({"ncols": 0}, "ncols: at least 1"),
        ({"size": "large"}, "size: a number is needed"),
    ],
)
def test_what_cannot_be_drawn_is_said_at_once(adata: AnnData, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        drawn(adata, **how)
