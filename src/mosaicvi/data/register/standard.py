"""What the network subtracts from each feature's values and divides them by, from the measured ones."""

from __future__ import annotations

import numpy as np

from mosaicvi import likelihoods
from mosaicvi.data.blocks import is_dense
from mosaicvi.data.mosaic import ModalityData
from mosaicvi.data.registry import Standard


def standard_of(m: ModalityData) -> Standard | None:
    """Mean and standard deviation of each feature; None where the likelihood takes the values as they are."""
    if not likelihoods.get(m.likelihood).standardised or m.transform != "none" or not is_dense(m.x):
        return None
    columns = m.columns("none")
    return Standard(centre=columns.mean, spread=np.where(columns.sd > 0, columns.sd, 1.0))
