"""The demo in one look: what was measured, one space for all cells, values for what was not measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.simulate import SimulatedMosaic
from mosaicvi.demo.scores import METHODS, DemoScores
from mosaicvi.metrics import correlation_per_feature
from mosaicvi.model import MosaicVI
from mosaicvi.view.palette import FAINT, INK, OKABE_ITO, SEQUENTIAL, category_colors, modality_colors

PATTERN_COLORS = {
    "rna+adt": "#CC79A7",
    "rna+atac": "#56B4E9",
    **modality_colors(["rna", "adt", "atac"]),
}
WIDTHS = {"rna": 1.5, "adt": 0.75, "atac": 1.5}
FEW_EPOCHS = 5
GREY, LIGHT = "#6E6E6E", "#B8B8B8"


def draw(
    model: MosaicVI, data: SimulatedMosaic, scores: DemoScores, xy: NDArray[np.floating], method: str
) -> Figure:
    """Draw the demo.

    Parameters
    ----------
    model
        Trained on the mosaic.
    data
        The mosaic and its truth.
    scores
        How well it was recovered.
    xy
        The cells in two dimensions.
    method
        How these were made, for the titles.

    Returns
    -------
    A figure; save it with ``figure.savefig(path)``.
    """
    figure = Figure(
        figsize=(13.5, 8.2), facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    )
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.28, 1], hspace=0.03, squeeze=False)[:, 0]
    layout, types, patterns = top.subplots(1, 3, width_ratios=[0.95, 1, 1])
    imputed, truth, bars, curve = bottom.subplots(1, 4, width_ratios=[1, 1, 1.05, 0.95])
    obs = data.mdata.obs
    _layout(layout, data.mdata)
    _types(types, xy, obs["cell_type"].astype(str))
    _patterns(patterns, xy, obs["group"].astype(str))
    _protein(figure, imputed, truth, model, data, xy)
    _bars(bars, scores)
    _curve(curve, model)
    for ax, letter in zip((layout, types, patterns, imputed, truth, bars, curve), "abcdefg", strict=True):
        ax.set_title(
            f"{letter}   {ax.get_title(loc='left')}", loc="left", fontsize=11.5, color=INK, fontweight="bold"
        )
    for ax, cells in ((types, ""), (patterns, ""), (imputed, ", cells without proteins"), (truth, "")):
        _bare(ax, method + cells)
    return figure


def _layout(ax: Axes, mdata: MuData) -> None:
    """Cells × features: coloured where measured. Features are sorted so that a panel is one piece."""
    obs = mdata.obs
    groups = obs.groupby(["batch", "group"], observed=True, sort=False).size()
    groups = groups[groups > 0]
    colors, left = modality_colors(mdata.mod), 0.0
    for name, adata in mdata.mod.items():
        table = adata.varm["measured"]
        order = np.lexsort([-table[c].to_numpy(int) for c in reversed(list(table.columns))])
        y = 0.0
        for (batch, pattern), n in groups.items():
            ax.add_patch(Rectangle((left, y), WIDTHS[name], n, facecolor=FAINT, linewidth=0))
            if name in str(pattern).split("+"):
                seen = np.flatnonzero(table[str(batch)].to_numpy(bool)[order])
                for run in np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1):
                    a, b = run[0] / len(order), (run[-1] + 1) / len(order)
                    ax.add_patch(
                        Rectangle(
                            (left + a * WIDTHS[name], y),
                            (b - a) * WIDTHS[name],
                            n,
                            facecolor=colors[name],
                            linewidth=0,
                        )
                    )
            y += n
        ax.text(
            left + WIDTHS[name] / 2,
            -0.015 * len(obs),
            f"{name}\n{adata.n_vars:,}",
            ha="center",
            va="bottom",
            fontsize=9.5,
            color=INK,
        )
        left += WIDTHS[name] + 0.12
    y = 0.0
    for batch, n in obs["batch"].value_counts(sort=False).items():
        ax.text(-0.1, y + n / 2, str(batch), ha="right", va="center", fontsize=10, color=INK)
        if y:
            ax.plot([-0.02, left - 0.1], [y, y], color="white", linewidth=2)
        y += n
    ax.text(0, 1.01 * len(obs), "grey: not measured", ha="left", va="top", fontsize=8, color=GREY)
    ax.set_xlim(-0.35, left)
    ax.set_ylim(1.05 * len(obs), -0.11 * len(obs))
    ax.set_axis_off()
    ax.set_title(f"What {len(obs):,} cells in {obs['batch'].nunique()} batches measured", loc="left")


def _order(n: int) -> NDArray[np.int64]:
    """Points in random order, so that no group covers the others."""
    return np.random.default_rng(0).permutation(n)


def _points(ax: Axes, xy: NDArray[np.floating], colors: Any, **more: Any) -> Any:
    shuffled = _order(len(xy))
    size = float(np.clip(14_000 / len(xy), 1.5, 14))
    return ax.scatter(
        xy[shuffled, 0],
        xy[shuffled, 1],
        c=np.asarray(colors)[shuffled],
        s=size,
        linewidth=0,
        alpha=0.9,
        **more,
    )


def _types(ax: Axes, xy: NDArray[np.floating], types: pd.Series[str]) -> None:
    names = sorted(types.unique())
    colors = category_colors(names)
    _points(ax, xy, types.map(colors).to_numpy())
    _names_below(ax, {name.replace("type0", "type "): colors[name] for name in names})
    ax.set_title("One space for all cells: by type", loc="left")


def _patterns(ax: Axes, xy: NDArray[np.floating], patterns: pd.Series[str]) -> None:
    names = [n for n in PATTERN_COLORS if (patterns == n).any()]
    _points(ax, xy, patterns.map(PATTERN_COLORS).to_numpy())
    _names_below(ax, {name: PATTERN_COLORS[name] for name in names})
    ax.set_title("… by what was measured", loc="left")


def _names_below(ax: Axes, colors: Mapping[str, str]) -> None:
    """What the colours of the points mean; beside the cells, wherever these lie."""
    for name, color in colors.items():
        ax.scatter([], [], color=color, s=36, label=name)
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.045), ncol=min(5, len(colors)), frameon=False,
        fontsize=9.5, handletextpad=0.1, columnspacing=1.0,
    )  # fmt: skip


def _protein(
    figure: Figure, left: Axes, right: Axes, model: MosaicVI, data: SimulatedMosaic, xy: NDArray[np.floating]
) -> None:
    """The protein of median correlation, imputed and true, in the cells that did not measure proteins."""
    without = np.flatnonzero(~np.asarray(data.mdata.obs_names.isin(data.mdata["adt"].obs_names)))
    imputed = model.get_imputed_values(modality="adt", indices=without)
    shares = [_share(imputed.to_numpy()), _share(np.asarray(data.truth["adt"].layers["expected"])[without])]
    r = np.nan_to_num(correlation_per_feature(shares[0], shares[1]))
    j = int(np.argsort(r)[len(r) // 2])
    low, high = np.quantile(np.concatenate([s[:, j] for s in shares]), [0.02, 0.98])
    for ax, share, words in ((left, shares[0], "imputed"), (right, shares[1], "the truth")):
        ax.scatter(xy[:, 0], xy[:, 1], c=FAINT, s=4, linewidth=0)
        drawn = _points(ax, xy[without], share[:, j], cmap=SEQUENTIAL, vmin=low, vmax=high)
        ax.set_title(f"{imputed.columns[j]}, {words}", loc="left")
    right.set_title(f"{right.get_title(loc='left')} (r = {r[j]:.2f})", loc="left")
    bar = figure.colorbar(drawn, ax=right, fraction=0.04, pad=0.02, aspect=22)
    bar.set_label("log counts per 10,000", fontsize=8.5, color=GREY)
    bar.ax.tick_params(labelsize=8, colors=GREY, length=0)
    bar.outline.set_visible(False)


def _share(counts_nd: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(np.log1p(counts_nd / counts_nd.sum(1, keepdims=True) * 1e4))


def _bars(ax: Axes, scores: DemoScores) -> None:
    table = scores.imputation
    colors = dict(zip(METHODS, (OKABE_ITO[0], LIGHT, "#DDDDDD"), strict=True))
    for i, method in enumerate(METHODS):
        x = np.arange(len(table)) + (i - 1) * 0.27
        heights = [float(row["per_feature", method]) for _, row in table.iterrows()]
        drawn = ax.bar(x, heights, width=0.25, color=colors[method], label=method)
        ax.bar_label(drawn, fmt="{:.2f}", fontsize=8.5, color=INK, padding=1)
    ax.set_xticks(np.arange(len(table)), [f"{n}" for n in table.index], fontsize=10)
    ax.set_yticks([])
    ax.set_ylim(0, 1.2)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(LIGHT)
    ax.tick_params(length=0, colors=INK)
    ax.legend(
        frameon=False,
        fontsize=9,
        loc="upper center",
        ncol=3,
        borderaxespad=0,
        columnspacing=1.2,
        handlelength=1.2,
    )
    ax.set_xlabel(
        "correlation with the truth, per feature,\nin cells that did not measure it", fontsize=9, color=GREY
    )
    ax.set_title("Imputed values", loc="left")


def _curve(ax: Axes, model: MosaicVI) -> None:
    history = model.history
    epochs = np.arange(1, len(history) + 1)
    first = 0 if len(history) < FEW_EPOCHS else max(2, len(history) // 20)
    late = history[["train_loss", "validation_loss"]].iloc[first:]
    for column, words, color in (
        ("train_loss", "training", OKABE_ITO[0]),
        ("validation_loss", "held out", OKABE_ITO[5]),
    ):
        marker = "o" if len(epochs) < FEW_EPOCHS else None
        ax.plot(epochs, history[column], color=color, linewidth=1.6, marker=marker, label=words)
    low, high = float(np.nanmin(late)), float(np.nanmax(late))
    ax.set_ylim(low - 0.15 * (high - low or 1), high + 0.1 * (high - low or 1))
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(LIGHT)
    ax.tick_params(length=0, labelsize=8.5, colors=GREY)
    ax.set_xlabel("epoch", fontsize=9.5, color=GREY)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2, frameon=False, fontsize=9, handlelength=1.2
    )
    ax.set_title("Training: loss", loc="left")


def _bare(ax: Axes, note: str) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_visible(False)
    ax.set_xlabel(note, fontsize=8, color=GREY, loc="left")
