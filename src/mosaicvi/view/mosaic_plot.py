"""What was measured where: batches down, modalities across, panels as parts of a modality's width."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from matplotlib.patches import Patch
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.mosaic import Mosaic
from mosaicvi.errors import InputError
from mosaicvi.inspect.describe import describe
from mosaicvi.inspect.summary import MosaicSummary
from mosaicvi.view.palette import FAINT, INK, modality_colors, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 0.08  # between modalities, of one's width
MOST_SEGMENTS = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Cells of one batch that measured the same.

    Attributes
    ----------
    measured
        For each modality they have, which of its segments they measured.
    """

    batch: str
    n_cells: int
    measured: Mapping[str, NDArray[np.bool_]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """A mosaic as rectangles: rows of cells, and for each modality the sizes of its segments of features.

    Features that the same panels measure make a segment.
    """

    rows: tuple[Row, ...]
    segments: Mapping[str, tuple[int, ...]]

    @property
    def batches(self) -> tuple[str, ...]:
        """Batches in order."""
        return tuple(dict.fromkeys(r.batch for r in self.rows))

    def cells_in(self, batch: str) -> int:
        """Cells of a batch."""
        return sum(r.n_cells for r in self.rows if r.batch == batch)

    def sentence(self) -> str:
        """The picture in words, for readers who cannot see it."""
        parts = []
        for batch in self.batches:
            rows = [r for r in self.rows if r.batch == batch]
            kinds = [f"{r.n_cells:,} cells with {' and '.join(r.measured) or 'nothing'}" for r in rows]
            parts.append(f"{batch}: {', '.join(kinds)}")
        return "; ".join(parts)


def mosaic(
    data: MosaicSummary | Mosaic | MuData | AnnData, *, batch_key: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw what was measured where.

    Each batch is a row, split by what its cells measured, in proportion to their number. Each modality is a
    column; features that only some panels measure lie side by side, so that gaps in a row are features
    which its panel lacks. All modalities are as wide, so that 40 proteins can be seen beside 20,000 peaks.

    Parameters
    ----------
    data
        A MuData or AnnData, what `MosaicVI.setup_mudata` returned (`model.mosaic`), or a summary of either.
    batch_key
        Column of ``obs`` with the batches, for a MuData or AnnData.
    ax
        Where to draw; a new figure where None.

    Raises
    ------
    InputError
        There is no such column.
    """
    layout = layout_of(data, batch_key)
    if ax is None:
        ax = _canvas(layout)
    names = list(layout.segments)
    colors = modality_colors(names)
    for y, batch in enumerate(layout.batches):
        top, total = y - 0.43, layout.cells_in(batch)
        for row in (r for r in layout.rows if r.batch == batch):
            height = 0.86 * row.n_cells / total
            for x, name in enumerate(names):
                _strip(ax, layout.segments[name], row.measured.get(name), (x, top, height), colors[name])
            top += height
    _label(ax, layout)
    return ax


def layout_of(data: MosaicSummary | Mosaic | MuData | AnnData, batch_key: str | None = None) -> Layout:
    """Rows and segments of anything that describes a mosaic."""
    if isinstance(data, Mosaic):
        return _from_mosaic(data)
    if isinstance(data, (MuData, AnnData)):
        data = describe(data, batch_key=batch_key)
    if not isinstance(data, MosaicSummary):
        raise InputError(f"a MuData, AnnData, Mosaic or its summary is needed, not {type(data).__name__}")
    return _from_summary(data)


def _from_summary(summary: MosaicSummary) -> Layout:
    sets = {
        m.name: sorted((o for o in summary.overlaps if o.modality == m.name), key=lambda o: -len(o.panels))
        for m in summary.modalities
    }
    whole = {m.name: np.ones(max(1, len(sets[m.name])), bool) for m in summary.modalities}
    rows = []
    for g in summary.groups:
        measured = {}
        for name in g.modalities:
            inside = np.array([g.panel in o.panels for o in sets[name]], bool)
            measured[name] = inside if g.panel in summary.panels[name] else whole[name]
        rows.append(Row(batch=g.batch, n_cells=g.n_cells, measured=measured))
    segments = {
        m.name: tuple(o.n_features for o in sets[m.name]) or (m.n_features,) for m in summary.modalities
    }
    return Layout(rows=tuple(rows), segments=segments)


def _from_mosaic(data: Mosaic) -> Layout:
    segments, inside = {}, {}
    for m in data.modalities:
        kinds, count = np.unique(m.panels, axis=1, return_counts=True)
        order = np.argsort(-kinds.sum(0), kind="stable")
        segments[m.name] = tuple(int(c) for c in count[order])
        inside[m.name] = kinds[:, order]
    names = data.batches
    panel = [np.append(m.panel_of_row, -1)[m.row_of_cell] for m in data.modalities]  # row -1: has none
    kinds, count = np.unique(np.column_stack([data.batch, *panel]), axis=0, return_counts=True)
    rows = [
        Row(
            batch=str(names[kind[0]]),
            n_cells=int(n),
            measured={
                m.name: inside[m.name][p] for m, p in zip(data.modalities, kind[1:], strict=True) if p >= 0
            },
        )
        for kind, n in zip(kinds, count, strict=True)
    ]
    rows.sort(key=lambda r: (names.index(r.batch), -len(r.measured), tuple(r.measured)))
    return Layout(rows=tuple(rows), segments=segments)


def _canvas(layout: Layout) -> Axes:
    import matplotlib.pyplot as plt

    width = 1.8 + 1.7 * len(layout.segments)
    height = 1.1 + 0.34 * max(3, len(layout.batches))
    _, ax = plt.subplots(figsize=(width, min(height, 14)), layout="constrained")
    return ax


def _strip(
    ax: Axes,
    sizes: tuple[int, ...],
    measured: NDArray[np.bool_] | None,
    place: tuple[int, float, float],
    color: str,
) -> None:
    """One row of one modality: a faint ground, and bars where features were measured."""
    x, top, height = place
    width = 1 - GAP
    ax.broken_barh([(x, width)], (top, height), facecolors=FAINT, linewidth=0)
    if measured is None:
        return
    ends = np.cumsum(sizes) / sum(sizes) * width
    spans = [
        (x + e - w * width / sum(sizes), w * width / sum(sizes)) for e, w in zip(ends, sizes, strict=True)
    ]
    shown = [s for s, m in zip(spans, measured, strict=True) if m]
    edge = "white" if height > 0.1 and len(sizes) <= MOST_SEGMENTS else color
    ax.broken_barh(shown, (top, height), facecolors=color, edgecolors=edge, linewidth=0.6)


def _label(ax: Axes, layout: Layout) -> None:
    names, batches = list(layout.segments), layout.batches
    ax.set_yticks(range(len(batches)), [short(b) for b in batches])
    ax.set_xticks(
        np.arange(len(names)) + (1 - GAP) / 2,
        [f"{short(n)}\n{sum(layout.segments[n]):,} features" for n in names],
    )
    ax.xaxis.tick_top()
    for y, batch in enumerate(batches):
        ax.text(
            len(names) - GAP / 2,
            y,
            f"{layout.cells_in(batch):,} cells",
            va="center",
            color=INK,
            fontsize="small",
        )
    ax.set_xlim(-0.02, len(names) + 0.45)
    ax.set_ylim(len(batches) - 0.5, -0.5)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if any(len(s) > 1 for s in layout.segments.values()):
        ax.legend(
            handles=[Patch(color="0.45", label="measured"), Patch(color=FAINT, label="not measured")],
            loc="upper center",
            bbox_to_anchor=(0.45, -0.01),
            ncols=2,
            frameon=False,
            fontsize="small",
        )
