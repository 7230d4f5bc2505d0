"""Intervals of any cells, minibatch by minibatch.

Legend: b cells of a minibatch, d features asked for, k bins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.infer.covariates import Batches
from mosaicvi.infer.impute import ImputationRequest, Scale, imputed
from mosaicvi.infer.intervals.spread import LEVELS, Spread, Spreads, Table, corrected
from mosaicvi.infer.latent import encoded
from mosaicvi.infer.readout import ReadOut
from mosaicvi.infer.readout.views import shown_of_cells
from mosaicvi.nn.vae import MosaicVAE

Bounds = tuple[slice, NDArray[np.float32], NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntervalRequest:
    """Which intervals.

    Attributes
    ----------
    m
        Position of the modality.
    level
        Share of the values that should lie inside.
    scale
        What the values are.
    batches
        As which batches.
    library
        Total of each requested cell's counts, (n,); None where that does not matter.
    features
        Positions of features in the user's order; None for all.
    """

    m: int
    level: float
    scale: Scale
    batches: Batches
    library: NDArray[np.float64] | None
    features: NDArray[np.int64] | None = None


def intervals(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    cells: NDArray[np.int64],
    wanted: IntervalRequest,
    *,
    spreads: Spreads,
    readout: ReadOut | None,
    modalities: Collection[str] | None = None,
    batch_size: int = 512,
) -> Iterator[Bounds]:
    """Rows, lower and upper ends (b, d) each.

    Parameters
    ----------
    net, loader, mosaic, cells
        The trained network, its data, and positions of cells.
    wanted
        Which intervals.
    spreads, readout
        How far values lie from what is imputed, and how that is read out.
    modalities
        What the encoder may see; None for all.
    batch_size
        Cells at a time.
    """
    name = mosaic.modalities[wanted.m].name
    code, views = shown_of_cells(mosaic)
    known = [spreads.of(view.only(modalities), name) for view in views]
    is_of_table = wanted.scale.kind == "log1p_cp10k" and any(s is not None and s.table for s in known)
    if is_of_table:
        request = ImputationRequest(
            m=wanted.m, scale=wanted.scale, features=wanted.features, batches=wanted.batches
        )
        stream = imputed(
            net,
            loader,
            mosaic,
            cells,
            [request],
            modalities=modalities,
            readout=readout,
            batch_size=batch_size,
        )
        tables = [_of_features(spread, _places(mosaic, wanted)) for spread in known]
        for part in stream:
            value, of_cell = part.values[0], code[cells[part.rows]]
            lower, upper = np.empty_like(value), np.empty_like(value)
            for i in np.unique(of_cell):
                here, (table, of_table) = of_cell == i, tables[i]
                lower[here], upper[here] = table.ends(value[here], *_levels(wanted.level, of_table))
            yield part.rows, lower, upper
        return
    yield from _of_likelihood(net, loader, mosaic, cells, wanted, code, known, modalities, batch_size)


def _places(mosaic: Mosaic, wanted: IntervalRequest) -> NDArray[np.int64]:
    back = np.argsort(mosaic.modalities[wanted.m].features.order, kind="stable")
    return np.asarray(back if wanted.features is None else back[wanted.features])


def _of_features(spread: Spread | None, at: NDArray[np.int64]) -> tuple[Table, NDArray[np.floating]]:
    """The table of some features, and the levels at which it is asked."""
    assert spread is not None
    assert spread.table is not None
    return spread.table.of(at), spread.of_table


def _levels(level: float, levels: NDArray[np.floating]) -> tuple[float, float]:
    return corrected((1 - level) / 2, levels), corrected((1 + level) / 2, levels)


def _of_likelihood(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    cells: NDArray[np.int64],
    wanted: IntervalRequest,
    code: NDArray[np.int64],
    known: list[Spread | None],
    modalities: Collection[str] | None,
    batch_size: int,
) -> Iterator[Bounds]:
    """Quantiles of the likelihood at the levels that held-out cells ask for."""
    data, family, at = mosaic.modalities[wanted.m], net.decoder.families[wanted.m], _places(mosaic, wanted)
    levels = np.array([_levels(wanted.level, LEVELS if s is None else s.of_likelihood) for s in known])
    places = torch.from_numpy(at).to(loader.device)
    for rows, minibatch, q in encoded(net, loader, cells, modalities=modalities, batch_size=batch_size):
        library = None
        if wanted.library is not None:
            library = torch.tensor(wanted.library[rows, None]).to(q.mean)
        ends = []
        as_batches = wanted.batches.asked(minibatch)
        for level in levels[code[cells[rows]]].T:
            total = np.zeros((minibatch.n_cells, len(at)))
            for covariates in as_batches:
                with torch.no_grad():
                    parameters = net.parameters_of(wanted.m, q.mean, q, covariates, library=library)
                parameters = parameters.each(lambda part: part[..., places])
                total += family.quantile(np.broadcast_to(level[:, None], total.shape), parameters)
            ends.append(data.raw(np.asarray(total / len(as_batches), np.float32), at))
        yield rows, ends[0], ends[1]
