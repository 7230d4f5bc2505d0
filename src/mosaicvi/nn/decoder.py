"""Decoder: latent -> hidden rows; hidden rows and targets -> loss, tile by tile.

The last layer and the likelihood are one operation: a tile of the output lives in the cache from the
product that makes it to the products that carry its gradient back, and B x D never exists.

Legend: R rows that have a target, D_m features of a modality, G blocks of a group, K = `dim_block_dec`,
A distinct covariate rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mosaicvi.config import Distribution, NetworkConfig
from mosaicvi.nn.groups import BlockGroup, block_groups
from mosaicvi.nn.layers import HiddenStack, glorot_, leaky, make_linear
from mosaicvi.data.minibatch import SparseRows
from mosaicvi.nn.likelihoods import TILE, Tile, TileResult, dispersion, rising, zero_inflation
from mosaicvi.nn.targets import Job, Span, Targets, spans_of, tiles

TILE_ENTRIES = 1 << 18  # of one tile of output: 1 MiB, about half of a core's second-level cache
HAS_DISPERSION = frozenset({"NB", "ZINB", "Gaussian"})


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


class Decoder(nn.Module):
    """p(x | z).

    Parameters
    ----------
    config
        The network's parameters.
    n_covariates
        Number of covariates, C.
    generator
        Decides the first weights.
    """

    def __init__(self, config: NetworkConfig, n_covariates: int, generator: Generator) -> None:
        super().__init__()
        self.config = config
        self.groups = block_groups(config)
        n_in = config.dim_latent + n_covariates + (sum(config.dim_block_embed) if config.decode_mask else 0)
        self.hidden = HiddenStack(n_in, config.dimensions[::-1], config.norm, generator)
        width = self.hidden.n_out
        self.inner = nn.ModuleList(
            [
                make_linear(width, g.n_blocks * g.dec, generator) if g.dec else nn.Identity()
                for g in self.groups
            ]
        )
        self.weight, self.bias = nn.ParameterList(), nn.ParameterList()
        for g in self.groups:
            w = torch.empty(g.hi - g.lo, g.dec or width)
            for lo, hi in g.spans:
                glorot_(w[lo - g.lo : hi - g.lo], g.dec or width, hi - lo, generator)
            self.weight.append(nn.Parameter(w))
            self.bias.append(nn.Parameter(torch.zeros(g.hi - g.lo)))
        self.dispersion, self.inflation = nn.ParameterDict(), nn.ParameterDict()
        for m, (size, dist) in enumerate(zip(config.dim_input_arr, config.distributions, strict=True)):
            if dist in HAS_DISPERSION:
                kernel = torch.empty(n_covariates, size)
                glorot_(kernel, n_covariates, size, generator)
                self.dispersion[str(m)] = nn.Parameter(kernel)
            if dist == "ZINB":
                self.inflation[str(m)] = nn.Parameter(torch.full((size,), -2.0))

    def of_modality(self, m: int) -> list[int]:
        """Positions of a modality's groups."""
        return [i for i, g in enumerate(self.groups) if g.modality == m]

    def trunk(self, z: Tensor, embedding: Tensor, covariates: Tensor, n_passes: int) -> Tensor:
        """Hidden rows (P * B, width of the last hidden layer)."""
        parts = [z, embedding, covariates] if self.config.decode_mask else [z, covariates]
        return self.hidden(torch.cat(parts, 1), n_passes)  # type: ignore[no-any-return]

    def block_hidden(self, i: int, h: Tensor, skip: Tensor | None) -> Tensor:
        """g_b of group i: (R, G * K), or (R, width) without a sub-network."""
        if not self.groups[i].dec:
            return h
        g: Tensor = leaky(self.inner[i](h))
        return g if skip is None else g + skip.flatten(1)

    def alpha_table(self, m: int, covariate_table: Tensor) -> Tensor | None:
        """Dispersion of modality m for each distinct covariate row, (A, D_m), or None."""
        if str(m) not in self.dispersion:
            return None
        return dispersion(covariate_table, self.dispersion[str(m)], self.config.max_disp)

    def pi(self, m: int) -> Tensor | None:
        """Zero inflation of modality m, (D_m,), or None."""
        return zero_inflation(self.inflation[str(m)]) if str(m) in self.inflation else None

    def loss(
        self, head: Head, m: int, hidden: list[Tensor], targets: list[Targets], covariate_table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted loss of modality m and the plain log-likelihood summed over each pass.

        Parameters
        ----------
        head
            Constants of the modality.
        m
            Its position.
        hidden
            `block_hidden` of its groups over the rows of all passes, (R, ...).
        targets
            What each pass must predict; their rows follow one another in `hidden`.
        covariate_table
            Distinct covariate rows (A, C).
        """
        groups = self.of_modality(m)
        alpha, pi = self.alpha_table(m, covariate_table), self.pi(m)
        loss, by_pass = _Likelihood.apply(  # type: ignore[no-untyped-call]
            head,
            targets,
            alpha,
            pi,
            *hidden,
            *[self.weight[i] for i in groups],
            *[self.bias[i] for i in groups],
        )
        return loss, by_pass

    def output(self, m: int, hidden: list[Tensor]) -> Tensor:
        """Dense decoder output of modality m, (R, D_m)."""
        parts = []
        for i, h in zip(self.of_modality(m), hidden, strict=True):
            g = self.groups[i]
            for b, (lo, hi) in enumerate(g.spans):
                span = slice(lo - g.lo, hi - g.lo)
                parts.append(torch.addmm(self.bias[i][span], _of_block(g, h, b), self.weight[i][span].T))
        return torch.cat(parts, 1)


def _of_block(group: BlockGroup, hidden: Tensor, b: int) -> Tensor:
    return hidden[:, b * group.dec : (b + 1) * group.dec] if group.dec else hidden


class _Likelihood(torch.autograd.Function):
    """Sum over passes of -weight * log-likelihood, its gradients computed on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        head: Head,
        targets: list[Targets],
        alpha: Tensor | None,
        pi: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        n = len(head.groups)
        work = _Work(head, alpha, pi, list(tensors[:n]), list(tensors[n : 2 * n]), list(tensors[2 * n :]))
        work.want = any(ctx.needs_input_grad)
        values, loss, at = [], tensors[0].new_zeros(()), 0
        for t in targets:
            value = work.add_pass(t, at)
            loss = loss - t.weight * value
            values.append(value)
            at += len(t.cells)
        if work.want:
            grads = [*work.d_hidden, *work.d_weight, *work.d_bias]
            ctx.has_alpha, ctx.has_pi = work.d_alpha is not None, work.d_pi is not None
            ctx.save_for_backward(*[g for g in (work.d_alpha, work.d_pi, *grads) if g is not None])
        by_pass = torch.stack(values)
        ctx.mark_non_differentiable(by_pass)
        return loss, by_pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved = [g.mul_(grad) for g in ctx.saved_tensors]
        d_alpha = saved.pop(0) if ctx.has_alpha else None
        d_pi = saved.pop(0) if ctx.has_pi else None
        return (None, None, d_alpha, d_pi, *saved)


class _Work:
    """Accumulators of one modality while its tiles pass through the cache."""

    def __init__(
        self,
        head: Head,
        alpha: Tensor | None,
        pi: Tensor | None,
        hidden: list[Tensor],
        weight: list[Tensor],
        bias: list[Tensor],
    ) -> None:
        self.head, self.alpha, self.pi = head, alpha, pi
        self.hidden, self.weight = hidden, weight
        self.want = True
        # the bias rides along as one more column: a product with it is one pass over the tile, not two
        self.hidden_1 = [_with_ones(h, g) for h, g in zip(hidden, head.groups, strict=True)]
        self.weight_1 = [torch.cat([w, b[:, None]], 1) for w, b in zip(weight, bias, strict=True)]
        self.d_hidden = [torch.zeros_like(h) for h in hidden]
        self.d_weight = [torch.zeros_like(w) for w in weight]
        self.d_bias = [torch.zeros_like(b) for b in bias]
        self.d_alpha = None if alpha is None else torch.zeros_like(alpha)
        self.d_pi = None if pi is None else torch.zeros_like(pi)
        self.edges = [(i, b, lo, hi) for i, g in enumerate(head.groups) for b, (lo, hi) in enumerate(g.spans)]
        self.buffer = weight[0].new_empty(0)

    def add_pass(self, t: Targets, at: int) -> Tensor:
        """Log-likelihood of a pass whose rows begin at `at`; gradients go to the accumulators."""
        total = self.weight[0].new_zeros(())
        for job in t.jobs:
            if job.n_rows:
                total = total + _JobWork(self, t, job, at).run()
        return total

    def output(self, n: int, d: int) -> Tensor:
        """A tile's output (n, d) in a buffer that stays in the cache."""
        if len(self.buffer) < n * d:
            self.buffer = self.buffer.new_empty(n * d)
        return self.buffer[: n * d].view(n, d)


def _with_ones(hidden: Tensor, group: BlockGroup) -> Tensor:
    """Hidden rows by block with a column of ones, (R, G, K + 1), or (R, 1, width + 1)."""
    h = hidden.view(len(hidden), group.n_blocks if group.dec else 1, -1)
    return torch.cat([h, h.new_ones(*h.shape[:2], 1)], 2)


class _JobWork:
    """The tiles of one job."""

    def __init__(self, work: _Work, t: Targets, job: Job, at: int) -> None:
        self.w, self.t, self.job = work, t, job
        self.first = at + job.rows.start
        self.code = t.covariate_code[job.rows]
        self.library = None if t.library is None else t.library[job.rows]
        self.spans = spans_of(job, work.edges)
        pick = (lambda v: v) if job.columns is None else (lambda v: v[..., job.columns])
        head = work.head
        self.low, self.high, self.centre = pick(head.low), pick(head.high), pick(head.centre)
        self.alpha = None if work.alpha is None else pick(work.alpha)
        self.pi = None if work.pi is None else pick(work.pi)
        self.d_alpha = None if self.alpha is None else torch.zeros_like(self.alpha)
        self.d_pi = None if self.pi is None else torch.zeros_like(self.pi)
        # positions in a group's weights: of the job's columns, or all of them
        self.columns = job.columns
        self.rise = self.d_rise = self.constant = None
        if job.sparse is not None:
            self._prepare_counts(job.sparse)

    def _prepare_counts(self, sparse: SparseRows) -> None:
        """What depends on a count and its dispersion alone, for all non-zeros of the job at once."""
        dist = self.w.head.dist
        if dist == "Bernoulli":
            return
        self.constant = -torch.lgamma(sparse.value + 1)
        if self.alpha is not None:
            alpha = self.alpha[self.code[sparse.row % self.job.n_rows], sparse.col]
            self.rise, self.d_rise = rising(sparse.value, alpha)

    def run(self) -> Tensor:
        """Log-likelihood of the job."""
        w, job = self.w, self.job
        whole = w.weight[0].is_cuda
        by_block = len(self.spans) > 1 and self.library is None and job.columns is None and not whole
        total = w.weight[0].new_zeros(())
        limit = TILE_ENTRIES if not whole else job.n_rows * w.head.n_features
        weights = self._weights()
        for rows, spans, run in tiles(job, self.spans, by_block=by_block, max_entries=limit):
            total = total + self._tile(rows, spans, run, weights)
        if w.want:
            self._collect(weights)
        return total

    def _weights(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Weights with bias, weights, and their gradients, for the columns of each group."""
        w, out = self.w, []
        for i, g in enumerate(w.head.groups):
            if self.columns is None:
                out.append((w.weight_1[i], w.weight[i], w.d_weight[i], w.d_bias[i]))
                continue
            mine = self._mine(g)
            picked = w.weight_1[i][mine]
            out.append((picked, picked[:, :-1], torch.zeros_like(picked[:, :-1]), torch.zeros_like(picked[:, 0])))
        return out

    def _mine(self, g: BlockGroup) -> Tensor:
        """Rows of a group's weights that the job needs."""
        assert self.columns is not None
        ends = torch.searchsorted(self.columns, torch.tensor([g.lo, g.hi], device=self.columns.device)).tolist()
        return self.columns[ends[0] : ends[1]] - g.lo

    def _base(self, i: int) -> int:
        """First column of the job that belongs to group i."""
        g = self.w.head.groups[i]
        if self.columns is None:
            return g.lo
        return int(torch.searchsorted(self.columns, g.lo))

    def _tile(
        self,
        rows: slice,
        spans: list[Span],
        run: Tensor | slice | None,
        weights: list[tuple[Tensor, Tensor, Tensor, Tensor]],
    ) -> Tensor:
        w, lo, hi = self.w, spans[0].lo, spans[-1].hi
        here = slice(self.first + rows.start, self.first + rows.stop)
        o = w.output(rows.stop - rows.start, hi - lo)
        bases = {s.group: self._base(s.group) for s in spans}
        for s in spans:
            block = s.block if w.head.groups[s.group].dec else 0
            span = slice(s.lo - bases[s.group], s.hi - bases[s.group])
            torch.mm(w.hidden_1[s.group][here, block], weights[s.group][0][span].T, out=o[:, s.lo - lo : s.hi - lo])
        tile = self._fill(rows, lo, hi, o, run)
        result = TILE[w.head.dist](tile)
        if w.want:
            for s in spans:
                g = w.head.groups[s.group]
                span = slice(s.lo - bases[s.group], s.hi - bases[s.group])
                d = tile.o[:, s.lo - lo : s.hi - lo]
                _, weight, d_weight, d_bias = weights[s.group]
                _of_block(g, w.d_hidden[s.group][here], s.block).addmm_(d, weight[span], alpha=-self.t.weight)
                h = _of_block(g, w.hidden[s.group][here], s.block)
                d_weight[span].addmm_(d.T, h, alpha=-self.t.weight)
                d_bias[span].add_(d.sum(0), alpha=-self.t.weight)
            self._collect_alpha(result, rows, lo, hi)
        return result.value

    def _collect_alpha(self, result: TileResult, rows: slice, lo: int, hi: int) -> None:
        if result.d_alpha is not None and self.d_alpha is not None:
            code = self.code[rows]
            member = torch.zeros(len(self.d_alpha), len(code), dtype=result.d_alpha.dtype, device=code.device)
            member.scatter_(0, code[None], 1.0)
            self.d_alpha[:, lo:hi].addmm_(member, result.d_alpha, alpha=-self.t.weight)
        if result.d_pi is not None and self.d_pi is not None:
            self.d_pi[lo:hi].add_(result.d_pi, alpha=-self.t.weight)

    def _collect(self, weights: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
        """Add the job's gradients to those of the modality."""
        w = self.w
        for total, mine in ((w.d_alpha, self.d_alpha), (w.d_pi, self.d_pi)):
            if total is None or mine is None:
                continue
            if self.columns is None:
                total += mine
            else:
                total.index_add_(-1, self.columns, mine)
        if self.columns is None:
            return
        for i, g in enumerate(w.head.groups):
            mine = self._mine(g)
            w.d_weight[i].index_add_(0, mine, weights[i][2])
            w.d_bias[i].index_add_(0, mine, weights[i][3])

    def _fill(self, rows: slice, lo: int, hi: int, o: Tensor, run: Tensor | slice | None) -> Tile:
        job = self.job
        tile = Tile(
            o=o,
            library=None if self.library is None else self.library[rows],
            low=self.low[lo:hi],
            high=self.high[lo:hi],
            centre=self.centre[lo:hi],
            alpha=None if self.alpha is None else self._alpha(rows, lo, hi),
            pi=None if self.pi is None else self.pi[lo:hi],
            dense=None if job.dense is None else job.dense[rows, lo:hi],
        )
        if job.view is not None:
            tile.target = job.view.table[job.view.index[rows], lo:hi].to(o.dtype)
            if job.panel_view is not None and tile.library is not None:
                tile.panel = job.panel_view.table[job.panel_view.index[rows], lo:hi].to(o.dtype)
        else:
            tile.target = None if job.target is None else job.target[:, lo:hi]
            tile.panel = None if job.panel is None else job.panel[:, lo:hi]
        if job.sparse is not None:
            assert run is not None
            row = job.sparse.row[run] % job.n_rows - rows.start
            tile.at = row * (hi - lo) + (job.sparse.col[run] - lo)
            tile.x = job.sparse.value[run]
            tile.constant = None if self.constant is None else self.constant[run]
            tile.rise = None if self.rise is None else self.rise[run]
            tile.d_rise = None if self.d_rise is None else self.d_rise[run]
        return tile

    def _alpha(self, rows: slice, lo: int, hi: int) -> Tensor:
        """Dispersion of each entry (r, d), without a copy where all cells share it."""
        assert self.alpha is not None
        if len(self.alpha) == 1:
            return self.alpha[:, lo:hi].expand(rows.stop - rows.start, -1)
        return self.alpha[self.code[rows], lo:hi]
