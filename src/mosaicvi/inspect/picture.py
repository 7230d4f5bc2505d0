"""A mosaic's summary as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mosaicvi.inspect.summary import ALL, Group, MosaicSummary, Overlap

WIDTH = 0.94  # of a modality, of the room that it has

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot(summary: MosaicSummary) -> Figure:
    """Draw who measured what, and the panels of each modality that has several, as an UpSet plot.

    Parameters
    ----------
    summary
        What :func:`describe` found.

    Returns
    -------
    A figure; save it with ``figure.savefig(path)``.
    """
    from matplotlib.figure import Figure

    overlaps = {m: [one for one in summary.overlaps if one.modality == m] for m in summary.panels}
    modalities = [m for m, found in overlaps.items() if len(found) > 1]  # else all measured the same
    heights = [
        max(2.0, 0.3 * len(summary.groups)),
        *(1.6 + 0.25 * len(summary.panels[m]) for m in modalities),
    ]
    figure = Figure(figsize=(8, sum(heights) + 0.8 * len(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _plot_layout(parts[0].subplots(), summary)
    for part, modality in zip(parts[1:], modalities, strict=True):
        part.suptitle(f"Panels of {modality}", fontsize=10, x=0.01, ha="left")
        bars, dots = part.subplots(
            2, 1, sharex=True, height_ratios=[1.6, 0.25 * len(summary.panels[modality]) + 0.2]
        )
        _plot_overlaps(bars, dots, overlaps[modality][:20], summary.panels[modality])
    return figure


def _plot_layout(axes: Axes, summary: MosaicSummary) -> None:
    """Groups × modalities, filled where measured, in proportion to the features of the panel."""
    names = [m.name for m in summary.modalities]
    for y, group in enumerate(summary.groups):
        for x, name in enumerate(names):
            axes.barh(y, WIDTH, left=x - WIDTH / 2, height=0.86, color="0.93")
            for start, width in measured_spans(summary, group, name):
                left = x + WIDTH * (start - 0.5)
                axes.barh(y, WIDTH * width, left=left, height=0.86, color=f"C{x}")
        axes.text(len(names) - 0.4, y, f"{group.n_cells:,}", va="center", fontsize=8)
    labels = [g.batch if g.panel in (g.batch, ALL) else f"{g.batch} · {g.panel}" for g in summary.groups]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) + 0.2)
    axes.invert_yaxis()
    axes.set_title(f"{summary.n_cells:,} cells: who measured what", fontsize=10, loc="left")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def measured_spans(summary: MosaicSummary, group: Group, modality: str) -> list[tuple[float, float]]:
    """Which parts of a modality's width a group of cells measured: where each begins, and how wide it is.

    Features that the same panels measure lie side by side, those of the most panels first; the width of all
    is 1.
    """
    if modality not in group.modalities:
        return []
    if group.panel not in summary.panels.get(modality, {}):
        return [(0.0, 1.0)]
    sets = sorted((o for o in summary.overlaps if o.modality == modality), key=lambda o: -len(o.panels))
    total = sum(o.n_features for o in sets)
    out: list[tuple[float, float]] = []
    start = 0.0
    for overlap in sets:
        width = overlap.n_features / total
        if group.panel in overlap.panels:
            if out and abs(sum(out[-1]) - start) < 1e-9:
                out[-1] = (out[-1][0], out[-1][1] + width)
            else:
                out.append((start, width))
        start += width
    return out


def _plot_overlaps(bars: Axes, dots: Axes, overlaps: Sequence[Overlap], sizes: Mapping[str, int]) -> None:
    x = range(len(overlaps))
    drawn = bars.bar(x, [overlap.n_features for overlap in overlaps], color="0.25", width=0.6)
    bars.bar_label(drawn, fmt="{:,.0f}", fontsize=7)
    bars.set_ylabel("features", fontsize=8)
    bars.set_xlim(-0.5, max(len(overlaps), 8) - 0.5)  # few bars stay narrow
    bars.locator_params(axis="y", integer=True)
    bars.spines[["top", "right"]].set_visible(False)
    bars.tick_params(labelsize=7)
    panels = list(sizes)
    for i, overlap in enumerate(overlaps):
        inside = [j for j, panel in enumerate(panels) if panel in overlap.panels]
        dots.scatter([i] * len(panels), range(len(panels)), color="0.88", s=28)
        dots.plot([i] * len(inside), inside, "o-", color="0.25", markersize=5)
    dots.set_yticks(range(len(panels)), [f"{p} ({n:,})" for p, n in sizes.items()], fontsize=7)
    dots.set_ylim(len(panels) - 0.5, -0.5)
    dots.set_xticks([])
    dots.spines[:].set_visible(False)
    dots.tick_params(length=0)
