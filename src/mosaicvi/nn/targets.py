"""What a pass must predict of a modality, sorted into jobs whose rows share their targets.

Cells that share a mask are put side by side: a masked subset of features is then a smaller product
instead of a full one that is multiplied by zeros.

Legend: R_p rows of a pass, D_m features, G blocks, Z non-zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from mosaicvi.data.minibatch import Minibatch, ModalityRows, SparseRows, pick_rows
from mosaicvi.nn.masks import View, observed_view

WORTH_A_SUBSET = 0.7  # a job with fewer of the columns than this gathers them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Rows that share their targets, or (with `view`) that have their own.

    Attributes
    ----------
    rows
        Their place among the rows of the pass.
    columns
        The features that count, ascending (d,); None for all. The non-zeros' columns are positions in it.
    target, panel
        Features that count, and those that the softmax is normalised over: 1 or 0, (1, d); None for all.
    view, panel_view
        In place of them: the targets of each row.
    sparse, dense
        The targets' values: non-zeros, block-major over the job's rows, or all (r, D_m).
    """

    rows: slice
    columns: Tensor | None = None
    target: Tensor | None = None
    panel: Tensor | None = None
    view: View | None = None
    panel_view: View | None = None
    sparse: SparseRows | None
    dense: Tensor | None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.rows.stop - self.rows.start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """What one pass must predict of one modality.

    Attributes
    ----------
    cells
        Positions in the minibatch of its rows, (R_p,).
    weight
        Factor of the log-likelihood in the loss.
    library
        (R_p, 1), or None.
    covariate_code
        Row of the covariate table, (R_p,).
    """

    cells: Tensor
    weight: float
    jobs: list[Job]
    library: Tensor | None
    covariate_code: Tensor


def make_targets(
    minibatch: Minibatch, m: int, values: Tensor, wanted: View, weight: float, *, softmax: bool
) -> Targets:
    """Targets of a pass, only for cells that have one.

    Parameters
    ----------
    minibatch
        B cells.
    m
        Position of the modality.
    values
        Its values as the likelihood sees them: non-zeros (Z,), or dense (n_m, D_m).
    wanted
        Which entries count.
    weight
        Factor of the log-likelihood in the loss.
    softmax
        Whether the mean is normalised over the panel, so that all its features are needed.
    """
    rows = minibatch.rows[m]
    measured = observed_view(rows)
    order, groups = _grouped(wanted, whole=values.is_cuda)
    jobs = []
    for at, distinct in groups:
        pick = None if order is None else order[at]
        jobs.append(_job(rows, values, wanted, measured, at, pick, distinct, softmax=softmax))
    cells = rows.cells if order is None else rows.cells[order]
    library = rows.library if order is None else rows.library[order]
    return Targets(
        cells=cells,
        weight=weight,
        jobs=jobs,
        library=library[:, None] if softmax else None,
        covariate_code=minibatch.covariate_code[cells],
    )


def _grouped(wanted: View, *, whole: bool) -> tuple[Tensor | None, list[tuple[slice, int | None]]]:
    """Order of the rows that have a target, and the runs of it that share a row of the view's table.

    None for the order keeps all rows as they are; a run without a table row has rows of their own.
    """
    n = len(wanted.index)
    if n == 0:
        return None, []
    if wanted.full or whole:
        return None, [(slice(0, n), None)]
    some = wanted.table.any(1)
    count = torch.bincount(wanted.index, minlength=len(some))
    distinct = int(((count > 0) & some).sum())
    if distinct > max(4, n // 8):
        pick = some[wanted.index].nonzero().squeeze(1)
        return pick, [(slice(0, len(pick)), None)]
    order = torch.argsort(wanted.index, stable=True)
    order = order[some[wanted.index[order]]]
    groups: list[tuple[slice, int | None]] = []
    start = 0
    for r, (size, any_target) in enumerate(zip(count.tolist(), some.tolist(), strict=True)):
        if size and any_target:
            groups.append((slice(start, start + size), r))
            start += size
    return order, groups


def _job(
    rows: ModalityRows,
    values: Tensor,
    wanted: View,
    measured: View,
    at: slice,
    pick: Tensor | None,
    distinct: int | None,
    *,
    softmax: bool,
) -> Job:
    n = len(rows.cells)
    sparse = None if rows.sparse is None else dataclasses.replace(rows.sparse, value=values)
    if sparse is not None and pick is not None:
        sparse = pick_rows(sparse, pick, n)
    dense = None if sparse is not None else values if pick is None else values[pick]
    if wanted.full:
        return Job(rows=at, sparse=sparse, dense=dense)
    if distinct is None:
        return _job_of_own(values, wanted, measured, at, pick, sparse, dense)
    chosen = wanted.table[distinct]
    columns = target = panel = None
    if not bool(chosen.all()):
        share = float(chosen.float().mean())
        if not softmax and share < WORTH_A_SUBSET:
            columns = chosen.nonzero().squeeze(1)
        else:
            target = chosen.to(torch.float32)[None]
        if sparse is not None:
            sparse = _kept(sparse, chosen[sparse.col])
            if columns is not None:
                sparse = dataclasses.replace(sparse, col=(chosen.cumsum(0) - 1)[sparse.col])
    if softmax:
        assert pick is not None
        mine = measured.table[measured.index[pick[0]]]
        panel = None if measured.full or bool(mine.all()) else mine.to(torch.float32)[None]
    if dense is not None and columns is not None:
        dense = dense[:, columns]
    return Job(rows=at, columns=columns, target=target, panel=panel, sparse=sparse, dense=dense)


def _job_of_own(
    values: Tensor,
    wanted: View,
    measured: View,
    at: slice,
    pick: Tensor | None,
    sparse: SparseRows | None,
    dense: Tensor | None,
) -> Job:
    """Each row has its own targets."""
    view = wanted if pick is None else View(table=wanted.table, index=wanted.index[pick])
    panel = measured if pick is None else dataclasses.replace(measured, index=measured.index[pick])
    if sparse is not None:
        r = at.stop - at.start
        keep = view.table[view.index[sparse.row % r], sparse.col]
        if values.is_cuda:  # a compressed copy would make the device wait for its size
            sparse = dataclasses.replace(sparse, value=sparse.value * keep)
        else:
            sparse = _kept(sparse, keep)
    return Job(
        rows=at, view=view, panel_view=None if measured.full else panel, sparse=sparse, dense=dense
    )


def _kept(sparse: SparseRows, keep: Tensor) -> SparseRows:
    return SparseRows(row=sparse.row[keep], col=sparse.col[keep], value=sparse.value[keep])


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
    n = job.n_rows
    row = None if job.sparse is None else job.sparse.row
    parts = [[s] for s in spans] if by_block else [spans]
    width = max(p[-1].hi - p[0].lo for p in parts)
    step = max(8, min(n, max_entries // max(width, 1)))
    n_steps = -(-n // step)
    step = -(-n // n_steps)
    order: Tensor | None = None
    if row is not None and not by_block and n_steps > 1 and len(spans) > 1:
        cell = row % n
        order = torch.argsort(cell, stable=True)
        row = cell[order]
    starts = list(range(0, n, step))
    ends = _ends(row, [p[0].index if by_block else 0 for p in parts], starts, n, by_block=by_block)
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
