"""A task by tensors: any likelihood, on any device and in any precision.

Legend: R rows of a task, r of a job, d features of it in G blocks, K = `dim_block_dec`, A covariate rows,
z non-zeros.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mosaicvi import device
from mosaicvi.config import Distribution
from mosaicvi.data.minibatch import runs_of
from mosaicvi.nn.counts import SMALL_DISPERSION, rising
from mosaicvi.nn.groups import narrowed
from mosaicvi.nn.layers import SLOPE, leaky
from mosaicvi.nn.likelihoods import TILE
from mosaicvi.nn.masks import View
from mosaicvi.nn.products import products
from mosaicvi.nn.targets import Job
from mosaicvi.nn.task import Given, Task, of_block, values_of
from mosaicvi.nn.tile import Scratch, Tile
from mosaicvi.workers import share_of

# entries of a tile whose buffers together fit a core's second-level cache of 2 MiB
TILE_ENTRIES: dict[Distribution, int] = {
    "NB": 3 << 15,
    "ZINB": 3 << 15,
    "Poisson": 3 << 16,
    "Bernoulli": 3 << 15,
    "Gaussian": 3 << 15,
}
LEAST_ROWS = 8  # of a tile


class _Sums:
    """Gradients that a worker has added up, shaped like the parameters."""

    def __init__(self, given: Given) -> None:
        self.last = [torch.zeros_like(w) for w in given.last]
        self.alpha = None if given.alpha is None else torch.zeros_like(given.alpha)
        self.pi = None if given.pi is None else torch.zeros_like(given.pi)

    def add(self, other: _Sums) -> None:
        """Add another worker's."""
        for mine, theirs in zip(self._all(), other._all(), strict=True):
            mine.add_(theirs)

    def _all(self) -> list[Tensor]:
        return [*self.last, *(v for v in (self.alpha, self.pi) if v is not None)]


class Tensors:
    """A task for n workers; `want` gradients."""

    def __init__(self, task: Task, n: int, *, want: bool) -> None:
        self.task, self.want = task, want
        given = task.given
        self.value = torch.zeros_like(task.weight)
        self.trunk = given.trunk.index_select(0, task.at)  # (R, W)
        self.inner = [  # before the LeakyReLU
            self.trunk if w is None or b is None else products((self.trunk, w.T))[0].add_(b)
            for w, b in zip(given.weight, given.bias, strict=True)
        ]
        self.hidden = [h if w is None else leaky(h) for h, w in zip(self.inner, given.weight, strict=True)]
        for i, skip in enumerate(given.skip):
            self.hidden[i] = (
                self.hidden[i] if skip is None else self.hidden[i] + skip.index_select(0, task.at)
            )
        self.d_hidden = [torch.zeros_like(h) for h in self.hidden]
        self.small = given.alpha is not None and (
            device.is_apart(given.alpha) or bool(given.alpha.min() < SMALL_DISPERSION)
        )
        self.parts, first = [], 0
        for job in task.jobs:
            self.parts.append(_Part(self, job, first))
            first += job.n_rows
        self.sums = [_Sums(given) for _ in range(n)]

    def share(self, k: int, n: int) -> None:
        """Do the share of worker k of n."""
        scratch = Scratch(self.value)
        for part in self.parts:
            part.run(*share_of(part.job.n_rows, k, n), self.sums[k], scratch)

    def found(self) -> tuple[Tensor, list[Tensor | None]]:
        """Log-likelihood of each row (R,), and gradients of the loss in the order of `Given.tensors`."""
        given, at = self.task.given, self.task.at
        if not self.want:
            return self.value, [None] * len(given.tensors())
        total = self.sums[0]
        for other in self.sums[1:]:
            total.add(other)
        trunk = torch.zeros_like(given.trunk)
        weight: list[Tensor | None] = []
        bias: list[Tensor | None] = []
        skips: list[Tensor | None] = []
        for inner, d, w, skip in zip(self.inner, self.d_hidden, given.weight, given.skip, strict=True):
            d.mul_(self.task.weight[:, None])
            skips.append(None if skip is None else torch.zeros_like(skip).index_add_(0, at, d))
            d_inner = d if w is None else torch.where(inner < 0, SLOPE * d, d)
            if w is not None:
                d, d_weight = products((d_inner, w), (d_inner.T, self.trunk))
            weight.append(None if w is None else d_weight)
            bias.append(None if w is None else d_inner.sum(0))
            trunk.index_add_(0, at, d)
        return self.value, [trunk, total.alpha, total.pi, *weight, *bias, *skips, *total.last]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Block:
    """The last layer of one block: columns of the job, those of hidden rows, weights and their place."""

    group: int
    lo: int
    hi: int
    hidden: slice
    weight: Tensor  # (K + 1, hi - lo), the bias at the end
    at: Tensor | slice  # columns of the group's weights


class _Part:
    """One job."""

    def __init__(self, work: Tensors, job: Job, first: int) -> None:
        task = work.task
        self.work, self.job, self.first = work, job, first
        self.columns = None if job.columns is None else torch.from_numpy(job.columns).to(task.weight.device)
        head = task.head.only(job.columns)
        self.low, self.high, self.centre = head.low, head.high, head.centre
        self.alpha, self.pi = task.given.alpha, task.given.pi
        if self.columns is not None:
            self.alpha = None if self.alpha is None else self.alpha.index_select(1, self.columns)
            self.pi = None if self.pi is None else self.pi.index_select(0, self.columns)
        self.view = job.view
        if job.view is not None and not device.is_apart(job.view.index):  # -1 stands for all
            table, index = job.view.table, job.view.index
            every = torch.cat([table, table.new_ones(1, table.shape[1])])
            self.view = View(table=every, index=torch.where(index < 0, len(table), index))
        self.code = task.code.index_select(0, job.pick)
        self.library = job.rows.library.index_select(0, job.pick)[:, None] if task.aware else None
        self.values = values_of(task, job)
        self.terms = self._count_terms()
        self.blocks = self._last_layers()

    def _count_terms(self) -> dict[str, Tensor]:
        """What depends on a count and its dispersion alone, once for all passes, (Z,) each."""
        sparse, x = self.job.rows.sparse, self.values
        if sparse is None or self.work.task.head.dist == "Bernoulli":
            return {}
        terms = {"constant": -torch.lgamma(x + 1)}
        if self.alpha is not None:
            at = self.work.task.code.index_select(0, sparse.cell) * self.alpha.shape[1] + sparse.col
            terms["rise"], terms["d_rise"] = rising(x, self.alpha.reshape(-1).index_select(0, at))
        return terms

    def _last_layers(self) -> list[_Block]:
        task, features = self.work.task, self.job.rows.features
        mine = task.head.groups if features is None else narrowed(task.head.groups, features)
        out = []
        for i, (group, own, last) in enumerate(zip(task.head.groups, mine, task.given.last, strict=True)):
            for b, (lo, hi) in enumerate(own.spans):
                if hi == lo:
                    continue
                at: Tensor | slice = slice(lo - group.lo, hi - group.lo)
                if features is not None:
                    at = torch.from_numpy(features[lo:hi] - group.lo).to(last.device)
                hidden = of_block(group, b)
                out.append(_Block(group=i, lo=lo, hi=hi, hidden=hidden, weight=last[:, at], at=at))
        return out

    def run(self, first: int, last: int, sums: _Sums, scratch: Scratch) -> None:
        """Rows `first` to `last` of the job."""
        if last <= first:
            return
        together = self.work.task.aware or device.is_apart(self.work.value)
        parts = [self.blocks] if together else [[b] for b in self.blocks]
        d_weight = [torch.zeros_like(b.weight) for b in self.blocks] if self.work.want else []
        for blocks in parts:
            width = blocks[-1].hi - blocks[0].lo
            step = last - first
            if not device.is_apart(self.work.value):
                step = max(LEAST_ROWS, TILE_ENTRIES[self.work.task.head.dist] // width)
            for a in range(first, last, step):
                self._tile(slice(a, min(a + step, last)), blocks, sums, scratch, d_weight)
        for block, d in zip(self.blocks, d_weight, strict=False):
            target = sums.last[block.group]
            if isinstance(block.at, slice):
                target[:, block.at] += d
            else:
                target.index_add_(1, block.at, d)

    def _tile(
        self, rows: slice, blocks: list[_Block], sums: _Sums, scratch: Scratch, d_weight: list[Tensor]
    ) -> None:
        work, task = self.work, self.work.task
        lo, hi = blocks[0].lo, blocks[-1].hi
        of_task = slice(self.first + rows.start, self.first + rows.stop)
        o = scratch.take(0, rows.stop - rows.start, hi - lo)
        for b in blocks:
            torch.addmm(
                b.weight[-1],
                work.hidden[b.group][of_task, b.hidden],
                b.weight[:-1],
                out=o[:, b.lo - lo : b.hi - lo],
            )
        view = self.view
        tile = Tile(
            o=o,
            scratch=scratch,
            lo=lo,
            wanted=None if view is None else view.of_rows(rows),
            measured=None if self.job.panel is None else self.job.panel.of_rows(rows),
            library=None if self.library is None else self.library[rows],
            low=self.low[lo:hi],
            high=self.high[lo:hi],
            centre=self.centre[lo:hi],
            alpha=self.alpha,
            code=self.code[rows],
            small=work.small,
            weight=task.weight[of_task],
            pi=None if self.pi is None else self.pi[lo:hi],
            **self._targets(rows, lo, hi),
        )
        result = TILE[task.head.dist](tile)
        work.value[of_task] += result.value
        if not work.want:
            return
        for k, b in enumerate(self.blocks):
            if lo <= b.lo < hi:
                d_o, h = o[:, b.lo - lo : b.hi - lo], work.hidden[b.group][of_task, b.hidden]
                work.d_hidden[b.group][of_task, b.hidden] += d_o @ b.weight[:-1].T
                scaled = tile.weight[:, None] * h
                d_weight[k][:-1].addmm_(scaled.T, d_o)
                d_weight[k][-1] += tile.weight @ d_o
        if result.d_alpha is not None and sums.alpha is not None:
            at = torch.arange(lo, hi, device=o.device) if self.columns is None else self.columns[lo:hi]
            sums.alpha.index_add_(1, at, result.d_alpha)
        if result.d_pi is not None and sums.pi is not None:
            at = torch.arange(lo, hi, device=o.device) if self.columns is None else self.columns[lo:hi]
            sums.pi.index_add_(0, at, result.d_pi)

    def _targets(self, rows: slice, lo: int, hi: int) -> dict[str, Tensor]:
        """The tile's values: of the non-zero targets, or all of them dense."""
        pick, sparse, view = self.job.pick[rows], self.job.rows.sparse, self.view
        if sparse is None:
            return {"dense": self.values.index_select(0, pick)[:, lo:hi]}
        n = len(self.job.rows.cells)
        # on a device every pass has all cells, so that the number of their non-zeros is known
        total = len(sparse.col) * (len(pick) // n) if device.is_apart(pick) else None
        row, position = runs_of(sparse, pick, n, total)
        row, col = row % len(pick), sparse.col[position]
        named = {"x": self.values[position]} | {k: v[position] for k, v in self.terms.items()}
        counts = (col >= lo) & (col < hi)
        if view is not None:
            counts &= view.table[view.index[rows][row], col]
        if device.is_apart(col):  # to drop the others would make the device wait: they stay as zeros
            return {"row": row, "col": (col - lo).clamp(0, hi - lo - 1)} | {
                k: v * counts for k, v in named.items()
            }
        return {"row": row[counts], "col": col[counts] - lo} | {k: v[counts] for k, v in named.items()}
