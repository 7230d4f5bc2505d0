"""Learn the spread of values from cells whose values are hidden as those of the cells that are asked about.

For each set of things that may be seen of a cell, quantiles of the values come from cells that the model was
trained with, and the levels at which they are asked for from cells that no training saw: split-conformal
prediction of the distribution (Chernozhukov, Wuthrich and Zhu, PNAS 2021).

Legend: n cells, D features of a modality.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.covariates import batches_of
from mosaicvi.infer.intervals.spread import Floats, Spread, Spreads, Table, calibrated
from mosaicvi.infer.latent import encoded
from mosaicvi.infer.readout import ReadOut
from mosaicvi.infer.readout.fitting import (
    BATCH_SIZE,
    FEWEST_HELD_OUT,
    FEWEST_REFERENCES,
    HELD_OUT_SHARE,
    references_of,
    seen,
    views_to_teach,
)
from mosaicvi.infer.readout.scales import completed, dense_counts, on_asked_scale, on_scale
from mosaicvi.infer.readout.views import Shown
from mosaicvi.likelihoods import Parameters
from mosaicvi.nn.vae import MosaicVAE

MOST_TAUGHT, MOST_UNSEEN = 2400, 600  # cells
FOLDS = 5  # single entries are hidden a fifth of the features at a time


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
            cells = _cells(mosaic, data, view, seed)
            if len(cells) < FEWEST_REFERENCES:
                continue
            rng = np.random.default_rng(seed)
            taught, unseen = _divided(cells, held, rng)
            table, levels = None, calibrated(np.zeros(0))
            if readout is not None and readout.scale_of(data.name) is not None:
                table = Table.fit(*_of_readout(net, loader, mosaic, m, readout, view, taught))
                imputed, truth, measured = _of_readout(net, loader, mosaic, m, readout, view, unseen)
                found = table.cumulative(imputed, truth, rng.random(truth.shape))
                levels = calibrated(found[measured])
            of_likelihood = calibrated(_of_likelihood(net, loader, mosaic, m, view, unseen, rng))
            parts[view, data.name] = Spread(table=table, of_table=levels, of_likelihood=of_likelihood)
    return Spreads(parts=parts)


def _cells(mosaic: Mosaic, data: ModalityData, view: Shown, seed: int) -> NDArray[np.int64]:
    """Cells that can be shown in this way and measured the modality."""
    own = view.features.get(data.name, np.zeros(data.n_features, bool))
    others = [name for name in view.features if name != data.name]
    if data.entry_measured is None:
        return references_of(mosaic, data, others, own, seed)
    has = np.all([mosaic.modality(name).row_of_cell >= 0 for name in [*others, data.name]], 0)
    return np.flatnonzero(has)


def _divided(
    cells: NDArray[np.int64], held: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cells that teach quantiles, and those that teach levels."""
    unseen = held[cells]
    if unseen.sum() < FEWEST_HELD_OUT or (~unseen).sum() < FEWEST_HELD_OUT:
        unseen = rng.permutation(len(cells)) < max(1, len(cells) // HELD_OUT_SHARE)
    taught, rest = (rng.permutation(cells[which]) for which in (~unseen, unseen))
    return np.sort(taught[:MOST_TAUGHT]), np.sort(rest[:MOST_UNSEEN])


def _of_readout(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    m: int,
    readout: ReadOut,
    view: Shown,
    cells: NDArray[np.int64],
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Imputed and true log(1 + counts per 10,000), and which were measured, (n, D) each."""
    data = mosaic.modalities[m]
    row = data.row_of_cell[cells]
    z, rates = seen(net, loader, mosaic, cells, data, view.features)
    (value,) = readout(mosaic, m, cells, np.zeros(len(cells), np.int64), [view], z, rates)
    imputed = on_asked_scale(value, readout.scales[data.name], "log1p_cp10k", None)
    measured = data.panels[data.panel_of_row[row]]
    truth = on_scale(completed(dense_counts(data, row), measured, rates.own), "log1p_cp10k")
    # as the answers are, to the bit
    return imputed.astype(np.float32).astype(np.float64), truth, measured


def _of_likelihood(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    m: int,
    view: Shown,
    cells: NDArray[np.int64],
    rng: np.random.Generator,
) -> Floats:
    """Levels of the likelihood at which measured values lie, of all features together."""
    data, family = mosaic.modalities[m], net.decoder.families[m]
    batches, found = batches_of(mosaic.registry, data.name), []
    for shown, wanted in _hidden(data, view, rng):
        for at, minibatch, q in encoded(net, loader, cells, shown=shown, batch_size=BATCH_SIZE):
            row = data.row_of_cell[cells[at]]
            measured = _measured(data, row)[:, wanted]
            library = panel = None
            if net.config.library_aware[m]:
                library = torch.from_numpy(data.library[row, None]).to(q.mean)
                panel = torch.from_numpy(data.panels[data.panel_of_row[row]]).to(q.mean.device)
            with torch.no_grad():
                parameters = net.parameters_of(
                    m, q.mean, q, batches.own(minibatch), library=library, panel=panel
                )
            places = torch.from_numpy(wanted).to(q.mean.device)
            parameters = _of_features(parameters, places)
            x = _values(data, row)[:, wanted]
            last = family.cdf(x, parameters)
            first = family.cdf(x - 1, parameters) if family.whole else last
            level = first + rng.random(x.shape) * (last - first)
            found.append(level[measured])
    return np.concatenate(found)


def _of_features(parameters: Parameters, places: torch.Tensor) -> Parameters:
    return parameters.each(lambda part: part[..., places])


def _measured(data: ModalityData, row: NDArray[np.int64]) -> NDArray[np.bool_]:
    if data.entry_measured is not None:
        return data.entry_measured[row]
    return data.panels[data.panel_of_row[row]]


def _hidden(
    data: ModalityData, view: Shown, rng: np.random.Generator
) -> list[tuple[dict[str, NDArray[np.bool_]], NDArray[np.int64]]]:
    """What is shown, and the features whose values are then compared; of single entries in turns."""
    shown = view.features
    own = shown.get(data.name, np.zeros(data.n_features, bool))
    if data.entry_measured is None or not own.all():
        hidden = np.flatnonzero(~own) if not own.all() else np.arange(data.n_features)
        return [(shown, hidden)]
    out = []
    for fold in np.array_split(rng.permutation(data.n_features), min(FOLDS, data.n_features)):
        mask = np.ones(data.n_features, bool)
        mask[fold] = False
        out.append(({**shown, data.name: mask}, np.sort(fold)))
    return out


def _values(data: ModalityData, row: NDArray[np.int64]) -> Floats:
    """Values of some rows as the likelihood sees them, (n, D)."""
    x = dense_counts(data, row)
    if data.transform == "binarize":
        return np.asarray(x > 0, np.float64)
    return x if data.standard is None else data.standard.standardised(x)
