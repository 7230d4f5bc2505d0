"""Whether the three arrays of a sparse matrix belong together; compiled code trusts them without looking."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi.data.problems import problem
from mosaicvi.errors import InputError

CHUNK = 1 << 22  # entries looked at together


def check_sparse(name: object, what: str, x: Any) -> None:
    """Refuse a CSR or CSC matrix whose arrays lead outside of it.

    Raises
    ------
    InputError
        ``indptr`` does not begin at 0, decreases, or passes the data, or an index is out of range.
    """
    fault = sparse_fault(x)
    if fault is not None:
        raise InputError(problem("sparse", name=name, what=what, fault=fault))


def sparse_fault(x: Any) -> str | None:
    """What is wrong with a CSR or CSC matrix; None for one that is sound, and for anything else."""
    if not sp.issparse(x) or x.format not in ("csr", "csc"):
        return None
    n_major, n_minor = x.shape if x.format == "csr" else x.shape[::-1]
    return arrays_fault(x.indptr, x.indices, len(x.data), n_major, n_minor)


def arrays_fault(
    indptr: NDArray[Any], indices: NDArray[Any], n_data: int, n_major: int, n_minor: int
) -> str | None:
    """What is wrong with the arrays of a compressed matrix, or None.

    Parameters
    ----------
    indptr, indices
        Of the matrix.
    n_data
        Its number of values.
    n_major, n_minor
        Its size along the compressed axis and along the other.
    """
    if indptr.ndim != 1 or indices.ndim != 1 or not {indptr.dtype.kind, indices.dtype.kind} <= set("iu"):
        return "indptr and indices are no lists of whole numbers"
    if len(indptr) != n_major + 1:
        return f"indptr has {len(indptr):,} entries, not {n_major + 1:,}"
    if int(indptr[0]) != 0:
        return f"indptr begins at {int(indptr[0]):,}, not 0"
    if (indptr[1:] < indptr[:-1]).any():
        return "indptr decreases"
    n_stored = int(indptr[-1])
    if n_stored > min(len(indices), n_data):
        return f"indptr ends at {n_stored:,}, but {min(len(indices), n_data):,} values are stored"
    for start in range(0, n_stored, CHUNK):
        part = indices[start : min(start + CHUNK, n_stored)]
        least, most = int(np.min(part)), int(np.max(part))
        if least < 0 or most >= n_minor:
            return f"index {least if least < 0 else most:,} is outside of 0 to {n_minor - 1:,}"
    return None
