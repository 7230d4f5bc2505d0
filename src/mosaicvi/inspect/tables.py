"""A mosaic's summary as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mosaicvi.inspect.summary import ALL, MosaicSummary

MOST_ROWS = 12
MOST_PANELS = 12
MOST_PATTERNS = 5
BAR = 16
LARGE = 1e7  # from which on sums are written with powers of ten


def render(summary: MosaicSummary, console: Console) -> None:
    """Print a summary as tables that fit 80 columns.

    Parameters
    ----------
    summary
        What `describe` found.
    console
        Where to print.
    """
    console.print(_sizes(summary))
    console.print(_layout(summary))
    for modality in summary.panels:
        if len(summary.panels[modality]) > 1:
            console.print(_panel_table(summary, modality))
    console.print(_library_table(summary))
    if summary.bridges:
        console.print(_bridge_table(summary))
    for warning in summary.warnings:
        console.print(Text("! ", style="bold yellow") + Text(warning))


def _table(title: str, *columns: str, numbers: Sequence[str] = ()) -> Table:
    table = Table(
        min_width=len(title),
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    for column in columns:
        numeric = column in numbers
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
    return table


def _sizes(summary: MosaicSummary) -> Table:
    numbers = ("cells", "features", "zero", "missing")
    title = (
        f"{summary.n_cells:,} cells, {len(summary.batches)} batch{'es' if len(summary.batches) > 1 else ''}"
    )
    table = _table(title, "modality", "cells", "features", "values", "zero", "missing", numbers=numbers)
    for m in summary.modalities:
        missing = f"{m.missing:.1%}" if m.missing else "–"
        table.add_row(m.name, f"{m.n_cells:,}", f"{m.n_features:,}", m.values, f"{m.zeros:.1%}", missing)
    return table


def _layout(summary: MosaicSummary) -> Table:
    """Batches × sets of modalities: how many cells measured what."""
    patterns = list(dict.fromkeys(group.modalities for group in summary.groups))
    panelled = any(group.panel not in (group.batch, ALL) for group in summary.groups)
    if len(patterns) > MOST_PATTERNS:
        return _long_layout(summary)
    table = _table("Cells by what they measured", "batch", *(["panel"] if panelled else []))
    for pattern in patterns:
        table.add_column(" + ".join(pattern) or "nothing", justify="right")
    sizes: dict[tuple[str, str], Counter[tuple[str, ...]]] = {}
    for group in summary.groups:
        sizes.setdefault((group.batch, group.panel), Counter())[group.modalities] += group.n_cells
    for (batch, panel), counts in sizes.items():
        cells = [
            f"{counts[pattern]:,}" if counts[pattern] else Text("·", style="dim") for pattern in patterns
        ]
        table.add_row(batch, *([panel] if panelled else []), *cells)
    return table


def _long_layout(summary: MosaicSummary) -> Table:
    table = _table("Cells by what they measured", "batch", "panel", "measured", "cells", numbers=("cells",))
    for group in summary.groups:
        table.add_row(
            group.batch, group.panel, " + ".join(group.modalities) or "nothing", f"{group.n_cells:,}"
        )
    return table


def _panel_table(summary: MosaicSummary, modality: str) -> Table:
    """Rows: sets of panels, UpSet-like; columns: panels."""
    sizes = summary.panels[modality]
    overlaps = [overlap for overlap in summary.overlaps if overlap.modality == modality]
    shown, hidden = overlaps[:MOST_ROWS], overlaps[MOST_ROWS:]
    table = _table(f"Panels of {modality}: features measured by exactly …")
    matrix = len(sizes) <= MOST_PANELS
    for i, (panel, size) in enumerate(sizes.items()):
        if matrix:
            table.add_column(f"{_short(panel, len(sizes))}\n{size:,}" if len(sizes) <= 5 else str(i + 1))
    if not matrix:
        table.add_column("panels")
    table.add_column("features", justify="right", no_wrap=True)
    table.add_column("")
    most = max(overlap.n_features for overlap in overlaps)
    for overlap in shown:
        marks = [Text("●") if p in overlap.panels else Text("·", style="dim") for p in sizes]
        cells = marks if matrix else [Text(f"{len(overlap.panels)} of {len(sizes)}")]
        bar = Text("█" * max(1, round(BAR * overlap.n_features / most)), style="cyan")
        table.add_row(*cells, f"{overlap.n_features:,}", bar)
    key = [f"{i + 1} {p} ({n:,})" for i, (p, n) in enumerate(sizes.items())] if len(sizes) > 5 else []
    more = [f"and {len(hidden)} smaller sets"] if hidden else []
    table.caption = "; ".join([*key[:MOST_PANELS], *more]) or None
    table.caption_justify = "left"
    return table


def _short(name: str, n_names: int) -> str:
    width = max(4, 48 // n_names)
    return name if len(name) <= width else name[: width - 1] + "…"


def _library_table(summary: MosaicSummary) -> Table:
    numbers = ("least", "25 %", "median", "75 %", "most", "empty")
    table = _table("Sum of each cell's values", "modality", "batch", *numbers, numbers=numbers)
    for library in summary.libraries:
        is_large = max(map(abs, library.quantiles)) >= LARGE
        values = [_number(q, is_large=is_large) for q in library.quantiles]
        empty = Text(f"{library.n_empty:,}", style="red") if library.n_empty else "–"
        table.add_row(library.modality, library.batch, *values, empty)
    return table


def _number(value: float, *, is_large: bool) -> str:
    """A number of at most nine characters, in a row of which some may be large."""
    if is_large and value:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bridge_table(summary: MosaicSummary) -> Table:
    table = _table("Bridges between modalities", "modalities", "paired cells", "", numbers=("paired cells",))
    for bridge in summary.bridges:
        if bridge.n_cells:
            how = Text("paired", style="green")
        elif bridge.chain:
            how = Text(f"only through {' and '.join(bridge.chain)}", style="yellow")
        else:
            how = Text("not connected", style="red")
        table.add_row(" – ".join(bridge.modalities), f"{bridge.n_cells:,}", how)
    return table
