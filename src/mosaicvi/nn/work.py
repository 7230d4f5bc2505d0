"""The last layer and the likelihood of one modality, tile by tile, with their gradients.

A tile of the output lives in the cache from the product that makes it to the products that carry its
gradient back; R x D_m never exists.

Legend: R rows with a target, D_m features, G blocks of a group, K = `dim_block_dec`, A covariate rows.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mosaicvi.config import Distribution
from mosaicvi.data.minibatch import SparseRows
from mosaicvi.nn.groups import BlockGroup
from mosaicvi.nn.likelihoods import (
    LARGE_OUTPUT,
    SMALL_DISPERSION,
    TILE,
    Tile,
    TileResult,
    multinomial_block,
    rising,
)
from mosaicvi.nn.targets import Job, Span, spans_of, tiles

TILE_ENTRIES = 3 << 17  # of one tile of output: 1.5 MiB, three quarters of a core's second-level cache

MANY_ROWS = 128  # of a tile that spans many blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """The constants of one modality's likelihood; bounds are (D_m,)."""

    dist: Distribution
    groups: tuple[BlockGroup, ...]
    low: Tensor
    high: Tensor
    centre: Tensor

    @property
    def n_features(self) -> int:
        """D_m."""
        return self.groups[-1].hi

    @property
    def n_blocks(self) -> int:
        """Blocks of the modality."""
        return sum(g.n_blocks for g in self.groups)


MANY_ROWS = 128  # of a tile that spans many blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """The R rows of a modality's jobs, one job after another, and the values behind them.

    Attributes
    ----------
    weight, of_pass
        Of each, its factor in the loss, and its pass, (R,).
    code, library
        Of the modality's rows: covariate row, and library or None, (n_m,).
    values, sparse
        Values as the likelihood sees them, and where the non-zeros are.
    """

    weight: Tensor
    of_pass: Tensor
    n_passes: int
    code: Tensor
    library: Tensor | None
    values: Tensor
    sparse: SparseRows | None


def of_block(group: BlockGroup, hidden: Tensor, b: int) -> Tensor:
    """Columns of a group's hidden rows that feed block b."""
    return hidden[:, b * group.dec : (b + 1) * group.dec] if group.dec else hidden


MANY_ROWS = 128  # of a tile that spans many blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layer:
    """The last layer of one block, for the columns of a job: weights with the bias, and their gradients."""

    hidden_1: Tensor  # (R, K + 1), a column of ones at the end
    scaled: Tensor  # -weight * hidden (R, K)
    d_hidden: Tensor  # (R, K)
    weight_1: Tensor  # (d, K + 1)
    weight: Tensor  # (d, K)
    d_weight: Tensor  # (d, K)
    d_bias: Tensor  # (d,)


class Work:
    """Accumulators of one modality while its tiles pass through the cache.

    Parameters
    ----------
    head
        Constants of the modality.
    rows
        Its rows.
    alpha, pi
        Dispersion (A, D_m) and zero inflation (D_m,), or None.
    hidden, weight, bias
        Of each group: hidden rows (R, G * K), weights (D_g, K) and bias (D_g,) of the last layer.
    want
        Whether gradients are wanted.
    """

    def __init__(
        self,
        head: Head,
        rows: Rows,
        alpha: Tensor | None,
        pi: Tensor | None,
        hidden: list[Tensor],
        weight: list[Tensor],
        bias: list[Tensor],
        *,
        want: bool,
    ) -> None:
        self.head, self.rows, self.alpha, self.pi, self.want = head, rows, alpha, pi, want
        self.minus = -rows.weight
        self.values = self.minus.new_zeros(len(self.minus))
        # the bias rides along as one more column: a product with it is one pass over the tile, not two
        self.hidden_1 = [_with_ones(h, g) for h, g in zip(hidden, head.groups, strict=True)]
        self.scaled = [h * self.minus[:, None] for h in hidden]
        self.weight_1 = [torch.cat([w, b[:, None]], 1) for w, b in zip(weight, bias, strict=True)]
        self.d_hidden = [torch.zeros_like(h) for h in hidden]
        self.d_weight = [torch.zeros_like(w) for w in weight]
        self.d_bias = [torch.zeros_like(b) for b in bias]
        self.d_alpha = None if alpha is None else torch.zeros_like(alpha)
        self.d_pi = None if pi is None else torch.zeros_like(pi)
        self.edges = [(i, b, lo, hi) for i, g in enumerate(head.groups) for b, (lo, hi) in enumerate(g.spans)]
        self.buffers = [self.minus.new_empty(0), self.minus.new_empty(0)]
        self.partial: list[tuple[int, Tensor, Tensor, Tensor]] = []
        self.constant: Tensor | None = None
        self.rise: Tensor | None = None
        self.d_rise: Tensor | None = None
        self.small = alpha is not None and (alpha.is_cuda or bool(alpha.min() < SMALL_DISPERSION))
        if rows.sparse is not None and head.dist != "Bernoulli":
            self._count_terms(rows.sparse)

    def _count_terms(self, sparse: SparseRows) -> None:
        """What depends on a count and its dispersion alone, once for all passes."""
        x = self.rows.values
        self.constant = -torch.lgamma(x + 1)
        if self.alpha is not None:
            code = self.rows.code[sparse.row % len(self.rows.code)]
            self.rise, self.d_rise = rising(x, self.alpha[code, sparse.col])

    def buffer(self, which: int, n: int, d: int) -> Tensor:
        """Memory of a tile (n, d) that is used again and stays in the cache."""
        if len(self.buffers[which]) < n * d:
            self.buffers[which] = self.minus.new_empty(n * d)
        return self.buffers[which][: n * d].view(n, d)

    def layers(self, job: Job, spans: list[Span], at: int) -> dict[int, _Layer]:
        """The last layer of each block for a job whose rows begin at `at`, by position of the block."""
        here, out = slice(at, at + job.n_rows), {}
        for i, g in enumerate(self.head.groups):
            mine = [s for s in spans if s.group == i]
            if not mine:
                continue
            lo, hi = mine[0].lo, mine[-1].hi
            if job.columns is None:
                weight_1, d_weight, d_bias = self.weight_1[i], self.d_weight[i], self.d_bias[i]
            else:
                weight_1 = self.weight_1[i][job.columns[lo:hi] - g.lo]
                d_weight = weight_1.new_zeros(hi - lo, weight_1.shape[1] - 1)
                d_bias = weight_1.new_zeros(hi - lo)
            hidden_1, scaled, d_hidden = self.hidden_1[i][here], self.scaled[i][here], self.d_hidden[i][here]
            for s in mine:
                span = slice(s.lo - lo, s.hi - lo)
                out[s.index] = _Layer(
                    hidden_1=hidden_1[:, s.block if g.dec else 0],
                    scaled=of_block(g, scaled, s.block),
                    d_hidden=of_block(g, d_hidden, s.block),
                    weight_1=weight_1[span].T,
                    weight=weight_1[span, :-1],
                    d_weight=d_weight[span],
                    d_bias=d_bias[span],
                )
            if job.columns is not None:
                self.partial.append((i, job.columns[lo:hi] - g.lo, d_weight, d_bias))
        return out

    def do(self, job: Job, at: int) -> None:
        """Add a job's log-likelihoods and gradients; its rows begin at `at`."""
        if job.n_rows == 0:
            return
        one = _JobWork(self, job, at)
        cuda = self.minus.is_cuda
        by_block = len(one.spans) > 1 and self.rows.library is None and job.columns is None and not cuda
        limit = TILE_ENTRIES
        if len(one.spans) > 1 and not by_block:  # many small products want more rows
            limit = max(limit, MANY_ROWS * self.head.n_features)
        if cuda:
            limit = job.n_rows * self.head.n_features
        softmax = self.head.dist == "Poisson" and self.rows.library is not None
        again = softmax and len(one.spans) > 1 and not cuda
        if not (again and one.softmax_by_block()):
            for rows, spans, run in tiles(job, one.spans, by_block=by_block, max_entries=limit):
                one.tile(rows, spans, run)
        if self.want:
            one.collect()

    def scale_hidden(self) -> None:
        """Put the rows' weights on the gradients of the hidden rows, which were left plain."""
        for d in self.d_hidden:
            d.mul_(self.minus[:, None])


def _with_ones(hidden: Tensor, group: BlockGroup) -> Tensor:
    """Hidden rows by block with a column of ones, (R, G, K + 1), or (R, 1, width + 1)."""
    blocks = group.n_blocks if group.dec else 1
    h = hidden.view(len(hidden), blocks, hidden.shape[1] // blocks)
    return torch.cat([h, h.new_ones(*h.shape[:2], 1)], 2)


class _JobWork:
    """The tiles of one job."""

    def __init__(self, work: Work, job: Job, at: int) -> None:
        self.w, self.job, self.at = work, job, at
        self.code = work.rows.code[job.pick]
        library = work.rows.library
        self.library = None if library is None else library[job.pick, None]
        self.minus = work.minus[at : at + job.n_rows]
        self.spans = spans_of(job, work.edges)
        self.layers = work.layers(job, self.spans, at)
        head, c = work.head, job.columns
        self.low, self.high, self.centre = (
            v if c is None else v[c] for v in (head.low, head.high, head.centre)
        )
        self.alpha = work.alpha if work.alpha is None or c is None else work.alpha[:, c]
        self.pi = work.pi if work.pi is None or c is None else work.pi[c]
        self.d_alpha = None if self.alpha is None else torch.zeros_like(self.alpha)
        self.d_pi = None if self.pi is None else torch.zeros_like(self.pi)
        self.dense: Tensor | None = None
        if job.position is None:
            self.dense = work.rows.values[job.pick] if c is None else work.rows.values[job.pick][:, c]
        else:
            self.local = job.row % job.n_rows if job.row is not None else job.position
            self.x = work.rows.values[job.position]
            self.terms = [
                None if v is None else v[job.position] for v in (work.constant, work.rise, work.d_rise)
            ]
            if job.view is not None and self.x.is_cuda and job.col is not None:
                self.x = self.x * job.view.table[job.view.index[self.local], job.col]

    def tile(self, rows: slice, spans: list[Span], run: Tensor | slice | None) -> None:
        """Output, likelihood and gradients of one tile."""
        o = self.product(rows, spans)
        tile = self._fill(rows, spans[0].lo, spans[-1].hi, o, run)
        result = TILE[self.w.head.dist](tile)
        self.w.values[self.at + rows.start : self.at + rows.stop] += result.value
        if self.w.want:
            self.carry_back(rows, spans, tile.o)
            self._collect_alpha(result, rows, spans[0].lo, spans[-1].hi)

    def product(self, rows: slice, spans: list[Span]) -> Tensor:
        """The decoder's output of a tile, (r, d)."""
        lo = spans[0].lo
        o = self.w.buffer(0, rows.stop - rows.start, spans[-1].hi - lo)
        for s in spans:
            layer = self.layers[s.index]
            torch.mm(layer.hidden_1[rows], layer.weight_1, out=o[:, s.lo - lo : s.hi - lo])
        return o

    def carry_back(self, rows: slice, spans: list[Span], d_o: Tensor) -> None:
        """Add the gradients of the last layer, given that of a tile's output."""
        lo = spans[0].lo
        for s in spans:
            layer, d = self.layers[s.index], d_o[:, s.lo - lo : s.hi - lo]
            layer.d_hidden[rows].addmm_(d, layer.weight)
            layer.d_weight.addmm_(d.T, layer.scaled[rows])
            layer.d_bias.addmv_(d.T, self.minus[rows])

    def softmax_by_block(self) -> bool:
        """Poisson with a softmax over many blocks: the sums first, then each block again with its gradient.

        Computing the output twice in the cache is cheaper than keeping whole rows outside it.

        Returns
        -------
        False, with nothing added, if the output is so large that its exponential could overflow.
        """
        w, library = self.w, self.library
        assert library is not None
        n = self.job.n_rows
        total, expected = w.minus.new_zeros(n), w.minus.new_zeros(n)
        listed = list(tiles(self.job, self.spans, by_block=True, max_entries=TILE_ENTRIES))
        for rows, spans, run in listed:
            tile = self._fill(rows, spans[0].lo, spans[-1].hi, self.product(rows, spans), run)
            if bool(tile.o.max() > LARGE_OUTPUT):
                return False
            weight = tile.o.exp_()
            if tile.panel is not None:
                weight.mul_(tile.panel)
            total[rows] += weight.sum(1)
            if tile.target is not None:
                expected[rows] += weight.mul_(tile.target).sum(1)
        tiny = torch.finfo(total.dtype).tiny
        if bool(total.min() < 1e-20):
            return False
        rate = library.squeeze(1) / total.clamp_(min=tiny)
        partial = self.job.view is not None or self.job.target is not None
        expected = expected * rate if partial else library.squeeze(1)
        seen = expected.new_zeros(n).index_add_(0, self.local, self.x)
        share = (seen - expected) / library.squeeze(1).clamp(min=tiny)
        values = -expected
        for rows, spans, run in listed:
            tile = self._fill(rows, spans[0].lo, spans[-1].hi, self.product(rows, spans), run)
            values[rows] += multinomial_block(tile, rate[rows, None], share[rows, None])
            if w.want:
                self.carry_back(rows, spans, tile.o)
        w.values[self.at : self.at + n] += values
        return True

    def _fill(self, rows: slice, lo: int, hi: int, o: Tensor, run: Tensor | slice | None) -> Tile:
        job = self.job
        tile = Tile(
            o=o,
            library=None if self.library is None else self.library[rows],
            low=self.low[lo:hi],
            high=self.high[lo:hi],
            centre=self.centre[lo:hi],
            alpha=None if self.alpha is None else self._alpha(rows, lo, hi),
            small=self.w.small,
            pi=None if self.pi is None else self.pi[lo:hi],
            dense=None if self.dense is None else self.dense[rows, lo:hi],
            target=None if job.target is None else job.target[:, lo:hi],
            scratch=self.w.buffer(1, *o.shape),
        )
        if job.view is not None:
            tile.target = job.view.table[job.view.index[rows], lo:hi].to(o.dtype)
        if job.panel is not None:
            tile.panel = job.panel.table[job.panel.index[rows], lo:hi].to(o.dtype)
        if job.col is not None and run is not None:
            tile.row = self.local[run] - rows.start
            tile.at = tile.row * (hi - lo) + (job.col[run] - lo)
            tile.x = self.x[run]
            tile.constant, tile.rise, tile.d_rise = (None if v is None else v[run] for v in self.terms)
        return tile

    def _alpha(self, rows: slice, lo: int, hi: int) -> Tensor:
        """Dispersion of each entry (r, d), without a copy where all cells share it."""
        assert self.alpha is not None
        if len(self.alpha) == 1:
            return self.alpha[:, lo:hi].expand(rows.stop - rows.start, -1)
        return self.alpha[self.code[rows], lo:hi]

    def _collect_alpha(self, result: TileResult, rows: slice, lo: int, hi: int) -> None:
        if result.d_alpha is not None and self.d_alpha is not None:
            code = self.code[rows]
            member = torch.zeros(len(self.d_alpha), len(code), dtype=result.d_alpha.dtype, device=code.device)
            member.scatter_(0, code[None], self.minus[None, rows])
            self.d_alpha[:, lo:hi].addmm_(member, result.d_alpha)
        if result.d_pi is not None and self.d_pi is not None:
            self.d_pi[lo:hi].addmv_(result.d_pi.T, self.minus[rows])

    def collect(self) -> None:
        """Add the job's gradients to those of the modality."""
        w, columns = self.w, self.job.columns
        for total, mine in ((w.d_alpha, self.d_alpha), (w.d_pi, self.d_pi)):
            if total is None or mine is None:
                continue
            if columns is None:
                total += mine
            else:
                total.index_add_(-1, columns, mine)
        for i, at, d_weight, d_bias in w.partial:
            w.d_weight[i].index_add_(0, at, d_weight)
            w.d_bias[i].index_add_(0, at, d_bias)
        w.partial.clear()
