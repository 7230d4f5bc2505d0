"""Data to try things on: made, not downloaded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from mosaicvi.data.simulate import SimulatedMosaic, check_whole, simulated_mosaic
from mosaicvi.errors import InputError

__all__ = ["SimulatedMosaic", "simulated_counts", "simulated_mosaic"]


def simulated_counts(n_cells: int, n_features: int, density: float, seed: int = 0) -> sp.csr_matrix:
    """Draw a big sparse count matrix, for benchmarks; nothing dense is ever made.

    Parameters
    ----------
    n_cells, n_features
        Its shape.
    density
        The probability that an entry is not zero, in (0, 1].
    seed
        The same arguments and seed give the same matrix.

    Returns
    -------
    n_cells × n_features, float32, whole counts from 1 upwards, with sorted column indices.

    Raises
    ------
    InputError
        If a size is not positive or the density is out of its range.
    """
    check_whole(n_cells=(n_cells, 1), n_features=(n_features, 1), seed=(seed, 0))
    if not 0 < density <= 1:
        raise InputError(f"density is {density!r}; give a share of entries above 0 and up to 1")
    rng = np.random.default_rng(seed)
    step = max(1, int(2_000_000 / (n_features * density)))
    room = n_cells * n_features * density
    room = int(min(room + 10 * np.sqrt(room) + 100, n_cells * n_features))
    # scipy wants both index arrays of one type: 32 bits as long as they reach
    kind: type[np.int32 | np.int64] = np.int32 if max(room, n_features) < 2**31 else np.int64
    indices: npt.NDArray[np.integer] = np.empty(room, kind)
    indptr: npt.NDArray[np.integer] = np.zeros(n_cells + 1, kind)
    data, used = np.empty(room, np.float32), 0
    for start in range(0, n_cells, step):
        rows = min(step, n_cells - start)
        flat = _coin_flips(rows * n_features, density, rng)[: room - used]
        stop = used + len(flat)
        indices[used:stop] = flat % n_features
        data[used:stop] = rng.geometric(0.6, len(flat))
        ends = np.arange(1, rows + 1) * n_features
        indptr[start + 1 : start + rows + 1] = used + np.searchsorted(flat, ends)
        used = stop
    return sp.csr_matrix((data[:used], indices[:used], indptr), shape=(n_cells, n_features))


def _coin_flips(n: int, p: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Where n coins of probability p show heads, ascending, in time ∝ n·p: the gaps are geometric."""
    parts, last = [], -1
    while last < n - 1:
        expect = (n - 1 - last) * p
        gaps = rng.geometric(p, int(expect + 4 * np.sqrt(expect) + 8))
        parts.append(last + np.cumsum(gaps))
        last = int(parts[-1][-1])
    flat = np.concatenate(parts)
    return flat[: np.searchsorted(flat, n)]
