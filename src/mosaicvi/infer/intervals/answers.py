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
from mosaicvi.infer.intervals.spread import LEVELS, Spread, Spreads, corrected
from mosaicvi.infer.latent import encoded
from mosaicvi.infer.readout import ReadOut
from mosaicvi.infer.readout.table import TableReadOut, Values
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
        at = _places(mosaic, wanted)
        tables = [None if spread is None else spread.of(at) for spread in known]
        batch = _batches(mosaic, wanted.batches)
        for part in stream:
            value, of_cell = part.values[0], code[cells[part.rows]]
            lower, upper = np.empty_like(value), np.empty_like(value)
            of_batch = batch[cells[part.rows]]
            for i, b in np.unique(np.stack([of_cell, of_batch], 1), axis=0).tolist():
                here, spread = (of_cell == i) & (of_batch == b), tables[i]
                assert spread is not None
                lower[here], upper[here] = spread.ends(value[here], b, wanted.level)
            yield part.rows, lower, upper
        return
    stream = _of_likelihood(net, loader, mosaic, cells, wanted, code, known, modalities, batch_size)
    table = None if readout is None else readout.tables.get(name)
    if readout is None or table is None or (modalities is not None and name not in modalities):
        yield from stream
        return
    request = ImputationRequest(
        m=wanted.m, scale=wanted.scale, features=wanted.features, batches=wanted.batches
    )
    values = imputed(
        net, loader, mosaic, cells, [request], modalities=modalities, readout=readout, batch_size=batch_size
    )
    for (rows, *ends), part in zip(stream, values, strict=True):
        for end, probability in zip(ends, ((1 - wanted.level) / 2, (1 + wanted.level) / 2), strict=True):
            _about(end, part.values[0], table, mosaic, wanted, cells[rows], probability)
        yield rows, ends[0], ends[1]


def _about(
    end: NDArray[np.float32],
    value: NDArray[np.float32],
    table: TableReadOut,
    mosaic: Mosaic,
    wanted: IntervalRequest,
    cells: NDArray[np.int64],
    probability: float,
) -> None:
    """Put the ends of intervals about what is read out of a table into those of the likelihood, (b, d)."""
    data, at = mosaic.modalities[wanted.m], _places(mosaic, wanted)
    row = data.row_of_cell[cells]
    has = np.flatnonzero(row >= 0)
    of = Values.of(data, row[has], mosaic.batch[cells[has]])
    unit = 1.0 if data.standard is None else data.standard.spread
    off = (table.error(of) * table.quantile(of, probability) * unit)[:, at]
    end[has] = np.where(np.isnan(off), end[has], value[has] + off)


def _places(mosaic: Mosaic, wanted: IntervalRequest) -> NDArray[np.int64]:
    back = np.argsort(mosaic.modalities[wanted.m].features.order, kind="stable")
    return np.asarray(back if wanted.features is None else back[wanted.features])


def _batches(mosaic: Mosaic, batches: Batches) -> NDArray[np.int64]:
    """Which batch's spread each cell has, (n,); the number of batches for that of any other."""
    n = len(batches.measuring)
    if batches.shares is None:
        return np.minimum(mosaic.batch if n else np.zeros(mosaic.n_cells, np.int64), n)
    alone = len(batches.shares) == 1 and batches.shares[0].max() == 1
    return np.full(mosaic.n_cells, int(batches.shares[0].argmax()) if alone else n)


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
