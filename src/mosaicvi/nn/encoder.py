"""Encoder: what a pass may see of each cell -> mean and log variance of its latent.

Legend: P passes, B cells, n_m cells with modality m, D_m its features, G blocks of a group,
H = `dim_block_enc`, E = `dim_block_embed`, C covariates, K latent.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from mosaicvi import device
from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import Minibatch, ModalityRows
from mosaicvi.nn.compiled_encoder import encode
from mosaicvi.nn.first_layer import First, Seen, first_layer, mix_of, seen_of
from mosaicvi.nn.groups import BlockGroup, block_groups
from mosaicvi.nn.hidden_stack import HiddenStack
from mosaicvi.nn.layers import Csr, PassBatchNorm, glorot_, leaky, make_linear, sparse_product
from mosaicvi.nn.mask_embedding import MaskEmbedding
from mosaicvi.nn.masks import View
from mosaicvi.nn.products import linear


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
        h_b of each group (P * B, G, H), for the skip connection; empty without one.
    """

    mean: Tensor
    log_var: Tensor
    embedding: Tensor
    blocks: list[Tensor]


class BlockLayer(nn.Module):
    """Weights of h_b = LeakyReLU(W_b [x_b ; e_b ; c]) for the blocks of a group."""

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

    def of_embedding(self) -> Tensor:
        """Weights of all e_b as one matrix, with zeros between the blocks, (G * E, G * H)."""
        g = self.group
        spread = torch.diag_embed(self.embed.permute(1, 2, 0))  # (E, H, G, G)
        return spread.permute(2, 0, 3, 1).reshape(g.n_blocks * g.embed, g.n_blocks * g.enc)


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
        first = self._first(minibatch, values, views, centres, embedding, covariates)
        if first is not None and self._is_compiled(embedding):
            both = zip(self.mean.parameters(), self.log_var.parameters(), strict=True)
            last = [p for pair in both for p in pair]
            mean, log_var = encode(first, self.hidden.layers(), last, n_passes)
            mean = self.mean_norm(mean, n_passes)
            return Encoded(mean=mean, log_var=log_var, embedding=embedding, blocks=[])
        layered = embedding[:, :0] if first is None else leaky(first_layer(first, n_passes))
        widths = [g.n_blocks * g.enc for g in self.groups if g.enc]
        h_b, parts = iter(torch.split_with_sizes(layered, widths, 1)), []
        for g in self.groups:
            m = g.modality
            given = minibatch, values[m], [v[m] for v in views], centres[m], embedding, covariates
            parts.append(next(h_b) if g.enc else _raw(g, *given))
        h = self.hidden(layered if all(g.enc for g in self.groups) else torch.cat(parts, 1), n_passes)
        return Encoded(
            mean=self.mean_norm(self.mean(h), n_passes),
            log_var=self.log_var(h),
            embedding=embedding,
            blocks=[
                p.view(-1, g.n_blocks, g.enc) if g.enc else p for p, g in zip(parts, self.groups, strict=True)
            ],
        )

    def _is_compiled(self, embedding: Tensor) -> bool:
        """Whether the layers after the first are compiled as well."""
        c = self.config
        plain = c.norm == "layer" and not c.skip_conn and all(g.enc for g in self.groups)
        return plain and embedding.dtype == torch.float32 and not device.is_apart(embedding)

    def _first(
        self,
        minibatch: Minibatch,
        values: list[Tensor],
        views: list[list[View]],
        centres: list[Tensor | None],
        embedding: Tensor,
        covariates: Tensor | None,
    ) -> First | None:
        """What the first layers are made of; None without a sub-network."""
        layers = [layer for layer in self.block if isinstance(layer, BlockLayer)]
        if not layers:
            return None
        total = sum(layer.group.n_blocks * layer.group.enc for layer in layers)
        seen: list[Seen] = []
        weights: list[Tensor] = []
        at = 0
        base: Tensor | None = None
        for layer in layers:
            g, m = layer.group, layer.group.modality
            given = minibatch.rows[m], values[m], [v[m] for v in views]
            width = g.n_blocks * g.enc
            sparse = given[0].sparse is not None and centres[m] is None
            if sparse and not device.is_apart(embedding):
                seen.append(seen_of(g, at, *given, minibatch.n_cells))
                weights.append(layer.value)
            else:
                product = (
                    _sparse_product(g, layer.value, *given)
                    if sparse
                    else _dense_product(g, layer.value, *given, centres[m])
                )
                product = _to_cells(product, given[0].cells, len(views), minibatch.n_cells)
                wide = functional.pad(product.flatten(1).float(), (at, total - at - width))
                base = wide if base is None else base + wide
            at += width
        if len(layers) == len(self.groups):
            rest = [embedding]
        else:
            spans = [(g.embed_at, g.n_blocks * g.embed) for g in (layer.group for layer in layers)]
            rest = [embedding[:, first : first + width] for first, width in spans]
        rest += [] if covariates is None else [covariates]
        given_rest = rest[0] if len(rest) == 1 else torch.cat(rest, 1)
        return First(rest=given_rest, mix=self._mix(layers), base=base, seen=seen, values=weights)

    def _mix(self, layers: list[BlockLayer]) -> Tensor:
        """Weights of [e ; c] of all first layers as one matrix."""
        of_covariates: list[Tensor] = [layer.covariate for layer in layers] if self.n_seen else []
        if not device.is_apart(layers[0].embed) and layers[0].embed.dtype == torch.float32:
            return mix_of([layer.embed for layer in layers], of_covariates)
        mix: Tensor = torch.block_diag(*[layer.of_embedding() for layer in layers])  # type: ignore[no-untyped-call]
        return torch.cat([mix, torch.cat(of_covariates, 1)]) if of_covariates else mix


def _dense_product(
    group: BlockGroup,
    weight: Tensor,
    rows: ModalityRows,
    values: Tensor,
    views: list[View],
    centre: Tensor | None,
) -> Tensor:
    """Values times weights by block, for every pass: (P * n_m, G, H)."""
    x = _visible_dense(rows, values, views, centre)
    parts = [linear(x[:, lo:hi], weight[lo - group.lo : hi - group.lo].T) for lo, hi in group.spans]
    return torch.stack(parts, dim=1)


def _sparse_product(
    group: BlockGroup, weight: Tensor, rows: ModalityRows, values: Tensor, views: list[View]
) -> Tensor:
    """The same on a device, hidden values as zeros: without them it would wait for their number."""
    assert rows.sparse is not None
    n, g = len(rows.cells), group.n_blocks
    if n == 0 or len(weight) == 0:
        nothing = weight[:0].sum()  # so that the gradient is zero, not None
        return weight.new_zeros(len(views) * n, g, group.enc) + nothing
    col, cell, ends = rows.sparse.col, rows.sparse.cell, rows.sparse.indptr
    every_row = torch.arange(len(ends) - 1, device=ends.device) - group.first * n
    row = torch.repeat_interleave(every_row, ends.diff(), output_size=len(col))
    if g != (len(ends) - 1) // n:  # the group's blocks are one run of the non-zeros
        run = ends[[group.first * n, (group.first + g) * n]].tolist()
        row, col, cell, values = (v[slice(*run)] for v in (row, col, cell, values))
    seen = [values if v.full else values * v.table[v.index[cell], col] for v in views]
    every = torch.cat([row + p * g * n for p in range(len(views))])
    matrix = Csr.of_rows(every, (col - group.lo).repeat(len(views)), torch.cat(seen), len(views) * g * n)
    return sparse_product(matrix, weight).view(len(views), g, n, group.enc).transpose(1, 2).flatten(0, 1)


def _to_cells(out: Tensor, cells: Tensor, n_passes: int, n_cells: int) -> Tensor:
    """Spread rows (P * n_m, ...) over cells (P * B, ...), zero for cells without the modality."""
    if len(cells) == n_cells:
        return out
    shape = (n_passes, n_cells, *out.shape[1:])
    spread = out.new_zeros(shape).index_copy(1, cells, out.view(n_passes, len(cells), *out.shape[1:]))
    return spread.flatten(0, 1)


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
    dense[rows.sparse.cell * n_features + rows.sparse.col] = values
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
