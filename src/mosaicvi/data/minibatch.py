"""Mosaic + cell indices -> Minibatch: sparse rows, what is measured, covariates, on a device.

Shapes: B cells of the minibatch, n_m of them with modality m, D_m features in G blocks, Z non-zeros.
Rows of a modality are kept block-major, (block, cell), so that each block is one run of non-zeros
and a block-wise layer is one sparse product.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi import device
from mosaicvi.data import runs
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.data.transforms import Transform, apply
from mosaicvi.engine.jit import Floats, Ints
from mosaicvi.engine.threads import Share, in_shares, share_of

MAX_DISTINCT = 1024  # rows of covariates kept as a table
WORTH_SHARING = 1 << 16  # non-zeros, which one core gathers in the time of a hand-off
ALIKE = 64  # features with similar totals, of which equal shares are drawn


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
    features: NDArray[np.int64] | None = None

    def only(self, columns: NDArray[np.int64]) -> ModalityRows:
        """The same of some of these columns, ascending; the library is the sum over them."""
        at = torch.from_numpy(columns).to(self.cells.device)
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
        Condition group from 1, 0 for none, int64 (B,).
    """

    index: Tensor
    rows: tuple[ModalityRows, ...]
    targets: tuple[ModalityRows, ...]
    covariate_table: Tensor
    covariate_code: Tensor
    group: Tensor

    @property
    def n_cells(self) -> int:
        """B."""
        return len(self.index)

    @property
    def covariates(self) -> Tensor:
        """Covariates of each cell, float32 (B, C)."""
        return self.covariate_table[self.covariate_code]


class _Store:
    """The rows of one modality as tensors on the device, ready to be gathered."""

    def __init__(self, data: ModalityData, device: torch.device) -> None:
        def to(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.device = device
        self.row_of_cell = data.row_of_cell
        self.panel = to(data.panel_of_row)
        self.panels = to(data.panels)
        self.all_measured = bool(data.panels.all())
        self.library = to(data.library)
        self.scale = to(data.scale)
        self.n_blocks = len(data.block_sizes)
        self.transform: Transform = data.transform
        self.x = data.x
        self.dense = None
        self.entry = None if data.entry_measured is None else to(data.entry_measured)
        if isinstance(data.x, sp.csr_matrix):
            self.indptr = to(_block_indptr(data.x, np.cumsum(data.block_sizes)))
            self.indices = to(data.x.indices)
            self.values = to(data.x.data)
            self.row_length = np.diff(data.x.indptr)
        else:
            self.dense = to(data.x)

    @cached_property
    def by_total(self) -> Ints:
        """Features by their totals, (D_m,); only training asks."""
        return np.argsort(np.asarray(self.x.sum(0)).ravel(), kind="stable")

    def gather(self, index: NDArray[np.int64]) -> tuple[ModalityRows, Share | None]:
        """Rows of the cells at `index`, and the work that is left, if any, to fill in their non-zeros.

        Shapes are found on the host, so that a device never waits.
        """
        of_cell = self.row_of_cell[index]
        has = np.flatnonzero(of_cell >= 0)
        host_row = of_cell[has]
        cells, row = torch.from_numpy(has).to(self.device), torch.from_numpy(host_row).to(self.device)
        sparse: SparseRows | None = None
        fill: Share | None = None
        if self.dense is None and device.would_wait(row):
            sparse = self._runs(row, int(self.row_length[host_row].sum()))
        elif self.dense is None:
            sparse, fill = self._to_fill(host_row)
        rows = ModalityRows(
            cells=cells,
            panel=self.panel.index_select(0, row),
            panels=self.panels,
            all_measured=self.all_measured,
            transform=self.transform,
            library=self.library.index_select(0, row),
            scale=self.scale.index_select(0, row),
            sparse=sparse,
            dense=None if self.dense is None else self.dense.index_select(0, row),
            entry_measured=None if self.entry is None else self.entry.index_select(0, row),
        )
        return rows, fill

    def _to_fill(self, row: Ints) -> tuple[SparseRows, Share]:
        """Memory for the non-zeros of some rows, at hand, and the work of filling it."""
        matrix = self.indptr.numpy(), self.indices.numpy(), self.values.numpy()
        ends = runs.ends_of(matrix[0], row, self.n_blocks)
        cell, col = (np.empty(ends[-1], np.int64) for _ in range(2))
        value = np.empty(ends[-1], matrix[2].dtype)

        def fill(k: int, n_shares: int) -> None:
            runs.gather(*matrix, row, ends, *share_of(len(row), k, n_shares), cell, col, value)

        return _sparse_rows(cell, col, value, ends), fill

    def _runs(self, row: Tensor, total: int) -> SparseRows:
        """The `total` non-zeros of some rows on a device, block-major."""
        g = self.n_blocks
        at = (row * g + torch.arange(g, device=row.device)[:, None]).reshape(-1)
        out_row, position = _runs_at(self.indptr, at, total)
        indptr = torch.zeros(len(at) + 1, dtype=torch.int64, device=row.device)
        torch.cumsum(self.indptr[at + 1] - self.indptr[at], 0, out=indptr[1:])
        return SparseRows(
            cell=out_row % max(len(row), 1),
            col=self.indices[position].long(),
            value=self.values[position],
            indptr=indptr,
        )


def _sparse_rows(cell: Ints, col: Ints, value: Floats, indptr: Ints) -> SparseRows:
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
        return _sparse_rows(cell, col, value, ends), torch.from_numpy(sums)
    # to drop the others the device would wait for their number: they stay as zeros of the first column
    new = place.to(sparse.col.device)[sparse.col]
    kept = sparse.value * (new >= 0)
    total = torch.zeros(n, device=new.device).index_add_(0, sparse.cell, kept)
    return dataclasses.replace(sparse, col=new.clamp_(min=0), value=kept), total


def _runs_at(indptr: Tensor, at: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Row from 0, and position of the `total` non-zeros of the rows at `at`, one run after another."""
    start = indptr[at]
    length = indptr[at + 1] - start
    before = length.cumsum(0) - length
    row = torch.repeat_interleave(torch.arange(len(at), device=at.device), length, output_size=total)
    return row, torch.arange(total, device=at.device) + (start - before)[row]


def _block_indptr(x: sp.csr_matrix, ends: NDArray[np.int64], chunk: int = 65536) -> NDArray[np.int64]:
    """Where each (row, block) begins in a CSR matrix with sorted columns; shape (n_m * G + 1,)."""
    n, g = x.shape[0], len(ends)
    if g == 1:
        return np.asarray(x.indptr, np.int64)
    counts = np.empty(n * g, np.int64)
    for s in range(0, n, chunk):
        e = min(s + chunk, n)
        lo, hi = x.indptr[s], x.indptr[e]
        row = np.repeat(np.arange(e - s), np.diff(x.indptr[s : e + 1]))
        block = np.searchsorted(ends, x.indices[lo:hi], side="right")
        counts[s * g : e * g] = np.bincount(row * g + block, minlength=(e - s) * g)
    indptr = np.zeros(n * g + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    return indptr


class MinibatchLoader:
    """Gathers minibatches of a mosaic, whose data lie on one device.

    Parameters
    ----------
    mosaic
        The registered data; on the CPU its arrays are shared, not copied.
    device
        Where minibatches are wanted.
    """

    def __init__(self, mosaic: Mosaic, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.n_cells = mosaic.n_cells
        self.stores = [_Store(m, self.device) for m in mosaic.modalities]
        table, code = np.unique(mosaic.covariates, axis=0, return_inverse=True)
        if len(table) > MAX_DISTINCT:  # continuous covariates: each cell has its own
            table, code = mosaic.covariates, np.arange(self.n_cells)
        self.distinct = len(table) <= MAX_DISTINCT
        self.covariate_table = torch.from_numpy(table).to(self.device)
        self.covariate_code = torch.from_numpy(code.ravel().astype(np.int64)).to(self.device)
        self.group = torch.from_numpy(mosaic.group).to(self.device)

    def take(
        self, index: NDArray[np.int64], features: Sequence[NDArray[np.int64] | None] | None = None
    ) -> Minibatch:
        """Minibatch of some cells.

        Parameters
        ----------
        index
            Their positions in the mosaic, int64 (B,).
        features
            The features of each modality that the likelihood is computed of, ascending; None for all.
        """
        at = torch.from_numpy(index).to(self.device)
        gathered = [s.gather(index) for s in self.stores]
        fills = [fill for _, fill in gathered if fill is not None]

        def share(k: int, n_shares: int) -> None:
            for fill in fills:
                fill(k, n_shares)

        rows = tuple(r for r, _ in gathered)
        n_values = sum(len(r.sparse.value) for r in rows if r.sparse is not None)
        if fills and n_values >= WORTH_SHARING:
            in_shares(share)
        else:
            share(0, 1)
        some = features or (None,) * len(rows)
        return Minibatch(
            index=at,
            rows=rows,
            targets=tuple(r if f is None else r.only(f) for r, f in zip(rows, some, strict=True)),
            covariate_table=self.covariate_table if self.distinct else self.covariate_table[at],
            covariate_code=self.covariate_code[at]
            if self.distinct
            else torch.arange(len(at), device=self.device),
            group=self.group[at],
        )


def transformed(rows: ModalityRows) -> Tensor:
    """What the encoder sees of the values: the transformed non-zeros (Z,), or dense (n_m, D_m)."""
    if rows.sparse is not None:
        return apply(rows.transform, rows.sparse.value, rows.scale.index_select(0, rows.sparse.cell))
    assert rows.dense is not None
    return apply(rows.transform, rows.dense, rows.scale[:, None])


def split(n_cells: int, train_size: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of training and validation cells, a random split that `seed` decides."""
    order = np.random.default_rng([seed, 0]).permutation(n_cells)
    n_train = n_cells if train_size >= 1 else max(1, round(train_size * n_cells))
    return np.sort(order[:n_train]), np.sort(order[n_train:])


def shuffled(cells: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Minibatches of an epoch, of equal size to within one cell; a function of (seed, epoch) alone."""
    order = np.random.default_rng([seed, 1, epoch]).permutation(cells)
    return [np.asarray(part) for part in np.array_split(order, max(1, -(-len(cells) // batch_size)))]


def drawn_features(orders: Sequence[Ints], shares: Sequence[float], seed: Sequence[int]) -> list[Ints | None]:
    """Features of each modality that count in a step, ascending; a function of `seed` alone.

    Each is as probable as another, and all `ALIKE` features that are neighbours in their order are drawn from
    alike: a sum over the drawn ones varies less than one over as many of all.

    Parameters
    ----------
    orders
        Features of each modality, similar ones side by side.
    shares
        Probability of each feature to be drawn; all, None, for 1.
    seed
        Whole numbers.
    """
    rng = np.random.default_rng(seed)
    return [
        _drawn(order, share, rng) if share < 1 else None for order, share in zip(orders, shares, strict=True)
    ]


def _drawn(order: Ints, share: float, rng: np.random.Generator) -> Ints | None:
    padded = np.full(-(-len(order) // ALIKE) * ALIKE, -1)
    padded[: len(order)] = order
    at = ((np.arange(math.ceil(share * len(padded))) + rng.random()) / share).astype(np.int64)
    at = np.unique(at[at < len(padded)])
    of_each = np.bincount(at // ALIKE, minlength=len(padded) // ALIKE)
    drawn = runs.drawn(padded.reshape(-1, ALIKE), of_each, rng.random(len(at)))
    is_drawn = np.zeros(len(order) + 1, np.bool_)
    is_drawn[drawn] = True  # what fills the last group up is -1, and the last here
    some = np.flatnonzero(is_drawn[:-1])
    return some if 0 < len(some) < len(order) else None
