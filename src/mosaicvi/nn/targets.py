"""What the passes must predict of a modality, sorted into jobs whose rows are treated alike.

Rows that must predict everything are one job, whatever pass they come from. Rows that share a mask are
put side by side: a masked subset of features is then a smaller product instead of a full one that is
multiplied by zeros.

Legend: n_m cells with the modality, D_m features, R rows with a target, r of them in a job.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi import device
from mosaicvi.data.minibatch import ModalityRows
from mosaicvi.nn.masks import View, observed_view

WORTH_A_SUBSET = 0.7  # a job with fewer of the columns than this leaves out the others


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Rows that are treated alike.

    Attributes
    ----------
    rows
        What the minibatch holds of the features that the job needs.
    columns
        Which of the modality's columns these are, ascending, on the host; None for all.
    pick
        The modality's rows, (r,).
    of_pass
        The pass of each, (r,).
    view
        The targets of each row, where the index is -1 all; None for all of all.
    panel
        With a softmax: the features that each row measured; None for all.
    """

    rows: ModalityRows
    pick: Tensor
    of_pass: Tensor
    columns: NDArray[np.int64] | None = None
    view: View | None = None
    panel: View | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows, r."""
        return self.pick.shape[0]


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
    n = rows.cells.shape[0]
    if n == 0:
        return []
    every = torch.arange(n, device=rows.cells.device)
    if device.is_apart(every):  # sizes that depend on the mask would make the device wait
        return [_job([(every, p, v) for p, v in enumerate(wanted)], rows, softmax=softmax)]
    parts: list[tuple[Tensor, int, View | None]] = []  # rows of a pass, with targets of their own or all
    shared: list[Job] = []
    for p, view in enumerate(wanted):
        if view.full:
            parts.append((every, p, None))
            continue
        table, index = view.table.numpy(), view.index.numpy()
        count, d = view.n_chosen, table.shape[1]
        parts.append((torch.from_numpy(np.flatnonzero((count == d)[index])), p, None))
        of_some = np.flatnonzero(((count > 0) & (count < d))[index])
        choices = index[of_some]
        worth = count < WORTH_A_SUBSET * d
        distinct = np.unique(choices[worth[choices]])
        if softmax or len(distinct) > max(8, len(of_some) // 8):
            distinct = distinct[:0]
        for r in distinct:
            columns = np.flatnonzero(table[r])
            pick = torch.from_numpy(of_some[choices == r])
            shared.append(_job([(pick, p, None)], rows.only(columns), columns=columns, softmax=softmax))
        rest = of_some[~np.isin(choices, distinct)] if len(distinct) else of_some
        parts.append((torch.from_numpy(rest), p, view))
    parts = [part for part in parts if len(part[0])]
    return ([_job(parts, rows, softmax=softmax)] if parts else []) + shared


def _job(
    parts: list[tuple[Tensor, int, View | None]],
    rows: ModalityRows,
    *,
    softmax: bool,
    columns: NDArray[np.int64] | None = None,
) -> Job:
    """A job of some rows of some passes."""
    pick = torch.cat([picked for picked, _, _ in parts])
    tables, index = [rows.panels[:0]], []
    for picked, _, view in parts:
        if view is None:
            index.append(torch.full_like(picked, -1))
        else:
            index.append(view.index[picked] + sum(map(len, tables)))
            tables.append(view.table)
    measured = observed_view(rows)
    some = any(view is not None for _, _, view in parts)
    return Job(
        rows=rows,
        pick=pick,
        of_pass=torch.cat([torch.full_like(picked, p) for picked, p, _ in parts]),
        columns=columns,
        view=View(table=torch.cat(tables), index=torch.cat(index)) if some else None,
        panel=View(table=measured.table, index=measured.index[pick])
        if softmax and not measured.full
        else None,
    )
