"""How a job is cut into tiles that fit the cache.

Legend: r rows of a job, d columns, Z non-zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from mosaicvi.nn.targets import Targets

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
    """One tile of a job: rows, whole spans of columns, and its non-zeros."""

    rows: slice
    spans: tuple[Span, ...]
    run: Tensor | slice | None

    @property
    def lo(self) -> int:
        """First column."""
        return self.spans[0].lo

    @property
    def hi(self) -> int:
        """The column after the last."""
        return self.spans[-1].hi


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
    n_rows: int, targets: Targets, spans: list[Span], *, whole_rows: bool, max_entries: int | None
) -> Iterator[Cut]:
    """Tiles of a job.

    Parameters
    ----------
    n_rows
        Rows of the job.
    targets
        Its non-zeros.
    spans
        Its columns.
    whole_rows
        Whether a tile must hold all columns of its rows, as a softmax needs.
    max_entries
        Entries that fit the cache; None to leave the job whole.
    """
    if max_entries is None:
        yield Cut(rows=slice(0, n_rows), spans=tuple(spans), run=slice(0, None))
        return
    parts = _parts(n_rows, spans, whole_rows=whole_rows, max_entries=max_entries)
    starts = [_starts(n_rows, part, max_entries) for part in parts]
    runs = _runs(targets.row, parts, starts, n_rows)
    for part, of_part, of_run in zip(parts, starts, runs, strict=True):
        for lo, hi, run in zip(of_part, [*of_part[1:], n_rows], of_run, strict=True):
            yield Cut(rows=slice(lo, hi), spans=tuple(part), run=run)


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


def _runs(
    row: Tensor | None, parts: list[list[Span]], starts: list[list[int]], n_rows: int
) -> list[list[Tensor | slice | None]]:
    """The non-zeros of each part and run of rows."""
    if row is None:
        return [[None] * len(s) for s in starts]
    if len(parts) == 1 and len(parts[0]) > 1 and len(starts[0]) > 1:
        return [_scattered(row % n_rows, [*starts[0], n_rows])]
    edges = []  # whole blocks, or rows of one block: runs of the block-major non-zeros
    for part, of_part in zip(parts, starts, strict=True):
        edges += [part[0].index * n_rows + s for s in of_part] + [(part[-1].index + 1) * n_rows]
    at = iter(torch.searchsorted(row, torch.tensor(edges, device=row.device)).tolist())
    found = [[next(at) for _ in range(len(s) + 1)] for s in starts]
    return [[slice(a, b) for a, b in zip(f[:-1], f[1:], strict=True)] for f in found]


def _scattered(cell: Tensor, edges: list[int]) -> list[Tensor | slice | None]:
    """The non-zeros of runs of rows that span many blocks."""
    order = torch.argsort(cell, stable=True)
    at = torch.searchsorted(cell.index_select(0, order), torch.tensor(edges, device=cell.device)).tolist()
    return [order[a:b] for a, b in zip(at[:-1], at[1:], strict=True)]
