"""On which scale the values of a modality are compared.

Legend: r rows of a modality, d of its features.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi import likelihoods
from mosaicvi.data.mosaic import ModalityData
from mosaicvi.infer.differential.contrast import FEWEST_FOR_CENTRE
from mosaicvi.infer.differential.moments import Floats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """How values are compared.

    Attributes
    ----------
    is_ratio
        Whether shares of the library are compared by their ratio; else values by their difference.
    is_log
        Whether the values are logarithms to base 2 of 1 + count, of counts at the depth of a typical cell.
    effect
        What `lfc` means, in words.
    """

    is_ratio: bool
    is_log: bool
    effect: str

    @property
    def counts(self) -> bool:
        """Whether counts are compared, of which a cell has only so many."""
        return self.is_ratio or self.is_log

    @classmethod
    def of(cls, data: ModalityData) -> Kind:
        """By what the modality holds: mostly empty counts, counts often above zero, or other numbers."""
        family = likelihoods.get(data.likelihood)
        if family.whole and data.whole and (family.of_peaks or data.transform != "clr"):
            return cls(is_ratio=True, is_log=False, effect="log2 ratio of the shares of the library")
        if family.whole and data.whole:
            return cls(is_ratio=False, is_log=True, effect="difference of the mean log2(1 + count)")
        return cls(is_ratio=False, is_log=False, effect="difference of the means")

    def value(self, data: ModalityData, rows: slice, columns: NDArray[np.int64]) -> tuple[Any, Any]:
        """Values of some rows and columns as they are compared, and as they are."""
        raw: Any = data.x[rows][:, columns]
        if not self.is_log:
            return raw, raw
        depth: NDArray[Any] = np.ones(len(data.scale[rows]))
        if data.n_features >= FEWEST_FOR_CENTRE:  # of few features, one that differs would move all others
            depth = data.scale[rows] / float(np.median(data.scale))
        if not sp.issparse(raw):
            return np.log2(1 + raw * depth[:, None]), raw
        value = sp.csr_matrix(sp.diags(depth) @ raw)
        value.data = np.log2(1 + value.data)
        return value, raw

    def exposure(self, data: ModalityData, rows: slice) -> Floats:
        """Of each cell: in units of the mean library, or 1."""
        if not self.is_ratio:
            return np.ones(len(data.library[rows]))
        return data.library[rows].astype(np.float64) / max(float(data.library.mean()), 1e-12)

    def imputed(self, expected: Floats) -> Floats:
        """Imputed values, expected counts at one library or others, as they are compared."""
        if self.is_log:
            return np.asarray(np.log2(1 + np.maximum(expected, 0.0)))
        return np.maximum(expected, 0.0) if self.is_ratio else expected
