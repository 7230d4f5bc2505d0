"""What the passes must predict of a modality, sorted into jobs whose rows are treated alike.

Rows that must predict everything are one job, whatever pass they come from. Rows that share a mask are
put side by side: a masked subset of features is then a smaller product instead of a full one that is
multiplied by zeros.

Legend: n_m cells with the modality, D_m features, R rows with a target, r of them in a job, Z non-zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from mosaicvi.data.minibatch import ModalityRows, runs_of
from mosaicvi.nn.masks import View, observed_view

WORTH_A_SUBSET = 0.7  # a job with fewer of the columns than this gathers them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Rows that are treated alike.

    Attributes
    ----------
    pick
        The modality's rows, (r,).
    of_pass
        The pass of each, (r,).
    columns
        The features that count, ascending (d,); None for all.
    target
        Features that count for all rows, 1 or 0, (1, d); None for all.
    view
        In place of it: the targets of each row.
    panel
        With a softmax: the features that each row measured; None for all.
    row, col, position
        Of the non-zero targets, block-major: block * r + row of the job, position in `columns`, and
        position among the modality's non-zeros; (Z,) each, or None for dense values.
    """

    pick: Tensor
    of_pass: Tensor
    columns: Tensor | None = None
    target: Tensor | None = None
    view: View | None = None
    panel: View | None = None
    row: Tensor | None = None
    col: Tensor | None = None
    position: Tensor | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows, r."""
        return len(self.pick)


def make_jobs(rows: ModalityRows, wanted: list[View], *, softmax: bool) -> list[Job]:
    """Jobs of a modality, only for rows that have a target.

    Parameters
    ----------
    rows
        The modality in a minibatch.
    wanted
        Which entries count in each pass.
    softmax
        Whether the mean is normalised over the panel, so that all its features are needed.
    """
    n = len(rows.cells)
    if n == 0:
        return []
    every = torch.arange(n, device=rows.cells.device)
    if every.is_cuda:  # sizes that depend on the mask would make the device wait
        return [_own(rows, [(every, p, v) for p, v in enumerate(wanted)], softmax=softmax)]
    whole: list[tuple[Tensor, int]] = []
    own: list[tuple[Tensor, int, View]] = []
    shared: list[tuple[Tensor, int, Tensor]] = []
    for p, view in enumerate(wanted):
        if view.full:
            whole.append((every, p))
            continue
        some, full = view.table.any(1), view.table.all(1)
        of_all = full[view.index].nonzero().squeeze(1)
        of_some = (some & ~full)[view.index].nonzero().squeeze(1)
        if len(of_all):
            whole.append((of_all, p))
        if not len(of_some):
            continue
        distinct = torch.unique(view.index[of_some])
        if softmax or len(distinct) > max(8, len(of_some) // 8):
            own.append((of_some, p, view))
        else:
            shared += [(of_some[view.index[of_some] == r], p, view.table[r]) for r in distinct]
    jobs = [_whole(rows, whole)] if whole else []
    jobs += [_own(rows, own, softmax=softmax)] if own else []
    return jobs + [_shared(rows, pick, p, chosen) for pick, p, chosen in shared]


def _entries(rows: ModalityRows, pick: Tensor) -> tuple[Tensor, Tensor, Tensor] | tuple[None, None, None]:
    """Non-zeros of some rows: row, col and position."""
    if rows.sparse is None:
        return None, None, None
    row, position = runs_of(rows.sparse, pick, len(rows.cells))
    return row, rows.sparse.col[position], position


def _pass(pick: Tensor, p: int) -> Tensor:
    return torch.full_like(pick, p)


def _whole(rows: ModalityRows, parts: list[tuple[Tensor, int]]) -> Job:
    """Every entry counts, which only cells that measured everything can have."""
    pick = torch.cat([k for k, _ in parts])
    row, col, position = _entries(rows, pick)
    of_pass = torch.cat([_pass(k, p) for k, p in parts])
    return Job(pick=pick, of_pass=of_pass, row=row, col=col, position=position)


def _own(rows: ModalityRows, parts: list[tuple[Tensor, int, View]], *, softmax: bool) -> Job:
    """Each row has its own targets."""
    pick = torch.cat([k for k, _, _ in parts])
    tables, index, at = [], [], 0
    for k, _, view in parts:
        tables.append(view.table)
        index.append(view.index[k] + at)
        at += len(view.table)
    view = View(table=torch.cat(tables), index=torch.cat(index))
    row, col, position = _entries(rows, pick)
    if row is not None and col is not None and position is not None and not row.is_cuda:
        keep = view.table[view.index[row % len(pick)], col]
        row, col, position = row[keep], col[keep], position[keep]
    measured = observed_view(rows)
    panel = None if measured.full or not softmax else View(table=measured.table, index=measured.index[pick])
    of_pass = torch.cat([_pass(k, p) for k, p, _ in parts])
    return Job(pick=pick, of_pass=of_pass, view=view, panel=panel, row=row, col=col, position=position)


def _shared(rows: ModalityRows, pick: Tensor, p: int, chosen: Tensor) -> Job:
    """All rows share their targets, and each entry stands alone."""
    row, col, position = _entries(rows, pick)
    if row is not None and col is not None and position is not None:
        keep = chosen[col]
        row, col, position = row[keep], col[keep], position[keep]
    if float(chosen.float().mean()) >= WORTH_A_SUBSET:
        target = chosen.to(torch.float32)[None]
        return Job(pick=pick, of_pass=_pass(pick, p), target=target, row=row, col=col, position=position)
    if col is not None:
        col = (chosen.cumsum(0) - 1)[col]
    columns = chosen.nonzero().squeeze(1)
    return Job(pick=pick, of_pass=_pass(pick, p), columns=columns, row=row, col=col, position=position)


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


def spans_of(job: Job, edges: list[tuple[int, int, int, int]]) -> list[Span]:
    """Spans of a job's columns, given (group, block, first, last) of each block in the modality."""
    if job.columns is None:
        return [Span(group=g, block=b, index=k, lo=lo, hi=hi) for k, (g, b, lo, hi) in enumerate(edges)]
    ends = torch.tensor([hi for *_, hi in edges], device=job.columns.device)
    cut = [0, *torch.searchsorted(job.columns, ends).tolist()]
    return [
        Span(group=g, block=b, index=k, lo=cut[k], hi=cut[k + 1])
        for k, (g, b, _, _) in enumerate(edges)
        if cut[k + 1] > cut[k]
    ]


def tiles(
    job: Job, spans: list[Span], *, by_block: bool, max_entries: int
) -> Iterator[tuple[slice, list[Span], Tensor | slice | None]]:
    """Tiles of a job: rows, spans, and the run of its non-zeros.

    Parameters
    ----------
    job
        The rows.
    spans
        Their columns.
    by_block
        One block at a time, for a likelihood of each entry alone; a softmax needs whole rows.
    max_entries
        Entries that fit the cache.
    """
    n, row = job.n_rows, job.row
    parts = [[s] for s in spans] if by_block else [spans]
    width = max(p[-1].hi - p[0].lo for p in parts)
    n_steps = -(-n // max(8, min(n, max_entries // max(width, 1))))
    step = -(-n // n_steps)
    order: Tensor | None = None
    if row is not None and not by_block and n_steps > 1 and len(spans) > 1:
        cell = row % n
        order = torch.argsort(cell, stable=True)
        row = cell[order]
    starts = list(range(0, n, step))
    ends = _ends(row, [p[0].index if len(p) == 1 else 0 for p in parts], starts, n, by_block=by_block)
    for k, part in enumerate(parts):
        for i, s in enumerate(starts):
            run = None if row is None else slice(ends[k][i], ends[k][i + 1])
            picked = run if order is None or run is None else order[run]
            yield slice(s, min(s + step, n)), part, picked


def _ends(
    row: Tensor | None, blocks: list[int], starts: list[int], n: int, *, by_block: bool
) -> list[list[int]]:
    """For each part, where the non-zeros of each run of rows end."""
    if row is None:
        return [[] for _ in blocks]
    if not by_block and len(starts) == 1:
        return [[0, len(row)]]
    edges = torch.tensor([[b * n + s for s in [*starts, n]] for b in blocks], device=row.device)
    return [list(map(int, line)) for line in torch.searchsorted(row, edges).tolist()]
