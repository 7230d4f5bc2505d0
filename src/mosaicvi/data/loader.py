"""Mosaic + cell indices -> Minibatch, gathered on a device.

Shapes: B cells of the minibatch, n_m of them with modality m, D_m features in G blocks, Z non-zeros.
"""

from __future__ import annotations

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
from mosaicvi.data.minibatch import Minibatch, ModalityRows, SparseRows, runs_at, sparse_rows
from mosaicvi.data.mosaic import ModalityData, Mosaic, Standard
from mosaicvi.data.transforms import Transform
from mosaicvi.engine.jit import Ints
from mosaicvi.engine.threads import Share, in_shares, share_of

MAX_DISTINCT = 1024  # rows of covariates kept as a table


ROWS = 1024  # of a dense matrix, standardised together
WORTH_SHARING = 1 << 16  # non-zeros, which one core gathers in the time of a hand-off


class _ModalityStore:
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
        self.standardised = data.standard is not None
        self.dense = None
        self.entry = None if data.entry_measured is None else to(data.entry_measured)
        if isinstance(data.x, sp.csr_matrix):
            self.indptr = to(_block_indptr(data.x, np.cumsum(data.block_sizes)))
            self.indices = to(data.x.indices)
            self.values = to(data.x.data)
            self.row_length = np.diff(data.x.indptr)
        else:
            self.dense = to(data.x if data.standard is None else _standardised(data, data.standard))

    @cached_property
    def by_total(self) -> Ints:
        """Features ordered by their totals, (D_m,), which standardised ones lack; only training needs it."""
        if self.standardised:
            return np.arange(self.x.shape[1])
        return np.argsort(np.asarray(self.x.sum(0)).ravel(), kind="stable")

    def gather(self, index: NDArray[np.int64]) -> tuple[ModalityRows, Share | None]:
        """Rows of the cells at `index`, and a function that fills in their non-zeros, if that is left to do.

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
        """Memory on the host for the non-zeros of some rows, and a function that fills it."""
        matrix = self.indptr.numpy(), self.indices.numpy(), self.values.numpy()
        ends = runs.ends_of(matrix[0], row, self.n_blocks)
        cell, col = (np.empty(ends[-1], np.int64) for _ in range(2))
        value = np.empty(ends[-1], matrix[2].dtype)

        def fill(k: int, n_shares: int) -> None:
            runs.gather(*matrix, row, ends, *share_of(len(row), k, n_shares), cell, col, value)

        return sparse_rows(cell, col, value, ends), fill

    def _runs(self, row: Tensor, total: int) -> SparseRows:
        """The `total` non-zeros of some rows on a device, block-major."""
        g = self.n_blocks
        at = (row * g + torch.arange(g, device=row.device)[:, None]).reshape(-1)
        out_row, position = runs_at(self.indptr, at, total)
        indptr = torch.zeros(len(at) + 1, dtype=torch.int64, device=row.device)
        torch.cumsum(self.indptr[at + 1] - self.indptr[at], 0, out=indptr[1:])
        return SparseRows(
            cell=out_row % max(len(row), 1),
            col=self.indices[position].long(),
            value=self.values[position],
            indptr=indptr,
        )


def _standardised(data: ModalityData, standard: Standard) -> NDArray[np.float32]:
    """Values on the network's scale, 0 where nothing was measured, (n_m, D_m)."""
    out = np.empty(data.x.shape, np.float32)
    for first in range(0, data.n_cells, ROWS):
        rows = slice(first, first + ROWS)
        out[rows] = np.where(data.measured(rows), standard.standardised(data.x[rows]), 0)
    return out


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
        The registered data; on the CPU its arrays are shared, not copied, but for those standardised.
    device
        Where minibatches are wanted.
    """

    def __init__(self, mosaic: Mosaic, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.n_cells = mosaic.n_cells
        self.stores = [_ModalityStore(m, self.device) for m in mosaic.modalities]
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
