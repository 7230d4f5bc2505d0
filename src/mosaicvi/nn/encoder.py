"""Encoder: what a pass may see of each cell -> mean and log variance of its latent.

Legend: P passes, B cells, N = P * B rows, n cells with a modality, D its features, T distinct choices of
them, G blocks of a group, H `dim_block_enc`, E `dim_block_embed`, C covariates, K latent.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from mosaicvi import device
from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import Minibatch, ModalityRows, seen
from mosaicvi.nn.blocks import BlockGroup, block_groups
from mosaicvi.nn.layers import HiddenStack, PassBatchNorm, glorot_, leaky, make_linear
from mosaicvi.nn.masks import View, observed_view


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posterior:
    """q(z | what is visible) of N rows, and what the decoder shares with the encoder.

    Attributes
    ----------
    mean, log_var
        (N, K).
    embedding
        The mask's embedding (N, sum of E).
    blocks
        h_b of each group (N, G * H), for the skip connection; empty without one.
    """

    mean: Tensor
    log_var: Tensor
    embedding: Tensor
    blocks: list[Tensor]


class MaskEmbedding(nn.Module):
    """e = tanh(W (1 - visible) + b).

    Parameters
    ----------
    config
        The network's parameters.
    generator
        Decides the first weights.
    """

    def __init__(self, config: NetworkConfig, generator: Generator) -> None:
        super().__init__()
        n, width = sum(config.dim_block), sum(config.dim_block_embed)
        self.weight = nn.ParameterList([nn.Parameter(torch.empty(d, width)) for d in config.dim_input_arr])
        for w in self.weight:
            glorot_(w, n, width, generator)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, minibatch: Minibatch, views: list[list[View]]) -> Tensor:
        """Embedding (N, sum of E); ``views[p][m]`` is what pass p sees of modality m."""
        total = self.bias.expand(len(views) * minibatch.n_cells, -1)
        for m, (rows, weight) in enumerate(zip(minibatch.rows, self.weight, strict=True)):
            everything = torch.ones(1, len(weight), dtype=torch.bool, device=weight.device)
            hidden_td, index_n, start = [everything], [], 1
            for view in (v[m] for v in views):
                of_cell_b = torch.zeros_like(minibatch.index)  # 0: cells without the modality hide all
                index_n.append(of_cell_b.index_copy(0, rows.cells, view.index + start))
                hidden_td.append(~view.table)
                start += len(view.table)
            products = torch.cat(hidden_td).to(weight.dtype) @ weight
            total = total + functional.embedding(torch.cat(index_n), products)
        return torch.tanh(total)


class BlockLayer(nn.Module):
    """h_b = LeakyReLU(W_b [x_b ; e_b ; c]) of the blocks of a group."""

    covariate: nn.Parameter

    def __init__(self, group: BlockGroup, n_covariates: int, generator: Generator) -> None:
        super().__init__()
        self.group = group
        g = group
        self.value = nn.Parameter(torch.empty(g.hi - g.lo, g.enc))
        self.embed = nn.Parameter(torch.empty(g.n_blocks, g.embed, g.enc))
        if n_covariates:
            self.covariate = nn.Parameter(torch.empty(n_covariates, g.n_blocks * g.enc))
        for b, (lo, hi) in enumerate(g.spans):
            fan_in = hi - lo + g.embed + n_covariates
            for part in (self.value[lo - g.lo : hi - g.lo], self.embed[b]):
                glorot_(part, fan_in, g.enc, generator)
            if n_covariates:
                glorot_(self.covariate[:, b * g.enc : (b + 1) * g.enc], fan_in, g.enc, generator)

    def forward(self, product: Tensor, embedding: Tensor, covariates: Tensor | None) -> Tensor:
        """Output (N, G * H), of the products of the values (N, G * H), e of all blocks, and c (N, C)."""
        g = self.group
        e_nge = embedding[:, g.embed_columns].reshape(-1, g.n_blocks, g.embed)
        h = product + torch.einsum("nge,geh->ngh", e_nge, self.embed).flatten(1)
        return leaky(h if covariates is None else h + covariates @ self.covariate)


class Encoder(nn.Module):
    """q(z | what is visible).

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
        self.n_seen = n_covariates if config.encode_covariates else 0
        self.embedding = MaskEmbedding(config, generator)
        self.block = nn.ModuleList(
            [BlockLayer(g, self.n_seen, generator) if g.enc else nn.Identity() for g in self.groups]
        )
        n_in = sum(
            g.n_blocks * g.enc if g.enc else g.hi - g.lo + g.n_blocks * (g.embed + self.n_seen)
            for g in self.groups
        )
        self.hidden = HiddenStack(n_in, config.dimensions, config.norm, generator)
        self.mean = make_linear(self.hidden.n_out, config.dim_latent, generator)
        self.mean_norm = PassBatchNorm(config.dim_latent)
        self.log_var = make_linear(self.hidden.n_out, config.dim_latent, generator)

    def forward(
        self, minibatch: Minibatch, views: list[list[View]], centres: list[Tensor | None]
    ) -> Posterior:
        """Encode a minibatch as each pass sees it.

        Parameters
        ----------
        minibatch
            B cells.
        views
            ``views[p][m]``: what pass p sees of modality m.
        centres
            `mean_vals` of each modality, (D,), or None for zero.
        """
        n_passes = len(views)
        embedding = self.embedding(minibatch, views)
        covariates = minibatch.covariates.repeat(n_passes, 1) if self.n_seen else None
        shown = [
            Shown(rows, seen(rows), [v[m] for v in views], centres[m], minibatch.n_cells)
            for m, rows in enumerate(minibatch.rows)
        ]
        parts = [
            layer(shown[g.modality].times(layer.value, g), embedding, covariates)
            if isinstance(layer, BlockLayer)
            else side_by_side(shown[g.modality].dense(), embedding, covariates, g)
            for layer, g in zip(self.block, self.groups, strict=True)
        ]
        h = self.hidden(torch.cat(parts, 1), n_passes)
        mean = self.mean_norm(self.mean(h), n_passes)
        return Posterior(
            mean=mean,
            log_var=self.log_var(h).to(mean.dtype),
            embedding=embedding,
            blocks=parts if self.config.skip_conn else [],
        )


class Shown:
    """x̃ = where(visible, x - centre, 0) of a modality, in every pass.

    Parameters
    ----------
    rows, values
        The modality, and its transformed values.
    views
        What each pass sees.
    centre
        (D,), or None for zero: then non-zeros suffice.
    n_cells
        B.
    """

    def __init__(
        self, rows: ModalityRows, values: Tensor, views: list[View], centre: Tensor | None, n_cells: int
    ) -> None:
        self.rows, self.values, self.views, self.centre = rows, values, views, centre
        self.n_cells = n_cells

    def times(self, weight: Tensor, group: BlockGroup) -> Tensor:
        """Products with the weights of a group's blocks (D_g, H): (N, G * H)."""
        if self.rows.sparse is not None and self.centre is None:
            return self._sparse_times(weight, group)
        x = self.dense()
        return torch.cat([x[:, lo:hi] @ weight[lo - group.lo : hi - group.lo] for lo, hi in group.spans], 1)

    def dense(self) -> Tensor:
        """All values, (N, D)."""
        x_nd = self._centred()
        return self._to_cells(
            torch.stack([torch.where(v.table[v.index], x_nd, torch.zeros_like(x_nd)) for v in self.views])
        )

    def measured(self) -> Tensor:
        """What was measured, less the centre, and 0 elsewhere, (n, D)."""
        view, x_nd = observed_view(self.rows), self._centred()
        return x_nd if view.full else torch.where(view.table[view.index], x_nd, torch.zeros_like(x_nd))

    def _centred(self) -> Tensor:
        x_nd = densified(self.rows, self.values, self.views[0].table.shape[1])
        return x_nd if self.centre is None else x_nd - self.centre

    def _sparse_times(self, weight: Tensor, group: BlockGroup) -> Tensor:
        """Hidden values count as zeros: to leave them out, a device would wait for their number."""
        sparse, n, n_blocks = self.rows.sparse, self.rows.cells.shape[0], group.n_blocks
        assert sparse is not None
        col, cell, values, ends = sparse.col, sparse.cell, self.values, sparse.indptr
        if n == 0:
            shape = len(self.views) * self.n_cells, n_blocks * group.enc
            return weight.new_zeros(shape) + weight[:0].sum()  # so that the gradient is zero, not None
        starts, n_before = ends[:-1], 0
        if n_blocks * n != len(ends) - 1:  # the group's blocks are one run of the non-zeros
            ends = ends[group.first * n : (group.first + n_blocks) * n + 1]
            starts = ends[:-1] - ends[0]
            if device.would_wait(ends):  # where the run ends is not known here: the others count as zeros
                values = values * ((col >= group.lo) & (col < group.hi))
                starts, n_before = torch.cat([ends.new_zeros(1), ends[:-1]]), 1
            else:
                run = slice(int(ends[0]), int(ends[-1]))
                col, cell, values = col[run], cell[run], values[run]
        seen = [values if v.full else values * v.table[v.index[cell], col] for v in self.views]
        out = functional.embedding_bag(
            (col - group.lo).clamp(0, group.hi - group.lo - 1).repeat(len(seen)),
            weight,
            torch.cat([starts + p * col.shape[0] for p in range(len(seen))]),
            mode="sum",
            per_sample_weights=torch.cat(seen).to(weight.dtype),
        )
        out = out.view(len(seen), -1, group.enc)[:, n_before:]
        return self._to_cells(out.reshape(len(seen), n_blocks, n, -1).transpose(1, 2).flatten(2))

    def _to_cells(self, of_rows: Tensor) -> Tensor:
        """Rows (P, n, ...) as (N, ...), zero for cells without the modality."""
        if of_rows.shape[1] != self.n_cells:
            every = of_rows.new_zeros(of_rows.shape[0], self.n_cells, *of_rows.shape[2:])
            of_rows = every.index_copy(1, self.rows.cells, of_rows)
        return of_rows.flatten(0, 1)


def raw_values(rows: ModalityRows) -> Tensor:
    """Values as they were read: non-zeros (Z,), or dense (n, D)."""
    found = rows.dense if rows.sparse is None else rows.sparse.value
    assert found is not None
    return found


def densified(rows: ModalityRows, values: Tensor, n_features: int) -> Tensor:
    """Values as a dense (n, D)."""
    if rows.sparse is None:
        return values
    n = rows.cells.shape[0]
    at = rows.sparse.cell * n_features + rows.sparse.col
    return values.new_zeros(n * n_features).index_add_(0, at, values).view(n, n_features)


def side_by_side(x: Tensor, embedding: Tensor, covariates: Tensor | None, group: BlockGroup) -> Tensor:
    """[x_b ; e_b ; c] of a group without a sub-network, concatenated over its blocks."""
    e_b = embedding[:, group.embed_columns].chunk(group.n_blocks, 1)
    parts = []
    for (lo, hi), e in zip(group.spans, e_b, strict=True):
        parts += [x[:, lo:hi], e] if covariates is None else [x[:, lo:hi], e, covariates]
    return torch.cat(parts, 1)
