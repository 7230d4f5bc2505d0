"""What the passes must predict of a modality, sorted into jobs whose rows are treated alike.

Rows that must predict everything are one job, whatever pass they come from. Rows that share a mask are
put side by side: a masked subset of features is then a smaller product instead of a full one that is
multiplied by zeros.

Legend: n_m cells with the modality, D_m features, R rows with a target, r of them in a job, Z non-zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from mosaicvi.data.minibatch import ModalityRows, runs_of
from mosaicvi.nn import indices, kernels
from mosaicvi.nn.masks import View, observed_view

WORTH_A_SUBSET = 0.7  # a job with fewer of the columns than this gathers them
FEW_ROWS = 16  # fewer are not worth cutting off a job


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Rows that are treated alike.

    Attributes
    ----------
    pick
        The modality's rows, (r,).
    of_pass
        The pass of each, (r,).
    chosen
        The features that count for all rows, boolean (D_m,); None for all.
    view
        In place of it: the targets of each row.
    panel
        With a softmax: the features that each row measured; None for all.
    """

    pick: Tensor
    of_pass: Tensor
    chosen: Tensor | None = None
    view: View | None = None
    panel: View | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows, r."""
        return len(self.pick)

    def part(self, rows: slice) -> Job:
        """Some of its rows."""
        return dataclasses.replace(
            self,
            pick=self.pick[rows],
            of_pass=self.of_pass[rows],
            view=None if self.view is None else self.view.of_rows(rows),
            panel=None if self.panel is None else self.panel.of_rows(rows),
        )


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
    shared: list[Job] = []
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
            continue
        for r in distinct:
            pick = of_some[view.index[of_some] == r]
            shared.append(Job(pick=pick, of_pass=_pass(pick, p), chosen=view.table[r]))
    jobs = []
    if whole:
        pick = torch.cat([k for k, _ in whole])
        jobs.append(Job(pick=pick, of_pass=torch.cat([_pass(k, p) for k, p in whole])))
    jobs += [_own(rows, own, softmax=softmax)] if own else []
    return jobs + shared


def _pass(pick: Tensor, p: int) -> Tensor:
    return torch.full_like(pick, p)


def _own(rows: ModalityRows, parts: list[tuple[Tensor, int, View]], *, softmax: bool) -> Job:
    """Each row has its own targets."""
    pick = torch.cat([k for k, _, _ in parts])
    tables, index, at = [], [], 0
    for k, _, view in parts:
        tables.append(view.table)
        index.append(view.index[k] + at)
        at += len(view.table)
    measured = observed_view(rows)
    panel = None if measured.full or not softmax else View(table=measured.table, index=measured.index[pick])
    return Job(
        pick=pick,
        of_pass=torch.cat([_pass(k, p) for k, p, _ in parts]),
        view=View(table=torch.cat(tables), index=torch.cat(index)),
        panel=panel,
    )


def divided(jobs: Sequence[Sequence[Job]], costs: Sequence[float], n: int) -> list[list[list[Job]]]:
    """Shares of each task's jobs for n workers, of the same work: runs of jobs, cut where a share ends.

    Parameters
    ----------
    jobs
        Of each task.
    costs
        Work of a row of each task that must predict everything.
    n
        Number of workers.

    Returns
    -------
    Jobs of each task and worker.
    """
    work = [[_columns(job) * cost for job in some] for some, cost in zip(jobs, costs, strict=True)]
    whole = sum(
        job.n_rows * cost
        for some, of_row in zip(jobs, work, strict=True)
        for job, cost in zip(some, of_row, strict=True)
    )
    shares: list[list[list[Job]]] = [[[] for _ in range(n)] for _ in jobs]
    k, left = 0, whole / n
    for mine, some, of_row in zip(shares, jobs, work, strict=True):
        for job, cost in zip(some, of_row, strict=True):
            first = 0
            while first < job.n_rows:
                n_rows = job.n_rows - first
                fit = round(left / cost) if k < n - 1 else n_rows
                fit = n_rows if n_rows - fit < FEW_ROWS else 0 if fit < FEW_ROWS else fit
                if fit:
                    mine[k].append(job.part(slice(first, first + fit)))
                first, left = first + fit, left - fit * cost
                if first < job.n_rows:
                    k, left = k + 1, left + whole / n
    return shares


def _columns(job: Job) -> float:
    """Share of the columns that a job needs."""
    return 1.0 if job.chosen is None else float(job.chosen.float().mean())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """The columns of a job and its non-zero targets.

    Attributes
    ----------
    columns
        The features that count, ascending (d,); None for all.
    wanted
        The entries that count among them; None for all.
    row, col, position
        Of the non-zero targets, block-major: block * r + row of the job, position in `columns`, and
        position among the modality's non-zeros; (Z,) each, or None for dense values.
    """

    columns: Tensor | None = None
    wanted: View | None = None
    row: Tensor | None = None
    col: Tensor | None = None
    position: Tensor | None = None

    def ordered(self, order: Tensor) -> Targets:
        """The same with the non-zeros in another order."""
        row, col, position = (
            None if v is None else v.index_select(0, order) for v in (self.row, self.col, self.position)
        )
        return dataclasses.replace(self, row=row, col=col, position=position)

    def columns_of(self, lo: int, hi: int) -> Tensor:
        """Columns of the modality that columns lo to hi of the job are."""
        return torch.arange(lo, hi) if self.columns is None else self.columns[lo:hi]


def targets_of(job: Job, rows: ModalityRows) -> Targets:
    """What a job must predict of the modality's rows."""
    chosen = job.chosen
    if rows.sparse is None:
        if chosen is None:
            return Targets(wanted=job.view)
        if _most(chosen):
            return Targets(wanted=_of_all(chosen, job.n_rows))
        return Targets(columns=chosen.nonzero().squeeze(1))
    if rows.cells.is_cuda:  # sorting out the targets would make the device wait; jobs there keep all columns
        row, position = runs_of(rows.sparse, job.pick, len(rows.cells))
        return Targets(wanted=job.view, row=row, col=rows.sparse.col[position], position=position)
    columns, wanted, column = None, job.view, job.pick[:0]
    if chosen is not None:
        wanted = _of_all(chosen, job.n_rows)
        if not _most(chosen):
            columns, column = chosen.nonzero().squeeze(1), chosen.cumsum(0) - 1
    indptr, col, pick = rows.sparse.indptr.numpy(), rows.sparse.col.numpy(), job.pick.numpy()
    table, index = kernels.view_arrays(wanted)
    found = indices.targets_of_rows(indptr, col, len(rows.cells), pick, table, index, column.numpy())
    row, new_col, position = map(torch.from_numpy, found)
    wanted = wanted if columns is None else None
    return Targets(columns=columns, wanted=wanted, row=row, col=new_col, position=position)


def _of_all(chosen: Tensor, n: int) -> View:
    """The same choice for n rows."""
    return View(table=chosen[None], index=torch.zeros(n, dtype=torch.int64, device=chosen.device))


def _most(chosen: Tensor) -> bool:
    return float(chosen.float().mean()) >= WORTH_A_SUBSET
