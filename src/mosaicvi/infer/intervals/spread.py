"""The spread of values about what is imputed, and the levels at which it covers as often as it says.

Legend: n reference cells, b cells, D features, k bins of the imputed value, G levels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.infer.readout.views import Shown

Floats = NDArray[np.floating[Any]]
HALF = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
LEVELS = np.array([*HALF, 0.5, *(1 - p for p in reversed(HALF))])
WIDEST = 0.99  # the level of an interval between the outermost of them
CELLS_OF_BIN, MOST_BINS = 100, 8
FEW_ZEROS = 0.05  # share of zeros up to which values are compared with what was imputed


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
        """From reference cells; of a feature that none measured, quantiles are those of what was imputed."""
        k = int(np.clip(len(imputed_nd) // CELLS_OF_BIN, 1, MOST_BINS))
        d = imputed_nd.shape[1]
        edges, values = np.zeros((d, k - 1)), np.zeros((d, k, len(LEVELS)), np.float32)
        relative = ((truth_nd == 0) & measured_nd).sum(0) <= FEW_ZEROS * measured_nd.sum(0)
        for j in range(d):
            known = measured_nd[:, j]
            x, y = (imputed_nd[known, j], truth_nd[known, j]) if known.any() else (imputed_nd[:, j],) * 2
            y = y - x if relative[j] else y
            edges[j] = np.quantile(x, np.arange(1, k) / k)
            bins = np.searchsorted(edges[j], x)
            for i in range(k):
                here = y[bins == i]
                values[j, i] = np.quantile(here if len(here) else y, LEVELS, method="inverted_cdf")
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

    def at(self, level: float) -> Floats:
        """Quantile of each bin at a level, (D, k), between those of `LEVELS`, or the nearest beside a 0."""
        i = int(np.clip(np.searchsorted(LEVELS, level), 1, len(LEVELS) - 1))
        low, high = (self.values[..., at].astype(np.float64) for at in (i - 1, i))
        share = float(np.clip((level - LEVELS[i - 1]) / (LEVELS[i] - LEVELS[i - 1]), 0, 1))
        is_atom = (low <= 0) & ~self.relative[:, None]
        return np.where(is_atom, high if share > 0.5 else low, low + share * (high - low))

    def ends(self, imputed_bd: Floats, low: float, high: float) -> tuple[Floats, Floats]:
        """Quantiles at two levels of cells for which this was imputed, (b, D) each."""
        bins, columns = self.bins(imputed_bd), np.arange(len(self.values))
        base = np.where(self.relative, imputed_bd, 0.0)
        lower, upper = (np.maximum(base + self.at(p)[columns, bins], 0.0) for p in (low, high))
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
    table
        Of log(1 + counts per 10,000), the cell's own total being unknown; None for other values.
    of_table, of_likelihood
        The levels of the table and of the likelihood at which held-out values lie below as often as `LEVELS`
        say, (G,).
    """

    table: Table | None
    of_table: Floats
    of_likelihood: Floats


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
                {"shown": dict(shown.features), "modality": name, **dataclasses.asdict(part)}
                for (shown, name), part in self.parts.items()
            ]
        }


def calibrated(cumulative: Floats) -> Floats:
    """The levels below which held-out values lie as often as `LEVELS` say, (G,)."""
    known = cumulative[~np.isnan(cumulative)]
    return LEVELS.copy() if not known.size else np.asarray(np.quantile(known, LEVELS))


def corrected(level: float, levels: Floats) -> float:
    """The level to ask for, so that values lie below as often as `level` says."""
    return float(np.interp(level, LEVELS, levels))
