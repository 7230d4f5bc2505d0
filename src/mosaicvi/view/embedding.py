"""Cells in two dimensions, from some hundred to millions, by columns of obs or by features."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import ArrayLike, NDArray

from mosaicvi.config.arguments import number, whole
from mosaicvi.config.names import names_ours
from mosaicvi.errors import InputError, nearest, warn
from mosaicvi.view.cells import PATTERN, column, has_column, representation
from mosaicvi.view.features import feature, near_features
from mosaicvi.view.palette import (
    SEQUENTIAL,
    Palette,
    chosen_colors,
    color_map,
    column_colors,
    is_categorical,
)
from mosaicvi.view.points import Look, Place, bare, canvas, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

# Arguments that scanpy has besides: what to do in place of some, and those of the looks alone.
INSTEAD = {
    "save": "write ax.figure.savefig('picture.png') with the Axes that come back.",
    "return_fig": "take ax.figure of the Axes that come back.",
    "colors": "use palette=....",
    "groups": "use palette={name: colour}; names that it leaves out are grey.",
    "gene_symbols": "name features as var_names does.",
}
LOOKS = (
    "add_outline", "alpha", "colorbar_loc", "hspace", "legend_fontoutline", "legend_fontsize",
    "legend_fontweight", "na_color", "na_in_legend", "outline_color", "outline_width", "sort_order", "wspace",
)  # fmt: skip
_NAMES = {"X_umap": "UMAP ", "X_pca": "PC ", "X_tsne": "t-SNE ", "X_mosaicvi": "latent "}


@names_ours
def embedding(
    data: MuData | AnnData,
    basis: str = "X_umap",
    *,
    color: str | Sequence[str] | None = None,
    values: ArrayLike | None = None,
    components: tuple[int, int] = (0, 1),
    palette: Palette | None = None,
    size: float | None = None,
    cmap: str | Colormap | None = None,
    vmin: float | Sequence[float | None] | None = None,
    vmax: float | Sequence[float | None] | None = None,
    legend_loc: str | None = "right margin",
    title: str | Sequence[str] | None = None,
    ncols: int = 4,
    frameon: bool = True,
    layer: str | None = None,
    use_raw: bool | None = None,
    seed: int = 0,
    ax: Axes | None = None,
    show: bool = False,
    **others: Any,
) -> Axes | list[Axes]:
    """Draw cells in two dimensions, once for each column or feature to colour by.

    Cells are drawn in random order, so that none of the groups lies on top. Names are told apart by colour,
    numbers by a blind-safe colour map from their 1 % to their 99 % quantile; missing, not measured and
    unknown are grey. Arguments that scanpy has as well mean the same; what it has for the looks alone is
    left aside, with a warning.

    Parameters
    ----------
    data
        With the coordinates in ``obsm``.
    basis
        Which ``obsm``, ``"X_umap"`` or short ``"umap"``; see `mosaicvi.tl.umap`.
    color
        Column of ``obs``, of the whole or of a modality, or a feature, whose measured values are drawn;
        ``modality:name`` for that of one modality; ``"modalities"`` for what each cell measured. Several are
        drawn side by side.
    values
        One value per cell to colour by instead, such as a column of `get_imputed_values`; `color` then is
        its title. Of several colours a table with a column for each, or a list of arrays.
    components
        Which two of its columns, counted from 0. ``dimensions`` is the same.
    palette
        Colours of names, in place of the usual ones: by name, in the order of the names (from the first again
        where they are fewer), or the name of a colour map of matplotlib.
    size
        Area of a point, in square points; to suit the number of cells where None. ``s`` is the same.
    cmap
        Colour map of numbers; ``color_map`` is the same.
    vmin, vmax
        Numbers at its two ends, or a list with one for each picture.
    legend_loc
        Where the names of colours stand: ``"right margin"``, ``"on data"``, or nowhere where None.
    title
        A title for each picture, in place of what it is coloured by.
    ncols
        Pictures in a row.
    frameon
        Whether there are axes and their labels.
    layer
        Where values of features are, in place of ``X``.
    use_raw
        Whether they are in ``.raw``; where None they are, if it has the feature and no layer is named.
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
        There is no such column, feature, ``obsm``, colour or argument, a name is both a column's and a
        feature's, or as many values as cells, or titles as colours, are not given.
    MosaicWarning
        A warning that names arguments without effect.
    """
    if not isinstance(data, MuData | AnnData):
        raise InputError(f"data: a MuData or an AnnData is needed, not {type(data).__name__}.")
    size, cmap = others.pop("s", size), others.pop("color_map", cmap)
    components = others.pop("dimensions", components)
    if idle := sorted(others.keys() & set(LOOKS)):
        warn(f"{', '.join(idle)}: no effect in this picture.")
    for name in [name for name in others if name not in idle]:
        use = INSTEAD.get(name) or nearest(name, [*inspect.signature(embedding).parameters][1:-1])
        raise InputError(
            f"embedding: unknown argument {name!r}; {use} "
            f"For all that scanpy has: scanpy.pl.embedding(adata, basis={basis!r})."
        )
    look = Look(
        size=None if size is None else number("size", size),
        cmap=color_map("cmap", SEQUENTIAL if cmap is None else cmap, such_as=SEQUENTIAL),
        legend=_place(legend_loc),
    )
    basis = f"X_{basis}" if basis not in data.obsm and f"X_{basis}" in data.obsm else basis
    xy = _coordinates(data, basis, components)
    colors: list[str | None] = [color] if color is None or isinstance(color, str) else [*color] or [None]
    said = [title] if isinstance(title, str) else list(colors if title is None else title)
    if len(said) != len(colors):
        raise InputError(f"title: {len(said)} for {len(colors)} pictures; give one for each color.")
    ends = zip(_ends("vmin", vmin, len(colors)), _ends("vmax", vmax, len(colors)), strict=True)
    looks = [dataclasses.replace(look, vmin=low, vmax=high) for low, high in ends]
    given = _values_of_each(values, colors, data.n_obs)
    if ax is not None and len(colors) > 1:
        raise InputError(
            f"ax: one colour can be drawn there, not {len(colors)}; leave it out, or give one color."
        )
    shades = [
        None if one is None and its is None else _values(data, one, its, layer=layer, use_raw=use_raw)
        for one, its in zip(colors, given, strict=True)
    ]
    chosen = [_chosen(shade, one, palette) for shade, one in zip(shades, colors, strict=True)]
    order = np.random.default_rng(seed).permutation(len(xy))
    axes = [ax] if ax is not None else canvas(len(colors), across=whole("ncols", ncols, least=1))
    for at, shade, colors_of, its, text in zip(axes, shades, chosen, looks, said, strict=True):
        draw(at, xy, order, shade, colors_of, its)
        stem = _NAMES.get(basis, f"{basis} ")
        at.set_xlabel(f"{stem}{components[0] + 1}", loc="left", fontsize="small")
        at.set_ylabel(f"{stem}{components[1] + 1}", loc="bottom", fontsize="small")
        at.set_title(text or "", fontsize="medium", loc="left")
        bare(at)
        if not frameon:
            at.set_axis_off()
    if show:
        import matplotlib.pyplot as plt

        plt.show()
    return axes if len(axes) > 1 else axes[0]


@names_ours
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
    if "basis" in how:
        raise InputError("umap: unknown argument 'basis'; use pl.embedding(data, basis=...).")
    return embedding(data, color=color, basis="X_umap", **how)


def _coordinates(data: MuData | AnnData, basis: str, components: tuple[int, int]) -> NDArray[np.float64]:
    z = representation(
        data, basis, remedy="make it with mosaicvi.tl.umap(data), or name another with basis=..."
    )
    if isinstance(components, str) or np.shape(components) != (2,):
        raise InputError(f"components: two columns, counted from 0, such as (0, 1); not {components!r}")
    if max(components) >= z.shape[1] or min(components) < 0:
        raise InputError(
            f"components: obsm {basis!r} has {z.shape[1]} columns, counted from 0; not {components}"
        )
    return z[:, list(components)]


def _ends(name: str, value: float | Sequence[float | None] | None, n: int) -> list[float | None]:
    """One end of the colours of each picture."""
    of_each = [value] * n if value is None or np.ndim(value) == 0 else list(value)  # type: ignore[arg-type]
    if len(of_each) != n:
        raise InputError(f"{name}: {len(of_each)} for {n} pictures; give one number, or one for each color.")
    return [None if one is None else number(name, one) for one in of_each]


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


def _place(legend_loc: str | None) -> Place | None:
    places: Mapping[str | None, Place | None] = {
        None: None,
        "none": None,
        "right margin": "right margin",
        "on data": "on data",
    }
    if legend_loc in places:
        return places[legend_loc]
    raise InputError(f"legend_loc: 'right margin', 'on data' or None, not {legend_loc!r}.")


def _values(
    data: MuData | AnnData,
    color: str | None,
    values: ArrayLike | None,
    *,
    layer: str | None,
    use_raw: bool | None,
) -> pd.Series:
    """What cells are coloured by: values that were given, a column of obs, or a feature."""
    if values is None:
        assert color is not None
        found = feature(data, color, layer=layer, use_raw=use_raw)
        if found is None:
            return column(data, color, near=partial(near_features, data, color))
        if has_column(data, color):
            raise InputError(
                f"color: {color!r} is a column of obs and a feature; rename the column, or give the values "
                f"that are meant: values=data.obs[{color!r}], color={color!r}."
            )
        return found
    series: pd.Series[Any] = pd.Series(np.asarray(values).ravel())
    if len(series) != data.n_obs:
        raise InputError(
            f"values: {len(series):,} for {data.n_obs:,} cells; give one per cell, in their order"
        )
    return series


def _chosen(shade: pd.Series | None, color: str | None, palette: Palette | None) -> dict[str, str] | None:
    """Colours of the names in a column; None of numbers."""
    if shade is None or not is_categorical(shade):
        return None
    usual = column_colors(shade, pattern=color == PATTERN)
    return usual if palette is None else chosen_colors(list(usual), palette)
