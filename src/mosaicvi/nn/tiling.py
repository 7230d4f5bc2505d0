"""How a job is cut into tiles that fit the cache.

Legend: r rows of a job, d columns, Z non-zeros.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

LEAST_ROWS = 8  # of a tile, unless the job has fewer
MANY_ROWS = 128  # of a tile that must span many blocks, whose products are small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """Columns of a job that belong to one block.

    Attributes
    ----------
    group, block
        Position of its group in the modality, and of the block in the group.
    index
        Position of the block in the modality.
    lo, hi
        First column of the job and the one after the last.
    """

    group: int
    block: int
    index: int
    lo: int
    hi: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """One tile of a job: rows, whole spans of columns, and the run of its non-zeros."""

    rows: slice
    spans: tuple[Span, ...]
    run: slice

    @property
    def lo(self) -> int:
        """First column."""
        return self.spans[0].lo

    @property
    def hi(self) -> int:
        """The column after the last."""
        return self.spans[-1].hi


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pieces:
    """Tiles of a job, and the order of its non-zeros in which each tile's are a run; None for as they are."""

    tiles: list[Cut]
    order: Tensor | None = None


def spans_of(columns: Tensor | None, edges: list[tuple[int, int, int, int]]) -> list[Span]:
    """Spans of a job's columns, given (group, block, first, last) of each block in the modality."""
    if columns is None:
        return [Span(group=g, block=b, index=k, lo=lo, hi=hi) for k, (g, b, lo, hi) in enumerate(edges)]
    ends = torch.tensor([hi for *_, hi in edges], device=columns.device)
    cut = [0, *torch.searchsorted(columns, ends).tolist()]
    return [
        Span(group=g, block=b, index=k, lo=cut[k], hi=cut[k + 1])
        for k, (g, b, _, _) in enumerate(edges)
        if cut[k + 1] > cut[k]
    ]


def cut(
    n_rows: int, row: Tensor | None, spans: list[Span], *, whole_rows: bool, max_entries: int | None
) -> Pieces:
    """Cut a job into tiles.

    Parameters
    ----------
    n_rows
        Rows of the job.
    row
        Of its non-zeros, block-major: block * n_rows + row, ascending (Z,); None for dense values.
    spans
        Its columns.
    whole_rows
        Whether a tile must hold all columns of its rows, as a softmax needs.
    max_entries
        Entries that fit the cache; None to leave the job whole.
    """
    if max_entries is None:
        return Pieces(tiles=[Cut(rows=slice(0, n_rows), spans=tuple(spans), run=slice(None))])
    parts = _parts(n_rows, spans, whole_rows=whole_rows, max_entries=max_entries)
    starts = [_starts(n_rows, part, max_entries) for part in parts]
    order: Tensor | None = None
    if row is not None and len(parts) == 1 and len(parts[0]) > 1 and len(starts[0]) > 1:
        row, order = torch.sort(row % n_rows, stable=True)
        edges = [[*starts[0], n_rows]]
    else:  # whole blocks, or rows of one block: runs as they are
        last = [(part[-1].index + 1) * n_rows for part in parts]
        edges = [
            [part[0].index * n_rows + s for s in of_part] + [end]
            for part, of_part, end in zip(parts, starts, last, strict=True)
        ]
    tiles = []
    for part, of_part, ends in zip(parts, starts, _positions(row, edges), strict=True):
        stops = [*of_part[1:], n_rows]
        for lo, hi, a, b in zip(of_part, stops, ends[:-1], ends[1:], strict=True):
            tiles.append(Cut(rows=slice(lo, hi), spans=tuple(part), run=slice(a, b)))
    return Pieces(tiles=tiles, order=order)


def _parts(n_rows: int, spans: list[Span], *, whole_rows: bool, max_entries: int) -> list[list[Span]]:
    """Neighbouring spans that one tile holds: all, or as many as fit with all rows, at least one."""
    if whole_rows:
        return [spans]
    parts: list[list[Span]] = []
    for span in spans:
        if parts and n_rows * (span.hi - parts[-1][0].lo) <= max_entries:
            parts[-1].append(span)
        else:
            parts.append([span])
    return parts


def _starts(n_rows: int, part: list[Span], max_entries: int) -> list[int]:
    """First row of each tile of a part."""
    width = part[-1].hi - part[0].lo
    least = LEAST_ROWS if len(part) == 1 else MANY_ROWS
    n_steps = -(-n_rows // max(least, min(n_rows, max_entries // max(width, 1))))
    return list(range(0, n_rows, -(-n_rows // n_steps)))


def _positions(row: Tensor | None, edges: list[list[int]]) -> list[list[int]]:
    """Where each edge comes in the ascending `row`."""
    if row is None:
        return [[0] * len(e) for e in edges]
    flat = torch.tensor([e for some in edges for e in some], device=row.device)
    at = iter(torch.searchsorted(row, flat).tolist())
    return [[next(at) for _ in some] for some in edges]
