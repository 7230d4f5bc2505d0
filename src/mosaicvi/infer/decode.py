"""The mean of the likelihood for some features only: no more of the last layer is computed than they need."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.nn.encoder import Encoded
from mosaicvi.nn.likelihoods import mean
from mosaicvi.nn.task import of_block
from mosaicvi.nn.vae import MosaicVAE


def decoded(
    net: MosaicVAE,
    m: int,
    z: Tensor,
    q: Encoded,
    covariates: Tensor,
    *,
    library: Tensor | None,
    features: NDArray[np.int64] | None,
) -> Tensor:
    """Mean of modality m's likelihood for R rows, dense (R, d).

    Parameters
    ----------
    net, m
        The network, and the position of the modality.
    z, q, covariates
        Latent (R, K), the posterior that it is of, and covariates (R, C).
    library
        (R, 1) where the modality is library-aware.
    features
        Positions in the network's order, in any order; None for all.
    """
    if features is None:
        return net.imputed_mean(m, z, q.embedding, covariates, library=library, blocks=q.blocks)
    at = torch.from_numpy(features).to(z.device)
    head = net.head(m)
    h = net.decoder.trunk(z, q.embedding, covariates, 1)
    out, log_total = _output(net, m, h, q, at, whole=library is not None)
    if library is not None:  # a softmax over all features, of which some are kept
        rate = torch.exp(out - log_total) * library
        pi = net.decoder.pi(m)
        return rate if pi is None else rate * (1 - pi[at])
    pi = net.decoder.pi(m)
    return mean(
        head.dist,
        out,
        low=head.low[at],
        high=head.high[at],
        centre=head.centre[at],
        pi=None if pi is None else pi[at],
    )


def _output(
    net: MosaicVAE, m: int, h: Tensor, q: Encoded, at: Tensor, *, whole: bool
) -> tuple[Tensor, Tensor]:
    """The decoder's output at some features (R, d), and log sum exp of all of it (R, 1) if `whole`."""
    decoder = net.decoder
    out = h.new_empty(len(h), len(at))
    log_total = h.new_full((len(h), 1), -torch.inf)
    for i in decoder.of_modality(m):
        group, last = decoder.groups[i], decoder.last[i]
        hidden = decoder.block_hidden(i, h, q.blocks[i] if net.config.skip_conn else None)
        for b, (lo, hi) in enumerate(group.spans):
            here = torch.nonzero((at >= lo) & (at < hi)).squeeze(1)
            if not whole and not len(here):
                continue
            weight = last[:, lo - group.lo : hi - group.lo]
            column = at[here] - lo
            if not whole:
                weight = weight[:, column]
            part = torch.addmm(weight[-1], hidden[:, of_block(group, b)], weight[:-1])
            out[:, here] = part[:, column] if whole else part
            if whole:
                top = part.amax(1, keepdim=True)
                total = part.sub_(top).exp_().sum(1, keepdim=True).log_().add_(top)
                log_total = torch.logaddexp(log_total, total)
    return out, log_total
