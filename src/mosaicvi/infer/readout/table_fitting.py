"""Fit the read-out of a table with single missing entries on the cells that a model was trained with.

Legend: n cells, D features, B batches.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.stats
import torch

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.covariates import batches_of
from mosaicvi.infer.decode import decoded
from mosaicvi.infer.latent import encoded
from mosaicvi.infer.readout.groups import FEWEST_HELD_OUT, FEWEST_REFERENCES, HELD_OUT_SHARE
from mosaicvi.infer.readout.regression import stacking_weights
from mosaicvi.infer.readout.table import (
    NEVER_MEASURED,
    QUANTILES,
    Bools,
    Floats,
    Ints,
    TableReadOut,
    Values,
)
from mosaicvi.infer.readout.table_levels import Levels
from mosaicvi.infer.readout.table_parts import fit_parts, left_out
from mosaicvi.nn.vae import MosaicVAE

MOST_REFERENCES, MOST_VALUES = 4000, 20_000_000  # cells, and values of theirs
MOST_KEPT = 2_000_000  # values that are kept for the nearest cells
TOWARDS_EQUAL = 0.01  # entries are many more than held-out cells
FOLDS = 10  # features are hidden a tenth at a time
BATCH_SIZE = 1024


def is_table(data: ModalityData) -> bool:
    """Whether a modality holds real values of which single entries are missing."""
    return data.likelihood == "Gaussian" and data.transform == "none" and data.entry_measured is not None


def fit_table(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    data: ModalityData,
    held: Bools,
    seed: int,
) -> TableReadOut | None:
    """The read-out of a table; None where too few cells can teach it.

    Parameters
    ----------
    net, loader, mosaic, data
        The trained network, its data, and the modality.
    held
        Cells that no training saw, (n,): they teach weights, errors, and what other batches never measured.
    seed
        Decides which cells teach.
    """
    rng = np.random.default_rng(seed)
    cells = rng.permutation(np.flatnonzero(data.row_of_cell >= 0))
    most = max(FEWEST_REFERENCES, MOST_VALUES // data.n_features)
    cells = np.sort(cells[: min(MOST_REFERENCES, most)])
    unseen = held[cells]
    if unseen.sum() < FEWEST_HELD_OUT:
        unseen = rng.permutation(len(cells)) < len(cells) // HELD_OUT_SHARE
    if (~unseen).sum() < FEWEST_REFERENCES:
        return None
    n_batches = max(len(batches_of(mosaic.registry, data.name).measuring), 1)
    whole = Values.of(data, data.row_of_cell[cells], mosaic.batch[cells])
    references = whole.some(~unseen)
    levels = Levels.of(whole, data.standard, n_batches)
    several = levels.known.any(1).sum() > 1
    tries = []
    for weight in _weights(data) if several else [np.ones(data.n_features)]:
        differences = levels.differences(whole, weight)
        across = left_out(differences, levels.expected, references, np.random.default_rng(seed))
        tries.append((differences, across))
    differences, across = max(tries, key=lambda one: one[1].agreement)  # the first of equal ones
    parts = fit_parts(differences, whole, unseen)
    keeps = whole.value.size <= MOST_KEPT
    readout = TableReadOut(
        differences=differences,
        patterns=parts.patterns,
        pattern_of_batch=parts.pattern_of_batch,
        parts=parts.parts,
        weights=np.stack([NEVER_MEASURED, across.slope * NEVER_MEASURED]),
        reference=(differences(whole) if keeps else whole.value[:0]).astype(np.float32),
        taught=whole.measured if keeps else whole.measured[:0],
        quantiles=np.tile(scipy.stats.norm.ppf(QUANTILES), (2, 1)),
    )
    return _weighed(readout, net, loader, mosaic, data, cells[unseen], whole.some(unseen), across.errors, rng)


def _weights(data: ModalityData) -> list[Floats]:
    """How differences may be compared between features: each by its spread, or as they are in the table."""
    alike = np.ones(data.n_features)
    if data.standard is None:
        return [alike]
    return [alike, data.standard.spread / np.sqrt((data.standard.spread**2).mean())]


def _weighed(
    readout: TableReadOut,
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    data: ModalityData,
    cells: Ints,
    whole: Values,
    errors: Floats,
    rng: np.random.Generator,
) -> TableReadOut:
    """With weights and errors by cells that did not teach it, a tenth of the features hidden at a time."""
    level = readout.levels(whole, None)[0]
    found = []
    for fold in np.array_split(rng.permutation(data.n_features), min(FOLDS, data.n_features)):
        hidden = whole.without(fold)
        (read, near), error = readout.ways(hidden), readout.error(hidden)
        value = _decoded(net, loader, mosaic, data, cells, np.sort(fold))
        ways = np.stack([read, near, value - level, whole.value - level, error])[:, :, fold]
        asked = whole.measured & (readout.rows(whole) == 0)
        found.append(ways[:, asked[:, fold] & ~np.isnan(error[:, fold])])
    read, near, value, truth, error = np.concatenate(found, 1)
    weights, quantiles = readout.weights.copy(), readout.quantiles.copy()
    if len(truth):
        columns = [way[:, None] for way in (read, near, value)]
        weights[0] = stacking_weights(columns, truth[:, None], np.zeros(1), towards_equal=TOWARDS_EQUAL)
        quantiles[:] = np.quantile((truth - weights[0] @ np.stack([read, near, value])) / error, QUANTILES)
    if len(errors):
        quantiles[1] = np.quantile(errors, QUANTILES)
    return dataclasses.replace(readout, weights=weights, quantiles=quantiles)


def _decoded(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    data: ModalityData,
    cells: Ints,
    hidden: Ints,
) -> Floats:
    """The decoder's values of all features, (n, D), where some are hidden."""
    shown = {one.name: np.ones(one.n_features, bool) for one in mosaic.modalities}
    shown[data.name][hidden] = False
    m = [one.name for one in mosaic.modalities].index(data.name)
    batches = batches_of(mosaic.registry, data.name)
    out = np.empty((len(cells), data.n_features))
    for at, minibatch, q in encoded(net, loader, cells, shown=shown, batch_size=BATCH_SIZE):
        with torch.no_grad():
            value = decoded(net, m, q.mean, q, batches.own(minibatch), library=None, features=None)
        out[at] = value.double().cpu().numpy()
    return out
