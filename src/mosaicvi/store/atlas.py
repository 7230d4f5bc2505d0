"""A mosaic whose values stay in files -> one zarr store, in the memory of some blocks.

Written are chunks in shards (zarr format 3), so that a store is a few files, of which parts can be read.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.blocks import Block, Matrix, blocks
from mosaicvi.data.combine.assemble import Assembled
from mosaicvi.data.looks import stored
from mosaicvi.data.problems import problem
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.data.sampling import buffered
from mosaicvi.data.stored.open import SHUFFLED
from mosaicvi.data.stored.values import StoredMatrix
from mosaicvi.errors import InputError

CHUNK, CHUNKS = 1 << 14, 256  # values of a chunk, and chunks of a shard
SHUFFLED_TOGETHER = 1 << 29  # bytes of values
AT_A_TIME = 1024


def write_atlas(
    folder: Path,
    mosaic: Assembled,
    *,
    shuffle: bool = False,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Write a mosaic as zarr, as mudata would write it.

    Parameters
    ----------
    folder
        Where, an empty folder.
    mosaic
        The mosaic; its values may be in memory as well.
    shuffle, seed
        Whether cells are put in random order: runs of neighbours are mixed in a buffer, as in training.
    advance
        Called with the number of rows of a modality that were written.

    Raises
    ------
    InputError
        Values are not finite, or a sparse matrix holds NaN.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding|Consolidated metadata")
        _write(folder, mosaic, shuffle=shuffle, seed=seed, advance=advance)


def _write(
    folder: Path, mosaic: Assembled, *, shuffle: bool, seed: int, advance: Callable[[int], None]
) -> None:
    import zarr

    mdata, groups = mosaic.mdata, [np.arange(mosaic.mdata.n_obs)]
    if shuffle:
        n_bytes = sum(x.n_bytes for x in mosaic.stored.values())
        at_once = max(AT_A_TIME, int(mdata.n_obs * SHUFFLED_TOGETHER / max(n_bytes, 1)))
        buffers = buffered(groups[0], AT_A_TIME, seed, 0, 0 if at_once >= mdata.n_obs else at_once)
        groups = [np.concatenate(of_buffer) for of_buffer in buffers]
    order = np.concatenate(groups)
    rows = {name: a.obs_names.get_indexer(mdata.obs_names) for name, a in mdata.mod.items()}
    with mudata_as_it_is(), anndata.settings.override(zarr_write_format=3):
        _in_order(mdata, order, rows, mosaic.stored).write_zarr(str(folder))
    root = zarr.open_group(str(folder), mode="r+")
    for name, x in mosaic.stored.items():
        place: Any = root[f"mod/{name}"]
        if "X" in place:
            del place["X"]
        most = sum(piece.most_values() for piece in x.pieces)
        out = _Dense(place, x.shape) if x.is_dense else SparseStore(place, x.shape, most)
        for block in _ordered(x, [rows[name][group] for group in groups] if shuffle else None):
            _check(name, block)
            out.add(block)
            advance(block.shape[0])
        out.close()
    root.attrs[SHUFFLED] = shuffle
    zarr.consolidate_metadata(root.store)


def _in_order(
    mdata: MuData,
    order: NDArray[np.int64],
    rows: dict[str, NDArray[np.int64]],
    without: dict[str, StoredMatrix],
) -> MuData:
    """The mosaic without values that are written later, cells in another order."""
    mods = {}
    for name, a in mdata.mod.items():
        of_cell = rows[name][order]
        own = of_cell[of_cell >= 0] if (np.diff(order) < 0).any() else np.arange(a.n_obs)
        x = None if name in without else a.X[own]
        mods[name] = AnnData(x, obs=a.obs.iloc[own], var=a.var, varm=dict(a.varm))
    obs = mdata.obs.iloc[order]
    out = MuData(mods, obs=pd.DataFrame(index=obs.index))
    out.obs = obs
    out.uns.update(mdata.uns)
    return out


def _ordered(x: Matrix, groups: list[NDArray[np.int64]] | None) -> Iterator[Block]:
    """Blocks of rows as they are, or of groups in which cells that lack the modality are -1."""
    if groups is None:
        for _, block in blocks(x):
            yield block
        return
    for of_cell in groups:
        yield x[of_cell[of_cell >= 0]]


def _check(name: str, block: Block) -> None:
    values = stored(block)
    if not isinstance(block, np.ndarray) and np.isnan(values).any():
        raise InputError(problem("sparse-nan", name="combine", modality=name))
    if np.isinf(values).any():
        column = int(np.argmax(np.isinf(values).any(0))) if isinstance(block, np.ndarray) else None
        feature = column if column is not None else int(sp.csr_matrix(block).indices[np.isinf(values)][0])
        raise InputError(problem("infinite", name="combine", modality=name, feature=feature))


def _created(group: Any, name: str, shape: tuple[int, ...], dtype: type, **how: Any) -> Any:
    """An array whose chunks are quick to decode, and tell when they are damaged."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    compressors = [BloscCodec(cname="lz4", shuffle="bitshuffle"), Crc32cCodec()]
    return group.create_array(name, shape=shape, dtype=np.dtype(dtype).name, compressors=compressors, **how)


class _Growing:
    """A list of numbers on disk that grows, by whole shards as long as it can."""

    def __init__(self, group: Any, name: str, most: int, dtype: type) -> None:
        chunk = max(1, min(CHUNK, most))
        self.shard = chunk * max(1, min(CHUNKS, -(-most // chunk)))
        self.array = _created(group, name, (most,), dtype, chunks=(chunk,), shards=(self.shard,))
        self.waiting: list[NDArray[Any]] = [np.zeros(0, dtype)]
        self.done = self.n_waiting = 0

    def add(self, values: NDArray[Any]) -> None:
        self.waiting.append(values)
        self.n_waiting += len(values)
        if self.n_waiting >= self.shard:
            self._write(self.n_waiting // self.shard * self.shard)

    def _write(self, n: int) -> None:
        every = np.concatenate(self.waiting)
        self.array[self.done : self.done + n] = every[:n].astype(self.array.dtype)
        self.done += n
        self.waiting, self.n_waiting = [every[n:]], len(every) - n

    def close(self) -> None:
        self._write(self.n_waiting)
        if self.done < self.array.shape[0]:
            self.array.resize((self.done,))


class SparseStore:
    """A CSR matrix on disk that grows by rows.

    Parameters
    ----------
    place
        Group of an opened store, in which it becomes ``X``.
    shape
        Rows and columns.
    most
        As many values as there can be.
    """

    def __init__(self, place: Any, shape: tuple[int, int], most: int) -> None:
        group = place.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(shape)})
        self.values = _Growing(group, "data", most, np.float32)
        self.columns = _Growing(group, "indices", most, np.int32)
        self.ends = _Growing(group, "indptr", shape[0] + 1, np.int64)
        self.ends.add(np.zeros(1, np.int64))
        self.n_values = 0

    def add(self, block: Block) -> None:
        """Write rows after those that are there."""
        rows = sp.csr_matrix(block)
        self.values.add(rows.data)
        self.columns.add(rows.indices)
        self.ends.add(rows.indptr[1:].astype(np.int64) + self.n_values)
        self.n_values += rows.nnz

    def close(self) -> None:
        """Write what waits for more."""
        for part in (self.values, self.columns, self.ends):
            part.close()


class _Dense:
    """An array on disk that is filled by rows."""

    def __init__(self, place: Any, shape: tuple[int, int]) -> None:
        rows = max(1, min(shape[0], CHUNK * CHUNKS // max(1, shape[1])))
        self.array = _created(place, "X", shape, np.float32, chunks=(rows, max(1, shape[1])))
        self.array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self.done = 0

    def add(self, block: Block) -> None:
        self.array[self.done : self.done + block.shape[0]] = np.asarray(block)
        self.done += block.shape[0]

    def close(self) -> None:
        assert self.done == self.array.shape[0]
