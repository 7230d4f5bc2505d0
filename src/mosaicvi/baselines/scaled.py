"""One modality on the scale on which it is imputed, in the user's order of features.

Shapes: n cells, r cells that have the modality (its rows), d features of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from mosaicvi.data.blocks import RowsOnDemand
from mosaicvi.data.mosaic import ModalityData
from mosaicvi.data.transforms import Transform, cell_scale
from mosaicvi.data.values import scales

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledModality:
    """Values of a modality after its transform.

    Attributes
    ----------
    names
        Features in the user's order.
    x
        Transformed values, r × d, sparse or dense; 0 where not measured.
    measured
        Which were measured, r × d; None for all.
    row_of_cell
        Row of each cell, −1 where it lacks the modality, shape (n,).
    scale
        What a row's values were multiplied with, by what it measured, shape (r,).
    """

    names: tuple[str, ...]
    transform: Transform
    x: sp.csr_matrix | npt.NDArray[np.float32]
    measured: Bools | None
    row_of_cell: Ints
    scale: npt.NDArray[np.float32]

    @classmethod
    def of(cls, data: ModalityData, transform: Transform | None) -> ScaledModality:
        """A registered modality by a transform, its own where None."""
        transform = transform or data.transform
        back = np.argsort(data.features.order, kind="stable")
        if data.entry_measured is not None:
            measured: Bools | None = data.entry_measured[:, back]
        else:
            measured = None if data.panels.all() else data.panels[data.panel_of_row][:, back]
        x = (data.x[:] if isinstance(data.x, RowsOnDemand) else data.x)[:, back]
        n_seen = np.full(data.n_cells, data.n_features) if measured is None else measured.sum(1)
        _, scale = scales(x, n_seen, transform)
        return cls(
            names=tuple(data.features.names[i] for i in back),
            transform=transform,
            x=_transformed(x, scale, transform),
            measured=measured,
            row_of_cell=data.row_of_cell,
            scale=scale,
        )

    def block(self, rows: Ints, columns: Ints) -> Floats:
        """Values of some rows and features, dense; 0 where not measured."""
        part = self.x[rows][:, columns]
        return np.asarray(part if isinstance(part, np.ndarray) else part.toarray(), np.float64)

    def filled(self, rows: Ints) -> npt.NDArray[np.float32]:
        """Values of some rows, NaN where not measured; a row −1 was not measured at all."""
        out = np.full((len(rows), len(self.names)), np.nan, np.float32)
        has = rows >= 0
        part = self.x[rows[has]]
        known = part if isinstance(part, np.ndarray) else part.toarray()
        out[has] = known if self.measured is None else np.where(self.measured[rows[has]], known, np.nan)
        return out

    def means(self) -> Floats:
        """Mean of each feature over the cells that measured it; NaN if none did."""
        n_d = np.full(len(self.names), self.x.shape[0]) if self.measured is None else self.measured.sum(0)
        total_d = np.asarray(self.x.sum(0, dtype=np.float64)).ravel()
        mean_d = np.full(len(n_d), np.nan)
        np.divide(total_d, n_d, out=mean_d, where=n_d > 0)
        return mean_d

    def patterns(self, rows: Ints) -> Iterator[tuple[Ints, Bools]]:
        """Features that the same of these rows measured: their positions, and whether each row did."""
        features = np.arange(len(self.names))
        if self.measured is None:
            yield features, np.ones(len(rows), bool)
            return
        yield from alike(features, self.measured[rows])

    def common(self, some: Ints, others: Ints) -> Ints:
        """Features that any of some rows and any of the others measured."""
        if self.measured is None:
            return np.arange(len(self.names))
        return np.flatnonzero(self.measured[some].any(0) & self.measured[others].any(0))

    @property
    def has_size(self) -> bool:
        """Whether the scale divides by a size of the cell."""
        return self.transform in ("log1p_cp10k", "clr")

    def resized(self, values: npt.NDArray[np.float32]) -> tuple[ScaledModality, npt.NDArray[np.float32]]:
        """The modality with the size of each row taken over all its features, and the complete rows with it.

        Parameters
        ----------
        values
            Complete rows, r × d, on the present scale; NaN for a feature that no cell measured.
        """
        if not self.has_size:
            return self, values
        counts = np.expm1(np.maximum(values.astype(np.float64), 0)) / self.scale[:, None]
        known = ~np.isnan(counts)
        filled = np.where(known, counts, 0)
        mean_log = np.log1p(filled).sum(1) / np.maximum(known.sum(1), 1)
        scale = cell_scale(self.transform, filled.sum(1), mean_log)
        complete = np.log1p(counts * scale[:, None]).astype(np.float32)
        x = complete if self.measured is None else np.where(self.measured, complete, np.float32(0))
        sparse = not isinstance(self.x, np.ndarray)
        return dataclasses.replace(self, x=sp.csr_matrix(x) if sparse else x, scale=scale), complete


def alike(features: Ints, measured: Bools) -> Iterator[tuple[Ints, Bools]]:
    """Features of equal columns together: their numbers, and the column.

    Parameters
    ----------
    features
        Numbers of the columns.
    measured
        Rows × columns.
    """
    found: dict[bytes, list[int]] = {}
    for at, column in enumerate(np.packbits(measured, axis=0).T):
        found.setdefault(column.tobytes(), []).append(at)
    for group in found.values():
        yield features[group], measured[:, group[0]]


def _transformed(
    x: sp.csr_matrix | npt.NDArray[np.float32], scale: npt.NDArray[np.float32], transform: Transform
) -> sp.csr_matrix | npt.NDArray[np.float32]:
    if isinstance(x, np.ndarray):
        return _apply(x, scale[:, None], transform)
    data = _apply(np.asarray(x.data), np.repeat(scale, np.diff(x.indptr)), transform)
    return sp.csr_matrix((data, x.indices, x.indptr), shape=x.shape)


def _apply(
    values: npt.NDArray[np.float32], scale: npt.NDArray[np.float32], transform: Transform
) -> npt.NDArray[np.float32]:
    if transform == "binarize":
        return (values > 0).astype(np.float32)
    return values if transform == "none" else np.log1p(values * scale)
