"""MosaicVAE: F(in, out) of a minibatch and the terms of the loss (docs/model.md, "What is minimised").

Legend: P passes (observed, masked, and reverse when `beta_reverse` > 0), B cells, M modalities,
n_m cells with modality m, D_m its features, K latent.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import Minibatch, ModalityRows, transformed
from mosaicvi.nn.decoder import Context, Decoder
from mosaicvi.nn.decoder import loss as likelihood_loss
from mosaicvi.nn.encoder import Encoded, Encoder
from mosaicvi.nn.layers import PassBatchNorm
from mosaicvi.nn.likelihoods import mean as likelihood_mean
from mosaicvi.nn.masks import ModalityMask, View, masked_views, observed_view
from mosaicvi.nn.mmd import mmd
from mosaicvi.nn.posterior import draw_and_compare
from mosaicvi.nn.targets import make_jobs
from mosaicvi.nn.task import Head
from mosaicvi.phases import phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class Losses:
    """Terms of the loss of a minibatch; all but `total` are detached.

    Attributes
    ----------
    total
        What is minimised, 0-d.
    observed, masked
        Weighted negative log-likelihood of each modality, (M,).
    log_prob
        Plain log-likelihood, mean over cells, of each pass and modality, (P, M).
    kl, mmd
        Weighted terms, 0-d.
    """

    total: Tensor
    observed: Tensor
    masked: Tensor
    log_prob: Tensor
    kl: Tensor
    mmd: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pass:
    """One F(in, out): what is seen and what must be predicted, by modality, and its weight."""

    seen: list[View]
    wanted: list[View]
    weight: float


class MosaicVAE(nn.Module):
    """The masked variational autoencoder of a mosaic.

    Parameters
    ----------
    config
        Sizes, weights and choices.
    n_covariates
        Number of covariates, C.
    bounds
        For each modality its `mean_vals`, `min_vals` and `max_vals`, (D_m,) each.
    generator
        Decides the first weights.
    """

    def __init__(
        self,
        config: NetworkConfig,
        n_covariates: int,
        bounds: list[tuple[Tensor, Tensor, Tensor]],
        generator: Generator,
    ) -> None:
        super().__init__()
        self.config = config
        self.n_covariates = n_covariates
        self.encoder = Encoder(config, n_covariates, generator)
        self.decoder = Decoder(config, n_covariates, generator)
        m = len(config.uni_block_names)
        self.beta_modal: list[float] = [1.0] * m if config.beta_modal == "auto" else list(config.beta_modal)
        self.centred = [bool(c.any()) for c, _, _ in bounds]
        self._norms = [m for m in self.modules() if isinstance(m, PassBatchNorm)]
        for i, values in enumerate(bounds):
            for name, value in zip(("centre", "low", "high"), values, strict=True):
                self.register_buffer(f"{name}_{i}", value.clone().float())

    def statistics(self) -> list[Tensor]:
        """What training changes without a gradient: running statistics of the norms."""
        return [b for norm in self._norms for b in norm.buffers()]

    def head(self, m: int, features: NDArray[np.int64] | None = None) -> Head:
        """Constants of modality m's likelihood, with the bounds of some features, ascending, or of all."""
        groups = tuple(g for g in self.decoder.groups if g.modality == m)
        low, high, centre = (self.get_buffer(f"{name}_{m}") for name in ("low", "high", "centre"))
        head = Head(dist=self.config.distributions[m], groups=groups, low=low, high=high, centre=centre)
        return head.only(features)

    def encode(self, minibatch: Minibatch, values: list[Tensor], views: list[list[View]]) -> Encoded:
        """Posterior of every pass; ``views[p][m]`` is what pass p sees of modality m."""
        centres = [self.get_buffer(f"centre_{m}") if c else None for m, c in enumerate(self.centred)]
        encoded: Encoded = self.encoder(minibatch, values, views, centres)
        return encoded

    def forward(
        self, minibatch: Minibatch, masks: tuple[ModalityMask, ...], *, gamma: float, noise: Tensor | None
    ) -> Losses:
        """Loss of a minibatch.

        Parameters
        ----------
        minibatch
            B cells.
        masks
            What is hidden of each modality.
        gamma
            Weight of the MMD term in this epoch.
        noise
            Standard normal numbers (P * B, K); None for z at its mean.
        """
        passes = self._passes(minibatch, masks)
        values = [transformed(r) for r in minibatch.rows]
        with phase("encode"):
            q = self.encode(minibatch, values, [p.seen for p in passes])
        with phase("decode"):
            still = torch.zeros_like(q.mean) if noise is None else noise
            z, kl = draw_and_compare(q.mean, q.log_var, still, self._kl_weights())
            h = self.decoder.trunk(z, q.embedding, minibatch.covariates.repeat(len(passes), 1), len(passes))
        # a drawn feature stands for this many
        each = [
            d / t.panels.shape[1] for d, t in zip(self.config.dim_input_arr, minibatch.targets, strict=True)
        ]
        context = self._context(minibatch, passes, h, q, each)
        tasks = []
        with phase("decode"):
            for m, rows in enumerate(minibatch.targets):
                wanted = [_of_features(p.wanted[m], rows) for p in passes]
                jobs = make_jobs(rows, wanted, softmax=self.config.library_aware[m])
                tasks.append(self.decoder.task(self.head(m, rows.features), m, rows, jobs, context))
        with phase("likelihood"):
            total, log_prob = likelihood_loss(tasks)
        mmd = self._mmd(q, minibatch, gamma)
        whole = total + kl if gamma <= 0 else total + kl + mmd
        ll = log_prob * log_prob.new_tensor(each) / minibatch.n_cells  # (P, M)
        beta = ll.new_tensor(self.beta_modal)
        weight = ll.new_tensor([p.weight for p in passes])[:, None]
        terms = -(weight * beta * ll)
        return Losses(
            total=whole,
            observed=terms[0],
            masked=terms[1:].sum(0),
            log_prob=ll,
            kl=kl.detach(),
            mmd=mmd.detach(),
        )

    def _context(
        self, minibatch: Minibatch, passes: list[_Pass], h: Tensor, q: Encoded, each: list[float]
    ) -> Context:
        return Context(
            hidden=h,
            blocks=q.blocks,
            n_cells=minibatch.n_cells,
            weights=h.new_tensor([p.weight / minibatch.n_cells for p in passes]),
            beta=h.new_tensor([b * e for b, e in zip(self.beta_modal, each, strict=True)]),
            covariate_table=minibatch.covariate_table,
            covariate_code=minibatch.covariate_code,
        )

    def n_passes(self) -> int:
        """Passes of a step: observed and masked, and reverse when `beta_reverse` > 0."""
        return 3 if self.config.beta_reverse > 0 else 2

    def _passes(self, minibatch: Minibatch, masks: tuple[ModalityMask, ...]) -> list[_Pass]:
        c = self.config
        observed = [observed_view(r) for r in minibatch.rows]
        both = [masked_views(o, k) for o, k in zip(observed, masks, strict=True)]
        visible, masked = [b[0] for b in both], [b[1] for b in both]
        passes = [
            _Pass(seen=observed, wanted=observed, weight=1 - c.beta_unobs),
            _Pass(seen=visible, wanted=masked, weight=c.beta_unobs * (1 - c.beta_reverse)),
        ]
        if c.beta_reverse > 0:
            passes.append(_Pass(seen=masked, wanted=visible, weight=c.beta_unobs * c.beta_reverse))
        return passes

    def _kl_weights(self) -> list[float]:
        """Of KL of q given a partial view from q given everything measured, for each pass after the first."""
        c = self.config
        weights = [c.beta_kl * (1 - c.beta_reverse), c.beta_kl * c.beta_reverse]
        return weights[: self.n_passes() - 1]

    def _mmd(self, q: Encoded, minibatch: Minibatch, gamma: float) -> Tensor:
        mean = q.mean[: minibatch.n_cells]
        if gamma <= 0:
            return mean.new_zeros(())
        return gamma * mmd(mean, minibatch.group, unbiased=self.config.unbiased_mmd)

    def imputed_mean(
        self,
        m: int,
        z: Tensor,
        embedding: Tensor,
        covariates: Tensor,
        *,
        library: Tensor | None,
        panel: Tensor | None = None,
        blocks: list[Tensor] | None = None,
    ) -> Tensor:
        """Mean of modality m's likelihood for R rows, dense (R, D_m).

        Parameters
        ----------
        m
            Position of the modality.
        z, embedding, covariates
            Latent (R, K), mask's embedding (R, sum of E) and covariates (R, C).
        library
            (R, 1) where the modality is library-aware.
        panel
            1 for the features that the library was summed over, (R, D_m); None for all.
        blocks
            The encoder's block output, for the skip connection.
        """
        h = self.decoder.trunk(z, embedding, covariates, 1)
        skip = self.config.skip_conn and blocks is not None
        hidden = [
            self.decoder.block_hidden(i, h, blocks[i] if skip and blocks is not None else None)
            for i in self.decoder.of_modality(m)
        ]
        head = self.head(m)
        return likelihood_mean(
            head.dist,
            self.decoder.output(m, hidden),
            low=head.low,
            high=head.high,
            centre=head.centre,
            library=library,
            panel=panel,
            pi=self.decoder.pi(m),
        )


def _of_features(view: View, rows: ModalityRows) -> View:
    """The view of the features that the rows hold."""
    if rows.features is None:
        return view
    if view.full:
        return dataclasses.replace(view, table=rows.panels)
    at = torch.from_numpy(rows.features).to(view.table.device)
    return dataclasses.replace(view, table=view.table.index_select(1, at))
