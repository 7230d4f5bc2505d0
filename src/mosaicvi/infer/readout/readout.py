"""The fitted read-out of a model: from what is known of cells to values on the scale of comparison.

Legend: b cells, K latent, D features of the modality, p coordinates of the other measured values, g features
of a group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.mosaic import Mosaic
from mosaicvi.infer.readout.levels import Levels, Rates, known_by_batch
from mosaicvi.infer.readout.predictors import Projection
from mosaicvi.infer.readout.regression import Linear, Nearest
from mosaicvi.infer.readout.scales import Kind, completed, dense_counts, on_scale
from mosaicvi.infer.readout.table import TableReadOut
from mosaicvi.infer.readout.views import Shown, views_to_teach

Floats = NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of some cells of which a modality is to be imputed.

    Attributes
    ----------
    z
        Latent, (b, K).
    decoded
        The decoder's value of each feature as the mean of the batches, on the scale of comparison, (b, D).
    measured
        Coordinates of the other measured values, (b, p).
    """

    z: Floats
    decoded: Floats
    measured: Floats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Features that the same reference cells measured, and the ways to their values.

    Attributes
    ----------
    features
        Positions (g,).
    centre, axes
        Principal components of the decoder's values, (D,) and (D, p').
    decoder, ridge_latent, ridge_measured
        Lines of the decoder's values; regressions on the latent with the decoder's values, and on the
        measured values.
    near_latent, near_measured
        Nearest cells in the latent and in the measured values; None where keeping them costs too much.
    weights
        Of the ways that there are, in this order.
    mean
        Mean value of each feature, (g,).
    """

    features: NDArray[np.int64]
    centre: Floats
    axes: Floats
    decoder: Linear
    ridge_latent: Linear
    ridge_measured: Linear
    near_latent: Nearest | None
    near_measured: Nearest | None
    weights: Floats
    mean: Floats

    def ways(self, known: Known) -> list[Floats]:
        """The value that each way leads to, (b, g) each."""
        out = [
            self.decoder(known.decoded[:, self.features]),
            self.ridge_latent(self.latent_and_decoded(known)),
            self.ridge_measured(known.measured),
        ]
        if self.near_latent is not None and self.near_measured is not None:
            out += [self.near_latent(known.z), self.near_measured(known.measured)]
        return out

    def latent_and_decoded(self, known: Known) -> Floats:
        """Predictors of `ridge_latent`, (b, K + p')."""
        return np.concatenate([known.z, (known.decoded - self.centre) @ self.axes], 1)

    def __call__(self, known: Known) -> Floats:
        """Values (b, g)."""
        total = np.zeros((len(known.z), len(self.features)))
        for weight, way in zip(self.weights, self.ways(known), strict=True):
            total += weight * (way - self.mean)
        return self.mean + total


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """How a modality is read out of cells of which the same is shown.

    Attributes
    ----------
    kind
        Scale of comparison.
    library
        Total of the decoder's counts.
    latent_spread
        What the latent is divided by.
    projections
        Coordinates of each other modality that is shown.
    own
        Features of the modality itself that are shown, boolean (D,); none where it is hidden.
    own_spread
        What their values are divided by.
    batch_centres
        Where some are shown: mean coordinates of each batch, (B, p), and of all as last row, with NaN for
        batches without such cells; else empty.
    shown_line
        Lines of the decoder's values of all features.
    groups
        How hidden features are read out.
    """

    kind: Kind
    library: float
    latent_spread: float
    projections: Mapping[str, Projection]
    own: NDArray[np.bool_]
    own_spread: float
    batch_centres: Floats
    shown_line: Linear
    groups: tuple[Group, ...]

    def known(self, mosaic: Mosaic, name: str, cells: NDArray[np.int64], z: Floats, rates: Rates) -> Known:
        """What is known of cells, from their latent and the decoder's counts at `library`."""
        measured = self.coordinates(mosaic, name, cells, rates.own)
        if len(self.batch_centres):
            batch = np.minimum(mosaic.batch[cells], len(self.batch_centres) - 1)
            centre = self.batch_centres[batch]
            centre = np.where(np.isnan(centre), self.batch_centres[-1], centre)
            measured = measured - centre
        return Known(z=z / self.latent_spread, decoded=on_scale(rates.mean, self.kind), measured=measured)

    def coordinates(self, mosaic: Mosaic, name: str, cells: NDArray[np.int64], rate: Floats) -> Floats:
        """Coordinates of the measured values before batches are centred, (b, p), of counts as own batch."""
        parts = []
        for other, projection in self.projections.items():
            data = mosaic.modality(other)
            row = data.row_of_cell[cells]
            found = projection(data, np.maximum(row, 0)) if data.n_cells else np.zeros((len(cells), 0))
            parts.append(np.where(row[:, None] >= 0, found, 0.0))
        if self.own.any():
            data = mosaic.modality(name)
            row = data.row_of_cell[cells]
            seen = data.panels[data.panel_of_row[row]] & self.own
            whole = completed(dense_counts(data, row), seen, rate)
            parts.append(on_scale(whole, self.kind)[:, self.own] / self.own_spread)
        return np.concatenate(parts, 1) if parts else np.zeros((len(cells), 0))

    def __call__(self, known: Known) -> Floats:
        """Values of all features at the mean of the batches, on the scale of comparison, (b, D)."""
        out = self.shown_line(known.decoded)
        for group in self.groups:
            out[:, group.features] = group(known)
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOut:
    """How counts, and the missing entries of tables, are read out of a model.

    Attributes
    ----------
    parts
        By what is shown of a cell and what is imputed.
    scales
        Scale of comparison of each modality.
    levels
        Of the modalities that several batches measured.
    tables
        Of real values with single missing entries.
    logs
        How log(1 + counts per 10,000) is read out of what is compared as centred log ratios: its mean is
        not the logarithm of a mean. None where there is no such modality.
    """

    parts: Mapping[tuple[Shown, str], Part]
    scales: Mapping[str, Kind]
    levels: Mapping[str, Levels]
    tables: Mapping[str, TableReadOut]
    logs: ReadOut | None = None

    def scale_of(self, modality: str) -> Kind | None:
        """The scale on which counts are compared; None for tables and for what the decoder alone imputes."""
        return self.scales.get(modality)

    def for_scale(self, modality: str, asked: str) -> ReadOut:
        """The read-out that was fitted on the scale which is asked for, if there is one, else this."""
        is_fitted = self.logs is not None and modality in self.logs.scales
        return self.logs if self.logs is not None and is_fitted and asked == "log1p_cp10k" else self

    def __call__(
        self,
        mosaic: Mosaic,
        m: int,
        cells: NDArray[np.int64],
        code: NDArray[np.int64],
        views: Sequence[Shown],
        z: Floats,
        rates: Rates,
    ) -> list[Floats]:
        """Values of modality m on its scale of comparison, (b, D), as each batch that is asked for.

        Parameters
        ----------
        mosaic, m, cells
            The data, the position of the modality, and the cells (b,).
        code, views
            What is shown of each cell, as a position (b,) among the views.
        z, rates
            Latent (b, K), and the decoder's counts at the median library.
        """
        name = mosaic.modalities[m].name
        out = self.at_mean(mosaic, name, cells, code, views, z, rates)
        levels = self.levels.get(name)
        if levels is None:
            return [out]
        return [out + level for level in levels.of(rates, self.scales[name])]

    def at_mean(
        self,
        mosaic: Mosaic,
        name: str,
        cells: NDArray[np.int64],
        code: NDArray[np.int64],
        views: Sequence[Shown],
        z: Floats,
        rates: Rates,
    ) -> Floats:
        """The same before levels of batches are added, (b, D)."""
        out = on_scale(rates.mean, self.scales[name])  # where nothing better is known
        for i in np.unique(code):
            part, of_view = self.parts.get((views[i], name)), code == i
            if part is None:
                continue
            if not part.groups:  # nothing is hidden
                out[of_view] = part.shown_line(out[of_view])
                continue
            out[of_view] = part(part.known(mosaic, name, cells[of_view], z[of_view], rates.of(of_view)))
        return out

    def untouched_by(self, mosaic: Mosaic, *, same: Collection[str]) -> set[tuple[Shown, str]]:
        """Views and modalities of which cells have nothing to teach that this read-out does not know.

        Parameters
        ----------
        mosaic
            New cells, as a grown network reads them.
        same
            Modalities of which that knows the same features.
        """
        shown = views_to_teach(mosaic)
        measured = {data.name for data in mosaic.modalities if data.n_cells}
        return {
            (view, name)
            for view, name in self.parts
            if name in same and set(view.features) <= set(same)
            if view not in shown or name not in measured
        }

    def after(
        self, before: ReadOut, *, same: Collection[str], n_batches: int, taught_by: Mosaic | None = None
    ) -> ReadOut:
        """With parts of a smaller network for what its own cells do not teach.

        Parameters
        ----------
        before
            The read-out of the network that this one's grew from.
        same
            Modalities of which it knows the same features.
        n_batches
            How many batches this one's network knows, the new ones last.
        taught_by
            The cells that taught this one, where they are not all that taught the other: of tables, that
            one's then answer for batches without any.
        """
        kept = {
            (shown, name): part
            for (shown, name), part in before.parts.items()
            if name in same and set(shown.features) <= set(same)
        }
        names = {name for _, name in kept}
        scales = {name: kind for name, kind in before.scales.items() if name in names}
        levels = {name: one.with_more(n_batches) for name, one in before.levels.items() if name in names}
        tables = {name: one.with_more(n_batches) for name, one in before.tables.items() if name in same}
        for name, one in self.tables.items():
            if taught_by is not None and name in tables:
                without = ~np.any(known_by_batch(taught_by, taught_by.modality(name)), axis=1)
                one = one.keeping(tables[name], without)
            tables[name] = one
        logs = None
        if self.logs is not None and before.logs is not None:  # models of an older version have none
            logs = self.logs.after(before.logs, same=same, n_batches=n_batches)
        return ReadOut(
            parts={**kept, **self.parts},
            scales={**scales, **self.scales},
            levels={**levels, **self.levels},
            tables=tables,
            logs=logs,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values and arrays; `read_readout` reads it back."""
        return {
            "scales": dict(self.scales),
            "levels": {name: dataclasses.asdict(levels) for name, levels in self.levels.items()},
            "tables": {name: table.to_dict() for name, table in self.tables.items()},
            "parts": [
                {"shown": {k: v.copy() for k, v in shown.features.items()}, "modality": name, **_plain(part)}
                for (shown, name), part in self.parts.items()
            ],
            "logs": {} if self.logs is None else self.logs.to_dict(),
        }


def _plain(part: Part) -> dict[str, Any]:
    found: dict[str, Any] = dataclasses.asdict(part)
    found["groups"] = list(found["groups"])
    return found
