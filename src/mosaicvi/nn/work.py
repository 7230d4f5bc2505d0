"""The last layer and the likelihood of one modality, tile by tile, with their gradients.

A tile of the output lives in the cache from the product that makes it to the products that carry its
gradient back; R x D_m never exists. Workers, one a core, have rows and sums of their own.

Legend: R rows with a target, r of them in a job, D_m features, d of them in a job, G blocks of a group,
K = `dim_block_dec`, A covariate rows, P passes, Z non-zeros.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mosaicvi.config import Distribution
from mosaicvi.data.minibatch import ModalityRows
from mosaicvi.nn import kernels
from mosaicvi.nn.counts import SMALL_DISPERSION, rising
from mosaicvi.nn.groups import BlockGroup
from mosaicvi.nn.likelihoods import TILE
from mosaicvi.nn.targets import Job, targets_of
from mosaicvi.nn.tile import Scratch, Tile
from mosaicvi.nn.tiling import Cut, cut, spans_of
from mosaicvi.nn.workers import side_by_side

# entries of a tile whose buffers together fit a core's second-level cache of 2 MiB
TILE_ENTRIES: dict[Distribution, int] = {
    "NB": 3 << 17,
    "ZINB": 3 << 15,
    "Poisson": 3 << 17,
    "Bernoulli": 3 << 17,
    "Gaussian": 3 << 15,
}


# what a likelihood and its gradient cost an output, in multiply-adds of a product, as measured
COMPILED: dict[Distribution, int] = {"NB": 50, "Poisson": 42, "Bernoulli": 36}
BY_TENSORS = 300


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


def cost_of_row(dist: Distribution, *, aware: bool, layers: list[Tensor]) -> float:
    """Work of a row that must predict a whole modality, in multiply-adds, to share rows among workers.

    Parameters
    ----------
    dist, aware
        Its likelihood, and whether the mean is library x softmax.
    layers
        Weights of its last layers with their biases, (K + 1, D_g) each.
    """
    by_sums = aware and dist == "Poisson"  # the product is made twice
    compiled = by_sums or kernels.kernel_of(dist, aware=aware) is not None
    each = COMPILED[dist] if compiled else BY_TENSORS
    return sum(w.shape[1] * ((4 if by_sums else 3) * w.shape[0] + each) for w in layers)


class Step:
    """A task with the last layers, and what all workers write to, each to rows of its own.

    Parameters
    ----------
    task
        What must be predicted.
    alpha, pi
        Dispersion (A, D_m) and zero inflation (D_m,), or None.
    hidden, weight
        Of each group: hidden rows (R, G * K), and weights of the last layer with the bias as last row,
        (K + 1, D_g).
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
        *,
        want: bool,
    ) -> None:
        self.task, self.alpha, self.pi, self.want = task, alpha, pi, want
        self.edges = task.head.edges
        # with a column of ones the bias is a row of the weights: one pass over the tile, not two
        self.hidden = [_with_ones(h, g) for h, g in zip(hidden, task.head.groups, strict=True)]
        self.scaled = [h * task.weight[:, None] for h in self.hidden] if want else []
        self.weight = weight
        self.values = torch.zeros_like(task.weight)
        self.d_hidden = [torch.zeros_like(h) for h in hidden]
        self.small = alpha is not None and (alpha.is_cuda or bool(alpha.min() < SMALL_DISPERSION))
        self.compiled = compiled = not self.values.is_cuda and self.values.dtype == torch.float32
        aware = task.library is not None
        self.kernel = kernels.kernel_of(task.head.dist, aware=aware) if compiled else None
        self.by_sums = compiled and aware and task.head.dist == "Poisson"
        self.constant, self.rise, self.d_rise = self._count_terms()

    def _count_terms(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What depends on a count and its dispersion alone, once for all passes, (Z,) each or None."""
        sparse, x = self.task.rows.sparse, self.task.values
        if sparse is None or self.task.head.dist == "Bernoulli":
            return None, None, None
        constant = -torch.lgamma(x + 1)
        if self.alpha is None:
            return constant, None, None
        code = self.task.code.index_select(0, sparse.row % len(self.task.code))
        at = code * self.alpha.shape[1] + sparse.col
        alpha = self.alpha.reshape(-1).index_select(0, at)
        if not self.compiled:
            return constant, *rising(x, alpha)
        rise, d_rise = kernels.rising(x.numpy(), alpha.numpy())
        return constant, torch.from_numpy(rise), torch.from_numpy(d_rise)

    def share(self, k: int) -> Sums:
        """Do the jobs of worker k; what it adds up."""
        shares = self.task.shares
        sums, scratch = Sums(self), Scratch(self.values)
        at = sum(job.n_rows for share in shares[:k] for job in share)
        for job in shares[k]:
            _JobWork(self, sums, scratch, job, at).run()
            at += job.n_rows
        return sums

    def finish(self, found: list[Sums]) -> Sums:
        """Gradients of the loss besides those of the hidden rows, given what the workers added up."""
        total = found[0] if found else Sums(self)
        for other in found[1:]:
            total.add(other)
        if self.want:
            for d in self.d_hidden:
                d.mul_(self.task.weight[:, None])
        return total


def run(steps: list[Step]) -> list[Sums]:
    """Do the tasks of all modalities, with one start and one end of the workers."""
    n = len(steps[0].task.shares)
    busy = [k for k in range(n) if any(s.task.shares[k] for s in steps)]
    found = side_by_side([partial(_shares, steps, k) for k in busy])
    return [s.finish([mine[i] for mine in found if i in mine]) for i, s in enumerate(steps)]


def _shares(steps: list[Step], k: int) -> dict[int, Sums]:
    """Worker k's share of each task that has one for it, by position of the task."""
    return {i: s.share(k) for i, s in enumerate(steps) if s.task.shares[k]}


class Sums:
    """Gradients of the loss that a worker has added up, shaped like the parameters of the step."""

    def __init__(self, step: Step) -> None:
        self.weight = [torch.zeros_like(w) for w in step.weight] if step.want else []  # (K + 1, D_g)
        self.alpha = torch.zeros_like(step.alpha) if step.want and step.alpha is not None else None
        self.pi = torch.zeros_like(step.pi) if step.want and step.pi is not None else None

    def add(self, other: Sums) -> None:
        """Add another worker's."""
        for mine, theirs in zip(self._all(), other._all(), strict=True):
            mine.add_(theirs)

    def _all(self) -> list[Tensor]:
        return [*self.weight, *(v for v in (self.alpha, self.pi) if v is not None)]


def _with_ones(hidden: Tensor, group: BlockGroup) -> Tensor:
    """Hidden rows by block with a column of ones, (G, R, K + 1), or (1, R, width + 1)."""
    blocks = group.n_blocks if group.dec else 1
    h = hidden.view(len(hidden), blocks, hidden.shape[1] // blocks).transpose(0, 1)
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
    weight: Tensor  # (K + 1, d), the bias at the end
    d_weight: Tensor  # (K + 1, d)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Piece:
    """One tile of a job: its output (r, d), and what the products of each of its blocks are given.

    `there`: hidden rows, weights, and their part of the output. `back`: that part, weights without the bias,
    scaled hidden rows, and the gradients of hidden rows and weights; weights and scaled rows transposed.
    """

    cut: Cut
    o: Tensor
    there: list[tuple[Tensor, Tensor, Tensor]]
    back: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]

    def product(self) -> Tensor:
        """The decoder's output."""
        for hidden, weight, o in self.there:
            torch.mm(hidden, weight, out=o)
        return self.o

    def carry_back(self) -> None:
        """Add the gradients of the last layer, given that of the output in its place."""
        for d_o, weight_t, scaled_t, d_hidden, d_weight in self.back:
            d_hidden.addmm_(d_o, weight_t)
            d_weight.addmm_(scaled_t, d_o)


class _JobWork:
    """The tiles of one job."""

    def __init__(self, step: Step, sums: Sums, scratch: Scratch, job: Job, at: int) -> None:
        self.step, self.sums, self.scratch, self.job = step, sums, scratch, job
        task, here = step.task, slice(at, at + job.n_rows)
        self.targets = targets_of(job, task.rows)
        self.values, self.weight = step.values[here], task.weight[here]
        self.code = task.code.index_select(0, job.pick)
        self.library = None if task.library is None else task.library.index_select(0, job.pick)
        c = self.targets.columns
        self.spans = spans_of(c, step.edges)
        self.low, self.high, self.centre = (
            v if c is None else v.index_select(0, c)
            for v in (task.head.low, task.head.high, task.head.centre)
        )
        self.pi = step.pi if step.pi is None or c is None else step.pi.index_select(0, c)
        self.alpha, self.d_alpha = step.alpha, sums.alpha
        if step.alpha is not None and (c is not None or sums.alpha is None):
            self.alpha = step.alpha if c is None else step.alpha.index_select(1, c)
            self.d_alpha = torch.zeros_like(self.alpha)
        self.parts: list[tuple[int, Tensor, Tensor]] = []  # group, columns, and their gradient
        self.layers = self._layers(here)

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
                weight = weight.index_select(1, columns)
                d_weight = torch.zeros_like(weight)
                self.parts.append((i, columns, d_weight))
            hidden, d_hidden = step.hidden[i], step.d_hidden[i][here]
            scaled = step.scaled[i] if step.want else hidden
            for s in mine:
                block, span = s.block if g.dec else 0, slice(s.lo - lo, s.hi - lo)
                out[s.index] = _Layer(
                    hidden=hidden[block, here],
                    scaled=scaled[block, here],
                    d_hidden=of_block(g, d_hidden, s.block),
                    weight=weight[:, span],
                    d_weight=d_weight[:, span],
                )
        return out

    def run(self) -> None:
        """Add the job's log-likelihoods and gradients."""
        if self.job.n_rows == 0:
            return
        if not (self.step.by_sums and self._by_sums()):
            if self.step.kernel is not None:
                self._by_kernel()
            else:
                self._by_tile()
        if not self.step.want:
            return
        if self.targets.columns is not None and self.sums.alpha is not None and self.d_alpha is not None:
            self.sums.alpha.index_add_(1, self.targets.columns, self.d_alpha)
        for i, columns, d_weight in self.parts:
            self.sums.weight[i].index_add_(1, columns, d_weight)

    def _pieces(self, *, whole_rows: bool) -> list[_Piece]:
        """Tiles; non-zeros that are not runs are put in an order in which they are."""
        limit = None if self.weight.is_cuda else TILE_ENTRIES[self.step.task.head.dist]
        pieces = cut(self.job.n_rows, self.targets.row, self.spans, whole_rows=whole_rows, max_entries=limit)
        if pieces.order is not None:
            self.targets = self.targets.ordered(pieces.order)
        return [self._piece(c) for c in pieces.tiles]

    def _piece(self, piece: Cut) -> _Piece:
        rows, lo = piece.rows, piece.lo
        o = self.scratch.take(0, rows.stop - rows.start, piece.hi - lo)
        there, back = [], []
        for s in piece.spans:
            layer, part = self.layers[s.index], o[:, s.lo - lo : s.hi - lo]
            there.append((layer.hidden[rows], layer.weight, part))
            if self.step.want:
                d_hidden, scaled_t = layer.d_hidden[rows], layer.scaled[rows].T
                back.append((part, layer.weight[:-1].T, scaled_t, d_hidden, layer.d_weight))
        return _Piece(cut=piece, o=o, there=there, back=back)

    def _nonzeros(self) -> dict[str, Tensor]:
        """Row, column, value and terms of the non-zero targets, (Z,) each."""
        t = self.targets
        if t.position is None or t.row is None or t.col is None:
            return {}
        named = {
            "x": self.step.task.values,
            "constant": self.step.constant,
            "rise": self.step.rise,
            "d_rise": self.step.d_rise,
        }
        found = {k: v.index_select(0, t.position) for k, v in named.items() if v is not None}
        return {"row": t.row % self.job.n_rows, "col": t.col} | found

    def _given(self) -> kernels.Job:
        """What a compiled likelihood is given."""
        return kernels.job_of(
            self.step.task.head.dist,
            low=self.low,
            high=self.high,
            code=self.code,
            weight=self.weight,
            wanted=self.targets.wanted,
            measured=self.job.panel,
            small=self.step.small,
            library=self.library,
            alpha=self.alpha,
            **self._nonzeros(),
        )

    def _by_kernel(self) -> None:
        """Compiled: product, likelihood and the way back, tile by tile."""
        kernel = self.step.kernel
        assert kernel is not None
        pieces = self._pieces(whole_rows=self.library is not None)
        given, value = self._given(), self.values.numpy()
        d_alpha = given.alpha if self.d_alpha is None else self.d_alpha.numpy()
        for piece in pieces:
            o, c = piece.product().numpy(), piece.cut
            kernel(o, c.rows.start, c.lo, c.run.start, c.run.stop, given, value, d_alpha)
            piece.carry_back()

    def _by_sums(self) -> bool:
        """Poisson with a softmax over many tiles: the sums first, then each tile again with its gradient.

        Computing the output twice in the cache is cheaper than keeping whole rows outside it.

        Returns
        -------
        False, with nothing added, if the output is so large or small that its exponential is not exact.
        """
        pieces = self._pieces(whole_rows=False)
        given, value = self._given(), self.values.numpy()
        library = given.library
        total, expected = np.zeros_like(library), np.zeros_like(library)
        for piece in pieces:
            kernels.add_sums(
                piece.product().numpy(), piece.cut.rows.start, piece.cut.lo, given, total, expected
            )
        if not kernels.in_range(total):
            return False
        rate = (library / total).astype(np.float32)
        expected = library if self.targets.wanted is None else expected * rate
        seen = np.bincount(given.row, given.x, minlength=len(library)).astype(np.float32)
        share = ((seen - expected) / np.maximum(library, kernels.TINY)).astype(np.float32)
        value -= expected
        for piece in pieces:
            o, c = piece.product().numpy(), piece.cut
            kernels.multinomial(o, c.rows.start, c.lo, c.run.start, c.run.stop, given, rate, share, value)
            piece.carry_back()
        return True

    def _by_tile(self) -> None:
        """The same by tensors, for any device and precision."""
        task, t, c = self.step.task, self.targets, self.targets.columns
        pieces = self._pieces(whole_rows=self.library is not None)
        nonzeros = self._nonzeros()
        if t.wanted is not None and t.col is not None and t.col.is_cuda:  # not sorted out before
            counts = t.wanted.table[t.wanted.index[nonzeros["row"]], t.col]
            nonzeros |= {k: v * counts for k, v in nonzeros.items() if k not in ("row", "col")}
        dense: Tensor | None = None
        if not nonzeros:
            dense = task.values.index_select(0, self.job.pick)
            dense = dense if c is None else dense.index_select(1, c)
        for piece in pieces:
            rows, lo, hi = piece.cut.rows, piece.cut.lo, piece.cut.hi
            some = {k: v[piece.cut.run] for k, v in nonzeros.items()}
            if some:
                some |= {"row": some["row"] - rows.start, "col": some["col"] - lo}
            tile = Tile(
                o=piece.product(),
                scratch=self.scratch,
                lo=lo,
                wanted=None if t.wanted is None else t.wanted.of_rows(rows),
                measured=None if self.job.panel is None else self.job.panel.of_rows(rows),
                library=None if self.library is None else self.library[rows, None],
                low=self.low[lo:hi],
                high=self.high[lo:hi],
                centre=self.centre[lo:hi],
                alpha=self.alpha,
                code=self.code[rows],
                small=self.step.small,
                weight=self.weight[rows],
                pi=None if self.pi is None else self.pi[lo:hi],
                dense=None if dense is None else dense[rows, lo:hi],
                **some,
            )
            result = TILE[task.head.dist](tile)
            self.values[rows] += result.value
            piece.carry_back()
            if result.d_alpha is not None and self.d_alpha is not None:
                self.d_alpha[:, lo:hi] += result.d_alpha
            if result.d_pi is not None and self.sums.pi is not None:
                self.sums.pi.index_add_(0, t.columns_of(lo, hi).to(self.weight.device), result.d_pi)
