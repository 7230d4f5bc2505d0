"""The spread of values about what is imputed, and the levels at which it covers as often as it says.

Legend: n reference cells, b cells, D features, k bins of the imputed value, G levels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from mosaicvi.infer.readout.views import Shown

Floats = NDArray[np.floating[Any]]
HALF = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
LEVELS = np.array([*HALF, 0.5, *(1 - p for p in reversed(HALF))])
WIDEST = 0.99  # the level of an interval between the outermost of them
CELLS_OF_BIN, MOST_BINS = 100, 8
FEW_ZEROS = 0.05  # share of zeros up to which values are compared with what was imputed
SHARES = np.array([0.5, 0.8, 0.9, 0.95])  # of values, by which levels are moved
OUTERMOST = 3.0  # normal scores beyond count as this, lest single values decide


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Quantiles of each feature's values among cells for which about the same was imputed.

    Attributes
    ----------
    edges
        Between the bins of the imputed value, (D, k - 1).
    values
        Quantiles at `LEVELS` in each bin, float32 (D, k, G).
    relative
        Whether they are of the difference to the imputed value, boolean (D,): for features that are rarely 0.
    """

    edges: Floats
    values: NDArray[np.float32]
    relative: NDArray[np.bool_]

    @classmethod
    def fit(cls, imputed_nd: Floats, truth_nd: Floats, measured_nd: NDArray[np.bool_]) -> Table:
        """From reference cells; a feature that none measured is given the mean quantiles of the others."""
        k = int(np.clip(len(imputed_nd) // CELLS_OF_BIN, 1, MOST_BINS))
        d = imputed_nd.shape[1]
        edges, values = np.zeros((d, k - 1)), np.zeros((d, k, len(LEVELS)), np.float32)
        relative = ((truth_nd == 0) & measured_nd).sum(0) <= FEW_ZEROS * measured_nd.sum(0)
        there = measured_nd.any(0)
        for j in np.flatnonzero(there):
            known = measured_nd[:, j]
            x, y = imputed_nd[known, j], truth_nd[known, j]
            y = y - x if relative[j] else y
            edges[j] = np.quantile(x, np.arange(1, k) / k)
            bins = np.searchsorted(edges[j], x)
            for i in range(k):
                here = np.sort(y[bins == i] if (bins == i).any() else y)
                # the smallest value with at least such a share at or below it
                values[j, i] = here[np.ceil(LEVELS * len(here) - 1e-9).astype(int) - 1]
        alike = there & relative if (there & relative).any() else there
        relative[~there] = (there & relative).any()
        values[~there] = values[alike].mean((0, 1))
        return cls(edges=edges, values=values, relative=relative)

    def bins(self, imputed_bd: Floats) -> NDArray[np.int64]:
        """Bin of each imputed value, (b, D)."""
        out = np.zeros(imputed_bd.shape, np.int64)
        for edge in self.edges.T:
            out += imputed_bd > edge
        return out

    def of(self, features: NDArray[np.int64]) -> Table:
        """That of some features."""
        parts = (self.edges[features], self.values[features], self.relative[features])
        return Table(edges=parts[0], values=parts[1], relative=parts[2])

    def at(self, level_d: Floats) -> Floats:
        """Quantile of each bin at a level of each feature, (D, k), between those of `LEVELS`.

        Beside a 0 it is the nearest of them.
        """
        i = np.clip(np.searchsorted(LEVELS, level_d), 1, len(LEVELS) - 1)
        rows = np.arange(len(self.values))
        low, high = (self.values[rows, :, at].astype(np.float64) for at in (i - 1, i))
        share = np.clip((level_d - LEVELS[i - 1]) / (LEVELS[i] - LEVELS[i - 1]), 0, 1)[:, None]
        is_atom = (low <= 0) & ~self.relative[:, None]
        return np.where(is_atom, np.where(share > 0.5, high, low), low + share * (high - low))

    def ends_of_bins(self, low_d: Floats, high_d: Floats, whole_d: Floats) -> tuple[Floats, Floats]:
        """Both ends in each bin, or how far they are from the imputed value, (D, k) each.

        Where the lower one is 0, nothing lies below it: then `whole_d`, the level of both together, is that
        of the upper one, or that at which 0 would just be left out.
        """
        lower, upper = self.at(low_d), self.at(high_d)
        n_zero = np.maximum((self.values <= 0).sum(2), 1)
        beyond = np.take_along_axis(self.values, len(LEVELS) - n_zero[..., None], 2)[..., 0]
        at_zero = (lower <= 0) & ~self.relative[:, None]
        return lower, np.where(at_zero, np.minimum(upper, np.maximum(self.at(whole_d), beyond)), upper)

    def around(self, imputed_bd: Floats, lower_dk: Floats, upper_dk: Floats) -> tuple[Floats, Floats]:
        """The ends of the bins of imputed values, (b, D) each."""
        bins, columns = self.bins(imputed_bd), np.arange(len(self.values))
        base = np.where(self.relative, imputed_bd, 0.0)
        lower, upper = (np.maximum(base + end[columns, bins], 0.0) for end in (lower_dk, upper_dk))
        return lower, upper

    def cumulative(self, imputed_bd: Floats, truth_bd: Floats, uniform_bd: Floats) -> Floats:
        """Level at which each true value lies, (b, D); within an atom wherever a uniform number says."""
        ends = np.array([0.0, *LEVELS, 1.0])
        bins, out = self.bins(imputed_bd), np.empty(imputed_bd.shape)
        for j, table in enumerate(self.values):
            y = (truth_bd[:, j] - (imputed_bd[:, j] if self.relative[j] else 0)).astype(np.float32)
            for i in np.unique(bins[:, j]):
                here = bins[:, j] == i
                first = ends[np.searchsorted(table[i], y[here], side="left")]
                last = ends[np.searchsorted(table[i], y[here], side="right") + 1]
                out[here, j] = first + uniform_bd[here, j] * (last - first)
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """How far values of a modality lie from what is imputed of cells of which the same is shown.

    Attributes
    ----------
    tables
        Of log(1 + counts per 10,000), the cell's own total being unknown; none for other values. The first is
        of all batches together.
    table_of
        Which of them cells of each batch have, and last those of any other, (B + 1,).
    shift
        What is added to imputed values of each batch first, (B + 1, D).
    stretch
        By which factors the levels of each table are moved outwards for intervals that hold `SHARES` of the
        values, as `stretched` does, (T, 4),
    stretch_of_features
        and by which more for each feature, (T, D).
    known
        Which batch measured which features, (B + 1, D); elsewhere values are those of any other batch.
    of_likelihood
        The levels of the likelihood at which values lie below as often as `LEVELS` say: of features that
        the cell's batch measured, and of others, (2, G).
    stretch_of_likelihood
        By which factor each feature's are moved outwards after that, (2, D).
    """

    tables: tuple[Table, ...]
    table_of: NDArray[np.int64]
    shift: Floats
    stretch: Floats
    stretch_of_features: Floats
    known: NDArray[np.bool_]
    of_likelihood: Floats
    stretch_of_likelihood: Floats

    def ends(
        self,
        imputed_bd: Floats,
        batch: int,
        level: float,
        kept: dict[int, tuple[Floats, Floats]] | None = None,
    ) -> tuple[Floats, Floats]:
        """Both ends of the intervals of cells of one batch for which this was imputed, (b, D) each.

        Parameters
        ----------
        imputed_bd, batch, level
            The imputed values, the cells' batch, and the share that should lie inside.
        kept
            Ends in the bins of each table at this level, found once and kept here for many cells.
        """
        kept = {} if kept is None else kept
        own = self._ends(imputed_bd + self.shift[batch], int(self.table_of[batch]), level, kept)
        if self.known[batch].all():
            return own
        any_other = self._ends(imputed_bd, int(self.table_of[-1]), level, kept)
        lower, upper = (np.where(self.known[batch], *pair) for pair in zip(own, any_other, strict=True))
        return lower, upper

    def _ends(
        self, imputed_bd: Floats, table: int, level: float, kept: dict[int, tuple[Floats, Floats]]
    ) -> tuple[Floats, Floats]:
        if table not in kept:
            factor = factor_at(level, self.stretch[table]) * self.stretch_of_features[table]
            levels = ((1 - level) / 2, (1 + level) / 2, level)
            kept[table] = self.tables[table].ends_of_bins(*(stretched(np.array(p), factor) for p in levels))
        return self.tables[table].around(imputed_bd, *kept[table])

    def levels_of_likelihood(self, level: float, batches: list[int]) -> tuple[Floats, Floats]:
        """Both levels at which each feature's likelihood is asked as some batches, (D,) each."""
        known = self.known[batches].any(0)
        found = []
        for p in ((1 - level) / 2, (1 + level) / 2):
            at = np.array([np.interp(p, LEVELS, levels) for levels in self.of_likelihood])
            own, any_other = stretched(at[:, None], self.stretch_of_likelihood)
            found.append(np.where(known, own, any_other))
        return found[0], found[1]

    def of(self, features: NDArray[np.int64]) -> Spread:
        """That of some features."""
        return dataclasses.replace(
            self,
            tables=tuple(table.of(features) for table in self.tables),
            shift=self.shift[:, features],
            stretch_of_features=self.stretch_of_features[:, features],
            known=self.known[:, features],
            stretch_of_likelihood=self.stretch_of_likelihood[:, features],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spreads:
    """The spreads of a model, by what is shown of a cell and what is imputed."""

    parts: Mapping[tuple[Shown, str], Spread]

    def of(self, shown: Shown, modality: str) -> Spread | None:
        """That of cells of which this is shown, or of others where none such taught any."""
        found = self.parts.get((shown, modality))
        others = (part for (_, name), part in self.parts.items() if name == modality)
        return found or next(others, None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values and arrays; `read_spreads` reads it back."""
        return {
            "parts": [
                {
                    "shown": dict(shown.features),
                    "modality": name,
                    **dataclasses.asdict(part),
                    "tables": [dataclasses.asdict(table) for table in part.tables],
                }
                for (shown, name), part in self.parts.items()
            ]
        }


def calibrated(cumulative: Floats) -> Floats:
    """The levels below which held-out values lie as often as `LEVELS` say, (G,)."""
    known = cumulative[~np.isnan(cumulative)]
    return LEVELS.copy() if not known.size else np.asarray(np.quantile(known, LEVELS))


def stretched(levels: Floats, factor: Floats) -> Floats:
    """Levels moved away from a half, where the factor is above 1, by that factor in normal scores."""
    return np.asarray(ndtr(factor * ndtri(levels)))


def stretches(cumulative: Floats) -> Floats:
    """The factors with which intervals hold `SHARES` of these values, (4,), halfway to their mean.

    Of some hundred cells the factor at a single level is mostly chance.
    """
    known = cumulative[~np.isnan(cumulative)]
    if not known.size:
        return np.ones(len(SHARES))
    score = ndtri((1 + SHARES) / 2)
    each = np.quantile(np.abs(ndtri(known)), SHARES) / score
    drawn = (each + each.mean()) / 2
    return np.asarray(np.maximum.accumulate(drawn * score) / score)  # wider levels hold narrower ones


def factor_at(level: float, factors: Floats) -> float:
    """The factor at any level, between those at `SHARES`; below and above them the first and the last."""
    scores = ndtri((1 + SHARES) / 2)
    score = float(np.clip(ndtri((1 + level) / 2), scores[0], scores[-1]))
    return float(np.interp(score, scores, factors * scores) / score)


def stretch_by_feature(cumulative_nd: Floats) -> Floats:
    """The factor of each feature over that of all, less as far as that may be chance, (D,).

    Squared normal scores are drawn towards the mean of all as by empirical Bayes: by the share of the
    variance between features that the variance of a mean of so many of them does not explain.
    """
    known = ~np.isnan(cumulative_nd)
    n = known.sum(0)
    if not n.any():
        return np.ones(len(n))
    squares = np.where(known, _squares(np.where(known, cumulative_nd, 0.5)), 0.0)
    mean = squares.sum() / n.sum()
    each = squares.sum(0) / np.maximum(n, 1)
    within = ((squares - each) ** 2 * known).sum() / max(n.sum() - (n > 0).sum(), 1)
    chance = within / np.maximum(n, 1)
    there = n > 0
    between = max(float(((each - mean) ** 2 - chance)[there].mean()), 0.0)
    return np.asarray(np.sqrt(1 + (each / mean - 1) * there * between / (between + chance + 1e-12)))


def _squares(cumulative: Floats) -> Floats:
    """Squared normal scores."""
    return np.asarray(np.clip(ndtri(cumulative), -OUTERMOST, OUTERMOST) ** 2)
