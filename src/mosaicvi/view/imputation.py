"""Imputed against measured values on entries that were hidden, and the coverage of intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from mosaicvi.errors import InputError
from mosaicvi.metrics import auroc_per_feature, correlation_per_feature
from mosaicvi.view.palette import INK, OKABE_ITO, SEQUENTIAL, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

EXAMPLES = 6
BINS = 60
IMPUTED = OKABE_ITO[0]


def imputation(
    imputed: pd.DataFrame | ArrayLike,
    measured: pd.DataFrame | ArrayLike | sp.spmatrix,
    *,
    features: Sequence[str] | None = None,
    kind: Literal["auto", "values", "binary"] = "auto",
    scale: Literal["log1p", "linear"] = "log1p",
) -> Figure:
    """Draw imputed against measured values of entries that the model was not shown.

    The first picture holds all entries, shaded by their number; the second how the features fare, one by one
    (correlation, or for accessibility the area under the ROC curve); the others single features.

    Parameters
    ----------
    imputed
        Cells × features, such as `MosaicVI.get_imputed_values` returns.
    measured
        The truth in the same order and on the same scale, dense or sparse; NaN where nothing was hidden.
    features
        Features to draw by themselves; by default some from the best to the worst.
    kind
        ``"binary"`` for what is only open or closed; by default found from the measured values.
    scale
        Draw, and correlate, log(1 + value), or the values as they are. Of no matter for binary values.

    Returns
    -------
    A Figure.

    Raises
    ------
    InputError
        The two do not have one shape, or a feature is not among them.
    """
    p, m, names = _aligned(imputed, measured)
    binary = kind == "binary" or (kind == "auto" and bool(np.isin(m[~np.isnan(m)], (0, 1)).all()))
    if not binary and scale == "log1p":
        p, m = np.log1p(np.maximum(p, 0)), np.log1p(np.maximum(m, 0))
    score = auroc_per_feature(p, m) if binary else correlation_per_feature(p, m)
    chosen = _chosen(names, score, features)
    import matplotlib.pyplot as plt

    columns = 2 + -(-len(chosen) // 2)
    figure = plt.figure(figsize=(2.5 * columns + 1.6, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, columns + 1)
    draw = _histograms if binary else _density
    word = "log(1 + value)" if scale == "log1p" and not binary else "value"
    big = figure.add_subplot(grid[:, :2])
    draw(big, p.ravel(), m.ravel(), word)
    seen = int((~np.isnan(m)).sum())
    big.set_title(f"{seen:,} hidden entries of {m.shape[1]:,} features", fontsize="medium", loc="left")
    _score_histogram(figure.add_subplot(grid[0, 2]), score, "AUROC" if binary else "correlation")
    _quantile_note(figure.add_subplot(grid[1, 2]), score, names)
    for i, j in enumerate(chosen):
        ax = figure.add_subplot(grid[i % 2, 3 + i // 2])
        draw(ax, p[:, j], m[:, j], "")
        ax.set_title(f"{short(names[j], 16)}  {score[j]:.2f}", fontsize="small", loc="left")
    return figure


def calibration(coverage: pd.DataFrame | pd.Series, *, ax: Axes | None = None) -> Axes:
    """Draw which share of the measured values lies in intervals of each level.

    On the diagonal intervals mean what they say; below they are too narrow, above too wide. Intervals of
    counts cannot be exact, and lie above.

    Parameters
    ----------
    coverage
        Shares between 0 and 1, as `mosaicvi.metrics.interval_coverage` gives them: the index holds the
        levels, each column (such as a modality) is a line.
    ax
        Where to draw; a new figure where None.

    Raises
    ------
    InputError
        Levels or shares are not between 0 and 1.
    """
    table = coverage.to_frame(coverage.name or "covered") if isinstance(coverage, pd.Series) else coverage
    level, share = table.index.to_numpy(np.float64), table.to_numpy(np.float64)
    if not len(table) or np.nanmin(share) < 0 or np.nanmax(share) > 1 or level.min() < 0 or level.max() > 1:
        raise InputError("coverage: levels (the index) and shares must lie between 0 and 1")
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(4, 3.8), layout="constrained")
    from mosaicvi.view.palette import modality_colors

    colors = modality_colors([str(c) for c in table.columns])
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":", label="exact")
    order = np.argsort(level)
    for i, name in enumerate(str(c) for c in table.columns):
        mark = "osD^v<>"[i % 7]
        ax.plot(
            level[order], share[order, i], marker=mark, color=colors[name], label=short(name), markersize=4.5
        )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_aspect("equal")
    ax.set_xlabel("level of the interval")
    ax.set_ylabel("share of measured values inside")
    ax.text(0.97, 0.05, "too narrow", ha="right", color="0.45", fontsize="small")
    ax.text(0.03, 0.93, "too wide", color="0.45", fontsize="small")
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0, 0.9))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _aligned(imputed: Any, measured: Any) -> tuple[Floats, Floats, list[str]]:
    names = [str(c) for c in imputed.columns] if isinstance(imputed, pd.DataFrame) else None
    if isinstance(imputed, pd.DataFrame) and isinstance(measured, pd.DataFrame):
        missing = imputed.columns.difference(measured.columns)
        if len(missing):
            raise InputError(f"measured lacks the feature {missing[0]!r}")
        measured = measured.reindex(index=imputed.index, columns=imputed.columns)
    p = np.asarray(imputed, np.float64)
    m = np.asarray(measured.toarray() if sp.issparse(measured) else measured, np.float64)
    if p.ndim != 2 or p.shape != m.shape:
        raise InputError(f"imputed is {p.shape} and measured {m.shape}; give two matrices, cells × features")
    if np.isnan(m).all():
        raise InputError("measured holds only NaN; there is nothing to compare with")
    return p, m, names or [f"feature {j}" for j in range(p.shape[1])]


def _chosen(names: list[str], score: Floats, features: Sequence[str] | None) -> list[int]:
    if features is not None:
        unknown = [f for f in features if f not in names]
        if unknown:
            raise InputError(f"features: no {unknown[0]!r} among the imputed ones")
        return [names.index(f) for f in features]
    known = np.flatnonzero(~np.isnan(score))
    ranked = known[np.argsort(-score[known], kind="stable")]
    return [
        int(j)
        for j in ranked[np.unique(np.linspace(0, len(ranked) - 1, min(EXAMPLES, len(ranked))).astype(int))]
    ]


def _density(ax: Axes, p: Floats, m: Floats, word: str) -> None:
    from matplotlib.colors import LogNorm

    seen = ~np.isnan(m)
    p, m = p[seen], m[seen]
    low, high = min(p.min(), m.min()), max(np.quantile(p, 0.9995), np.quantile(m, 0.9995))
    edges = np.linspace(low, high if high > low else low + 1, (BINS if word else BINS // 2) + 1)
    count = np.histogram2d(np.clip(m, edges[0], edges[-1]), np.clip(p, edges[0], edges[-1]), [edges, edges])[
        0
    ]
    shown = np.ma.masked_equal(count.T, 0)
    image = ax.pcolormesh(
        edges, edges, shown, cmap=f"{SEQUENTIAL}_r", norm=LogNorm(1, max(2, count.max())), rasterized=True
    )
    ax.plot(edges[[0, -1]], edges[[0, -1]], color="0.4", linewidth=0.8, linestyle=":")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")
    if word:
        ax.set_xlabel(f"measured, {word}")
        ax.set_ylabel(f"imputed, {word}")
        ax.figure.colorbar(image, ax=ax, shrink=0.6, aspect=18, label="entries")


def _histograms(ax: Axes, p: Floats, m: Floats, word: str) -> None:
    """Imputed values of closed and of open entries, each as shares of its own number."""
    seen = ~np.isnan(m)
    p, m = p[seen], m[seen]
    top = float(np.quantile(p[m > 0], 0.99)) if (m > 0).any() else float(p.max())
    edges = np.linspace(0, top if top > 0 else 1, (BINS if word else BINS // 2) // 2 + 1)
    for name, of, color in (("closed", m <= 0, "0.55"), ("open", m > 0, OKABE_ITO[2])):
        if of.any():
            share = np.histogram(np.clip(p[of], 0, edges[-1]), edges)[0] / of.sum()
            ax.stairs(share, edges, fill=True, alpha=0.55, color=color, label=f"measured {name}")
            ax.stairs(share, edges, color=color)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")
    if word:
        ax.set_xlabel("imputed probability")
        ax.set_ylabel("share of the entries")
        ax.legend(frameon=False, fontsize="small")


def _score_histogram(ax: Axes, score: Floats, word: str) -> None:
    known = score[~np.isnan(score)]
    low = 0.0 if word == "AUROC" else min(-0.2, float(known.min(initial=0)))
    ax.hist(known, bins=np.linspace(low, 1, 31).tolist(), color=IMPUTED)
    if len(known):
        ax.axvline(float(np.median(known)), color=INK, linewidth=1, linestyle="--")
    ax.set_xlabel(f"{word} of a feature", fontsize="small")
    ax.set_ylabel("features", fontsize="small")
    middle = f"median {np.median(known):.2f}" if len(known) else "none can be scored"
    ax.set_title(middle, fontsize="small", loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")


def _quantile_note(ax: Axes, score: Floats, names: list[str]) -> None:
    """The best and the worst features by name."""
    known = np.flatnonzero(~np.isnan(score))
    ranked = known[np.argsort(-score[known], kind="stable")]
    picks = list(ranked[:4]) + ([-1] if len(ranked) > 8 else []) + list(ranked[4:][-4:])
    lines = ["…" if j < 0 else f"{score[j]:5.2f}  {short(names[j], 20)}" for j in picks]
    ax.set_axis_off()
    ax.text(0, 1, "\n".join(["best and worst", *lines]), va="top", fontsize="x-small", family="monospace")
