"""Encoder: what a pass may see of each cell -> mean and log variance of its latent.

Legend: P passes, B cells, n_m cells with modality m, D_m its features, G blocks of a group,
H = `dim_block_enc`, E = `dim_block_embed`, C covariates, K latent.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import Minibatch, ModalityRows
from mosaicvi.nn import indices
from mosaicvi.nn.groups import BlockGroup, block_groups
from mosaicvi.nn.layers import Csr, HiddenStack, PassBatchNorm, glorot_, leaky, make_linear, sparse_product
from mosaicvi.nn.masks import View


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """Posterior of P * B rows, and what the decoder may share.

    Attributes
    ----------
    mean, log_var
        (P * B, K).
    embedding
        The mask's embedding (P * B, sum of E).
    blocks
        h_b of each group (P * B, G, H), for the skip connection.
    """

    mean: Tensor
    log_var: Tensor
    embedding: Tensor
    blocks: list[Tensor]


class MaskEmbedding(nn.Module):
    """e = tanh(W (1 - visible) + b), from the distinct rows of the views instead of a dense B x D."""

    def __init__(self, config: NetworkConfig, generator: Generator) -> None:
        super().__init__()
        n, width = sum(config.dim_block), sum(config.dim_block_embed)
        self.weight = nn.ParameterList([nn.Parameter(torch.empty(d, width)) for d in config.dim_input_arr])
        for w in self.weight:
            glorot_(w, n, width, generator)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, minibatch: Minibatch, views: list[list[View]]) -> Tensor:
        """Embedding (P * B, sum of E); ``views[p][m]`` is what pass p sees of modality m."""
        total = self.bias.expand(len(views) * minibatch.n_cells, -1)
        for m, (rows, weight) in enumerate(zip(minibatch.rows, self.weight, strict=True)):
            hidden = [torch.ones(1, weight.shape[0], dtype=torch.bool, device=weight.device)]
            index, at = [], 1
            for view in (v[m] for v in views):
                hidden.append(~view.table)
                of_cell = torch.zeros(minibatch.n_cells, dtype=torch.int64, device=weight.device)
                of_cell[rows.cells] = view.index + at  # 0, all hidden, for cells without the modality
                index.append(of_cell)
                at += len(view.table)
            table = torch.cat(hidden).to(weight.dtype) @ weight  # (R, sum of E)
            total = total + functional.embedding(torch.cat(index), table)
        return torch.tanh(total)


class BlockLayer(nn.Module):
    """h_b = LeakyReLU(W_b [x_b ; e_b ; c]) for the blocks of a group, without a dense x."""

    def __init__(self, group: BlockGroup, n_covariates: int, generator: Generator) -> None:
        super().__init__()
        self.group = group
        g = group
        self.value = nn.Parameter(torch.empty(g.hi - g.lo, g.enc))
        self.embed = nn.Parameter(torch.empty(g.n_blocks, g.embed, g.enc))
        self.covariate: nn.Parameter | None = None
        if n_covariates:
            self.covariate = nn.Parameter(torch.empty(n_covariates, g.n_blocks * g.enc))
        for b, (lo, hi) in enumerate(g.spans):
            fan_in = hi - lo + g.embed + n_covariates
            for part in (self.value[lo - g.lo : hi - g.lo], self.embed[b]):
                glorot_(part, fan_in, g.enc, generator)
            if self.covariate is not None:
                glorot_(self.covariate[:, b * g.enc : (b + 1) * g.enc], fan_in, g.enc, generator)

    def forward(self, values: Tensor, embedding: Tensor, covariates: Tensor | None) -> Tensor:
        """h_b of (P * B, G, H), given the product of values and weights of the same shape."""
        g = self.group
        e = embedding[:, g.embed_at : g.embed_at + g.n_blocks * g.embed]
        e = e.reshape(len(e), g.n_blocks, g.embed).transpose(0, 1)  # (G, P * B, E)
        h = values + torch.bmm(e, self.embed).transpose(0, 1)
        if covariates is not None and self.covariate is not None:
            h = h + (covariates @ self.covariate).view(-1, g.n_blocks, g.enc)
        return leaky(h)


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
        self,
        minibatch: Minibatch,
        values: list[Tensor],
        views: list[list[View]],
        centres: list[Tensor | None],
    ) -> Encoded:
        """Encode a minibatch as each pass sees it.

        Parameters
        ----------
        minibatch
            B cells.
        values
            Transformed values of each modality, as `encoder_values` returns them.
        views
            ``views[p][m]``: what pass p sees of modality m.
        centres
            `mean_vals` of each modality, (D_m,), or None for zero.
        """
        n_passes = len(views)
        embedding = self.embedding(minibatch, views)
        covariates = minibatch.covariates.repeat(n_passes, 1) if self.n_seen else None
        parts, blocks = [], []
        for group, layer in zip(self.groups, self.block, strict=True):
            m = group.modality
            seen = [v[m] for v in views]
            if isinstance(layer, BlockLayer):
                product = _product(group, layer.value, minibatch, values[m], seen, centres[m])
                h = layer(product, embedding, covariates)
                blocks.append(h)
                parts.append(h.flatten(1))
            else:
                parts.append(_raw(group, minibatch, values[m], seen, centres[m], embedding, covariates))
                blocks.append(parts[-1])
        h = self.hidden(torch.cat(parts, 1), n_passes)
        return Encoded(
            mean=self.mean_norm(self.mean(h), n_passes),
            log_var=self.log_var(h),
            embedding=embedding,
            blocks=blocks,
        )


def _product(
    group: BlockGroup,
    weight: Tensor,
    minibatch: Minibatch,
    values: Tensor,
    views: list[View],
    centre: Tensor | None,
) -> Tensor:
    """Values times weights by block, for every pass: (P * B, G, H), zero for cells without the modality."""
    rows = minibatch.rows[group.modality]
    if rows.sparse is not None and centre is None:
        out = _sparse_product(group, weight, rows, values, views)
    else:
        x = _visible_dense(rows, values, views, centre)
        out = torch.stack(
            [x[:, lo:hi] @ weight[lo - group.lo : hi - group.lo] for lo, hi in group.spans], dim=1
        )
    return _to_cells(out, rows.cells, len(views), minibatch.n_cells)


def _to_cells(out: Tensor, cells: Tensor, n_passes: int, n_cells: int) -> Tensor:
    """Spread rows (P * n_m, ...) over cells (P * B, ...)."""
    if len(cells) == n_cells:
        return out
    shape = (n_passes, n_cells, *out.shape[1:])
    spread = out.new_zeros(shape).index_copy(1, cells, out.view(n_passes, len(cells), *out.shape[1:]))
    return spread.flatten(0, 1)


def _sparse_product(
    group: BlockGroup, weight: Tensor, rows: ModalityRows, values: Tensor, views: list[View]
) -> Tensor:
    """(P * n_m, G, H) from the visible non-zeros alone."""
    assert rows.sparse is not None
    n, g = len(rows.cells), group.n_blocks
    row, col = rows.sparse.row, rows.sparse.col
    if g * n <= 0 or len(weight) == 0:
        nothing = weight[:0].sum()  # so that the gradient is zero, not None
        return weight.new_zeros(len(views) * n, g, group.enc) + nothing
    whole = group.lo == 0 and group.first == 0 and group.hi == views[0].table.shape[1]
    if not whole:  # the group's blocks are one run of the block-major non-zeros
        ends = torch.searchsorted(
            row, torch.tensor([group.first * n, (group.first + g) * n], device=row.device)
        )
        run = slice(int(ends[0]), int(ends[1]))
        row, col, values = row[run] - group.first * n, col[run], values[run]
    shape = (len(views), g, n, group.enc)
    if row.is_cuda:
        matrix = _visible_on_device(row, col - group.lo, values, n, g * n, views, col)
    else:
        index = torch.stack([torch.full_like(v.index, -1) if v.full else v.index for v in views])
        table = [v.table for v in views if not v.full]
        starts = itertools.accumulate((0 if v.full else len(v.table) for v in views), initial=0)
        for p, start in zip(range(len(views)), starts, strict=False):
            index[p] += 0 if views[p].full else start
        arrays = (torch.cat(table) if table else views[0].table[:0]).contiguous().numpy(), index.numpy()
        visible = indices.visible_rows(
            row.numpy(), col.numpy(), values.detach().numpy(), n, g * n, group.lo, *arrays
        )
        matrix = Csr(*map(torch.from_numpy, visible))
    return sparse_product(matrix, weight).view(shape).transpose(1, 2).flatten(0, 1)


def _visible_on_device(
    row: Tensor, col: Tensor, values: Tensor, n: int, n_rows: int, views: list[View], column: Tensor
) -> Csr:
    """What each pass sees, hidden values as zeros: without them the device would wait for their number."""
    seen = [values if v.full else values * v.table[v.index[row % n], column] for v in views]
    every = torch.cat([row + p * n_rows for p in range(len(views))])
    return Csr.of_rows(every, col.repeat(len(views)), torch.cat(seen), len(views) * n_rows)


def _visible_dense(rows: ModalityRows, values: Tensor, views: list[View], centre: Tensor | None) -> Tensor:
    """where(visible, x - centre, 0) of every pass, dense (P * n_m, D_m)."""
    x = densified(rows, values, views[0].table.shape[1])
    x = x if centre is None else x - centre
    return torch.cat([torch.where(v.table[v.index], x, torch.zeros_like(x)) for v in views])


def densified(rows: ModalityRows, values: Tensor, n_features: int) -> Tensor:
    """Values as a dense (n_m, D_m)."""
    if rows.sparse is None:
        return values
    n = len(rows.cells)
    dense = values.new_zeros(n * n_features)
    dense[(rows.sparse.row % max(n, 1)) * n_features + rows.sparse.col] = values
    return dense.view(n, n_features)


def _raw(
    group: BlockGroup,
    minibatch: Minibatch,
    values: Tensor,
    views: list[View],
    centre: Tensor | None,
    embedding: Tensor,
    covariates: Tensor | None,
) -> Tensor:
    """[x_b ; e_b ; c] of a group without a sub-network, concatenated over its blocks."""
    rows = minibatch.rows[group.modality]
    x = _to_cells(_visible_dense(rows, values, views, centre), rows.cells, len(views), minibatch.n_cells)
    parts = []
    for b, (lo, hi) in enumerate(group.spans):
        at = group.embed_at + b * group.embed
        parts += [x[:, lo:hi], embedding[:, at : at + group.embed]]
        parts += [] if covariates is None else [covariates]
    return torch.cat(parts, 1)
