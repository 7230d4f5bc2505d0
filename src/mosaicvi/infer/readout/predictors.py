"""What is known of a cell besides its latent: its measured values in a few coordinates.

Legend: r cells, d features, p coordinates.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD

from mosaicvi.data.mosaic import ModalityData
from mosaicvi.data.transforms import apply
from mosaicvi.infer.readout.scales import on_scale

Floats = NDArray[np.floating[Any]]
N_COMPONENTS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projection:
    """Coordinates of some features of a modality: (values - centre) @ axes.

    Attributes
    ----------
    features
        Which features, positions (d,).
    kind
        The scale of counts; empty for values as the encoder sees them.
    centre, axes
        (d,) and (d, p), the latter scaled so that all coordinates together have a variance of 1.
    """

    features: NDArray[np.int64]
    kind: str
    centre: Floats
    axes: Floats

    @classmethod
    def fit(
        cls, data: ModalityData, rows: NDArray[np.int64], shown: NDArray[np.bool_], kind: str
    ) -> Projection:
        """Principal components of some rows, or the features themselves where they are few."""
        features = np.flatnonzero(shown)
        x = _values(data, rows, features, kind)
        centre = np.asarray(x.mean(0), np.float64).ravel()
        if len(features) <= N_COMPONENTS:
            axes = np.eye(len(features))
        else:
            k = min(N_COMPONENTS, len(features) - 1, max(1, len(rows) - 1))
            axes = TruncatedSVD(k, random_state=0).fit(x if sp.issparse(x) else x - centre).components_.T
        spread = np.sqrt(max(_project(x, centre, axes).var(0).sum(), 1e-12))
        return cls(features=features, kind=kind, centre=centre, axes=np.asarray(axes / spread, np.float64))

    def __call__(self, data: ModalityData, rows: NDArray[np.int64]) -> Floats:
        """Coordinates of rows of a modality, (r, p)."""
        return _project(_values(data, rows, self.features, self.kind), self.centre, self.axes)


def _project(x: Any, centre: Floats, axes: Floats) -> Floats:
    return np.asarray(x @ axes - centre @ axes, np.float64)


def _values(data: ModalityData, rows: NDArray[np.int64], features: NDArray[np.int64], kind: str) -> Any:
    """Values of rows (r, d), sparse where that is large; what was not measured is at 0."""
    x = data.x[rows][:, features]
    if isinstance(x, np.ndarray):
        scale = torch.from_numpy(data.scale[rows])[:, None]
        return apply(data.transform, torch.from_numpy(x), scale).double().numpy()
    if kind == "clr":
        return on_scale(x.toarray().astype(np.float64), "clr")
    x = x.astype(np.float64)
    if kind == "log1p_cp10k":
        total = np.maximum(np.asarray(x.sum(1)).ravel(), 1.0)
        x = sp.csr_matrix(sp.diags(1e4 / total) @ x)
        x.data = np.log1p(x.data)
    else:
        x.data = np.ones_like(x.data)
    return x
