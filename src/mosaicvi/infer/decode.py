"""The mean of the likelihood for some features only."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.nn.encoder import Posterior
from mosaicvi.nn.vae import MosaicVAE


def decoded(
    net: MosaicVAE,
    m: int,
    z: Tensor,
    q: Posterior,
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
        return net.imputed_mean(m, z, q, covariates, library=library)
    distinct, place = np.unique(features, return_inverse=True)
    mean = net.imputed_mean(m, z, q, covariates, library=library, features=distinct)
    return mean[:, torch.from_numpy(place).to(mean.device)]
