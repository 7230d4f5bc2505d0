"""Levels of the features of a table in each batch, also in those that did not measure them.

What a batch did not measure is expected at the mean of its features, and above or below it as in the other
batches, as far as the features that several measured agree.

Legend: n cells, B batches, D features.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mosaicvi.data.registry import Standard
from mosaicvi.infer.readout.table import Bools, Differences, Floats, Values

MOST_DRAWN = 20.0  # cells that what the other batches say can count as
FEWEST_VALUES = 20  # of a batch that tell of its spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """Levels in units of the network, (B, D) each.

    Attributes
    ----------
    level
        What is known, and what is expected in place of what is not.
    expected
        Without what the batch itself measured of the feature.
    known
        Which batches measured which features.
    """

    level: Floats
    expected: Floats
    known: Bools

    @classmethod
    def of(cls, values: Values, standard: Standard | None, n_batches: int) -> Levels:
        """From the values of some cells.

        Parameters
        ----------
        values, standard
            Of cells, and how they come from those of the user.
        n_batches
            B, at least 1.
        """
        d = values.value.shape[1]
        centre = np.zeros(d) if standard is None else standard.centre
        unit = np.ones(d) if standard is None else standard.spread
        code = (np.arange(n_batches)[:, None] == values.batch).astype(np.float64)
        count = code @ values.measured
        known = count > 0
        mean = np.where(known, (code @ values.value) / np.maximum(count, 1), 0.0)
        # in the user's units, in which features can be compared; each counts by its own spread
        weight = known / unit**2
        level = np.where(known, mean * unit + centre, 0.0)
        of_batch = (level * weight).sum(1) / np.maximum(weight.sum(1), 1e-300)
        beyond = np.where(known, level - of_batch[:, None], 0.0)
        n_others = known.sum(0) - known
        others = (beyond.sum(0) - beyond) / np.maximum(n_others, 1)
        both = (weight * (n_others > 0)).astype(np.float64)
        slope = (both * beyond * others).sum() / max((both * others**2).sum(), 1e-300)
        expected = (of_batch[:, None] + np.clip(slope, 0, 1) * others - centre) / unit
        # a level that a few cells tell is drawn towards what is expected, by empirical Bayes
        within = _within(values, mean, count)
        shared = known & (n_others > 0)
        off = ((mean - expected) ** 2)[shared]
        between = float(off.mean() - (within / count[shared]).mean()) if off.size else 0.0
        drawn = min(MOST_DRAWN, within / between) if between > 0 else MOST_DRAWN
        share = np.where(shared, drawn / (drawn + np.maximum(count, 1)), 0.0)
        return cls(
            level=np.where(known, mean + share * (expected - mean), expected), expected=expected, known=known
        )

    def differences(self, values: Values, weight: Floats) -> Differences:
        """How batches differ, with a last row for one that is not known, as for those without any cell.

        Parameters
        ----------
        values
            Of the cells that the levels are of.
        weight
            What differences are multiplied by to be compared, (D,).
        """
        there = self.known.any(1)
        level = np.concatenate([self.level, self.level[there].mean(0, keepdims=True)])
        known = np.concatenate([self.known, np.ones_like(self.known[:1])])
        level[:-1][~there], known[:-1][~there] = level[-1], True
        square = np.where(values.measured, ((values.value - level[values.batch]) * weight) ** 2, 0.0).sum(1)
        count = values.measured.sum(1)
        pooled = max(float(np.sqrt(square.sum() / max(count.sum(), 1))), 1e-6)
        spread = np.full(len(level), pooled)
        for b in np.flatnonzero(there):
            here = values.batch == b
            if count[here].sum() >= FEWEST_VALUES:
                spread[b] = max(float(np.sqrt(square[here].sum() / count[here].sum())), 1e-3 * pooled)
        return Differences(level=level, known=known, weight=weight, spread=spread)


def _within(values: Values, mean: Floats, count: Floats) -> float:
    """Variance within batches, of all features together."""
    left = np.where(values.measured, values.value - mean[values.batch], 0.0)
    return float((left**2).sum() / max(count.sum() - (count > 0).sum(), 1))
