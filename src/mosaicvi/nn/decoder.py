"""Decoder: latent -> hidden rows; hidden rows and targets -> loss, tile by tile.

The last layer and the likelihood are one operation: a tile of the output lives in the cache from the
product that makes it to the products that carry its gradient back, and B x D never exists.

Legend: R rows that have a target, D_m features of a modality, G blocks of a group, K = `dim_block_dec`,
A distinct covariate rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mosaicvi.config import Distribution, NetworkConfig
from mosaicvi.nn.groups import BlockGroup, block_groups
from mosaicvi.nn.layers import HiddenStack, glorot_, leaky, make_linear
from mosaicvi.nn.likelihoods import TILE, Tile, dispersion, zero_inflation
from mosaicvi.nn.masks import View

TILE_BYTES = 1 << 20  # of one tile of output; about half of a core's second-level cache
HAS_DISPERSION = frozenset({"NB", "ZINB", "Gaussian"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """What one pass must predict of one modality: R_p rows.

    Attributes
    ----------
    weight
        Factor of the log-likelihood in the loss; a number, or a 0-d tensor.
    view
        Which entries count.
    row, col, x
        The non-zero targets, block-major: block * R_p + row, column, value; (Z,) each.
    dense
        In place of them: all values (R_p, D_m).
    library
        (R_p,), or None.
    panel
        What each row measured, with `library`.
    covariate_code
        Row of the covariate table, (R_p,).
    """

    n_rows: int
    weight: float
    view: View
    row: Tensor | None
    col: Tensor | None
    x: Tensor | None
    dense: Tensor | None
    library: Tensor | None
    panel: View
    covariate_code: Tensor


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
            at += t.n_rows
        if work.want:
            grads = [*work.d_hidden, *work.d_weight, *work.d_bias]
            ctx.has_alpha, ctx.has_pi = work.d_alpha is not None, work.d_pi is not None
            ctx.save_for_backward(*[g for g in (work.d_alpha, work.d_pi, *grads) if g is not None])
        by_pass = torch.stack(values)
        ctx.mark_non_differentiable(by_pass)
        return loss, by_pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved = [g * grad for g in ctx.saved_tensors]
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
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.want = True
        self.d_hidden = [torch.zeros_like(h) for h in hidden]
        self.d_weight = [torch.zeros_like(w) for w in weight]
        self.d_bias = [torch.zeros_like(b) for b in bias]
        self.d_alpha = None if alpha is None else torch.zeros_like(alpha)
        self.d_pi = None if pi is None else torch.zeros_like(pi)
        self.blocks = [
            (i, b, lo, hi) for i, g in enumerate(head.groups) for b, (lo, hi) in enumerate(g.spans)
        ]  # group, block in the group, columns of the modality

    def add_pass(self, t: Targets, at: int) -> Tensor:
        """Log-likelihood of a pass whose rows begin at `at`; gradients go to the accumulators."""
        total = self.bias[0].new_zeros(())
        if t.n_rows == 0:
            return total
        for rows, blocks, run in _tiles(self.head, t, self.blocks, self.bias[0].is_cuda):
            total = total + self._tile(t, at, rows, blocks, run)
        return total

    def _tile(
        self,
        t: Targets,
        at: int,
        rows: slice,
        blocks: list[tuple[int, int, int, int]],
        run: Tensor | slice | None,
    ) -> Tensor:
        lo, hi = blocks[0][2], blocks[-1][3]
        n, d = rows.stop - rows.start, hi - lo
        here = slice(at + rows.start, at + rows.stop)
        o = self.bias[0].new_empty(n, d)
        for i, b, first, last in blocks:
            g = self.head.groups[i]
            span = slice(first - g.lo, last - g.lo)
            h = _of_block(g, self.hidden[i][here], b)
            torch.addmm(self.bias[i][span], h, self.weight[i][span].T, out=o[:, first - lo : last - lo])
        tile = self._fill(t, rows, lo, hi, o, run)
        result = TILE[self.head.dist](tile)
        if self.want:
            self._carry_back(t, rows, here, blocks, tile.o, lo)
            code = t.covariate_code[rows]
            if result.d_alpha is not None and self.d_alpha is not None:
                self.d_alpha[:, lo:hi].index_add_(0, code, result.d_alpha, alpha=-t.weight)
            if result.d_pi is not None and self.d_pi is not None:
                self.d_pi[lo:hi].add_(result.d_pi, alpha=-t.weight)
        return result.value

    def _fill(self, t: Targets, rows: slice, lo: int, hi: int, o: Tensor, run: Tensor | slice | None) -> Tile:
        where = x = None
        if t.row is not None and t.col is not None and t.x is not None:
            assert run is not None
            local = t.row[run] % t.n_rows - rows.start
            where, x = local * (hi - lo) + (t.col[run] - lo), t.x[run]
        whole = t.view.full
        library = None if t.library is None else t.library[rows, None]
        panel = (
            None if t.panel.full or library is None else t.panel.table[t.panel.index[rows], lo:hi].to(o.dtype)
        )
        return Tile(
            o=o,
            target=None if whole else t.view.table[t.view.index[rows], lo:hi].to(o.dtype),
            at=where,
            x=x,
            dense=None if t.dense is None else t.dense[rows, lo:hi],
            library=library,
            panel=panel,
            low=self.head.low[lo:hi],
            high=self.head.high[lo:hi],
            centre=self.head.centre[lo:hi],
            alpha=None if self.alpha is None else self.alpha[t.covariate_code[rows], lo:hi],
            pi=None if self.pi is None else self.pi[lo:hi],
        )

    def _carry_back(
        self,
        t: Targets,
        rows: slice,
        here: slice,
        blocks: list[tuple[int, int, int, int]],
        d_o: Tensor,
        lo: int,
    ) -> None:
        for i, b, first, last in blocks:
            g = self.head.groups[i]
            span = slice(first - g.lo, last - g.lo)
            d = d_o[:, first - lo : last - lo]
            h = _of_block(g, self.hidden[i][here], b)
            d_h = _of_block(g, self.d_hidden[i][here], b)
            d_h.addmm_(d, self.weight[i][span], alpha=-t.weight)
            self.d_weight[i][span].addmm_(d.T, h, alpha=-t.weight)
            self.d_bias[i][span].add_(d.sum(0), alpha=-t.weight)


def _tiles(
    head: Head, t: Targets, blocks: list[tuple[int, int, int, int]], whole: bool
) -> Iterator[tuple[slice, list[tuple[int, int, int, int]], Tensor | slice | None]]:
    """Tiles of a pass: rows, blocks, and the run of its non-zeros.

    A likelihood of each entry alone goes block by block; a softmax needs all blocks of a row. On a
    GPU (`whole`) the pass is one tile.
    """
    by_block = len(blocks) > 1 and t.library is None and not whole
    parts = [[b] for b in blocks] if by_block else [blocks]
    order: Tensor | None = None
    row = t.row
    if row is not None and not by_block and len(blocks) > 1 and not whole:
        cell = row % t.n_rows
        order = torch.argsort(cell, stable=True)
        row = cell[order]
    for p, part in enumerate(parts):
        width = part[-1][3] - part[0][2]
        step = t.n_rows if whole else max(8, min(t.n_rows, TILE_BYTES // (4 * width)))
        starts = list(range(0, t.n_rows, step))
        ends = _run_ends(row, p * t.n_rows if by_block else 0, starts, t.n_rows, whole)
        for k, s in enumerate(starts):
            run = None if row is None else slice(ends[k], ends[k + 1])
            picked = run if order is None or run is None else order[run]
            yield slice(s, min(s + step, t.n_rows)), part, picked


def _run_ends(row: Tensor | None, base: int, starts: list[int], n_rows: int, whole: bool) -> list[int]:
    if row is None:
        return []
    if whole:
        return [0, len(row)]
    edges = torch.tensor([*starts, n_rows], device=row.device) + base
    return [int(v) for v in torch.searchsorted(row, edges).tolist()]
