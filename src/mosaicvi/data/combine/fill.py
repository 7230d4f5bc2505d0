"""Blocks of rows with features of their own → one matrix of common features, within its own memory.

Shapes: n cells, d features of a block, u common features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mosaicvi.data.combine.parts import Dense, Part, Values
from mosaicvi.data.stored.pieces import Piece
from mosaicvi.data.stored.values import StoredMatrix

Places = npt.NDArray[np.intp]


def fill(
    blocks: Sequence[Part], places: Sequence[Places], n_features: int, done: Callable[[], None]
) -> Values:
    """Put blocks below each other in common features, taking each block's matrix away from it.

    Parameters
    ----------
    blocks
        Of each dataset, n × d.
    places
        Of each block, the common feature of each of its features; −1 leaves a feature out. Values of features
        that have one place are summed.
    n_features
        The number of common features.
    done
        Called after each block.

    Returns
    -------
    All rows × ``n_features``, float32: CSR; dense if a block is, with NaN for what a block does not have.
    """
    dense = any(isinstance(block.x, np.ndarray) for block in blocks)
    return (_fill_dense if dense else _fill_sparse)(blocks, places, n_features, done)


def place(blocks: Sequence[Part], places: Sequence[Places], n_features: int) -> StoredMatrix:
    """The same of blocks that stay in their files; it is dense if an entry of a dense block is missing."""
    matrices = [block.x for block in blocks]
    pieces: list[Piece] = []
    for x, of_block in zip(matrices, places, strict=True):
        assert isinstance(x, StoredMatrix)
        pieces += x.placed(of_block, n_features).pieces
    return StoredMatrix(pieces, is_dense=any(piece.has_gaps() for piece in pieces))


def _fill_sparse(
    blocks: Sequence[Part], places: Sequence[Places], n_features: int, done: Callable[[], None]
) -> sparse.csr_matrix:
    for block, place in zip(blocks, places, strict=True):
        if not _one_to_one(place):
            block.x = block.take() @ _moves(place, n_features)
    n_rows, n_values = [len(block.obs) for block in blocks], [block.n_values for block in blocks]
    row_at, value_at = (np.concatenate([[0], np.cumsum(n)]) for n in (n_rows, n_values))
    large = max(value_at[-1], n_features) > np.iinfo(np.int32).max
    integer = np.int64 if large else np.int32
    # Pages of these arrays come to life as they are filled, while the blocks are freed.
    data = np.empty(value_at[-1], np.float32)
    indices = np.empty(value_at[-1], integer)
    indptr = np.zeros(row_at[-1] + 1, integer)
    for i, (block, place) in enumerate(zip(blocks, places, strict=True)):
        x_nd: sparse.csr_matrix = block.take()
        here = slice(value_at[i], value_at[i + 1])
        data[here] = x_nd.data
        indices[here] = place[x_nd.indices] if _one_to_one(place) else x_nd.indices
        indptr[row_at[i] + 1 : row_at[i + 1] + 1] = x_nd.indptr[1:] + value_at[i]
        x_nu = sparse.csr_matrix((data[here], indices[here], x_nd.indptr), shape=(n_rows[i], n_features))
        x_nu.sort_indices()
        data[here], indices[here] = x_nu.data, x_nu.indices  # scipy copies slices of much larger arrays
        del x_nd, x_nu
        done()
    return sparse.csr_matrix((data, indices, indptr), shape=(row_at[-1], n_features))


def _one_to_one(place: Places) -> bool:
    return bool((place >= 0).all()) and len(np.unique(place)) == len(place)


def _moves(place: Places, n_features: int) -> sparse.csr_matrix:
    """D × u, with a one where a feature goes."""
    kept = np.flatnonzero(place >= 0)
    ones = np.ones(len(kept), np.float32)
    return sparse.csr_matrix((ones, (kept, place[kept])), shape=(len(place), n_features))


def _fill_dense(
    blocks: Sequence[Part], places: Sequence[Places], n_features: int, done: Callable[[], None]
) -> Dense:
    row_at = np.concatenate([[0], np.cumsum([len(block.obs) for block in blocks])])
    filled = np.full((row_at[-1], n_features), np.nan, np.float32)
    for i, (block, place) in enumerate(zip(blocks, places, strict=True)):
        raw = block.take()
        x_nd = raw if isinstance(raw, np.ndarray) else raw.toarray()
        # Features of one place stand together after sorting; a sum with a missing value is missing.
        kept = np.argsort(place, kind="stable")[np.count_nonzero(place < 0) :]
        target, first = np.unique(place[kept], return_index=True)
        if len(kept):
            filled[row_at[i] : row_at[i + 1], target] = np.add.reduceat(x_nd[:, kept], first, axis=1)
        del raw, x_nd
        done()
    return filled
