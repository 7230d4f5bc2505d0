"""Intervals of any cells, minibatch by minibatch.

Legend: b cells of a minibatch, d features asked for.
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
from mosaicvi.infer.intervals.likelihood import of_features
from mosaicvi.infer.intervals.spread import Floats, Spread, Spreads
from mosaicvi.infer.latent import encoded
from mosaicvi.infer.readout import ReadOut
from mosaicvi.infer.readout.table import TableReadOut, Values
from mosaicvi.infer.readout.views import shown_of_cells
from mosaicvi.nn.vae import MosaicVAE

MOST_AT_ONCE = 1_000_000  # values whose quantiles are looked up together
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
    at = _places(mosaic, wanted)
    found = [spreads.of(view.only(modalities), name) for view in views]
    known = [None if spread is None else spread.of(at) for spread in found]
    is_of_table = wanted.scale.kind == "log1p_cp10k" and any(s is not None and s.tables for s in known)
    request = ImputationRequest(
        m=wanted.m, scale=wanted.scale, features=wanted.features, batches=wanted.batches
    )
    stream = imputed(
        net, loader, mosaic, cells, [request], modalities=modalities, readout=readout, batch_size=batch_size
    )
    if not is_of_table:
        plain = _of_likelihood(net, loader, mosaic, cells, wanted, code, known, modalities, batch_size)
        table = None if readout is None else readout.tables.get(name)
        if table is None or (modalities is not None and name not in modalities):
            yield from plain
            return
        tails = (1 - wanted.level) / 2, (1 + wanted.level) / 2
        for (rows, lower, upper), part in zip(plain, stream, strict=True):
            for end, probability in zip((lower, upper), tails, strict=True):
                _about(end, part.values[0], table, mosaic, wanted, cells[rows], probability)
            yield rows, lower, upper
        return
    own, asked = _batches(mosaic, wanted.batches)
    kept: list[dict[int, tuple[Floats, Floats]]] = [{} for _ in known]
    for part in stream:
        value, of_cell, of_batch = part.values[0], code[cells[part.rows]], own[cells[part.rows]]
        lower, upper = np.empty_like(value), np.empty_like(value)
        for i, b in np.unique(np.stack([of_cell, of_batch], 1), axis=0).tolist():
            spread = known[i]
            assert spread is not None
            for here in _pieces(np.flatnonzero((of_cell == i) & (of_batch == b)), len(at)):
                ends = [
                    (share * e for e in spread.ends(value[here], as_batch, wanted.level, kept[i]))
                    for as_batch, share in asked or ((b, 1.0),)
                ]
                lower[here], upper[here] = (sum(each) for each in zip(*ends, strict=True))
        yield part.rows, lower, upper


def _pieces(positions: NDArray[np.int64], width: int) -> list[NDArray[np.int64]]:
    """The same in parts of which each, times the width, is not too many values."""
    step = max(1, MOST_AT_ONCE // max(width, 1))
    return [positions[i : i + step] for i in range(0, len(positions), step)]


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


def _batches(mosaic: Mosaic, batches: Batches) -> tuple[NDArray[np.int64], list[tuple[int, float]]]:
    """Each cell's own batch (n,), the number of batches where it is none of them; those that were asked for.

    The latter with their shares; none for each cell's own.
    """
    n = len(batches.measuring)
    own = np.minimum(mosaic.batch if n else np.zeros(mosaic.n_cells, np.int64), n)
    if batches.shares is None:
        return own, []
    share = np.mean(batches.shares, 0)
    return np.zeros_like(own), [(b, float(share[b])) for b in np.flatnonzero(share).tolist()]


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
    own, _ = _batches(mosaic, wanted.batches)
    shares: list[list[int] | None] = [np.flatnonzero(s).tolist() for s in wanted.batches.shares or ()]
    places = torch.from_numpy(at).to(loader.device)
    for rows, minibatch, q in encoded(net, loader, cells, modalities=modalities, batch_size=batch_size):
        library = None
        if wanted.library is not None:
            library = torch.tensor(wanted.library[rows, None]).to(q.mean)
        of_cell = np.stack([code[cells[rows]], own[cells[rows]]], 1)
        pairs, which = np.unique(of_cell, axis=0, return_inverse=True)
        as_batches = wanted.batches.asked(minibatch)
        ends = np.zeros((2, minibatch.n_cells, len(at)))
        for as_batch, covariates in zip(shares or [None], as_batches, strict=True):
            with torch.no_grad():
                parameters = net.parameters_of(wanted.m, q.mean, q, covariates, library=library)
            of_pair = [
                _levels(known[i], wanted.level, [b] if as_batch is None else as_batch)
                for i, b in pairs.tolist()
            ]
            for some in _pieces(np.arange(len(at)), minibatch.n_cells):
                few = of_features(parameters, places[torch.from_numpy(some)])
                for end, levels in zip(ends, zip(*of_pair, strict=True), strict=True):
                    level = np.stack([np.broadcast_to(each, len(at))[some] for each in levels])
                    end[:, some] += family.quantile(level[which.reshape(-1)], few)
        lower, upper = (data.raw(np.asarray(end / len(as_batches), np.float32), at) for end in ends)
        yield rows, lower, upper


def _levels(spread: Spread | None, level: float, batches: list[int]) -> tuple[NDArray[np.floating], ...]:
    """Both levels of the likelihood of each feature, or of all of them."""
    if spread is None:
        return np.array((1 - level) / 2), np.array((1 + level) / 2)
    return spread.levels_of_likelihood(level, batches)
