"""Decoder: latent -> output -> parameters of each modality's likelihood.

Legend: P passes, B cells, N = P * B rows, n cells with a modality, d of its features, G blocks of a group,
W width of the last shared layer, K latent, C covariates, A distinct rows of them.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional

from mosaicvi import likelihoods
from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import Minibatch, transformed
from mosaicvi.device import on_device
from mosaicvi.likelihoods import Family, Parameters
from mosaicvi.likelihoods.base import Bounds
from mosaicvi.likelihoods.counts import log_of_share
from mosaicvi.nn.blocks import block_groups
from mosaicvi.nn.encoder import densified, raw_values
from mosaicvi.nn.layers import HiddenStack, glorot_, leaky, make_linear
from mosaicvi.nn.masks import View, observed_view

MIN_DISPERSION = 1e-8
MIN_INFLATION = 1e-3
FIRST_INFLATION = -2.0  # logit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """From a modality's output to its likelihood, for all or some features.

    Attributes
    ----------
    m, features
        Position of the modality, and of the features, ascending, on the host; None for all.
    family, library_aware, bounds, max_disp
        What the network's parameters say of it.
    dispersion, inflation
        Weights (C, d) of the dispersion, and logit (d,) of the zero inflation; None for families without one.
    """

    m: int
    features: NDArray[np.int64] | None
    family: Family
    library_aware: bool
    bounds: Bounds
    max_disp: float
    dispersion: Tensor | None
    inflation: Tensor | None

    def alpha(self, covariates: Tensor) -> Tensor | None:
        """clip(softplus(c S), 0, max), (A, d), of covariates (A, C); the clip passes gradients through."""
        if self.dispersion is None:
            return None
        raw = functional.softplus(covariates @ self.dispersion)
        return raw + (raw.clamp(MIN_DISPERSION, self.max_disp) - raw).detach()

    def pi(self) -> Tensor | None:
        """Probability of an extra zero, (d,)."""
        if self.inflation is None:
            return None
        return torch.sigmoid(self.inflation).clamp(MIN_INFLATION, 1 - MIN_INFLATION)

    def location(self, output: Tensor, library: Tensor | None, panel: Tensor | None) -> Tensor:
        """Location of the likelihood.

        Parameters
        ----------
        output
            Of the decoder, (..., n, d).
        library, panel
            Library of each row, (n, 1), and which features it was summed over, boolean (n, d) or None for
            all; where the modality is library-aware.
        """
        if library is not None:
            return log_of_share(output, library, panel)
        return self.family.link(output, self.bounds)


class Decoder(nn.Module):
    """p(x | z).

    Parameters
    ----------
    config
        The network's parameters.
    n_covariates
        Number of covariates, C.
    bounds
        Centre and bounds of each modality's mean.
    generator
        Decides the first weights.
    """

    def __init__(self, config: NetworkConfig, n_covariates: int, generator: Generator) -> None:
        super().__init__()
        self.config = config
        self.groups = block_groups(config)
        self.families = [likelihoods.get(name) for name in config.distributions]
        n_in = config.dim_latent + n_covariates + (sum(config.dim_block_embed) if config.decode_mask else 0)
        self.hidden = HiddenStack(n_in, config.dimensions[::-1], config.norm, generator)
        width = self.hidden.n_out
        self.inner = nn.ModuleList(
            [
                make_linear(width, g.n_blocks * g.dec, generator) if g.dec else nn.Identity()
                for g in self.groups
            ]
        )
        self.last = nn.ParameterList()  # of each group, weights with the bias as last row, (width + 1, D_g)
        for g in self.groups:
            w = torch.zeros((g.dec or width) + 1, g.hi - g.lo)
            for lo, hi in g.spans:
                glorot_(w[:-1, lo - g.lo : hi - g.lo], g.dec or width, hi - lo, generator)
            self.last.append(nn.Parameter(w))
        self.dispersion, self.inflation = nn.ParameterDict(), nn.ParameterDict()
        for m, (size, family) in enumerate(zip(config.dim_input_arr, self.families, strict=True)):
            if family.has_dispersion:
                kernel = torch.empty(n_covariates, size)
                glorot_(kernel, n_covariates, size, generator)
                self.dispersion[str(m)] = nn.Parameter(kernel)
            if family.has_inflation:
                self.inflation[str(m)] = nn.Parameter(torch.full((size,), FIRST_INFLATION))

    def of_modality(self, m: int) -> list[int]:
        """Positions of a modality's groups."""
        return [i for i, g in enumerate(self.groups) if g.modality == m]

    def shared(self, z: Tensor, embedding: Tensor, covariates: Tensor) -> Tensor:
        """Input of the shared layers, (N, K + sum of E + C)."""
        return torch.cat([z, embedding, covariates] if self.config.decode_mask else [z, covariates], 1)

    def head(self, m: int, bounds: Bounds, features: NDArray[np.int64] | None = None) -> Head:
        """Head of modality m, whose bounds are given, for some features, ascending, or all."""
        kernel = self.dispersion.get(str(m))
        logit = self.inflation.get(str(m))
        if features is not None:
            at = on_device(features, bounds.low.device)
            centre, low, high = (v.index_select(0, at) for v in (bounds.centre, bounds.low, bounds.high))
            bounds = Bounds(centre=centre, low=low, high=high)
            kernel = None if kernel is None else kernel.index_select(1, at)
            logit = None if logit is None else logit.index_select(0, at)
        return Head(
            m=m,
            features=features,
            family=self.families[m],
            library_aware=self.config.library_aware[m],
            bounds=bounds,
            max_disp=self.config.max_disp,
            dispersion=kernel,
            inflation=logit,
        )

    def output(self, head: Head, h: Tensor, skip: list[Tensor]) -> Tensor:
        """Output (R, d) of hidden rows (R, W), and the encoder's h_b of each group with a skip connection."""
        parts = []
        for i in self.of_modality(head.m):
            g, last = self.groups[i], self.last[i]
            g_b = leaky(self.inner[i](h)) if g.dec else h
            g_b = g_b + skip[i] if skip else g_b
            mine, ends = g.columns_of(head.features)
            if mine is not None:
                last = last.index_select(1, on_device(mine, last.device))
            for b, (start, stop) in enumerate(itertools.pairwise(ends)):
                hidden = g_b[:, b * g.dec : (b + 1) * g.dec] if g.dec else g_b
                parts.append(torch.addmm(last[-1, start:stop], hidden, last[:-1, start:stop]))
        return torch.cat(parts, 1)

    def log_prob(
        self,
        head: Head,
        minibatch: Minibatch,
        m: int,
        h: Tensor,
        skip: list[Tensor],
        wanted: list[View],
    ) -> Tensor:
        """Sum of modality m's log-likelihood over the entries that each pass wants, (P,).

        Parameters
        ----------
        head
            Of the features that are drawn.
        minibatch, m
            B cells, and the position of the modality.
        h, skip
            Shared hidden rows (N, W), and the encoder's h_b of each group with a skip connection.
        wanted
            Which entries count in each pass.
        """
        rows, n_passes = minibatch.targets[m], len(wanted)
        n, d = rows.cells.shape[0], head.bounds.low.shape[0]
        passes = torch.arange(n_passes, device=h.device)[:, None]
        at = (rows.cells + passes * minibatch.n_cells).flatten()
        h_at, skip_at = h.index_select(0, at), [s.index_select(0, at) for s in skip]
        o_pnd = self.output(head, h_at, skip_at).view(n_passes, n, d)
        library = panel = None
        measured = observed_view(rows)
        measured_nd = measured.table[measured.index]
        if head.library_aware:
            library, panel = rows.library[:, None], None if measured.full else measured_nd
        wanted_pnd = torch.stack([v.table[v.index] for v in wanted])
        values = raw_values(rows) if head.library_aware else transformed(rows)
        x_nd = densified(rows, values, d).masked_fill(~measured_nd, head.family.filler)
        alpha_ad = head.alpha(minibatch.covariate_table)
        code = minibatch.covariate_code[rows.cells]
        location = head.location(o_pnd, library, panel)
        log_prob = head.family.log_prob(
            x_nd,
            Parameters(
                location=torch.where(wanted_pnd, location, torch.zeros_like(location)),
                dispersion=None if alpha_ad is None else functional.embedding(code, alpha_ad),
                inflation=head.pi(),
            ),
        )
        return torch.where(wanted_pnd, log_prob, torch.zeros_like(log_prob)).sum((1, 2))
