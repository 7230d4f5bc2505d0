"""Small charts as text, to stand inside a page: they scale, print and can be read aloud."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from mosaicvi.view.mosaic_plot import GAP, Layout
from mosaicvi.view.palette import FAINT, modality_colors, short

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One curve; `y` may hold NaN."""

    name: str
    y: NDArray[np.float64]
    color: str
    dashed: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x: NDArray[np.float64],
    xlabel: str,
    limits: tuple[float, float] | None = None,
    whole_x: bool = True,
) -> str:
    """Curves over a common x, with a legend below.

    Parameters
    ----------
    title
        Also read aloud in place of the picture, with the last value of each curve.
    lines, x
        The curves and their common x.
    limits
        Of the y axis; those of the values where None.
    whole_x
        Whether ticks of x are whole numbers.
    """
    lines = [line for line in lines if np.isfinite(line.y).any()]
    if not lines:
        return ""
    low, high = limits or (
        float(min(np.nanmin(line.y) for line in lines)),
        float(max(np.nanmax(line.y) for line in lines)),
    )
    high = high if high > low else low + 1
    first, last = float(x[0]), float(x[-1]) if x[-1] > x[0] else float(x[0]) + 1
    px = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
    body = [_axes(_ticks(low, high), _ticks(first, last, whole=whole_x), (low, high), (first, last), xlabel)]
    for line in lines:
        py = TOP + (high - line.y) / (high - low) * (HEIGHT - TOP - BOTTOM)
        dash = ' stroke-dasharray="5 3"' if line.dashed else ""
        path = _path(px, py)
        body.append(f'<path d="{path}" fill="none" stroke="{line.color}" stroke-width="1.8"{dash}/>')
    legend = "".join(_key(line) for line in lines)
    told = "; ".join(f"{line.name} ends at {_last(line.y):.3g}" for line in lines)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {told}")}">'
        f"{''.join(body)}</svg>"
        f'<p class="legend">{legend}</p></figure>'
    )


def mosaic_chart(layout: Layout) -> str:
    """Who measured what: batches down, modalities across, panels as parts of the width."""
    names, batches = list(layout.segments), layout.batches
    colors = modality_colors(names)
    left, step, row = 110, 150, 24
    width, height = left + step * len(names) + 80, 40 + row * len(batches)
    body = []
    for x, name in enumerate(names):
        at = left + step * (x + (1 - GAP) / 2)
        body.append(
            f'<text x="{at:.0f}" y="14" text-anchor="middle" class="strong">{escape(short(name, 20))}</text>'
        )
        body.append(
            f'<text x="{at:.0f}" y="30" text-anchor="middle">{sum(layout.segments[name]):,} features</text>'
        )
    for y, batch in enumerate(batches):
        top, total = 38.0 + row * y, layout.cells_in(batch)
        middle = top + row / 2 + 1
        body.append(
            f'<text x="{left - 8}" y="{middle:.0f}" text-anchor="end">{escape(short(batch, 15))}</text>'
        )
        body.append(f'<text x="{left + step * len(names)}" y="{middle:.0f}">{total:,} cells</text>')
        for each in (r for r in layout.rows if r.batch == batch):
            high = (row - 4) * each.n_cells / total
            for x, name in enumerate(names):
                body += _segments(
                    layout.segments[name], each.measured.get(name), left + step * x, top, high, colors[name]
                )
            top += high
    told = f"What was measured where. {layout.sentence()}"
    return (
        f'<svg class="mosaic" style="max-width:{width}px" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(told)}">{"".join(body)}</svg>'
    )


def bar(share: float, color: str) -> str:
    """A bar of a table, beside the number that it shows."""
    width = 100 * min(max(share, 0), 1)
    return (
        f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="100" height="8" fill="{FAINT}"/>'
        f'<rect width="{width:.1f}" height="8" fill="{color}"/></svg>'
    )


def _segments(
    sizes: tuple[int, ...], measured: NDArray[np.bool_] | None, x: float, y: float, height: float, color: str
) -> list[str]:
    whole = 150 * (1 - GAP)
    out = [f'<rect x="{x:.1f}" y="{y:.1f}" width="{whole:.1f}" height="{height:.1f}" fill="{FAINT}"/>']
    if measured is None:
        return out
    at = x
    for size, there in zip(sizes, measured, strict=True):
        width = whole * size / sum(sizes)
        if there:
            out.append(
                f'<rect x="{at:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}" '
                'stroke="#fff" stroke-width=".6"/>'
            )
        at += width
    return out


def _axes(
    yticks: Sequence[float],
    xticks: Sequence[float],
    y: tuple[float, float],
    x: tuple[float, float],
    label: str,
) -> str:
    out = []
    digits = max(0, min(4, int(np.ceil(-np.log10(max(y[1] - y[0], 1e-9)))) + 1))
    for t in yticks:
        at = TOP + (y[1] - t) / (y[1] - y[0]) * (HEIGHT - TOP - BOTTOM)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        out.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{t:,.{digits}f}</text>')
    for t in xticks:
        at = LEFT + (t - x[0]) / (x[1] - x[0]) * (WIDTH - LEFT - RIGHT)
        out.append(f'<text x="{at:.1f}" y="{HEIGHT - 16}" text-anchor="middle">{t:g}</text>')
    out.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 2}" text-anchor="middle">{escape(label)}</text>'
    )
    return "".join(out)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Some four round numbers between two."""
    raw = (high - low) / 4
    size = 10 ** np.floor(np.log10(raw))
    step = min((m * size for m in (1, 2, 5, 10) if m * size >= raw * 0.8), default=raw)
    step = max(1.0, float(np.round(step))) if whole else float(step)
    first = np.ceil(low / step - 1e-9) * step
    # adding zero turns −0 into 0
    return [float(t) + 0.0 for t in np.round(np.arange(first, high + step * 1e-6, step), 12)]


def _path(px: NDArray[np.float64], py: NDArray[np.float64]) -> str:
    """Points joined; a gap where y is not finite, and clipped above and below the picture."""
    out, pen = [], "M"
    for x, y in zip(px, np.clip(py, TOP - 4, HEIGHT - BOTTOM + 4), strict=True):
        if np.isfinite(y):
            out.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    if len(out) == 1:
        out.append("h3")
    return "".join(out)


def _key(line: Line) -> str:
    dash = ' stroke-dasharray="5 3"' if line.dashed else ""
    stroke = f'<path d="M0 5H22" stroke="{line.color}" stroke-width="2"{dash}/>'
    return f'<span><svg viewBox="0 0 22 10" aria-hidden="true">{stroke}</svg> {escape(line.name)}</span>'


def _last(y: NDArray[np.float64]) -> float:
    known = y[np.isfinite(y)]
    return float(known[-1]) if len(known) else float("nan")
