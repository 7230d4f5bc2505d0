"""Points of a picture in two dimensions, from some hundred to millions, by colours or by numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mosaicvi.view.palette import INK, MISSING, UNKNOWN, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

RASTER_FROM = 20_000
"""From so many cells on, points are pixels in a PDF or SVG."""
IMAGE_FROM = 500_000
"""From so many cells on, the picture is painted pixel by pixel, as matplotlib would take minutes."""
MOST_IN_LEGEND = 60
PIXELS = 1200

Place = Literal["right margin", "on data"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """How points are drawn.

    Attributes
    ----------
    size
        Area of a point, in square points; to suit their number where None.
    cmap
        Colours of numbers.
    vmin, vmax
        Numbers at its ends; the 1 % and the 99 % quantile where None.
    legend
        Where names stand; nowhere where None.
    """

    cmap: Colormap
    size: float | None = None
    vmin: float | None = None
    vmax: float | None = None
    legend: Place | None = "right margin"


def point_size(n: int) -> float:
    """Area of a point in square points: 20 for 500 cells, below a pixel for millions."""
    return float(np.clip(20 * (500 / max(n, 1)) ** 0.75, 0.15, 24))


def canvas(n: int = 1, *, across: int = 1, side: float = 4.4) -> list[Axes]:
    """Axes for n pictures, up to so many in a row."""
    import matplotlib.pyplot as plt

    across = min(n, across)
    down = math.ceil(n / across)
    size = ((side + 1.2) * across, side * down)
    _, axes = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False)
    for spare in axes.flat[n:]:
        spare.remove()
    return list(axes.flat[:n])


def draw(
    ax: Axes,
    xy: NDArray[np.float64],
    order: NDArray[np.int64],
    shade: pd.Series | None,
    colors: Mapping[str, str] | None,
    look: Look,
) -> None:
    """Draw points in this order: all alike, by the colours of their names, or by numbers."""
    if shade is None:
        _scatter(ax, xy[order], np.full(len(xy), INK, object), look.size)
    elif colors is None:
        _draw_numbers(ax, xy[order], shade.to_numpy(np.float64, na_value=np.nan)[order], look)
    else:
        names = shade.astype(object).where(shade.notna(), "").astype(str)
        _scatter(ax, xy[order], names.map(colors).fillna(MISSING).to_numpy()[order], look.size)
        if look.legend == "right margin":
            _legend(ax, names, colors)
        elif look.legend == "on data":
            _write_names(ax, xy, names, colors)


def _scatter(ax: Axes, xy: NDArray[np.float64], color: NDArray[Any], size: float | None) -> None:
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


def _draw_numbers(ax: Axes, xy: NDArray[np.float64], value: NDArray[np.float64], look: Look) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_hex

    known = np.isfinite(value)
    low, high = np.quantile(value[known], [0.01, 0.99]) if known.any() else (0.0, 1.0)
    if low == high and known.any():
        low, high = float(value[known].min()), float(value[known].max())
    low, high = low if look.vmin is None else look.vmin, high if look.vmax is None else look.vmax
    if high <= low:
        low, high = (high - 1, high) if look.vmin is None and look.vmax is not None else (low, low + 1)
    norm = Normalize(low, high)
    steps = np.array([to_hex(c) for c in look.cmap(np.linspace(0, 1, 256))], object)
    level = np.clip(np.nan_to_num(np.asarray(norm(value), np.float64)), 0, 1)
    _scatter(ax, xy, np.where(known, steps[np.round(255 * level).astype(int)], MISSING), look.size)
    bar = ax.figure.colorbar(ScalarMappable(norm, look.cmap), ax=ax, shrink=0.6, aspect=18)
    bar.outline.set_visible(False)


def _write_names(ax: Axes, xy: NDArray[np.float64], names: pd.Series, colors: Mapping[str, str]) -> None:
    """Each name in the middle of its points."""
    from matplotlib.patheffects import withStroke

    at = pd.DataFrame(xy).groupby(names.to_numpy()).median()
    for name in at.index.intersection(list(colors)):
        x, y = at.loc[name]
        ax.text(
            x,
            y,
            short(name),
            ha="center",
            va="center",
            fontsize="small",
            weight="bold",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


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


def bare(ax: Axes) -> None:
    """Leave the axes two thin lines."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("0.6")
