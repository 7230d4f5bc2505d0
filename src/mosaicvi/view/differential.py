"""Features that differ between groups: a volcano of one comparison, and dots of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mosaicvi.config.names import names_ours
from mosaicvi.errors import InputError, quoted
from mosaicvi.view.palette import DIVERGING, INK, MISSING, OKABE_ITO, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Ints = NDArray[np.int64]
NAMED = 10
OF_EACH = 4
LARGEST_DOT = 160.0  # square points, of a feature that all cells have
LINE = 8.5  # points from one name to the next
SHARES = (0.25, 0.5, 1.0)  # of cells, in the legend of sizes
NEEDED = ("comparison", "group1", "lfc_mean", "p_value", "non_zeros_proportion1")
HIGHER, LOWER = OKABE_ITO[5], OKABE_ITO[0]


@names_ours
def volcano(
    table: pd.DataFrame, *, comparison: str | None = None, top: int = NAMED, ax: Axes | None = None
) -> Axes:
    """Draw the effect of each feature against how unlikely it is without a difference.

    Coloured are features that are called different, hollow those whose evidence is imputed values alone.

    Parameters
    ----------
    table
        Of `MosaicVI.differential_expression`.
    comparison
        Which of its comparisons, such as ``"B vs Rest"``; may be None where there is one.
    top
        How many of the likeliest differences to name: half of features that are higher, half of those that
        are lower, or more of the one where the other has fewer.
    ax
        Where to draw; a new figure where None.

    Raises
    ------
    InputError
        The table is none of that method, or has several comparisons of which none is chosen.
    """
    called = _called(table)
    names = list(dict.fromkeys(table["comparison"]))
    if comparison is None and len(names) > 1:
        raise InputError(f"comparison: choose one of {quoted(names)}.")
    chosen = names[0] if comparison is None else comparison
    if chosen not in names:
        raise InputError(f"comparison: the table has no {chosen!r}; it has {quoted(names)}.")
    one = table[(table["comparison"] == chosen) & table["p_value"].notna()]
    ax = _axes(ax, 5.0, 4.2)
    height = -np.log10(np.maximum(one["p_value"].to_numpy(np.float64), 1e-300))
    effect = one["lfc_mean"].to_numpy(np.float64)
    is_de = one[called].to_numpy(bool)
    imputed = (one["evidence"] == "imputed").to_numpy() if "evidence" in one else np.zeros(len(one), bool)
    for color, at in ((MISSING, ~is_de), (HIGHER, is_de & (effect > 0)), (LOWER, is_de & (effect <= 0))):
        for hollow in (False, True):
            here = at & (imputed == hollow)
            face = "none" if hollow else color
            ax.scatter(
                effect[here],
                height[here],
                s=12,
                facecolors=face,
                edgecolors=color,
                rasterized=here.sum() > 5000,
            )
    strongest = np.lexsort((-np.abs(effect), -height))
    ax.margins(x=0.2, y=0.08)
    ax.autoscale_view()  # names are placed by where the points will stand
    for side in _both_sides(strongest[is_de[strongest]], effect > 0, top):
        _name(ax, [short(str(one.index[i])) for i in side], effect[side], height[side])
    ax.axvline(0, color=INK, linewidth=0.6)
    ax.set_xlabel(f"effect: {table.attrs.get('effect', 'log2 fold change')}")
    ax.set_ylabel("−log10 p")
    ax.set_title(f"{chosen}: {int(is_de.sum()):,} of {len(one):,} differ", fontsize="medium", loc="left")
    return ax


def _both_sides(strongest: Ints, is_higher: NDArray[np.bool_], top: int) -> tuple[Ints, Ints]:
    """The strongest features that are higher, and those that are lower, as evenly as there are enough."""
    higher, lower = strongest[is_higher[strongest]], strongest[~is_higher[strongest]]
    n_higher = min(len(higher), max(-(-top // 2), top - len(lower)))
    return higher[:n_higher], lower[: top - n_higher]


def _name(ax: Axes, names: Sequence[str], x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Write names beside points of one side, moved down where they would stand on one another."""
    points = 72 / ax.figure.dpi
    at = ax.transData.transform(np.stack([x, y], 1))[:, 1] * points
    below = np.inf
    for i in np.argsort(-at, kind="stable"):
        where = min(at[i], below - LINE)
        is_right, moved = bool(x[i] > 0), bool(where < at[i] - 1)
        ax.annotate(
            names[i],
            (x[i], y[i]),
            xytext=((10 if moved else 4) * (1 if is_right else -1), where - at[i]),
            textcoords="offset points",
            ha="left" if is_right else "right",
            va="center",
            fontsize="x-small",
            color=INK,
            arrowprops={"arrowstyle": "-", "color": MISSING, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
            if moved
            else None,
        )
        below = where


@names_ours
def dotplot(
    table: pd.DataFrame, *, features: Sequence[str] | None = None, n: int = OF_EACH, ax: Axes | None = None
) -> Axes:
    """Draw features by comparisons: the colour is the effect, the size how many cells have any.

    Parameters
    ----------
    table
        Of `MosaicVI.differential_expression`, with one or several comparisons.
    features
        Which features; where None the `n` of each comparison that are highest among those that differ.
    n
        How many of each comparison.
    ax
        Where to draw; a new figure where None.

    Raises
    ------
    InputError
        The table is none of that method, a feature is not in it, or nothing differs.
    """
    called = _called(table)
    rows = list(dict.fromkeys(table["comparison"]))
    if features is None:
        up = table[table[called] & (table["lfc_mean"] > 0)].sort_values("lfc_mean", ascending=False)
        columns = list(dict.fromkeys(str(f) for row in rows for f in up.index[up["comparison"] == row][:n]))
        if not columns:
            raise InputError(
                "features: nothing is higher in any group; name features to draw them all the same."
            )
    else:
        columns = [str(f) for f in features]
        absent = [f for f in columns if f not in table.index]
        if absent:
            raise InputError(f"features: the table has no {quoted(absent)}.")
    ax = _axes(ax, 1.8 + 0.32 * len(columns), 1.4 + 0.3 * len(rows))
    effect, share = (
        table.set_index("comparison", append=True)[name].unstack().reindex(index=columns, columns=rows).T
        for name in ("lfc_mean", "non_zeros_proportion1")
    )
    y, x = np.indices(effect.shape)
    limit = max(float(np.nanmax(np.abs(effect.to_numpy(np.float64)))), 1e-9)
    size = LARGEST_DOT * np.nan_to_num(share.to_numpy(np.float64))
    dots = ax.scatter(
        x.ravel(),
        y.ravel(),
        s=size.ravel(),
        c=effect.to_numpy(np.float64).ravel(),
        cmap=DIVERGING + "_r",
        vmin=-limit,
        vmax=limit,
        edgecolors=INK,
        linewidths=0.3,
    )
    ax.set_xticks(range(len(columns)), [short(c) for c in columns], rotation=90, fontsize="small")
    ax.set_yticks(range(len(rows)), [short(r) for r in rows], fontsize="small")
    ax.set_xlim(-0.7, len(columns) - 0.3)
    ax.set_ylim(len(rows) - 0.3, -0.7)
    ax.figure.colorbar(dots, ax=ax, label=str(table.attrs.get("effect", "effect")), shrink=0.8)
    sizes = [
        ax.scatter([], [], s=LARGEST_DOT * share, facecolors="none", edgecolors=INK, label=f"{share:.0%}")
        for share in SHARES
    ]
    ax.legend(
        handles=sizes,
        title="cells above zero",
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(SHARES),
        frameon=False,
        fontsize="small",
        title_fontsize="small",
        alignment="left",
        borderpad=0,
    )
    return ax


def _called(table: pd.DataFrame) -> str:
    """The column that says what is called different."""
    if not isinstance(table, pd.DataFrame):
        raise InputError(
            f"table: what differential_expression returns is drawn, not {type(table).__name__}; "
            "scanpy.pl.dotplot draws measured values."
        )
    found = [str(c) for c in table.columns if str(c).startswith("is_de_fdr_")]
    absent = [c for c in NEEDED if c not in table.columns]
    if absent or not found:
        lacks = (absent or ["is_de_fdr_..."])[0]
        raise InputError(f"table: no column {lacks!r}; give what differential_expression returns.")
    return found[0]


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]
