"""What a minibatch holds: sparse rows, what is measured, covariates.

Shapes: B cells of the minibatch, n_m of them with modality m, D_m features in G blocks, Z non-zeros.
Rows of a modality are kept block-major, (block, cell), so that each block is one run of non-zeros
and a block-wise layer is one sparse product.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from mosaicvi import device
from mosaicvi.data import runs
from mosaicvi.data.transforms import Transform, apply
from mosaicvi.engine.jit import Floats, Ints


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseRows:
    """Rows of a modality, block-major: the non-zeros of block b and cell i are one run.

    Attributes
    ----------
    cell
        The i of each non-zero, int64 (Z,).
    col
        Its column in the modality, int64 (Z,).
    value
        Its raw value, float32 (Z,).
    indptr
        Where the run b * n_m + i begins, int64 (G * n_m + 1,).
    """

    cell: Tensor
    col: Tensor
    value: Tensor
    indptr: Tensor

    def to(self, place: torch.device) -> SparseRows:
        """The same on a device."""
        return _each_moved(self, place)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModalityRows:
    """What a minibatch holds of one modality, or of some of its features.

    Attributes
    ----------
    cells
        Position in the minibatch of each cell that has the modality, int64 (n_m,).
    panel
        Its panel, int64 (n_m,).
    panels
        What each panel measures, boolean (P, D_m).
    all_measured
        Whether no panel lacks a feature.
    library, scale
        Its library and the scale of its transform, float32 (n_m,).
    sparse, dense
        Its values, one of the two: `SparseRows`, or float32 (n_m, D_m).
    entry_measured
        Which entries were measured, boolean (n_m, D_m), or None for the whole panel.
    factors, factor
        What brings counts to one level for all batches, float32 (A, D_m), and the row of each cell, int64
        (n_m,); None for nothing, and where only the likelihood is computed.
    features
        Which of the modality's features these are, ascending, on the host; None for all.
    """

    cells: Tensor
    panel: Tensor
    panels: Tensor
    all_measured: bool
    transform: Transform
    library: Tensor
    scale: Tensor
    sparse: SparseRows | None
    dense: Tensor | None
    entry_measured: Tensor | None
    factors: Tensor | None = None
    factor: Tensor | None = None
    features: NDArray[np.int64] | None = None

    def to(self, place: torch.device) -> ModalityRows:
        """The same on a device."""
        sparse = None if self.sparse is None else self.sparse.to(place)
        return dataclasses.replace(_each_moved(self, place), sparse=sparse)

    def only(self, columns: NDArray[np.int64]) -> ModalityRows:
        """The same of some of these columns, ascending, for the likelihood: the library is their sum."""
        at = device.on_device(columns, self.cells.device)
        sparse, dense, library = self.sparse, self.dense, self.library
        if sparse is not None:
            place = np.full(self.panels.shape[1], -1)
            place[columns] = np.arange(len(columns))
            sparse, library = _narrowed(sparse, self.cells.shape[0], torch.from_numpy(place))
        elif dense is not None:
            dense = dense.index_select(1, at)
            library = dense.sum(1)
        entry = self.entry_measured
        return dataclasses.replace(
            self,
            panels=self.panels.index_select(1, at),
            library=library,
            sparse=sparse,
            dense=dense,
            entry_measured=None if entry is None else entry.index_select(1, at),
            factors=None,
            factor=None,
            features=columns if self.features is None else self.features[columns],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Minibatch:
    """B cells of a mosaic.

    Attributes
    ----------
    index
        Their positions in the mosaic, int64 (B,).
    rows
        What they hold of each modality, in the mosaic's order.
    targets
        The same of the features that the likelihood is computed of.
    covariate_table, covariate_code
        Distinct rows of covariates, float32 (A, C), and the row of each cell, int64 (B,).
    group
        Condition group from 1, 0 for none, int64 (B,); or (B, k) where there are k ways to group cells.
    """

    index: Tensor
    rows: tuple[ModalityRows, ...]
    targets: tuple[ModalityRows, ...]
    covariate_table: Tensor
    covariate_code: Tensor
    group: Tensor

    def at_other_levels(self, spread: float, generator: Generator) -> Minibatch:
        """The same as if each batch had other levels of its features than those that were found.

        Parameters
        ----------
        spread
            Standard deviation of the difference, in logarithms.
        generator
            Draws it.
        """
        if not spread:
            return self
        rows = tuple(
            r
            if r.factors is None
            else dataclasses.replace(r, factors=r.factors * (spread * noise_like(r.factors, generator)).exp())
            for r in self.rows
        )
        return dataclasses.replace(self, rows=rows)

    def to(self, place: torch.device) -> Minibatch:
        """The same on a device."""
        rows = tuple(r.to(place) for r in self.rows)
        pairs = zip(rows, self.rows, self.targets, strict=True)
        # what is the same for both is moved once
        targets = tuple(new if of is old else of.to(place) for new, old, of in pairs)
        return dataclasses.replace(_each_moved(self, place), rows=rows, targets=targets)

    @property
    def n_cells(self) -> int:
        """B."""
        return len(self.index)

    @property
    def covariates(self) -> Tensor:
        """Covariates of each cell, float32 (B, C)."""
        return self.covariate_table[self.covariate_code]


def noise_like(values: Tensor, generator: Generator) -> Tensor:
    """Standard normal numbers of the same shape."""
    return torch.randn(values.shape, generator=generator, device=values.device)


Part = TypeVar("Part", SparseRows, ModalityRows, Minibatch)


def _each_moved(part: Part, place: torch.device) -> Part:
    """A part whose own tensors are on a device."""
    values = ((f.name, getattr(part, f.name)) for f in dataclasses.fields(part))
    new: dict[str, Any] = {name: device.moved(v, place) for name, v in values if isinstance(v, Tensor)}
    return dataclasses.replace(part, **new)


def sparse_rows(cell: Ints, col: Ints, value: Floats, indptr: Ints) -> SparseRows:
    """Sparse rows of arrays, which share their memory."""
    cell_t, col_t, value_t, indptr_t = map(torch.from_numpy, (cell, col, value, indptr))
    return SparseRows(cell=cell_t, col=col_t, value=value_t, indptr=indptr_t)


def _narrowed(sparse: SparseRows, n: int, place: Tensor) -> tuple[SparseRows, Tensor]:
    """The non-zeros in columns whose new place is not -1, and the sum of each of the n cells."""
    if not device.would_wait(sparse.col):
        cell, col, value = sparse.cell.numpy(), sparse.col.numpy(), sparse.value.numpy()
        cell, col, value, ends, sums = runs.narrowed(
            cell, col, value, sparse.indptr.numpy(), n, place.numpy()
        )
        return sparse_rows(cell, col, value, ends), torch.from_numpy(sums)
    # to drop the others the device would wait for their number: they stay as zeros of the first column
    new = device.moved(place, sparse.col.device)[sparse.col]
    kept = sparse.value * (new >= 0)
    total = torch.zeros(n, device=new.device).index_add_(0, sparse.cell, kept)
    return dataclasses.replace(sparse, col=new.clamp_(min=0), value=kept), total


def runs_at(indptr: Tensor, at: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Row from 0, and position of the `total` non-zeros of the rows at `at`, one run after another."""
    start = indptr[at]
    length = indptr[at + 1] - start
    before = length.cumsum(0) - length
    row = torch.repeat_interleave(torch.arange(len(at), device=at.device), length, output_size=total)
    return row, torch.arange(total, device=at.device) + (start - before)[row]


def transformed(rows: ModalityRows) -> Tensor:
    """The values by their transform: non-zeros (Z,), or dense (n_m, D_m)."""
    if rows.sparse is not None:
        return apply(rows.transform, rows.sparse.value, rows.scale.index_select(0, rows.sparse.cell))
    assert rows.dense is not None
    return apply(rows.transform, rows.dense, rows.scale[:, None])


def seen(rows: ModalityRows) -> Tensor:
    """What the encoder sees of the values: the same with all batches at one level."""
    if rows.factors is None or rows.factor is None or rows.sparse is None:
        return transformed(rows)
    cell, col = rows.sparse.cell, rows.sparse.col
    factor = rows.factors[rows.factor.index_select(0, cell), col]
    return apply(rows.transform, rows.sparse.value, rows.scale.index_select(0, cell) * factor)
