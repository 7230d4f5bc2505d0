"""The levels at which a likelihood covers as often as it says: of all features together, and of each.

Legend: n cells, D features of a modality, G levels, B batches.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.covariates import batches_of
from mosaicvi.infer.intervals.spread import Floats, calibrated, stretch_by_feature, stretched
from mosaicvi.infer.latent import encoded
from mosaicvi.infer.readout.fitting import BATCH_SIZE
from mosaicvi.infer.readout.levels import known_by_batch
from mosaicvi.infer.readout.scales import dense_counts
from mosaicvi.infer.readout.views import Shown
from mosaicvi.likelihoods import Parameters
from mosaicvi.nn.vae import MosaicVAE

MOST_CELLS, FEWEST_CELLS, MOST_VALUES = 600, 50, 300_000  # of either kind of cells
FOLDS = 5  # single entries are hidden a fifth of the features at a time


def levels_of_likelihood(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    m: int,
    view: Shown,
    cells: NDArray[np.int64],
    unseen: NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Levels (2, G) and the stretch of each feature (2, D), as `Spread` has them.

    Parameters
    ----------
    net, loader, mosaic
        The trained network and its data.
    m, view
        Which modality, and what is shown of cells.
    cells, unseen
        Cells that measured it (n,), and which of them no training saw. These decide on the levels of all
        features together, and with the others on how features differ.
    rng
        Chooses among many cells, and divides atoms.
    """
    data = mosaic.modalities[m]
    most = min(MOST_CELLS, max(FEWEST_CELLS, MOST_VALUES // data.n_features))
    some = [rng.permutation(np.flatnonzero(which))[:most] for which in (~unseen, unseen)]
    chosen = np.concatenate(some)
    levels, stretch = [], []
    for found in _cumulative(net, loader, mosaic, m, view, cells[chosen], rng):
        stretch.append(stretch_by_feature(found))
        levels.append(calibrated(stretched(found[len(some[0]) :], 1 / stretch[-1])))
    return np.stack(levels), np.stack(stretch)


def _cumulative(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    m: int,
    view: Shown,
    cells: NDArray[np.int64],
    rng: np.random.Generator,
) -> Floats:
    """Levels of the likelihood at which measured values lie, NaN for others, (2, n, D).

    As of the cell's own batch, and as of the mean of the others that measured the modality, where one of them
    measured the feature.
    """
    data, family = mosaic.modalities[m], net.decoder.families[m]
    batches = batches_of(mosaic.registry, data.name)
    several = batches.measuring.sum() > 1
    by_another = _by_another(mosaic, data) if several else None
    out = np.full((2, len(cells), data.n_features), np.nan)
    for shown, wanted in _hidden(data, view, rng):
        for at, minibatch, q in encoded(net, loader, cells, shown=shown, batch_size=BATCH_SIZE):
            row = data.row_of_cell[cells[at]]
            measured = data.measured(row)[:, wanted]
            library = panel = None
            if net.config.library_aware[m]:
                library = torch.from_numpy(data.library[row, None]).to(q.mean)
                panel = torch.from_numpy(data.panels[data.panel_of_row[row]]).to(q.mean.device)
            given = [batches.own(minibatch)]
            if several:
                n = len(batches.measuring)
                share = batches.measuring & (np.arange(n) != mosaic.batch[cells[at], None])
                covariates = torch.from_numpy(share / share.sum(1, keepdims=True)).to(given[0])
                given.append(torch.cat([covariates, minibatch.covariates[:, n:]], 1))
            places, x = torch.from_numpy(wanted).to(q.mean.device), _values(data, row)[:, wanted]
            uniform = rng.random(x.shape)
            for i, covariates in enumerate(given):
                with torch.no_grad():
                    parameters = net.parameters_of(m, q.mean, q, covariates, library=library, panel=panel)
                parameters = of_features(parameters, places)
                last = family.cdf(x, parameters)
                first = family.cdf(x - 1, parameters) if family.whole else last
                level = first + uniform * (last - first)
                taught = (
                    True if by_another is None or not i else by_another[mosaic.batch[cells[at]]][:, wanted]
                )
                out[i, np.arange(at.start, at.stop)[:, None], wanted] = np.where(
                    measured & taught, level, np.nan
                )
    return out if several else np.repeat(out[:1], 2, 0)


def _by_another(mosaic: Mosaic, data: ModalityData) -> NDArray[np.bool_]:
    """Whether another batch than each measured the feature, and last any batch, (B + 1, D)."""
    known = known_by_batch(mosaic, data)
    return np.asarray(known.sum(0) > np.pad(known, ((0, 1), (0, 0))))


def of_features(parameters: Parameters, places: torch.Tensor) -> Parameters:
    """Those of some features."""
    return parameters.each(lambda part: part[..., places])


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
