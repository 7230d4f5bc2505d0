"""Learn the spread of values from cells whose values are hidden as those of the cells that are asked about.

For each set of things that may be seen of a cell, quantiles of the values come from cells that the model was
trained with, each as it is read out without itself. Cells that no training saw then say how far the levels
must be moved outwards: split-conformal prediction of the distribution (Chernozhukov, Wuthrich and Zhu, PNAS
2021).

Legend: n cells, D features of a modality, B batches.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.covariates import batches_of
from mosaicvi.infer.intervals.likelihood import levels_of_likelihood
from mosaicvi.infer.intervals.spread import (
    SHARES,
    Floats,
    Spread,
    Spreads,
    Table,
    stretch_by_feature,
    stretched,
    stretches,
)
from mosaicvi.infer.readout import ReadOut
from mosaicvi.infer.readout.fitting import able_to_teach, seen, truth_of
from mosaicvi.infer.readout.groups import FEWEST_HELD_OUT, FEWEST_REFERENCES, HELD_OUT_SHARE, left_out
from mosaicvi.infer.readout.levels import known_by_batch, offsets
from mosaicvi.infer.readout.scales import completed, dense_counts, on_asked_scale, on_scale
from mosaicvi.infer.readout.views import Shown, views_to_teach
from mosaicvi.nn.vae import MosaicVAE

MOST_TAUGHT, MOST_UNSEEN, MOST_VALUES = 4000, 1000, 10_000_000  # cells, and values of a modality of theirs
FEWEST_OF_BATCH = 300  # cells from which a batch's own quantiles are taken
AS_ALL = 100  # cells of a batch that say as much of its levels as those of all batches


def fit_spreads(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    readout: ReadOut | None,
    *,
    held_out: NDArray[np.bool_] | None,
    seed: int = 0,
) -> Spreads:
    """The spreads of a model.

    Parameters
    ----------
    net, loader, mosaic, readout
        The trained network, its data, and how counts are read out.
    held_out
        Cells that no training saw, (n,), which decide on the levels; None where that is not known.
    seed
        Decides which cells teach.
    """
    held = np.zeros(mosaic.n_cells, bool) if held_out is None else held_out
    parts = {}
    for view in views_to_teach(mosaic):
        for m, data in enumerate(mosaic.modalities):
            rng = np.random.default_rng(seed)
            cells = _cells(mosaic, data, view)
            if len(cells) < FEWEST_REFERENCES:
                continue
            cells, unseen = _chosen(cells, held, data.n_features, rng)
            known = _known(mosaic, data)
            by_level, by_feature = levels_of_likelihood(net, loader, mosaic, m, view, cells, unseen, rng)
            spread = Spread(
                tables=(),
                table_of=np.zeros(len(known), np.int64),
                shift=np.zeros(known.shape),
                stretch=np.zeros((0, len(SHARES))),
                stretch_of_features=np.zeros((0, data.n_features)),
                known=known,
                of_likelihood=by_level,
                stretch_of_likelihood=by_feature,
            )
            if readout is not None and readout.scale_of(data.name) is not None:
                values = _of_readout(net, loader, mosaic, m, readout, view, cells, rng)
                n = len(batches_of(mosaic.registry, data.name).measuring)
                spread = _with_tables(spread, values, np.minimum(mosaic.batch[cells], n), unseen, rng)
            parts[view, data.name] = spread
    return Spreads(parts=parts)


def _known(mosaic: Mosaic, data: ModalityData) -> NDArray[np.bool_]:
    """Which batch measured which features, with a last row for any other batch, (B + 1, D)."""
    known = known_by_batch(mosaic, data)
    return np.concatenate([known, np.full((1, data.n_features), not len(known))])


def _cells(mosaic: Mosaic, data: ModalityData, view: Shown) -> NDArray[np.int64]:
    """Cells that can be shown in this way and measured the modality."""
    own = view.features.get(data.name, np.zeros(data.n_features, bool))
    others = [name for name in view.features if name != data.name]
    if data.entry_measured is None:
        return able_to_teach(mosaic, data, others, own)
    has = np.all([mosaic.modality(name).row_of_cell >= 0 for name in [*others, data.name]], 0)
    return np.flatnonzero(has)


def _chosen(
    cells: NDArray[np.int64], held: NDArray[np.bool_], n_features: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Some of the cells, and which of them decide on levels: those that no training saw, if there are any."""
    unseen = held[cells]
    if unseen.sum() < FEWEST_HELD_OUT or (~unseen).sum() < FEWEST_HELD_OUT:
        unseen = rng.permutation(len(cells)) < max(1, len(cells) // HELD_OUT_SHARE)
    share = min(1.0, MOST_VALUES / n_features / (MOST_TAUGHT + MOST_UNSEEN))
    most = [max(FEWEST_REFERENCES, int(share * n)) for n in (MOST_TAUGHT, MOST_UNSEEN)]
    parts = [rng.permutation(np.flatnonzero(w))[:n] for w, n in zip((~unseen, unseen), most, strict=True)]
    chosen = np.sort(np.concatenate(parts))
    return cells[chosen], unseen[chosen]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Values:
    """Imputed and true log(1 + counts per 10,000) of cells, (n, D) each.

    Attributes
    ----------
    own, elsewhere
        Imputed as of the cell's own batch, and as of the mean of the others that measured the feature.
    learnt
        Whether another batch did, (D,).
    truth, measured
        The values, and which were measured.
    """

    own: Floats
    elsewhere: Floats
    learnt: NDArray[np.bool_]
    truth: Floats
    measured: NDArray[np.bool_]


def _of_readout(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    m: int,
    readout: ReadOut,
    view: Shown,
    cells: NDArray[np.int64],
    rng: np.random.Generator,
) -> _Values:
    """What is read out of cells without what they themselves taught the read-out."""
    data = mosaic.modalities[m]
    readout = readout.for_scale(data.name, "log1p_cp10k")
    row, kind = data.row_of_cell[cells], readout.scales[data.name]
    z, rates = seen(net, loader, mosaic, cells, data, view.features)
    measured = data.panels[data.panel_of_row[row]]
    levels = readout.levels.get(data.name)
    level, n = (
        (0.0, np.ones(data.n_features))
        if levels is None
        else (levels.of(rates, kind)[0], levels.known.sum(0))
    )
    part = readout.parts.get((view, data.name))
    if part is None or not part.groups:
        code = np.zeros(len(cells), np.int64)
        at_mean = readout.at_mean(mosaic, data.name, cells, code, [view], z, rates)
    else:
        truth = truth_of(data, cells, measured, rates, kind) - level
        at_mean = left_out(part, part.known(mosaic, data.name, cells, z, rates), truth, measured, rng)
    # the levels of all batches add up to nothing
    of_others = np.where(n > 1, -level / np.maximum(n - 1, 1), level)
    own, elsewhere = (
        # as the answers are, to the bit
        on_asked_scale(at_mean + one, kind, "log1p_cp10k", None).astype(np.float32).astype(np.float64)
        for one in (level, of_others)
    )
    truth = on_scale(completed(dense_counts(data, row), measured, rates.own), "log1p_cp10k")
    return _Values(own=own, elsewhere=elsewhere, learnt=n > 1, truth=truth, measured=measured)


def _with_tables(
    spread: Spread,
    values: _Values,
    batch: NDArray[np.int64],
    unseen: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Spread:
    """The spread with tables from cells in training, and their levels from the others.

    Parameters
    ----------
    spread
        The rest of it.
    values
        Of the cells.
    batch
        Of each, the number of batches for an unknown one, (n,).
    unseen
        Which of them no training saw, (n,).
    rng
        Divides atoms.
    """
    taught, truth, measured = ~unseen, values.truth, values.measured
    rest = np.where(measured, truth - values.own, 0.0)
    shift = offsets(batch[taught], rest[taught], measured[taught], len(spread.known))
    uniform = rng.random(truth.shape)

    def table(imputed: Floats, cells: NDArray[np.bool_]) -> Table:
        return Table.fit(imputed[cells], truth[cells], measured[cells])

    def lies(table: Table, imputed: Floats, cells: NDArray[np.bool_], of: NDArray[np.bool_]) -> Floats:
        found = table.cumulative(imputed[cells], truth[cells], uniform[cells])
        return np.where(measured[cells] & of, found, np.nan)

    everything = np.ones(truth.shape[1], bool)
    table_of, found = np.zeros(len(spread.known), np.int64), {}
    large = [b for b in np.unique(batch).tolist() if ((batch == b) & taught).sum() >= FEWEST_OF_BATCH]
    large = large if len(large) > 1 else []
    shift[large] = 0.0
    shifted = values.own + shift[batch]
    tables = [table(shifted, taught)]
    for b in np.unique(batch).tolist():
        if b in large:
            table_of[b] = len(tables)
            tables.append(table(values.own, taught & (batch == b)))
        found[b] = lies(tables[table_of[b]], shifted, unseen & (batch == b), everything)
    of_feature, of_all, each = _stretches(list(found.values()))
    stretch = [of_all] + [each[i] for i, b in enumerate(found) if b in large]
    by_feature = [of_feature] * len(tables)
    if values.learnt.any():
        table_of[-1] = len(tables)
        tables.append(table(values.elsewhere, taught))
        of_feature, of_all, _ = _stretches([lies(tables[-1], values.elsewhere, unseen, values.learnt)])
        stretch.append(of_all)
        by_feature.append(of_feature)
    return dataclasses.replace(
        spread,
        tables=tuple(tables),
        table_of=table_of,
        shift=shift,
        stretch=np.stack(stretch),
        stretch_of_features=np.stack(by_feature),
    )


def _stretches(cumulative: list[Floats]) -> tuple[Floats, Floats, list[Floats]]:
    """By how much levels are moved: of each feature (D,), of all cells (4,), and of each batch's (4,).

    Parameters
    ----------
    cumulative
        Levels at which values of cells that no training saw lie, (n, D) for each batch.
    """
    together = np.concatenate(cumulative)
    of_feature = stretch_by_feature(together)
    of_all = stretches(stretched(together, 1 / of_feature))
    each = []
    for part in cumulative:
        trust = len(part) / (len(part) + AS_ALL)
        each.append(trust * stretches(stretched(part, 1 / of_feature)) + (1 - trust) * of_all)
    return of_feature, of_all, each
