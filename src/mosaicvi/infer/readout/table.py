"""The fitted read-out of a table of real values with single missing entries, such as proteins.

A missing value is predicted from the other values of the same cell, as reference cells teach it, beside the
decoder. Values are differences from the level of the cell's batch, so that what distinguishes laboratories is
not taken for what distinguishes cells. What a cell did measure stays the decoder's.

Legend: b cells, n reference cells, D features, B batches, c predictors, p components, g features of a part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi.data.mosaic import ModalityData
from mosaicvi.infer.readout.regression import N_NEIGHBOURS, Linear

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
WINSORISED = 2.0  # spreads of the batch
NEVER_MEASURED = np.array([2 / 3, 1 / 3, 0.0])  # weights of ways where the batch did not measure the feature
QUANTILES = np.linspace(0.005, 0.995, 199)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Values:
    """A table of some cells in units of the network, (b, D) each, and their batch (b,)."""

    value: Floats
    measured: Bools
    batch: Ints

    @classmethod
    def of(cls, data: ModalityData, rows: Ints, batch: Ints) -> Values:
        """Rows of a modality; what was not measured is at 0."""
        x = np.asarray(data.x[rows], np.float64)
        measured = data.measured(rows)
        x = x if data.standard is None else data.standard.standardised(x)
        return cls(value=np.where(measured, x, 0.0), measured=measured, batch=batch)

    def without(self, features: Ints) -> Values:
        """The same with some features hidden."""
        measured = self.measured.copy()
        measured[:, features] = False
        return dataclasses.replace(self, value=np.where(measured, self.value, 0.0), measured=measured)

    def some(self, which: Bools) -> Values:
        """Of some of the cells."""
        return Values(value=self.value[which], measured=self.measured[which], batch=self.batch[which])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Differences:
    """How batches differ in a table, and what is left when that is taken away.

    Attributes
    ----------
    level
        Of each feature in each batch, (B + 1, D), the last row for a batch that is not known. Where the batch
        did not measure the feature, what the others and its other features make likely.
    known
        Which batches measured a feature, boolean (B + 1, D); the last row for any.
    weight
        What differences are multiplied by to be compared between features, (D,).
    spread
        Standard deviation of the compared differences in each batch, (B + 1,).
    """

    level: Floats
    known: Bools
    weight: Floats
    spread: Floats

    def row(self, batch: Ints) -> Ints:
        """Which row each cell has, (b,)."""
        return np.minimum(batch, len(self.level) - 1)

    def __call__(self, of: Values) -> Floats:
        """Differences in spreads of the batch, winsorised; 0 where nothing was measured, (b, D)."""
        row = self.row(of.batch)
        z = (of.value - self.level[row]) * self.weight / self.spread[row, None]
        return np.where(of.measured, np.clip(z, -WINSORISED, WINSORISED), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TablePart:
    """Features that the same batches measured, read out of cells of batches that measured the same.

    Attributes
    ----------
    pattern
        Position of what the cells' batch measured among `TableReadOut.patterns`.
    features, columns
        What is read out, (g,), and its predictors, (c,).
    axes, near_axes
        Principal axes of the compared differences, and of those in spreads of the batch, (c, p) each.
    ridge
        Regression on the components, of compared differences; its weight is (p, g).
    error
        Its error of cells that were left out, in units of the network, (g,).
    cells
        Which of the references teach it, boolean (n,).
    """

    pattern: int
    features: Ints
    columns: Ints
    axes: Floats
    near_axes: Floats
    ridge: Linear
    error: Floats
    cells: Bools

    def ways(self, z: Floats, spread: Floats, reference: Floats, taught: Bools) -> tuple[Floats, Floats]:
        """Compared differences (b, g) by regression and by the nearest cells.

        Parameters
        ----------
        z, spread
            Differences (b, D) and the spread of each cell's batch (b,).
        reference, taught
            Differences of the reference cells and which of them were measured, (n, D); none where keeping
            them costs too much.
        """
        compared = z[:, self.columns] * spread[:, None]
        read = self.ridge(compared @ self.axes)
        if not len(reference):
            return read, read
        value, there = reference[self.cells][:, self.features], taught[self.cells][:, self.features]
        place = reference[self.cells][:, self.columns] @ self.near_axes
        near = nearest(z[:, self.columns] @ self.near_axes, place, value, there)
        return read, near * spread[:, None]


def nearest(place_bp: Floats, place_np: Floats, value_ng: Floats, there_ng: Bools) -> Floats:
    """Mean of about 20 of the nearest cells that have a value, drawn to 0 as by one more, (b, g)."""
    k = min(int(np.ceil(N_NEIGHBOURS / max(there_ng.mean(), 1e-3))), len(place_np))
    distance = (place_np**2).sum(1) - 2 * place_bp @ place_np.T  # but for what all have in common
    near = np.argpartition(distance, k - 1, axis=1)[:, :k]
    ends = np.arange(0, near.size + 1, k)
    chosen = sp.csr_matrix((np.ones(near.size), near.ravel(), ends), (len(place_bp), len(place_np)))
    return np.asarray((chosen @ value_ng) / (chosen @ there_ng.astype(np.float64) + 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableReadOut:
    """How the missing entries of a table are read out.

    Attributes
    ----------
    differences
        How batches differ.
    patterns, pattern_of_batch
        What batches measured, boolean (P, D), and which of these each of them did, (B + 1,).
    parts
        By what the cell's batch measured and who measured what is read out.
    weights
        Of the regression, the nearest cells and the decoder, (2, 3): where the batch measured the
        feature, and where it did not.
    reference, taught
        Differences of the reference cells, and which of them were measured, (n, D).
    quantiles
        Of what true values differ by from those that are read out, in units of `TablePart.error`, at
        `QUANTILES`, in rows as the weights.
    earlier, of_earlier
        Of a model that grew without the cells it was first trained on: the table of that model, and which
        batches it answers for, boolean (B + 1,); None and empty for others.
    """

    differences: Differences
    patterns: Bools
    pattern_of_batch: Ints
    parts: tuple[TablePart, ...]
    weights: Floats
    reference: NDArray[np.float32]
    taught: Bools
    quantiles: Floats
    earlier: TableReadOut | None = None
    of_earlier: Bools = dataclasses.field(default_factory=lambda: np.zeros(0, bool))

    def ways(self, of: Values) -> tuple[Floats, Floats]:
        """Differences from the level by regression and by nearest cells, (b, D), in units of the network."""
        row = self.differences.row(of.batch)
        z, spread = self.differences(of), self.differences.spread[row]
        reference = np.asarray(self.reference, np.float64)
        read, near = np.zeros(z.shape), np.zeros(z.shape)
        for part, here in self._parts(of):
            at = np.ix_(here, part.features)
            weight = self.differences.weight[part.features]
            by_ridge, by_near = part.ways(z[here], spread[here], reference, self.taught)
            read[at], near[at] = by_ridge / weight, by_near / weight
        return read, near

    def error(self, of: Values) -> Floats:
        """Error of what is read out, (b, D), in units of the network; NaN where the decoder answers."""
        out = np.full(of.value.shape, np.nan)
        for part, here in self._parts(of):
            out[np.ix_(here, part.features)] = part.error
        out[of.measured] = np.nan
        for table, here in self._earlier(of):
            out[here] = table.error(of.some(here))
        return out

    def _earlier(self, of: Values) -> Iterator[tuple[TableReadOut, Bools]]:
        """The earlier table with the cells that it answers for, if there are any."""
        if self.earlier is not None:
            here = self.of_earlier[self.differences.row(of.batch)]
            if here.any():
                yield self.earlier, here

    def _parts(self, of: Values) -> Iterator[tuple[TablePart, Bools]]:
        """Each part with the cells that it serves, if there are any."""
        pattern = self.pattern_of_batch[self.differences.row(of.batch)]
        for part in self.parts:
            here = pattern == part.pattern
            if here.any():
                yield part, here

    def __call__(self, of: Values, levels: Sequence[Floats], decoded: Sequence[Floats]) -> list[Floats]:
        """Values in units of the network as each batch that is asked for, (b, D).

        Parameters
        ----------
        of
            What the cells measured.
        levels, decoded
            Levels of these batches, and the decoder's values.
        """
        read, near = self.ways(of)
        weight = self.weights[self.rows(of)]
        out = []
        for level, value in zip(levels, decoded, strict=True):
            ways = np.stack([read, near, value - level])
            out.append(np.asarray(level + np.einsum("wbd,bdw->bd", ways, weight)))
        for table, here in self._earlier(of):
            some = [[value[here] for value in values] for values in (levels, decoded)]
            for value, theirs in zip(out, table(of.some(here), *some), strict=True):
                value[here] = theirs
        return out

    def rows(self, of: Values) -> Ints:
        """0 where a cell's batch measured the feature and 1 where not, (b, D)."""
        return np.where(self.differences.known[self.differences.row(of.batch)], 0, 1)

    def levels(self, of: Values, shares: Sequence[Floats] | None) -> list[Floats]:
        """Levels (b, D) of the batches asked for in these shares, (B,) each, or of each cell's own."""
        level = self.differences.level
        if shares is None:
            return [level[self.differences.row(of.batch)]]
        return [np.broadcast_to(share @ level[:-1], of.value.shape) for share in shares]

    def quantile(self, of: Values, probability: float) -> Floats:
        """What true values differ by from those read out, in units of their error, at a level, (b, D)."""
        at = [np.interp(probability, QUANTILES, row) for row in self.quantiles]
        out = np.asarray(np.array(at)[self.rows(of)])
        for table, here in self._earlier(of):
            out[here] = table.quantile(of.some(here), probability)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values and arrays."""
        plain: dict[str, Any] = dataclasses.asdict(self)
        earlier = None if self.earlier is None else self.earlier.to_dict()
        return {**plain, "parts": list(plain["parts"]), "earlier": earlier}

    def keeping(self, earlier: TableReadOut, batches: Bools) -> TableReadOut:
        """With an earlier table of as many batches for those that no cell teaches here, (B,)."""
        if not batches.any():
            return self
        of_earlier, d = np.append(batches, False), self.differences
        level = np.where(of_earlier[:, None], earlier.differences.level, d.level)
        known = np.where(of_earlier[:, None], earlier.differences.known, d.known)
        differences = dataclasses.replace(d, level=level, known=known)
        return dataclasses.replace(self, differences=differences, earlier=earlier, of_earlier=of_earlier)

    def with_more(self, n_batches: int) -> TableReadOut:
        """The same where there are more batches, of which nothing is known."""

        def more(rows: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([rows[:-1], np.repeat(rows[-1:], max(n_batches, 1) + 1 - len(rows) + 1, 0)])

        d = self.differences
        return dataclasses.replace(
            self,
            differences=dataclasses.replace(
                d, level=more(d.level), known=more(d.known), spread=more(d.spread)
            ),
            pattern_of_batch=more(self.pattern_of_batch),
            earlier=None if self.earlier is None else self.earlier.with_more(n_batches),
            of_earlier=more(self.of_earlier) if len(self.of_earlier) else self.of_earlier,
        )
