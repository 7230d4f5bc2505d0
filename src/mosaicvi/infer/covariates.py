"""The covariates with which a cell is decoded: its own, or a mean where its batch lacks the modality."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.data.minibatch import Minibatch
from mosaicvi.data.mosaic import Mosaic


def measuring_batches(mosaic: Mosaic, m: int) -> NDArray[np.bool_] | None:
    """Which batches measured modality m; None when all did."""
    key = mosaic.registry.setup.batch_key
    if key is None:
        return None
    names = mosaic.registry.categories[key]
    measured = np.isin(names, mosaic.registry.measured_in[mosaic.modalities[m].name])
    return None if measured.all() else measured


def covariates_for(minibatch: Minibatch, measuring: NDArray[np.bool_] | None) -> Tensor:
    """Covariates of each cell; batches that never measured the modality, or that are not known, get the mean
    of those that did.
    """
    c = minibatch.covariates
    if measuring is None:
        return c
    known = torch.from_numpy(measuring).to(c.device)
    n = len(known)
    mean = known.to(c.dtype) / known.sum()
    inside = (c[:, :n] * ~known).sum(1, keepdim=True) == 0  # nor any share of a batch without the modality
    return torch.cat([torch.where(inside, c[:, :n], mean), c[:, n:]], 1)
