"""Cells in two dimensions, from some hundred to millions; and who has whom for a neighbour."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import ArrayLike, NDArray

from mosaicvi.config.arguments import number, whole
from mosaicvi.errors import InputError, nearest
from mosaicvi.metrics import neighbors
from mosaicvi.view.cells import PATTERN, column, column_names, representation
from mosaicvi.view.palette import (
    DIVERGING,
    INK,
    MISSING,
    SEQUENTIAL,
    UNKNOWN,
    Palette,
    chosen_colors,
    column_colors,
    is_categorical,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RASTER_FROM = 20_000
"""From so many cells on, points are pixels in a PDF or SVG."""
IMAGE_FROM = 500_000
"""From so many cells on, the picture is painted pixel by pixel, as matplotlib would take minutes."""
MOST_IN_LEGEND = 60
PIXELS = 1200

INSTEAD = {
    "save": "write ax.figure.savefig('picture.png') with the Axes that come back.",
    "return_fig": "take ax.figure of the Axes that come back.",
    "colors": "use palette=....",
}
_NAMES = {"X_umap": "UMAP ", "X_pca": "PC ", "X_tsne": "t-SNE ", "X_mosaicvi": "latent "}


def embedding(
    data: MuData | AnnData,
    *,
    color: str | Sequence[str] | None = None,
    values: ArrayLike | None = None,
    basis: str = "X_umap",
    components: tuple[int, int] = (0, 1),
    palette: Palette | None = None,
    size: float | None = None,
    title: str | Sequence[str] | None = None,
    ncols: int = 4,
    frameon: bool = True,
    seed: int = 0,
    ax: Axes | None = None,
    show: bool = False,
    **others: Any,
) -> Axes | list[Axes]:
    """Draw cells in two dimensions, once for each column to colour by.

    Cells are drawn in random order, so that none of the groups lies on top. Names are told apart by colour,
    numbers by a blind-safe colour map from their 1 % to their 99 % quantile; missing and unknown are grey.
    Arguments that scanpy has as well mean the same.

    Parameters
    ----------
    data
        With the coordinates in ``obsm``.
    color
        Column of ``obs``, of the whole or of a modality; ``"modalities"`` for what each cell measured.
        Several are drawn side by side.
    values
        One value per cell to colour by instead, such as a column of `get_imputed_values`; `color` then is
        its title. Of several colours a table with a column for each, or a list of arrays.
    basis
        Which ``obsm``, ``"X_umap"`` or short ``"umap"``; see `mosaicvi.tl.umap`.
    components
        Which two of its columns.
    palette
        Colours of names, in place of the usual ones: by name, in the order of the names (from the first again
        where they are fewer), or the name of a colour map of matplotlib.
    size
        Area of a point, in square points; to suit the number of cells where None. ``s`` is the same.
    title
        A title for each picture, in place of what it is coloured by.
    ncols
        Pictures in a row.
    frameon
        Whether there are axes and their labels.
    seed
        Decides the order of drawing.
    ax
        Where to draw one picture; a new figure where None.
    show
        Whether to open a window.
    **others
        None: they are refused with what to use in their place.

    Returns
    -------
    The Axes, or a list of them where there are several colours.

    Raises
    ------
    InputError
        There is no such column, ``obsm``, colour or argument, or as many values as cells, or titles as
        colours, are not given.
    """
    size = others.pop("s", size)
    for name in others:
        use = INSTEAD.get(name) or nearest(name, [*inspect.signature(embedding).parameters][1:-1])
        raise InputError(
            f"embedding: unknown argument {name!r}; {use} "
            f"For all that scanpy has: scanpy.pl.embedding(adata, basis={basis!r})."
        )
    size = None if size is None else number("size", size)
    basis = f"X_{basis}" if basis not in data.obsm and f"X_{basis}" in data.obsm else basis
    xy = _coordinates(data, basis, components)
    colors: list[str | None] = [color] if color is None or isinstance(color, str) else [*color] or [None]
    said = [title] if isinstance(title, str) else list(colors if title is None else title)
    if len(said) != len(colors):
        raise InputError(f"title: {len(said)} for {len(colors)} pictures; give one for each color.")
    given = _values_of_each(values, colors, data.n_obs)
    if ax is not None and len(colors) > 1:
        raise InputError(
            f"ax: one colour can be drawn there, not {len(colors)}; leave it out, or give one color."
        )
    shades = [
        None if one is None and its is None else _values(data, one, its)
        for one, its in zip(colors, given, strict=True)
    ]
    chosen = [_chosen(shade, one, palette) for shade, one in zip(shades, colors, strict=True)]
    order = np.random.default_rng(seed).permutation(len(xy))
    axes = [ax] if ax is not None else _canvas(len(colors), across=whole("ncols", ncols, least=1))
    for at, shade, colors_of, text in zip(axes, shades, chosen, said, strict=True):
        _draw_shades(at, xy, order, shade, colors_of, size)
        stem = _NAMES.get(basis, f"{basis} ")
        at.set_xlabel(f"{stem}{components[0] + 1}", loc="left", fontsize="small")
        at.set_ylabel(f"{stem}{components[1] + 1}", loc="bottom", fontsize="small")
        at.set_title(text or "", fontsize="medium", loc="left")
        _bare(at)
        if not frameon:
            at.set_axis_off()
    if show:
        import matplotlib.pyplot as plt

        plt.show()
    return axes if len(axes) > 1 else axes[0]


def umap(
    data: MuData | AnnData, *, color: str | Sequence[str] | None = None, **how: Any
) -> Axes | list[Axes]:
    """Draw what `mosaicvi.tl.umap`, or scanpy's, laid out.

    Parameters
    ----------
    data, color
        As of `mosaicvi.pl.embedding`.
    **how
        Its other arguments.
    """
    return embedding(data, color=color, basis="X_umap", **how)


def modality_mixing(
    data: MuData | AnnData,
    *,
    use_rep: str = "X_mosaicvi",
    groups: str = PATTERN,
    k: int = 15,
    ax: Axes | None = None,
) -> Axes:
    """Draw how often cells of each kind have each other for neighbours, against chance.

    A cell's k nearest neighbours should be of all kinds in proportion to their number: 1 everywhere. Large
    values on the diagonal and small ones elsewhere are kinds that lie apart.

    Parameters
    ----------
    data
        With the latent space in ``obsm``.
    use_rep
        Which ``obsm``.
    groups
        Column of ``obs``; by default what each cell measured, ``"batch"`` or the like for batches.
    k
        Neighbours of each cell.
    ax
        Where to draw; a new figure where None.

    Raises
    ------
    InputError
        There is no such column or ``obsm``, a value is missing, or there are not k + 1 cells.
    """
    z = representation(data, use_rep, remedy="store model.get_latent_representation() there first")
    ratio = mixing_ratios(z, column(data, groups), k=k)
    if ax is None:
        ax = _canvas(side=1.6 + 0.75 * max(3, len(ratio)))[0]
    number = ratio.to_numpy(np.float64)
    shade = np.clip(np.log2(np.maximum(number, 1 / 64)), -3, 3)
    image = ax.imshow(shade, cmap=f"{DIVERGING}_r", vmin=-3, vmax=3)
    labels = [short(n, 18) for n in ratio.index]
    ax.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(labels)), labels)
    if len(labels) <= 14:
        for i, j in np.ndindex(*ratio.shape):
            ink = "white" if abs(shade[i, j]) > 1.9 else INK
            ax.text(j, i, f"{number[i, j]:.2g}", ha="center", va="center", color=ink, fontsize="small")
    ax.set_xlabel("kind of the neighbours")
    ax.set_ylabel("kind of the cell")
    ax.set_title(f"neighbours by {groups}: observed / by chance", fontsize="medium", loc="left")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.75)
    bar.set_ticks([-3, -1, 0, 1, 3], labels=["≤ 1/8", "1/2", "1", "2", "≥ 8"])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


def mixing_ratios(z: NDArray[np.float64], groups: pd.Series, *, k: int = 15) -> pd.DataFrame:
    """Share of each kind among each kind's neighbours, over its share of the other cells; kinds × kinds."""
    if groups.isna().any():
        raise InputError(
            f"{groups.name}: missing for {int(groups.isna().sum()):,} cells; give every cell a value"
        )
    code, kinds = pd.factorize(groups.astype(str), sort=True)
    near = neighbors(z, k).indices
    n, g = len(code), len(kinds)
    observed = np.zeros((g, g))
    np.add.at(observed, (np.repeat(code, k), code[near].ravel()), 1)
    count = np.bincount(code, minlength=g)
    expected = (count[None, :] - np.eye(g)) / (n - 1)
    share = observed / observed.sum(1, keepdims=True)
    ratio = np.divide(share, expected, out=np.full((g, g), np.nan), where=expected > 0)
    return pd.DataFrame(ratio, index=list(kinds), columns=list(kinds))


def point_size(n: int) -> float:
    """Area of a point in square points: 20 for 500 cells, below a pixel for millions."""
    return float(np.clip(20 * (500 / max(n, 1)) ** 0.75, 0.15, 24))


def _coordinates(data: MuData | AnnData, basis: str, components: tuple[int, int]) -> NDArray[np.float64]:
    z = representation(
        data, basis, remedy="make it with mosaicvi.tl.umap(data), or name another with basis=..."
    )
    if max(components) >= z.shape[1] or min(components) < 0:
        raise InputError(
            f"components: obsm {basis!r} has {z.shape[1]} columns, counted from 0; not {components}"
        )
    return z[:, list(components)]


def _values_of_each(
    values: ArrayLike | None, colors: Sequence[str | None], n_cells: int
) -> list[ArrayLike | None]:
    """The values of each picture: columns by their names or in their order, or arrays of a list."""
    if values is None:
        return [None] * len(colors)
    if len(colors) == 1:
        return [values]
    if isinstance(values, pd.DataFrame):
        if set(colors) <= {*values.columns} and values.columns.is_unique:
            return [values[one] for one in colors]
        found: list[ArrayLike | None] = [values.iloc[:, i] for i in range(values.shape[1])]
    elif isinstance(values, list | tuple) and not all(np.ndim(one) == 0 for one in values):
        found = list(values)
    else:
        table = np.asarray(values)
        is_table = table.ndim == 2 and len(table) == n_cells
        found = list(table.T) if is_table else [values]
    if len(found) != len(colors):
        raise InputError(
            f"values: {len(found)} for {len(colors)} pictures; give a table with a column for each color, or "
            "a list of arrays."
        )
    return found


def _values(data: MuData | AnnData, color: str | None, values: ArrayLike | None) -> pd.Series:
    if values is None:
        assert color is not None
        if color not in column_names(data) and color in data.var_names:
            raise InputError(
                f"color: {color!r} is a feature, no column of obs; give its values, such as imputed ones: "
                f"values=model.get_imputed_values(modality=..., features=[{color!r}]), color={color!r}."
            )
        return column(data, color)
    series: pd.Series[Any] = pd.Series(np.asarray(values).ravel())
    if len(series) != data.n_obs:
        raise InputError(
            f"values: {len(series):,} for {data.n_obs:,} cells; give one per cell, in their order"
        )
    return series


def _canvas(n: int = 1, *, across: int = 1, side: float = 4.4) -> list[Axes]:
    """Axes for n pictures, up to so many in a row."""
    import matplotlib.pyplot as plt

    across = min(n, across)
    down = math.ceil(n / across)
    size = ((side + 1.2) * across, side * down)
    _, axes = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False)
    for spare in axes.flat[n:]:
        spare.remove()
    return list(axes.flat[:n])


def _chosen(shade: pd.Series | None, color: str | None, palette: Palette | None) -> dict[str, str] | None:
    """Colours of the names in a column; None of numbers."""
    if shade is None or not is_categorical(shade):
        return None
    usual = column_colors(shade, pattern=color == PATTERN)
    return usual if palette is None else chosen_colors(list(usual), palette)


def _draw_shades(
    ax: Axes,
    xy: NDArray[np.float64],
    order: NDArray[np.int64],
    shade: pd.Series | None,
    colors: Mapping[str, str] | None,
    size: float | None,
) -> None:
    """Draw cells in this order: all alike, by the colours of their names, or by numbers."""
    if shade is None:
        _draw(ax, xy[order], np.full(len(xy), INK, object), size)
    elif colors is None:
        _draw_numbers(ax, xy[order], shade.to_numpy(np.float64, na_value=np.nan)[order], size)
    else:
        names = shade.astype(object).where(shade.notna(), "").astype(str)
        _draw(ax, xy[order], names.map(colors).fillna(MISSING).to_numpy()[order], size)
        _legend(ax, names, colors)


def _draw(ax: Axes, xy: NDArray[np.float64], color: NDArray[Any], size: float | None) -> None:
    if len(xy) >= IMAGE_FROM:
        _paint(ax, xy, color)
        return
    s = point_size(len(xy)) if size is None else size
    ax.scatter(xy[:, 0], xy[:, 1], c=color, s=s, linewidths=0, rasterized=len(xy) >= RASTER_FROM)


def _paint(ax: Axes, xy: NDArray[np.float64], color: NDArray[Any]) -> None:
    """One pixel per cell, the last one drawn wins, as in a scatter plot."""
    from matplotlib.colors import to_rgba_array

    kinds, code = np.unique(color.astype(str), return_inverse=True)
    rgba = np.round(255 * to_rgba_array(kinds.tolist())).astype(np.uint8)
    low, high = xy.min(0), xy.max(0)
    span = np.where(high > low, high - low, 1)
    at = np.minimum((xy - low) / span * PIXELS, PIXELS - 1).astype(np.int64)
    image = np.zeros((PIXELS, PIXELS, 4), np.uint8)
    image[at[:, 1], at[:, 0]] = rgba[code]
    high = low + span
    ax.imshow(image, extent=(low[0], high[0], low[1], high[1]), origin="lower", aspect="auto")
    ax.margins(0.04)


def _draw_numbers(ax: Axes, xy: NDArray[np.float64], value: NDArray[np.float64], size: float | None) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_hex

    known = np.isfinite(value)
    low, high = np.quantile(value[known], [0.01, 0.99]) if known.any() else (0.0, 1.0)
    if low == high and known.any():
        low, high = float(value[known].min()), float(value[known].max())
    norm = Normalize(low, high if high > low else low + 1)
    steps = np.array([to_hex(c) for c in colormaps[SEQUENTIAL](np.linspace(0, 1, 256))], object)
    level = np.clip(np.nan_to_num(np.asarray(norm(value), np.float64)), 0, 1)
    _draw(ax, xy, np.where(known, steps[np.round(255 * level).astype(int)], MISSING), size)
    bar = ax.figure.colorbar(ScalarMappable(norm, SEQUENTIAL), ax=ax, shrink=0.6, aspect=18)
    bar.outline.set_visible(False)


def _legend(ax: Axes, names: pd.Series, colors: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    present = set(names.unique())
    shown = [n for n in colors if n in present]
    rest = present - set(colors)
    others = "unknown" if {n.lower() for n in rest} <= UNKNOWN else "others"
    named = [(colors[n], short(n)) for n in shown[:MOST_IN_LEGEND]]
    point: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 6, "markeredgewidth": 0}
    handles = [
        Line2D([], [], color=color, label=label, **point)
        for color, label in (*named, *([(MISSING, others)] if rest else []))
    ]
    more = len(shown) - MOST_IN_LEGEND
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        ncols=1 + (len(handles) - 1) // 20,
        frameon=False,
        fontsize="small",
        handletextpad=0.2,
        title=f"and {more:,} more" if more > 0 else None,
    )


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("0.6")
