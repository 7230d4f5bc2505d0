"""What the network subtracts from each feature's values and divides them by, from the measured ones."""

from __future__ import annotations

import numpy as np

from mosaicvi import likelihoods
from mosaicvi.data.mosaic import ModalityData, Standard
from mosaicvi.data.values import COLUMNS, moments


def standard_of(m: ModalityData) -> Standard | None:
    """Mean and standard deviation of each feature; None where the likelihood takes the values as they are."""
    if (
        not likelihoods.get(m.likelihood).standardised
        or m.transform != "none"
        or not isinstance(m.x, np.ndarray)
    ):
        return None
    centre, spread = np.empty((2, m.n_features))
    for first in range(0, m.n_features, COLUMNS):
        cols = slice(first, first + COLUMNS)
        centre[cols], spread[cols], *_ = moments(m.x[:, cols].astype(np.float64), m.measured(columns=cols))
    return Standard(centre=centre, spread=np.where(spread > 0, spread, 1.0))
