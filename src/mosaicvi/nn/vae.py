"""MosaicVAE: F(in, out) of a minibatch and the terms of the loss (docs/model.md, "What is minimised").

Legend: P passes (observed, masked, and reverse when `beta_reverse` > 0), B cells, N = P * B rows, M
modalities, D features of a modality, K latent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.profiler import record_function

from mosaicvi import engine
from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import Minibatch, ModalityRows
from mosaicvi.device import numbers, on_device
from mosaicvi.likelihoods import Parameters
from mosaicvi.likelihoods.base import Bounds
from mosaicvi.nn import losses
from mosaicvi.nn.decoder import Decoder, Head
from mosaicvi.nn.encoder import Encoder, Posterior
from mosaicvi.nn.layers import PassBatchNorm
from mosaicvi.nn.losses import Losses
from mosaicvi.nn.masks import ModalityMask, View, masked_views, observed_view
from mosaicvi.ranks.group import Share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
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
        Of each modality's mean, (D,) each.
    generator
        Decides the first weights.
    """

    beta_modal: Tensor

    def __init__(
        self, config: NetworkConfig, n_covariates: int, bounds: list[Bounds], generator: Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.n_covariates = n_covariates
        self.encoder = Encoder(config, n_covariates, generator)
        self.decoder = Decoder(config, n_covariates, generator)
        n = len(config.uni_block_names)
        beta = (1.0,) * n if config.beta_modal == "auto" else config.beta_modal
        self.register_buffer("beta_modal", torch.tensor(beta, dtype=torch.float32), persistent=False)
        self._norms = [module for module in self.modules() if isinstance(module, PassBatchNorm)]
        self.fixed_statistics = False  # whether norms keep theirs, also in training
        self._is_centred = [bool(b.centre.any()) for b in bounds]
        for m, of_modality in enumerate(bounds):
            for name in ("centre", "low", "high"):
                self.register_buffer(f"{name}_{m}", getattr(of_modality, name).clone().float())

    def train(self, mode: bool = True) -> MosaicVAE:
        """Switch to training or back; norms with fixed statistics stay as for answering."""
        super().train(mode)
        if self.fixed_statistics:
            for norm in self._norms:
                norm.train(False)
        return self

    def forward(
        self,
        minibatch: Minibatch,
        masks: tuple[ModalityMask, ...],
        *,
        gamma: float,
        noise: Tensor | None,
        share: Share | None = None,
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
            Standard normal numbers (N, K); None for z at its mean.
        share
            Where the B cells are this process's share of a minibatch: what is returned is then its share of
            the loss, of its terms and of the log-likelihood, which sum to those of the whole.
        """
        c, passes = self.config, self.passes(minibatch, masks)
        n = minibatch.n_cells
        for norm in self._norms:
            norm.share = share
        portion = 1.0 if share is None else share.n / share.n_all
        # a drawn feature stands for this many
        each = [d / t.panels.shape[1] for d, t in zip(c.dim_input_arr, minibatch.targets, strict=True)]
        weight_pm = numbers([p.weight for p in passes], self.beta_modal)[:, None] * self.beta_modal
        with record_function("encode"):
            q = self.encode(minibatch, [p.seen for p in passes])
        with record_function("decode"):
            z, kl = self._sample_and_kl(q, noise, portion)
            h = self.shared_layers(z, q, minibatch.covariates.repeat(len(passes), 1), len(passes))
        with record_function("likelihood"):
            per_cell = numbers(each, h) * portion / n
            log_prob_pm = per_cell * self._log_prob(minibatch, h, q, passes, weight_pm * per_cell)
        observed, *masked = -(weight_pm * log_prob_pm)
        terms = {
            "kl": kl,
            "mmd": self._mmd(q.mean[:n], minibatch.group, gamma, share),
            "observed": observed,
            "masked": torch.stack(masked).sum(0),
        }
        return Losses(
            total=torch.stack([term.sum() for term in terms.values()]).sum(),
            terms={name: term.detach() for name, term in terms.items()},
            log_prob=log_prob_pm.detach(),
        )

    # --- its steps: compiled where the engine serves, else by the definition -------------------------

    def compiled(self) -> ModuleType | None:
        """The same steps by the compiled engine, where it serves this network now."""
        weight = self.encoder.mean.weight
        serves = engine.serves(
            device=weight.device.type,
            dtype=weight.dtype,
            likelihoods=self.config.distributions,
            mixed_precision=torch.is_autocast_enabled(weight.device.type),
        )
        if not serves:
            return None
        from mosaicvi.nn import compiled

        return compiled

    def engine(self) -> str:
        """What does the work: ``"compiled"``, or ``"torch"`` for the definition."""
        return "compiled" if self.compiled() else "torch"

    def encode(self, minibatch: Minibatch, views: list[list[View]]) -> Posterior:
        """Posterior of every pass; ``views[p][m]`` is what pass p sees of modality m."""
        centres = [self.bounds(m).centre if c else None for m, c in enumerate(self._is_centred)]
        fast = self.compiled()
        encode = partial(fast.encode, self.encoder) if fast else self.encoder
        q: Posterior = encode(minibatch, views, centres)
        return q

    def shared_layers(self, z: Tensor, q: Posterior, covariates: Tensor, n_passes: int) -> Tensor:
        """Rows of the decoder's last shared layer, (N, W)."""
        given, stack = self.decoder.shared(z, q.embedding, covariates), self.decoder.hidden
        fast = self.compiled()
        h: Tensor = fast.hidden(stack, given, n_passes) if fast else stack(given, n_passes)
        return h.to(z.dtype)

    def _sample_and_kl(self, q: Posterior, noise: Tensor | None, portion: float) -> tuple[Tensor, Tensor]:
        c = self.config
        beta = c.beta_kl * portion
        weights = [beta * (1 - c.beta_reverse), beta * c.beta_reverse][: self.n_passes() - 1]
        noise = torch.zeros_like(q.mean) if noise is None else noise
        found: tuple[Tensor, Tensor] = (self.compiled() or losses).sample_and_kl(
            q.mean, q.log_var, noise, weights
        )
        return found

    def _log_prob(
        self, minibatch: Minibatch, h: Tensor, q: Posterior, passes: list[Pass], weight_pm: Tensor
    ) -> Tensor:
        """Sum of the log-likelihood of each pass and modality, (P, M), whose weight in the loss is given."""
        skip = [b.to(h.dtype) for b in q.blocks]
        targets = [
            (self.head(m, rows.features), [of_features(p.wanted[m], rows) for p in passes])
            for m, rows in enumerate(minibatch.targets)
        ]
        fast = self.compiled()
        if fast:
            found: Tensor = fast.log_prob(self.decoder, minibatch, h, skip, targets, weight_pm)
            return found
        with torch.autocast(h.device.type, enabled=False):  # in float32 whatever the precision
            columns = [
                self.decoder.log_prob(head, minibatch, m, h, skip, wanted)
                for m, (head, wanted) in enumerate(targets)
            ]
        return torch.stack(columns, 1)

    def _mmd(self, mean: Tensor, group: Tensor, gamma: float, share: Share | None) -> Tensor:
        if gamma <= 0:
            return mean.new_zeros(())
        groups, k = group.view(len(mean), -1), mean.shape[1]
        if share is not None:  # it is over pairs of all cells, and each process has its part of the sum
            of_all = share.gathered(torch.cat([mean, groups.to(mean.dtype)], 1))
            mean, groups = of_all[:, :k], of_all[:, k:].detach().long()
            gamma = gamma / share.group.size
        mmd, unbiased = (self.compiled() or losses).mmd, self.config.unbiased_mmd
        found = [mmd(mean, column, unbiased=unbiased) for column in groups.T]
        return gamma * torch.stack(found).sum()

    def set_beta_modal(self, weights: Sequence[float]) -> None:
        """Weigh the modalities' likelihoods anew."""
        self.beta_modal.copy_(torch.tensor(weights))

    # --- parts ------------------------------------------------------------------------------------

    def statistics(self) -> list[Tensor]:
        """What training changes without a gradient: running statistics of the norms."""
        return [b for norm in self._norms for b in norm.buffers()]

    def bounds(self, m: int) -> Bounds:
        """Centre and bounds of modality m's mean."""
        centre, low, high = (self.get_buffer(f"{name}_{m}") for name in ("centre", "low", "high"))
        return Bounds(centre=centre, low=low, high=high)

    def head(self, m: int, features: NDArray[np.int64] | None = None) -> Head:
        """Head of modality m, for some features, ascending, or for all."""
        return self.decoder.head(m, self.bounds(m), features)

    def n_passes(self) -> int:
        """Passes of a step: observed and masked, and reverse when `beta_reverse` > 0."""
        return 3 if self.config.beta_reverse > 0 else 2

    def passes(self, minibatch: Minibatch, masks: tuple[ModalityMask, ...]) -> list[Pass]:
        """What each pass sees and must predict."""
        c = self.config
        observed = [observed_view(r) for r in minibatch.rows]
        both = [masked_views(o, k) for o, k in zip(observed, masks, strict=True)]
        visible, masked = [b[0] for b in both], [b[1] for b in both]
        passes = [
            Pass(seen=observed, wanted=observed, weight=1 - c.beta_unobs),
            Pass(seen=visible, wanted=masked, weight=c.beta_unobs * (1 - c.beta_reverse)),
        ]
        if c.beta_reverse > 0:
            passes.append(Pass(seen=masked, wanted=visible, weight=c.beta_unobs * c.beta_reverse))
        return passes

    # --- answers ----------------------------------------------------------------------------------

    def parameters_of(
        self,
        m: int,
        z: Tensor,
        q: Posterior,
        covariates: Tensor,
        *,
        library: Tensor | None,
        panel: Tensor | None = None,
        features: NDArray[np.int64] | None = None,
        with_dispersion: bool = True,
    ) -> Parameters:
        """Parameters of modality m's likelihood for R rows, (R, d) each but the inflation, (d,).

        Parameters
        ----------
        m
            Position of the modality.
        z, q, covariates
            Latent (R, K), the posterior that it is of, and covariates (R, C).
        library
            (R, 1) where the modality is library-aware.
        panel
            Features that the library was summed over, boolean (R, D); None for all.
        features
            Positions of features, ascending; None for all.
        with_dispersion
            Whether the dispersion is needed as well.
        """
        h = self.shared_layers(z, q, covariates, 1)
        # a softmax is over all features, of which some are kept
        head = self.head(m, None if library is not None else features)
        location = head.location(self.decoder.output(head, h, q.blocks), library, panel)
        if library is not None and features is not None:
            location = location[:, on_device(features, location.device)]
            head = self.head(m, features)
        alpha = head.alpha(covariates) if with_dispersion else None
        return Parameters(location=location, dispersion=alpha, inflation=head.pi())

    def imputed_mean(self, m: int, z: Tensor, q: Posterior, covariates: Tensor, **rest: Any) -> Tensor:
        """Mean of modality m's likelihood for R rows, dense (R, d); arguments as `parameters_of`."""
        family = self.decoder.families[m]
        needs = family.mean_has_dispersion
        return family.mean(self.parameters_of(m, z, q, covariates, with_dispersion=needs, **rest))


def of_features(view: View, rows: ModalityRows) -> View:
    """The view of the features that the rows hold."""
    if rows.features is None:
        return view
    if view.full:
        return dataclasses.replace(view, table=rows.panels)
    at = on_device(rows.features, view.table.device)
    return dataclasses.replace(view, table=view.table.index_select(1, at))
