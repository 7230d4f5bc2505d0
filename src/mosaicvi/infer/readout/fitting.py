"""Fit the read-out of a trained model on the cells that it was trained with.

For each set of things that can be seen of a cell, and each modality of which some are hidden then, reference
cells that measured them are shown to the model in the same way.

Legend: n reference cells, D features of a modality.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.covariates import batches_of
from mosaicvi.infer.decode import decoded
from mosaicvi.infer.latent import encoded
from mosaicvi.infer.readout.groups import FEWEST_HELD_OUT, FEWEST_REFERENCES, by_pattern, fit_groups
from mosaicvi.infer.readout.levels import Levels, Rates, known_by_batch, offsets, trust
from mosaicvi.infer.readout.predictors import Floats, Projection
from mosaicvi.infer.readout.readout import Part, ReadOut
from mosaicvi.infer.readout.regression import Linear
from mosaicvi.infer.readout.scales import Kind, completed, dense_counts, on_scale, scale_of_counts
from mosaicvi.infer.readout.table_fitting import fit_table, is_table
from mosaicvi.infer.readout.views import Shown, views_to_teach
from mosaicvi.nn.vae import MosaicVAE

MOST_REFERENCES, MOST_VALUES = 4000, 15_000_000  # cells, and values of a modality of theirs
BATCH_SIZE = 1024


def fit_readout(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    *,
    held_out: NDArray[np.bool_] | None,
    views: Sequence[Shown] | None = None,
    left_out: Collection[tuple[Shown, str]] = (),
    seed: int = 0,
) -> ReadOut:
    """The read-out of a model.

    Parameters
    ----------
    net, loader, mosaic
        The trained network and its data.
    held_out
        Cells that no training saw, (n,), which decide on the weights; None where that is not known.
    views
        What may be shown of cells; None for all that is shown of those of the mosaic.
    left_out
        Views, each with a modality, of which it is not learnt how that is read out of them.
    seed
        Decides which cells are references.
    """
    kinds = {data.name: kind for data in mosaic.modalities if (kind := scale_of_counts(data)) is not None}
    cells_of = views_to_teach(mosaic)
    if views is not None:
        cells_of = {view: cells_of.get(view, np.zeros(0, np.int64)) for view in views}
    wanted = {
        (view, name): cells
        for view, cells in cells_of.items()
        for name in kinds
        if (view, name) not in left_out
    }
    held = np.zeros(mosaic.n_cells, bool) if held_out is None else held_out

    @cache
    def project(name: str, mask: bytes) -> Projection:
        """Coordinates of what is shown of a modality, the same for all that is read out of it."""
        return _projection(mosaic.modality(name), np.frombuffer(mask, bool), kinds.get(name, ""), seed)

    tables = {
        data.name: table
        for data in mosaic.modalities
        if views is None and is_table(data)  # they are the same for all views
        if (table := fit_table(net, loader, mosaic, data, held, seed)) is not None
    }
    found = _of_kinds(net, loader, mosaic, kinds, project, wanted, held, seed)
    logs: dict[str, Kind] = {name: "log1p_cp10k" for name, kind in kinds.items() if kind == "clr"}
    of_logs = _of_kinds(net, loader, mosaic, logs, project, wanted, held, seed) if logs else None
    return dataclasses.replace(found, tables=tables, logs=of_logs)


def _of_kinds(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    kinds: Mapping[str, Kind],
    project: Callable[[str, bytes], Projection],
    wanted: Mapping[tuple[Shown, str], NDArray[np.int64]],
    held: NDArray[np.bool_],
    seed: int,
) -> ReadOut:
    """How counts are read out, each modality on its scale: of views, and cells that show them."""
    asked = {name for _, name in wanted}
    levels = {
        data.name: found
        for data in mosaic.modalities
        if data.name in kinds and data.name in asked
        if (found := _levels(net, loader, mosaic, data, kinds[data.name], held, seed)) is not None
    }
    parts: dict[tuple[Shown, str], Part] = {}
    for (view, name), cells in wanted.items():
        if name in kinds:
            data, of_batches = mosaic.modality(name), levels.get(name)
            part = _fit_part(
                net, loader, mosaic, data, kinds[name], of_batches, project, view, cells, held, seed
            )
            if part is not None:
                parts[view, name] = part
    taught = {name for _, name in parts}
    return ReadOut(
        parts=parts,
        scales={name: kind for name, kind in kinds.items() if name in taught},
        levels={name: found for name, found in levels.items() if name in taught},
        tables={},
    )


def _levels(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    data: ModalityData,
    kind: Kind,
    held: NDArray[np.bool_],
    seed: int,
) -> Levels | None:
    """Levels of a modality by batch; None where one batch measured it, or where nothing can teach them."""
    known = known_by_batch(mosaic, data)
    if known.any(1).sum() < 2 or data.entry_measured is not None:
        return None
    references = references_of(mosaic, data, [], np.zeros(data.n_features, bool), seed)
    _, rates = seen(net, loader, mosaic, references, data, None)
    measured = data.panels[data.panel_of_row[data.row_of_cell[references]]]
    batch, at_mean = mosaic.batch[references], on_scale(rates.mean, kind)
    truth = truth_of(data, references, measured, rates, kind)
    step = np.where(measured, on_scale(rates.own, kind) - at_mean, 0.0)
    del rates  # as large as the truth, twice
    unseen = held[references]
    if unseen.sum() < FEWEST_HELD_OUT:
        unseen = np.ones(len(references), bool)
    rest = truth - _line_by_feature(at_mean, truth, measured)(at_mean)
    share = trust(step[unseen], rest[unseen])
    truth = truth - share * step
    rest = truth - _line_by_feature(at_mean, truth, measured)(at_mean)
    return Levels(known=known, trust=share, offset=offsets(batch, rest, measured, len(known)))


def truth_of(
    data: ModalityData,
    cells: NDArray[np.int64],
    measured: NDArray[np.bool_],
    rates: Rates,
    kind: Kind,
) -> Floats:
    """Measured values on the scale of comparison, with expected ones in place of those that are missing."""
    counts = dense_counts(data, data.row_of_cell[cells])
    return on_scale(completed(counts, measured, rates.own), kind)


def _fit_part(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    data: ModalityData,
    kind: Kind,
    levels: Levels | None,
    project: Callable[[str, bytes], Projection],
    view: Shown,
    cells: NDArray[np.int64],
    held: NDArray[np.bool_],
    seed: int,
) -> Part | None:
    """How one modality is read out of cells of one view; None where too few cells can teach it."""
    shown = view.features
    own = shown.get(data.name, np.zeros(data.n_features, bool))
    others = [name for name in shown if name != data.name]
    references = references_of(mosaic, data, others, own, seed)
    if len(references) < FEWEST_REFERENCES:
        return None
    z, rates = seen(net, loader, mosaic, references, data, shown)
    measured = data.panels[data.panel_of_row[data.row_of_cell[references]]]
    truth = truth_of(data, references, measured, rates, kind)
    if levels is not None:
        truth = truth - levels.of(rates, kind)[0]
    part = Part(
        kind=kind,
        library=mosaic.registry.median_library[data.name],
        latent_spread=float(max(z.std(), 1e-6)),
        projections={} if own.all() else {name: project(name, shown[name].tobytes()) for name in others},
        own=own,
        own_spread=1.0,
        batch_centres=np.zeros((0, 0)),
        shown_line=Linear(weight=np.ones(data.n_features), intercept=np.zeros(data.n_features)),
        groups=(),
    )
    is_partial = bool(own.any() and not own.all())
    if is_partial:
        part = _centred(part, net, loader, mosaic, data, shown, references, rates.own, cells, seed)
    known = part.known(mosaic, data.name, references, z, rates)
    del rates  # as large as the truth, twice
    line = _line_by_feature(known.decoded, truth, measured)
    hidden = np.flatnonzero(~own)
    groups = fit_groups(known, truth, measured, hidden, held[references], seed)
    return dataclasses.replace(part, shown_line=line, groups=groups)


def references_of(
    mosaic: Mosaic, data: ModalityData, others: list[str], own: NDArray[np.bool_], seed: int
) -> NDArray[np.int64]:
    """Some of the cells that can teach."""
    enough = able_to_teach(mosaic, data, others, own)
    most = min(MOST_REFERENCES, max(FEWEST_REFERENCES, MOST_VALUES // data.n_features))
    chosen = np.random.default_rng(seed).permutation(len(enough))[:most]
    return np.sort(enough[chosen])


def able_to_teach(
    mosaic: Mosaic, data: ModalityData, others: list[str], own: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Cells that measured what is hidden and have all that is shown, or where they are few some of it."""
    has = data.row_of_cell >= 0
    if data.entry_measured is not None or not has.any():
        return np.zeros(0, np.int64)
    if not own.all():
        teaches: NDArray[np.bool_] = np.any(data.panels & ~own, axis=1)
        has &= teaches[data.panel_of_row[data.row_of_cell]]
    shown = np.ones((len(others), mosaic.n_cells), bool)
    for i, name in enumerate(others):
        shown[i] = mosaic.modality(name).row_of_cell >= 0
    if own.any():
        overlaps: NDArray[np.bool_] = np.any(data.panels & own, axis=1)
        shares = overlaps[data.panel_of_row[data.row_of_cell]]
        shown = np.concatenate([shown, shares[None]])
    enough = np.flatnonzero(has & shown.all(0))
    if len(enough) < FEWEST_REFERENCES:
        enough = np.flatnonzero(has & shown.any(0))
    return enough


def seen(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    cells: NDArray[np.int64],
    data: ModalityData,
    shown: Mapping[str, NDArray[np.bool_]] | None,
) -> tuple[Floats, Rates]:
    """Latent (n, K) of cells of which this is shown, and the decoder's counts at the median library."""
    m = [one.name for one in mosaic.modalities].index(data.name)
    library = mosaic.registry.median_library[data.name] if net.config.library_aware[m] else None
    batches = batches_of(mosaic.registry, data.name)
    several = batches.measuring.sum() > 1
    z = np.empty((len(cells), net.config.dim_latent))
    own = np.empty((len(cells), data.n_features))
    mean = np.empty_like(own) if several else own
    share = np.empty((len(cells), len(batches.measuring)))
    for at, minibatch, q in encoded(net, loader, cells, shown=shown, batch_size=BATCH_SIZE):
        with torch.no_grad():
            total = None if library is None else q.mean.new_full((len(q.mean), 1), library)
            given = [(own, batches.own(minibatch))]
            given += [(mean, batches.shared(minibatch, batches.mean))] if several else []
            for rate, covariates in given:
                value = decoded(net, m, q.mean, q, covariates, library=total, features=None)
                rate[at] = value.double().cpu().numpy()
        z[at], share[at] = q.mean.double().cpu().numpy(), batches.own_share(minibatch)
    return z, Rates(own=own, mean=mean, share=share)


def _projection(data: ModalityData, shown: NDArray[np.bool_], kind: str, seed: int) -> Projection:
    rows = np.random.default_rng(seed).permutation(data.n_cells)[: 2 * MOST_REFERENCES]
    return Projection.fit(data, np.sort(rows), shown, kind)


def _centred(
    part: Part,
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    data: ModalityData,
    shown: Mapping[str, NDArray[np.bool_]],
    references: NDArray[np.int64],
    rate: Floats,
    cells: NDArray[np.int64],
    seed: int,
) -> Part:
    """The part with the mean coordinates of each batch: panels differ by laboratory, and so do levels."""
    known = part.coordinates(mosaic, data.name, references, rate)
    part = dataclasses.replace(part, own_spread=float(max(np.sqrt(known.var(0).sum()), 1e-6)))
    asked = np.sort(np.random.default_rng(seed).permutation(cells)[:MOST_REFERENCES])
    everyone, rates = references, rate
    if len(asked):
        _, of_asked = seen(net, loader, mosaic, asked, data, shown)
        everyone, rates = np.concatenate([references, asked]), np.concatenate([rate, of_asked.own])
    found = part.coordinates(mosaic, data.name, everyone, rates)
    batch = mosaic.batch[everyone]
    centres = np.full((int(mosaic.batch.max()) + 2, found.shape[1]), np.nan)
    for b in np.unique(batch):
        centres[b] = found[batch == b].mean(0)
    centres[-1] = found.mean(0)
    return dataclasses.replace(part, batch_centres=centres)


def _line_by_feature(decoded_nd: Floats, truth_nd: Floats, measured_nd: NDArray[np.bool_]) -> Linear:
    """A line from the decoder's values to the true ones, for each feature over those who measured it."""
    d = decoded_nd.shape[1]
    line = Linear(weight=np.ones(d), intercept=np.zeros(d))
    for pattern, which in by_pattern(measured_nd):
        if pattern.sum() >= FEWEST_REFERENCES:
            found = Linear.by_feature(decoded_nd[pattern][:, which], truth_nd[pattern][:, which])
            line.weight[which], line.intercept[which] = found.weight, found.intercept
    return line
