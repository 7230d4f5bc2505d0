"""Sums over the cells that measured each feature: total, mean, spread, least and most.

Shapes: n rows of a block, D features.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicvi.data.blocks import Block
from mosaicvi.data.transforms import Transform, apply


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """What is known of each feature, float64 (D,) each.

    Attributes
    ----------
    total, mean, sd, least, most
        Of the measured values.
    n_measured
        Cells that measured it.
    exposure
        Sum of their libraries.
    """

    total: NDArray[np.float64]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    n_measured: NDArray[np.float64]
    exposure: NDArray[np.float64]


class ColumnSums:
    """Sums of features that grow block by block.

    Parameters
    ----------
    n_features
        D.
    transform
        What is summed: values as the encoder sees them; raw ones for ``"none"``.
    """

    def __init__(self, n_features: int, transform: Transform) -> None:
        self.transform = transform
        self.total, self.square, self.mean, self.spread = np.zeros((4, n_features))
        self.filled = np.zeros(n_features, np.int64)
        self.least, self.most = np.full(n_features, np.inf), np.full(n_features, -np.inf)
        self.is_dense = False

    def add(
        self, block: Block, scale: NDArray[np.float32], measured: NDArray[np.bool_] | None = None
    ) -> None:
        """Add rows.

        Parameters
        ----------
        block
            Values (n, D), 0 where nothing was measured.
        scale
            Of each row, (n,).
        measured
            What was measured, (n, D); of a sparse block it does not matter.
        """
        if isinstance(block, np.ndarray):
            self.is_dense = True
            seen = apply(self.transform, torch.from_numpy(block), torch.from_numpy(scale)[:, None])
            every = np.ones(block.shape, bool) if measured is None else measured
            self._add_dense(seen.double().numpy(), every)
            return
        value = block.data
        if self.transform != "none":
            of_value = torch.from_numpy(np.repeat(scale, np.diff(block.indptr)))
            value = apply(self.transform, torch.from_numpy(value), of_value).numpy()
        self._add_sparse(value, block.indices)

    def _add_sparse(self, value: NDArray[Any], col: NDArray[Any]) -> None:
        d, col = len(self.total), col.astype(np.intp, copy=False)
        square, value = np.square(value), value.astype(np.float64)  # as the sums: `at` is slow to convert
        self.total += np.bincount(col, weights=value, minlength=d)
        self.square += np.bincount(col, weights=square, minlength=d)
        self.filled += np.bincount(col, minlength=d)
        np.minimum.at(self.least, col, value)
        np.maximum.at(self.most, col, value)

    def _add_dense(self, x: NDArray[np.float64], measured: NDArray[np.bool_]) -> None:
        """Join the moments of two parts (Chan, Golub & LeVeque, Technical Report STAN-CS-79-773, 1979)."""
        n_here, n_before = measured.sum(0), self.filled
        mean = x.sum(0, where=measured) / np.maximum(n_here, 1)
        spread = np.square(x - mean).sum(0, where=measured)
        n = np.maximum(n_here + n_before, 1)
        step = np.where(n_here > 0, mean - self.mean, 0.0)
        self.mean += step * n_here / n
        self.spread += spread + np.square(step) * n_before * n_here / n
        self.filled = n_before + n_here
        self.least = np.minimum(self.least, x.min(0, where=measured, initial=np.inf))
        self.most = np.maximum(self.most, x.max(0, where=measured, initial=-np.inf))

    def found(self, n_measured: NDArray[np.float64], exposure: NDArray[np.float64]) -> Columns:
        """What all blocks together say of features that so many cells measured; fields as in `Columns`."""
        n = np.maximum(n_measured, 1)
        least, most = self.least, self.most
        if self.is_dense:
            same = least == most  # to the bit, which their mean may miss
            mean, sd = np.where(same, least, self.mean), np.where(same, 0, np.sqrt(self.spread / n))
            total = mean * n_measured
        else:
            mean = self.total / n
            total, sd = self.total, np.sqrt(np.maximum(self.square / n - mean * mean, 0))
            has_zeros = self.filled < n_measured
            least = np.where(has_zeros, np.minimum(least, 0), least)
            most = np.where(has_zeros, np.maximum(most, 0), most)
        return Columns(
            total=total, mean=mean, sd=sd, least=least, most=most, n_measured=n_measured, exposure=exposure
        )


def by_panel(panels: NDArray[np.bool_], panel_of_row: NDArray[np.int64], weight: NDArray[Any]) -> Any:
    """Sum of a weight over the rows whose panel measures each feature, float64 (D,)."""
    return np.bincount(panel_of_row, weights=weight, minlength=len(panels)) @ panels
