"""Mosaic + cell indices -> Minibatch, gathered on a device.

Shapes: B cells of the minibatch, n_m of them with modality m, D_m features in G blocks, Z non-zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi import device
from mosaicvi.data import runs
from mosaicvi.data.blocks import distinct_rows
from mosaicvi.data.minibatch import Minibatch, ModalityRows, SparseRows, runs_at, sparse_rows
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.data.registry import Standard
from mosaicvi.data.stored.parked import let_go, parked, picked
from mosaicvi.data.stored.values import StoredValues
from mosaicvi.data.transforms import Transform
from mosaicvi.device import on_device, room_on
from mosaicvi.engine.jit import Ints
from mosaicvi.engine.threads import Share, in_shares, share_of

MAX_DISTINCT = 1024  # rows of covariates kept as a table
BUFFER_MEMORY = 1.0  # GiB
COPIES = 3  # of a buffer at a time: in use, being filled, and what it is filled from
ROWS = 1024  # of a dense matrix, standardised together
WORTH_SHARING = 1 << 16  # non-zeros, which one core gathers in the time of a hand-off


class _ModalityStore:
    """The rows of one modality as tensors on the device, ready to be gathered."""

    def __init__(self, data: ModalityData, place: torch.device, levels: NDArray[np.float32] | None) -> None:
        def to(array: NDArray[Any]) -> Tensor:
            return on_device(np.ascontiguousarray(array), place)

        self.device = place
        self.row_of_cell = data.row_of_cell
        self.panel = to(data.panel_of_row)
        self.panels = to(data.panels)
        self.all_measured = bool(data.panels.all())
        self.library = to(data.library)
        self.scale = to(data.scale)
        # a last row for batches of which no level is known
        self.factors = None if levels is None else to(np.exp(-np.pad(levels, ((0, 1), (0, 0)))))
        self.n_blocks = len(data.block_sizes)
        self.transform: Transform = data.transform
        self.dense = None
        self.entry = None if data.entry_measured is None else to(np.asarray(data.entry_measured))
        if isinstance(data.x, sp.csr_matrix):
            self.indptr = to(_block_indptr(data.x, np.cumsum(data.block_sizes)))
            self.indices = to(data.x.indices)
            self.values = to(data.x.data)
            self.row_length = np.diff(data.x.indptr)
        else:
            self.dense = to(
                np.asarray(data.x) if data.standard is None else _standardised(data, data.standard)
            )

    def gather(self, index: Ints, batch: Ints) -> tuple[ModalityRows, Share | None]:
        """Rows of the cells at `index`, of these batches, and what fills in their non-zeros, if that is left.

        Shapes are found on the host, so that a device never waits.
        """
        of_cell = self.row_of_cell[index]
        has = np.flatnonzero(of_cell >= 0)
        host_row = of_cell[has]
        cells, row = on_device(has, self.device), on_device(host_row, self.device)
        sparse: SparseRows | None = None
        fill: Share | None = None
        if self.dense is None and device.would_wait(row):
            sparse = self._runs(row, int(self.row_length[host_row].sum()))
        elif self.dense is None:
            sparse, fill = self._to_fill(host_row)
        factor = None
        if self.factors is not None:
            factor = on_device(np.minimum(batch[has], len(self.factors) - 1), self.device)
        rows = ModalityRows(
            cells=cells,
            panel=self.panel.index_select(0, row),
            panels=self.panels,
            all_measured=self.all_measured,
            transform=self.transform,
            library=self.library.index_select(0, row),
            scale=self.scale.index_select(0, row),
            factors=self.factors,
            factor=factor,
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Held:
    """Cells in memory: their positions in the mosaic, ascending, all for None, and what is known of them.

    Attributes
    ----------
    batch
        On the host.
    code, group
        Rows of covariates, and condition groups.
    """

    cells: Ints | None
    stores: list[_ModalityStore]
    batch: Ints
    code: Tensor
    group: Tensor

    def find(self, index: Ints) -> Ints | None:
        """Where cells are among those in memory; None if some are not."""
        if self.cells is None or not len(index):
            return index
        at = np.minimum(np.searchsorted(self.cells, index), len(self.cells) - 1)
        return at if len(self.cells) and np.array_equal(self.cells[at], index) else None


class MinibatchLoader:
    """Gathers minibatches of a mosaic, on one device.

    Values in memory lie on the device if they find room in half of what is free there; otherwise they stay
    with the host, which gathers each minibatch and sends it. Values that stay on disk are read into a
    buffer of many cells there, of which minibatches are gathered, while a thread fills the next one.

    Parameters
    ----------
    mosaic
        The registered data; on the CPU arrays in memory are shared, not copied, but for those standardised.
    device
        Where minibatches are wanted.
    memory
        GiB for values that are read from disk. If all of them find room, they are read once.
    """

    def __init__(
        self, mosaic: Mosaic, *, device: torch.device | str = "cpu", memory: float = BUFFER_MEMORY
    ) -> None:
        self.device, self.memory = torch.device(device), memory
        self.n_cells = mosaic.n_cells
        self.mosaic = mosaic
        self.buffer = cells_in(memory, mosaic)
        stored = [m.x.matrix for m in mosaic.modalities if isinstance(m.x, StoredValues)]
        self.in_order = bool(stored) and all(matrix.is_shuffled for matrix in stored)
        has_room = not self.buffer and bytes_of(mosaic) <= room_on(self.device) / 2
        self.home = self.device if has_room else torch.device("cpu")
        table, code = distinct_rows(mosaic.covariates, MAX_DISTINCT)
        self.distinct = len(table) <= MAX_DISTINCT  # with continuous covariates each cell has its own
        self.covariate_table = on_device(table, self.home)
        self.code = parked(code) if stored else code
        self.held: _Held | None = None if self.buffer else self._read(None)

    @cached_property
    def by_total(self) -> list[Ints]:
        """Features of each modality by their totals, (D_m,), which standardised ones lack; for training."""
        return [
            np.argsort(m.totals(), kind="stable") if m.standard is None else np.arange(m.n_features)
            for m in self.mosaic.modalities
        ]

    def ahead(
        self,
        buffers: Iterable[Sequence[Ints]],
        *,
        skip: int = 0,
        own: Callable[[Ints], Ints] = lambda minibatch: minibatch,
    ) -> Iterator[Ints]:
        """Minibatches one after another, each of which can then be taken; what they need is read ahead.

        Parameters
        ----------
        buffers
            Cells of each minibatch, by buffer: what is in one is read together.
        skip
            Minibatches to leave out at the beginning.
        own
            What of a minibatch is taken, where other processes take the rest.
        """
        left = _after(buffers, skip)
        if not self.buffer:
            for buffer in left:
                yield from buffer
            return
        with ThreadPoolExecutor(1, thread_name_prefix="mosaicvi-reader") as reader:

            def read_next() -> list[tuple[Sequence[Ints], Future[_Held]]]:
                return [
                    (
                        part,
                        reader.submit(self._read, np.unique(np.concatenate([own(cells) for cells in part]))),
                    )
                    for part in islice(left, 1)
                ]

            coming = read_next()
            while coming:
                buffer, found = coming.pop()
                self.held = None  # its memory is for the one after the next
                self.held = found.result()
                let_go()
                coming = read_next()
                yield from buffer

    def _read(self, cells: Ints | None) -> _Held:
        """Bring cells into memory."""
        mods = self.mosaic.modalities
        if cells is None and any(m.on_disk for m in mods):
            mods = tuple(m.some(np.arange(self.n_cells)) if m.on_disk else m for m in mods)
        elif cells is not None:
            mods = tuple(m.some(cells) for m in mods)
        levels = self.mosaic.registry.input_levels
        known = self.mosaic.batch, self.code, self.mosaic.group
        batch, code, group = known if cells is None else (picked(one, cells) for one in known)
        return _Held(
            cells=cells,
            stores=[_ModalityStore(m, self.home, levels.get(m.name)) for m in mods],
            batch=batch,
            code=on_device(code, self.home),
            group=on_device(group, self.home),
        )

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
        held = self.held
        place = None if held is None else held.find(index)
        if held is None or place is None:
            held = self._read(np.unique(index))
            place = held.find(index)
            assert place is not None
        batch, at = held.batch[place], on_device(place, self.home)
        gathered = [s.gather(place, batch) for s in held.stores]
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
        minibatch = Minibatch(
            index=on_device(index, self.home),
            rows=rows,
            targets=tuple(r if f is None else r.only(f) for r, f in zip(rows, some, strict=True)),
            covariate_table=self.covariate_table if self.distinct else self.covariate_table[held.code[at]],
            covariate_code=held.code[at] if self.distinct else torch.arange(len(at), device=self.home),
            group=held.group[at],
        )
        return minibatch if self.home == self.device else minibatch.to(self.device)


def _after(buffers: Iterable[Sequence[Ints]], skip: int) -> Iterator[Sequence[Ints]]:
    """What is left of buffers after some minibatches."""
    for buffer in buffers:
        if skip < len(buffer):
            yield buffer[skip:]
        skip = max(0, skip - len(buffer))


def bytes_of(mosaic: Mosaic) -> int:
    """Bytes of all values as they lie on a device: float32 and, of sparse ones, their columns."""
    return sum(
        m.x.n_bytes
        if isinstance(m.x, StoredValues)
        else m.x.data.nbytes + m.x.indices.nbytes
        if isinstance(m.x, sp.csr_matrix)
        else 4 * m.x.size
        for m in mosaic.modalities
    )


def cells_in(memory: float, mosaic: Mosaic) -> int:
    """Cells whose values on disk find room in so many GiB; 0 if all do, or nothing is on disk."""
    n_bytes = sum(m.x.n_bytes for m in mosaic.modalities if isinstance(m.x, StoredValues))
    room = memory * 2**30 / COPIES
    return 0 if n_bytes <= room else max(1, int(mosaic.n_cells * room / n_bytes))
