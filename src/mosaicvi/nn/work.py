"""The last layer and the likelihood of one modality, tile by tile, with their gradients.

A tile of the output lives in the cache from the product that makes it to the products that carry its
gradient back; R x D_m never exists. Workers, one a core, have rows and sums of their own.

Legend: R rows with a target, r of them in a job, D_m features, d of them in a job, G blocks of a group,
K = `dim_block_dec`, A covariate rows, P passes, Z non-zeros.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from mosaicvi.config import Distribution
from mosaicvi.data.minibatch import ModalityRows
from mosaicvi.nn.counts import SMALL_DISPERSION, multinomial_block, rising
from mosaicvi.nn.groups import BlockGroup
from mosaicvi.nn.likelihoods import TILE
from mosaicvi.nn.targets import Job, targets_of
from mosaicvi.nn.tile import Scratch, Tile
from mosaicvi.nn.tiling import Cut, Span, cut, spans_of
from mosaicvi.nn.workers import n_workers, side_by_side

# entries of a tile whose buffers together fit a core's second-level cache of 2 MiB
TILE_ENTRIES: dict[Distribution, int] = {
    "NB": 3 << 15,
    "ZINB": 3 << 15,
    "Poisson": 3 << 17,
    "Bernoulli": 3 << 16,
    "Gaussian": 3 << 15,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """The constants of one modality's likelihood; bounds are (D_m,)."""

    dist: Distribution
    groups: tuple[BlockGroup, ...]
    low: Tensor
    high: Tensor
    centre: Tensor

    @property
    def edges(self) -> list[tuple[int, int, int, int]]:
        """Group, block of the group, first column and the one after the last, of each block."""
        return [(i, b, lo, hi) for i, g in enumerate(self.groups) for b, (lo, hi) in enumerate(g.spans)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a modality must predict in a step.

    Attributes
    ----------
    head
        Its constants.
    rows
        What the minibatch holds of it.
    values
        Its values as the likelihood sees them: non-zeros (Z,), or dense (n_m, D_m).
    library, code
        Library, or None, and covariate row of its rows, (n_m,).
    shares
        Jobs of each worker; the R rows are those of all jobs in this order.
    weight, of_pass
        Of each row, its factor in the loss, and its pass, (R,).
    n_passes
        P.
    """

    head: Head
    rows: ModalityRows
    values: Tensor
    library: Tensor | None
    code: Tensor
    shares: list[list[Job]]
    weight: Tensor
    of_pass: Tensor
    n_passes: int


class Step:
    """A task with the last layers, and what all workers write to, each to rows of its own.

    Parameters
    ----------
    task
        What must be predicted.
    alpha, pi
        Dispersion (A, D_m) and zero inflation (D_m,), or None.
    hidden, weight, bias
        Of each group: hidden rows (R, G * K), weights (D_g, K) and bias (D_g,) of the last layer.
    want
        Whether gradients are wanted.
    """

    def __init__(
        self,
        task: Task,
        alpha: Tensor | None,
        pi: Tensor | None,
        hidden: list[Tensor],
        weight: list[Tensor],
        bias: list[Tensor],
        *,
        want: bool,
    ) -> None:
        self.task, self.alpha, self.pi, self.want = task, alpha, pi, want
        self.edges = task.head.edges
        # the bias rides along as one more column: a product with it is one pass over the tile, not two
        self.hidden = [_with_ones(h, g) for h, g in zip(hidden, task.head.groups, strict=True)]
        self.scaled = [h * task.weight[:, None, None] for h in self.hidden] if want else []
        self.weight = [torch.cat([w, b[:, None]], 1) for w, b in zip(weight, bias, strict=True)]
        self.values = torch.zeros_like(task.weight)
        self.d_hidden = [torch.zeros_like(h) for h in hidden]
        self.small: Tensor | None = None
        if alpha is not None:
            if alpha.is_cuda:  # a look would make the device wait
                self.small = torch.arange(alpha.shape[1], device=alpha.device)
            elif bool((below := (alpha < SMALL_DISPERSION).any(0)).any()):
                self.small = below.nonzero().squeeze(1)
        self.constant, self.rise, self.d_rise = self._count_terms()

    def _count_terms(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What depends on a count and its dispersion alone, once for all passes, (Z,) each or None."""
        sparse, x = self.task.rows.sparse, self.task.values
        if sparse is None or self.task.head.dist == "Bernoulli":
            return None, None, None
        n = 1 if x.is_cuda else n_workers()
        edges = [len(x) * i // n for i in range(n + 1)]
        runs = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        parts = side_by_side([partial(self._terms_of, run) for run in runs])
        constant = torch.cat([p[0] for p in parts])
        if self.alpha is None:
            return constant, None, None
        return constant, torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts])

    def _terms_of(self, run: slice) -> tuple[Tensor, ...]:
        task, sparse = self.task, self.task.rows.sparse
        assert sparse is not None
        x = task.values[run]
        constant = -torch.lgamma(x + 1)
        if self.alpha is None:
            return (constant,)
        code = task.code.index_select(0, sparse.row[run] % len(task.code))
        at = code * self.alpha.shape[1] + sparse.col[run]
        return constant, *rising(x, self.alpha.reshape(-1).index_select(0, at))

    def run(self) -> Sums:
        """Do all jobs; gradients of the loss besides those of the hidden rows."""
        calls, at = [], 0
        for share in self.task.shares:
            calls.append(partial(self._share, share, at))
            at += sum(j.n_rows for j in share)
        sums = side_by_side(calls) or [Sums(self)]
        for other in sums[1:]:
            sums[0].add(other)
        if self.want:
            for d in self.d_hidden:
                d.mul_(self.task.weight[:, None])
        return sums[0]

    def _share(self, jobs: list[Job], at: int) -> Sums:
        """One worker's jobs, whose rows begin at `at`."""
        sums, scratch = Sums(self), Scratch(self.values)
        for job in jobs:
            _JobWork(self, sums, scratch, job, at).run()
            at += job.n_rows
        return sums


class Sums:
    """Gradients of the loss that a worker has added up, shaped like the parameters of the step."""

    def __init__(self, step: Step) -> None:
        self.weight = [torch.zeros_like(w) for w in step.weight] if step.want else []  # (D_g, K + 1)
        self.alpha = torch.zeros_like(step.alpha) if step.want and step.alpha is not None else None
        self.pi = torch.zeros_like(step.pi) if step.want and step.pi is not None else None

    def add(self, other: Sums) -> None:
        """Add another worker's."""
        for mine, theirs in zip(self._all(), other._all(), strict=True):
            mine.add_(theirs)

    def _all(self) -> list[Tensor]:
        return [*self.weight, *(v for v in (self.alpha, self.pi) if v is not None)]


def _with_ones(hidden: Tensor, group: BlockGroup) -> Tensor:
    """Hidden rows by block with a column of ones, (R, G, K + 1), or (R, 1, width + 1)."""
    blocks = group.n_blocks if group.dec else 1
    h = hidden.view(len(hidden), blocks, hidden.shape[1] // blocks)
    return torch.cat([h, h.new_ones(*h.shape[:2], 1)], 2)


def of_block(group: BlockGroup, hidden: Tensor, b: int) -> Tensor:
    """Columns of a group's hidden rows that feed block b."""
    return hidden[:, b * group.dec : (b + 1) * group.dec] if group.dec else hidden


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layer:
    """The last layer of one block, for a job: its rows, the columns of weights, and their gradients."""

    hidden: Tensor  # (r, K + 1), a column of ones at the end
    scaled: Tensor  # weight of the row * hidden (r, K + 1)
    d_hidden: Tensor  # (r, K), still without the weight of the row
    weight: Tensor  # (d, K + 1), the bias at the end
    d_weight: Tensor  # (d, K + 1)


class _JobWork:
    """The tiles of one job."""

    def __init__(self, step: Step, sums: Sums, scratch: Scratch, job: Job, at: int) -> None:
        self.step, self.sums, self.scratch, self.job = step, sums, scratch, job
        task, here = step.task, slice(at, at + job.n_rows)
        self.targets = targets_of(job, task.rows)
        self.values, self.weight = step.values[here], task.weight[here]
        self.code = task.code.index_select(0, job.pick)
        self.library = None if task.library is None else task.library.index_select(0, job.pick)[:, None]
        c = self.targets.columns
        self.spans = spans_of(c, step.edges)
        self.low, self.high, self.centre, self.pi = (
            v if v is None or c is None else v.index_select(0, c)
            for v in (task.head.low, task.head.high, task.head.centre, step.pi)
        )
        self.alpha = step.alpha if step.alpha is None or c is None else step.alpha.index_select(1, c)
        self.small = step.small
        if self.small is not None and c is not None:  # never so on a device, whose jobs keep all columns
            self.small = torch.isin(c, self.small).nonzero().squeeze(1)
        self.parts: list[tuple[int, Tensor, Tensor]] = []  # group, columns, and their gradient
        self.layers = self._layers(here)
        self.dense: Tensor | None = None
        if self.targets.position is None:
            rows = task.values.index_select(0, job.pick)
            self.dense = rows if c is None else rows.index_select(1, c)
        else:
            self._nonzeros(self.targets.position)

    def _nonzeros(self, position: Tensor) -> None:
        step, t = self.step, self.targets
        assert t.row is not None and t.col is not None
        self.local = t.row % max(self.job.n_rows, 1)
        self.terms = [
            None if v is None else v.index_select(0, position)
            for v in (step.task.values, step.constant, step.rise, step.d_rise)
        ]
        if self.job.view is not None and position.is_cuda:  # there they are not sorted out before
            counts = self.job.view.table[self.job.view.index[self.local], t.col]
            self.terms = [None if v is None else v * counts for v in self.terms]

    def _layers(self, here: slice) -> dict[int, _Layer]:
        """The last layer of each block, by position of the block."""
        step, c, out = self.step, self.targets.columns, {}
        for i, g in enumerate(step.task.head.groups):
            mine = [s for s in self.spans if s.group == i]
            if not mine:
                continue
            lo, hi = mine[0].lo, mine[-1].hi
            weight = step.weight[i]
            d_weight = self.sums.weight[i] if step.want else weight
            if c is not None:
                columns = c[lo:hi] - g.lo
                weight = weight.index_select(0, columns)
                d_weight = torch.zeros_like(weight)
                self.parts.append((i, columns, d_weight))
            hidden, d_hidden = step.hidden[i][here], step.d_hidden[i][here]
            scaled = step.scaled[i][here] if step.want else hidden
            for s in mine:
                block, span = s.block if g.dec else 0, slice(s.lo - lo, s.hi - lo)
                out[s.index] = _Layer(
                    hidden=hidden[:, block],
                    scaled=scaled[:, block],
                    d_hidden=of_block(g, d_hidden, s.block),
                    weight=weight[span],
                    d_weight=d_weight[span],
                )
        return out

    def run(self) -> None:
        """Add the job's log-likelihoods and gradients."""
        if self.job.n_rows == 0:
            return
        head = self.step.task.head
        whole_rows = self.library is not None
        cuda = self.weight.is_cuda
        limit = None if cuda else TILE_ENTRIES[head.dist]
        if whole_rows and head.dist == "Poisson" and len(self.spans) > 1 and not cuda:
            if self._softmax_by_block():
                self._collect()
                return
        for piece in cut(
            self.job.n_rows, self.targets, self.spans, whole_rows=whole_rows, max_entries=limit
        ):
            self._tile(piece)
        self._collect()

    def _tile(self, piece: Cut) -> None:
        """Output, likelihood and gradients of one tile."""
        tile = self._fill(piece)
        result = TILE[self.step.task.head.dist](tile)
        self.values[piece.rows] += result.value
        if not self.step.want:
            return
        self._carry_back(piece, tile.o)
        columns = self.targets.columns
        for total, mine in ((self.sums.alpha, result.d_alpha), (self.sums.pi, result.d_pi)):
            if total is None or mine is None:
                continue
            if columns is None:
                total[..., piece.lo : piece.hi] += mine
            else:
                total.index_add_(-1, columns[piece.lo : piece.hi], mine)

    def _fill(self, piece: Cut) -> Tile:
        """The decoder's output of a tile, and what its likelihood needs."""
        rows, lo, hi, job, t = piece.rows, piece.lo, piece.hi, self.job, self.targets
        o = self.scratch.take(0, rows.stop - rows.start, hi - lo)
        for s in piece.spans:
            layer = self.layers[s.index]
            torch.mm(layer.hidden[rows], layer.weight.T, out=o[:, s.lo - lo : s.hi - lo])
        tile = Tile(
            o=o,
            scratch=self.scratch,
            library=None if self.library is None else self.library[rows],
            low=self.low[lo:hi],
            high=self.high[lo:hi],
            centre=self.centre[lo:hi],
            code=self.code[rows],
            weight=self.weight[rows],
            pi=None if self.pi is None else self.pi[lo:hi],
            dense=None if self.dense is None else self.dense[rows, lo:hi],
            target=None if t.target is None else t.target[:, lo:hi],
        )
        if self.alpha is not None:
            tile.alpha = self.alpha[:, lo:hi]
        if self.small is not None and o.is_cuda:
            tile.small = self.small
        elif self.small is not None:
            inside = self.small[(self.small >= lo) & (self.small < hi)]
            tile.small = inside - lo if len(inside) else None
        if job.view is not None:
            tile.target = job.view.table[job.view.index[rows], lo:hi].to(o.dtype)
        if job.panel is not None:
            tile.panel = job.panel.table[job.panel.index[rows], lo:hi].to(o.dtype)
        if t.col is not None and piece.run is not None:
            run = piece.run
            tile.row = self.local[run] - rows.start if rows.start else self.local[run]
            tile.at = (tile.row * (hi - lo)).add_(t.col[run]).sub_(lo)
            tile.x, tile.constant, tile.rise, tile.d_rise = (None if v is None else v[run] for v in self.terms)
        return tile

    def _carry_back(self, piece: Cut, d_o: Tensor) -> None:
        """Add the gradients of the last layer, given that of a tile's output."""
        rows, lo = piece.rows, piece.lo
        for s in piece.spans:
            layer, d = self.layers[s.index], d_o[:, s.lo - lo : s.hi - lo]
            layer.d_hidden[rows].addmm_(d, layer.weight[:, :-1])
            layer.d_weight.addmm_(d.T, layer.scaled[rows])

    def _softmax_by_block(self) -> bool:
        """Poisson with a softmax over many blocks: the sums first, then each block again with its gradient.

        Computing the output twice in the cache is cheaper than keeping whole rows outside it.

        Returns
        -------
        False, with nothing added, if the output is so large or small that its exponential is not exact.
        """
        assert self.library is not None
        library, n = self.library.squeeze(1), self.job.n_rows
        limit = TILE_ENTRIES["Poisson"]
        pieces = list(cut(n, self.targets, self.spans, whole_rows=False, max_entries=limit))
        total, expected = torch.zeros_like(library), torch.zeros_like(library)
        for piece in pieces:
            tile = self._fill(piece)
            weight = tile.o.exp_()
            if tile.panel is not None:
                weight.mul_(tile.panel)
            total[piece.rows] += weight.sum(1)
            if tile.target is not None:
                expected[piece.rows] += weight.mul_(tile.target).sum(1)
        if not bool(((total > 1e-20) & (total < 1e30)).all()):
            return False
        rate = library / total
        partly = self.job.view is not None or self.targets.target is not None
        expected = expected * rate if partly else library
        x = self.terms[0]
        assert x is not None
        seen = expected.new_zeros(n).index_add_(0, self.local, x)
        share = (seen - expected) / library.clamp(min=torch.finfo(library.dtype).tiny)
        self.values -= expected
        for piece in pieces:
            tile = self._fill(piece)
            self.values[piece.rows] += multinomial_block(tile, rate[piece.rows, None], share[piece.rows, None])
            if self.step.want:
                self._carry_back(piece, tile.o)
        return True

    def _collect(self) -> None:
        """Add the gradients of gathered columns to those of the modality."""
        if self.step.want:
            for i, columns, d_weight in self.parts:
                self.sums.weight[i].index_add_(0, columns, d_weight)
