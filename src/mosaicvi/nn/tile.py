"""What a likelihood is given and gives back: one tile of the decoder's output, small enough for the cache.

Legend: r rows, d features, z non-zeros of the tile, A distinct covariate rows.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mosaicvi.nn.masks import View


class Scratch:
    """Memory for tiles that is used again and again, so that it stays in the cache."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._memory: list[Tensor] = []

    def take(self, which: int, r: int, d: int) -> Tensor:
        """Buffer number `which`, from 0, as (r, d)."""
        while len(self._memory) <= which:
            self._memory.append(self._like.new_empty(0))
        if len(self._memory[which]) < r * d:
            self._memory[which] = self._like.new_empty(r * d)
        return self._memory[which][: r * d].view(r, d)


@dataclasses.dataclass(kw_only=True)
class Tile:
    """Inputs of a likelihood over r rows x d features.

    Attributes
    ----------
    o
        Decoder output (r, d); becomes the gradient of -log L.
    scratch
        Memory for intermediate values; its buffer 0 holds `o`.
    lo
        First column of the tile in `wanted`, `measured` and `alpha`.
    wanted
        Entries that count; None when all do.
    measured
        With `library`: entries that the softmax is normalised over; None for all.
    row, col, x
        Row, column and value of the non-zero targets, (z,) each.
    rise, d_rise, constant
        Of the non-zeros: f(x, a), its derivative by a, and -log x!, (z,) each.
    dense
        In place of them for Gaussian: all values (r, d).
    library
        Library of each row (r, 1) for a mean of library x softmax, else None.
    low, high, centre
        Bounds and centre of the mean, (d,).
    alpha, code
        Dispersion or standard deviation by covariate row (A, ...), and the covariate row of each row (r,).
    small
        Whether some dispersion of the modality is below `SMALL_DISPERSION`.
    pi
        Zero inflation (d,).
    weight
        Of each row, with which the gradients by `alpha` and `pi` are summed, (r,).
    """

    o: Tensor
    scratch: Scratch
    low: Tensor
    high: Tensor
    centre: Tensor
    code: Tensor
    weight: Tensor
    lo: int = 0
    wanted: View | None = None
    measured: View | None = None
    row: Tensor | None = None
    col: Tensor | None = None
    x: Tensor | None = None
    rise: Tensor | None = None
    d_rise: Tensor | None = None
    constant: Tensor | None = None
    dense: Tensor | None = None
    library: Tensor | None = None
    alpha: Tensor | None = None
    small: bool = True
    pi: Tensor | None = None

    @property
    def here(self) -> slice:
        """The tile's columns in `wanted`, `measured` and `alpha`."""
        return slice(self.lo, self.lo + self.o.shape[1])

    def target(self) -> Tensor | None:
        """1 where an entry counts, else 0, (r, d) or (1, d); None when all count."""
        return self._dense(self.wanted)

    def panel(self) -> Tensor | None:
        """1 where the softmax is normalised, else 0, (r, d) or (1, d); None for all."""
        return self._dense(self.measured)

    def _dense(self, view: View | None) -> Tensor | None:
        if view is None:
            return None
        table = view.table[:, self.here].to(self.o.dtype)
        return table if len(table) == 1 else table.index_select(0, view.index)

    def at(self) -> Tensor:
        """Flat position row * d + column of the non-zeros, (z,)."""
        return need(self.row) * self.o.shape[1] + need(self.col)

    def buffer(self, which: int) -> Tensor:
        """Memory of the tile's shape; 0 is taken by `o`."""
        return self.scratch.take(which, *self.o.shape)

    def alpha_table(self) -> Tensor:
        """Dispersion by covariate row, (A, d)."""
        return need(self.alpha)[:, self.here]

    def alpha_of_rows(self, which: int) -> Tensor:
        """Dispersion of each entry (r, d), in buffer `which`; not to be written to."""
        alpha = self.alpha_table()
        if len(alpha) == 1:
            return alpha.expand(self.o.shape)
        return torch.index_select(alpha, 0, self.code, out=self.buffer(which))

    def by_code(self, entries: Tensor) -> Tensor:
        """Weighted sum of entries (r, d) over the rows of each covariate row, (A, d)."""
        member = self.weight.new_zeros(len(need(self.alpha)), len(self.code))
        return member.scatter_(0, self.code[None], self.weight[None]) @ entries

    def by_code_at(self, entries: Tensor) -> Tensor:
        """The same of what belongs to the non-zeros (z,): (A, d)."""
        row, d = need(self.row), self.o.shape[1]
        out = entries.new_zeros(len(need(self.alpha)) * d)
        at = self.code.index_select(0, row) * d + need(self.col)
        return out.index_add_(0, at, entries * self.weight.index_select(0, row)).view(-1, d)

    def by_row(self, entries: Tensor) -> Tensor:
        """Sum of what belongs to the non-zeros (z,) over each row, (r,)."""
        return entries.new_zeros(len(self.o)).index_add_(0, need(self.row), entries)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TileResult:
    """Log-likelihood of each row, and gradients of -log L besides the one left in ``Tile.o``."""

    value: Tensor  # (r,)
    d_alpha: Tensor | None = None  # (A, d), weighted sum over rows
    d_pi: Tensor | None = None  # (d,), weighted sum over rows


def need(value: Tensor | None) -> Tensor:
    """The tensor, which this likelihood cannot do without."""
    assert value is not None
    return value
