"""Sums over the cells of each group in each stratum, from which every comparison is made.

A stratum is a batch, or a panel within a batch: cells whose values can be compared. A value y is what a cell
has of a feature for an exposure l: a count for the cell's library, or any number for an exposure of 1.

Legend: n cells, c cells that are summed together (a group in a stratum), d features.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over cells, (c, d) each or broadcast to it.

    Attributes
    ----------
    n
        Number of cells.
    l1, l2, l3
        Sums of the powers of the exposure.
    y1, y2, y3, y1l1, y2l1, y1l2
        Sums of products of the powers of value and exposure.
    positive
        Number of values above zero.
    raw
        Sum of the values as the user has them.
    """

    n: Floats
    l1: Floats
    l2: Floats
    l3: Floats
    y1: Floats
    y2: Floats
    y3: Floats
    y1l1: Floats
    y2l1: Floats
    y1l2: Floats
    positive: Floats
    raw: Floats

    def of(self, weight_gc: Floats) -> Moments:
        """Sums of these sums: a row for each row of the weights, 0 or 1."""
        return Moments(**{f.name: weight_gc @ getattr(self, f.name) for f in dataclasses.fields(self)})

    def at(self, rows: Ints) -> Moments:
        """Some of the rows."""
        return Moments(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)}
        )

    def __sub__(self, other: Moments) -> Moments:
        return Moments(
            **{f.name: getattr(self, f.name) - getattr(other, f.name) for f in dataclasses.fields(self)}
        )

    def squares(self, theta: Floats) -> Floats:
        """Sum of the squared residuals, (y - theta l)^2."""
        return np.maximum(self.y2 - 2 * theta * self.y1l1 + theta**2 * self.l2, 0.0)

    def cubes(self, theta: Floats) -> Floats:
        """Sum of the residuals cubed."""
        return self.y3 - 3 * theta * self.y2l1 + 3 * theta**2 * self.y1l2 - theta**3 * self.l3


def moments(
    value_nd: Any, raw_nd: Any, exposure_n: Floats, member_n: Ints, c: int, measured_nd: Any = None
) -> Moments:
    """Sums over the cells of each member.

    Parameters
    ----------
    value_nd, raw_nd
        Values as they are compared, and as the user has them; sparse or dense, 0 where not measured.
    exposure_n
        Of each cell.
    member_n
        Which sum each cell belongs to, from 0 to c - 1, or -1 for none.
    c
        Number of sums.
    measured_nd
        Which entries were measured; None for all.
    """
    inside = np.flatnonzero(member_n >= 0)
    n, d = len(member_n), value_nd.shape[1]

    def sums(matrix: Any, weight_n: Floats) -> Floats:
        adds = sp.csr_matrix((weight_n[inside], (member_n[inside], inside)), shape=(c, n))
        total = adds @ matrix
        return np.asarray(total.todense() if sp.issparse(total) else total, np.float64)

    one = np.ones(n)
    seen = np.ones((n, 1)) if measured_nd is None else np.asarray(measured_nd, np.float64)

    def power(p: int) -> Any:
        if sp.issparse(value_nd):
            found = value_nd.astype(np.float64)
            found.data **= p
            return found
        return np.asarray(value_nd, np.float64) ** p

    def positive(x: Any) -> Any:
        return (x > 0).astype(np.float64)

    full = np.broadcast_to
    y1, y2 = power(1), power(2)
    return Moments(
        n=full(sums(seen, one), (c, d)),
        l1=full(sums(seen, exposure_n), (c, d)),
        l2=full(sums(seen, exposure_n**2), (c, d)),
        l3=full(sums(seen, exposure_n**3), (c, d)),
        y1=sums(y1, one),
        y2=sums(y2, one),
        y3=sums(power(3), one),
        y1l1=sums(y1, exposure_n),
        y2l1=sums(y2, exposure_n),
        y1l2=sums(y1, exposure_n**2),
        positive=sums(positive(raw_nd), one),
        raw=sums(raw_nd, one),
    )
