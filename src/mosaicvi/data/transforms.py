"""What the encoder sees of a value: element-wise maps that keep zeros zero, so rows stay sparse.

Each is ``f(value * scale)`` with one scale per cell, computed once when data are registered.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

Transform = Literal["log1p_cp10k", "clr", "binarize", "none"]
TRANSFORMS: tuple[Transform, ...] = get_args(Transform)


def cell_scale(
    transform: Transform, total: NDArray[np.float64], mean_log1p: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Scale of each cell.

    Parameters
    ----------
    transform
        Name of the map.
    total
        Sum of the cell's measured values, shape (n,).
    mean_log1p
        Mean of log(1 + value) over the cell's measured features, shape (n,).

    Returns
    -------
    Array of shape (n,): 10,000 / total, the reciprocal of the geometric mean of 1 + value
    (Stoeckius et al., Nature Methods 2017), or one.
    """
    if transform == "log1p_cp10k":
        return (1e4 / np.maximum(total, 1.0)).astype(np.float32)
    if transform == "clr":
        return np.exp(-mean_log1p).astype(np.float32)
    return np.ones(len(total), np.float32)


def apply(transform: Transform, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Transformed values; `scale` broadcasts against them."""
    if transform == "binarize":
        return (values > 0).to(values.dtype)
    if transform == "none":
        return values
    return torch.log1p(values * scale)
