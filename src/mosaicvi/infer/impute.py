"""Imputed values: the likelihood's mean, averaged over draws of z, in one stream of minibatches."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import Minibatch
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.read.remembered import checked
from mosaicvi.data.registry import Registry
from mosaicvi.errors import InputError
from mosaicvi.infer.covariates import Batches, batches_of
from mosaicvi.infer.decode import decoded
from mosaicvi.infer.latent import encoded
from mosaicvi.infer.readout import ReadOut
from mosaicvi.infer.readout.levels import Rates
from mosaicvi.infer.readout.scales import Floats, Kind, on_asked_scale, on_scale
from mosaicvi.infer.readout.table import TableReadOut, Values
from mosaicvi.infer.readout.views import shown_of_cells
from mosaicvi.nn.encoder import Posterior
from mosaicvi.nn.vae import MosaicVAE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """What imputed values mean.

    Attributes
    ----------
    kind
        ``"counts"``, ``"log1p_cp10k"``, ``"clr"``, ``"probability"`` or ``"value"``.
    library
        With counts: the library that every cell is given; None where each keeps its own.
    of_log2
        With values: whether logarithms of the input were taken as it was read.
    """

    kind: str
    library: float | None = None
    of_log2: bool = False

    def __str__(self) -> str:
        if self.kind == "counts" and self.library is not None:
            return f"expected counts at a library of {self.library:g}"
        return {
            "counts": "expected counts at about the median library",
            "probability": "probability of being accessible",
            "log1p_cp10k": "expected log(1 + counts per 10,000)",
            "clr": "expected centred log ratios of counts",
        }.get(self.kind, "log2 of the input" if self.of_log2 else "the scale of the input")


def scale_of(
    net: MosaicVAE,
    registry: Registry,
    m: int,
    *,
    kind: str | None,
    library: float | None,
    compared: Kind | None,
) -> Scale:
    """Scale of modality m's imputed values.

    Parameters
    ----------
    net, registry, m
        The network, its data, and the position of the modality.
    kind
        What was asked for; the modality's own scale where None.
    library
        Library of counts; where None the median seen in training, or about that.
    compared
        The scale on which the read-out compares the modality; None without one.

    Raises
    ------
    InputError
        The modality has no values on that scale.
    """
    name = net.config.uni_block_names[m]
    aware = net.config.library_aware[m]
    own = net.decoder.families[m].scale(library_aware=aware, transform=registry.transforms[name])
    possible = (
        ("counts", "log1p_cp10k", *(["clr"] if compared == "clr" else [])) if own == "counts" else (own,)
    )
    if kind is not None and kind not in possible:
        raise InputError(
            f"scale: {name} has no values on the scale {kind!r}; use {' or '.join(map(repr, possible))}."
        )
    if (kind or own) != "counts":
        return Scale(kind=kind or own, of_log2=name in checked(registry.reading).get("log2", ()))
    if library is None and compared != "clr":
        library = registry.median_library[name]
    return Scale(kind="counts", library=library)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImputationRequest:
    """What to impute: features of one modality, on a scale.

    Attributes
    ----------
    m
        Position of the modality.
    scale
        What the values are to mean.
    features
        Positions of features in the user's order; None for all.
    batches
        As which batches; None for each cell's own.
    """

    m: int
    scale: Scale
    features: NDArray[np.int64] | None = None
    batches: Batches | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imputed:
    """The answers for one minibatch of cells.

    Attributes
    ----------
    rows
        Which of the requested cells these are.
    latent
        Mean of z, float32 (b, K).
    values
        Imputed values for each request, float32 (b, d), features in the requested order.
    """

    rows: slice
    latent: NDArray[np.float32]
    values: tuple[NDArray[np.float32], ...]


def imputed(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    cells: NDArray[np.int64],
    wanted: Sequence[ImputationRequest],
    *,
    modalities: Collection[str] | None = None,
    readout: ReadOut | None = None,
    n_samples: int | None = None,
    batch_size: int = 512,
    seed: int = 0,
) -> Iterator[Imputed]:
    """Imputed values, minibatch by minibatch, of any modalities in one pass over the cells.

    Parameters
    ----------
    net, loader, mosaic
        The trained network and the data.
    cells
        Positions in the mosaic.
    wanted
        Which values.
    modalities
        What the encoder may see; None for all.
    readout
        How counts are read out; None for the decoder alone.
    n_samples
        Draws of z to average over; None decodes the mean of z. Every cell is given the same draws of
        the noise, so that its answer is its own.
    batch_size
        Cells at a time.
    seed
        Decides the noise.
    """
    noise: Tensor | None = None
    if n_samples is not None:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n_samples, net.config.dim_latent, generator=generator).to(loader.device)
    as_batches = [w.batches or batches_of(mosaic.registry, mosaic.modalities[w.m].name) for w in wanted]
    places = [_places(mosaic, w) for w in wanted]
    code, views = (np.zeros(0, np.int64), []) if readout is None else shown_of_cells(mosaic)
    views = [view.only(modalities) for view in views]
    for rows, minibatch, q in encoded(net, loader, cells, modalities=modalities, batch_size=batch_size):
        values = []
        with torch.no_grad():
            for w, batches, at in zip(wanted, as_batches, places, strict=True):
                name = mosaic.modalities[w.m].name
                compared = None if readout is None else readout.scale_of(name)
                table = None if readout is None else readout.tables.get(name)
                if table is not None and (modalities is None or name in modalities):
                    found = _of_table(net, table, mosaic, w.m, cells[rows], minibatch, q, batches, noise)
                    found = mosaic.modalities[w.m].raw(found, None)
                    values.append(np.ascontiguousarray(found if at is None else found[:, at]))
                    continue
                if readout is None or compared is None or (compared != "clr" and w.scale.kind == "counts"):
                    given = batches.asked(minibatch)
                    found = _mean([_of_decoder(net, mosaic, w, at, q, c, noise) for c in given])
                    values.append(mosaic.modalities[w.m].raw(np.asarray(found, np.float32), at))
                    continue
                some, fitted = cells[rows], readout.for_scale(name, w.scale.kind)
                rates = _rates(net, mosaic, w.m, minibatch, q, batches, noise, fitted)
                z = q.mean.double().cpu().numpy()
                each = fitted(mosaic, w.m, some, code[some], views, z, rates)
                kind, usual = fitted.scales[name], mosaic.registry.median_library[name]
                found = _mean(
                    [on_asked_scale(e, kind, w.scale.kind, w.scale.library, usual=usual) for e in each]
                )
                values.append(np.ascontiguousarray(found if at is None else found[:, at], np.float32))
        yield Imputed(rows=rows, latent=q.mean.cpu().numpy(), values=tuple(values))


def _rates(
    net: MosaicVAE,
    mosaic: Mosaic,
    m: int,
    minibatch: Minibatch,
    q: Posterior,
    batches: Batches,
    noise: Tensor | None,
    readout: ReadOut,
) -> Rates:
    """The decoder's counts at the median library as all batches that the read-out needs."""
    library = _median_library(net, mosaic, m)

    def rate(covariates: Tensor) -> Floats:
        return np.asarray(_averaged(net, m, None, q, covariates, noise, library).double().cpu().numpy())

    share = batches.own_share(minibatch)
    if mosaic.modalities[m].name not in readout.levels:
        one = np.mean([rate(covariates) for covariates in batches.asked(minibatch)], 0)
        return Rates(own=one, mean=one, share=share)
    own, mean = rate(batches.own(minibatch)), rate(batches.shared(minibatch, batches.mean))
    asked = [
        (part, mean if np.array_equal(part, batches.mean) else rate(batches.shared(minibatch, part)))
        for part in batches.shares or ()
    ]
    return Rates(own=own, mean=mean, share=share, asked=tuple(asked))


def _median_library(net: MosaicVAE, mosaic: Mosaic, m: int) -> float | None:
    if not net.config.library_aware[m]:
        return None
    return mosaic.registry.median_library[mosaic.modalities[m].name]


def _mean(found: Sequence[Floats]) -> Floats:
    return found[0] if len(found) == 1 else np.asarray(np.mean(found, 0, dtype=np.float64), found[0].dtype)


def _places(mosaic: Mosaic, wanted: ImputationRequest) -> NDArray[np.int64] | None:
    """Positions of the wanted features in the network's order; None where that is all of them as they are."""
    back = np.argsort(mosaic.modalities[wanted.m].features.order, kind="stable")
    if wanted.features is not None:
        return np.asarray(back[wanted.features])
    return None if np.array_equal(back, np.arange(len(back))) else back


def _of_decoder(
    net: MosaicVAE,
    mosaic: Mosaic,
    wanted: ImputationRequest,
    at: NDArray[np.int64] | None,
    q: Posterior,
    covariates: Tensor,
    noise: Tensor | None,
) -> NDArray[np.float32]:
    """The decoder's values, (b, d) in the order that was asked for."""
    library = wanted.scale.library
    if library is None:
        library = _median_library(net, mosaic, wanted.m)
    is_log = wanted.scale.kind == "log1p_cp10k" and net.config.library_aware[wanted.m]
    some = at if wanted.features is not None and not is_log else None
    found = _averaged(net, wanted.m, some, q, covariates, noise, library).cpu().numpy()
    if is_log:  # without a read-out: the logarithm of the expected counts
        found = on_scale(found.astype(np.float64), "log1p_cp10k").astype(np.float32)
    value: NDArray[np.float32] = found if at is None or some is not None else found[:, at]
    return value


def _of_table(
    net: MosaicVAE,
    table: TableReadOut,
    mosaic: Mosaic,
    m: int,
    cells: NDArray[np.int64],
    minibatch: Minibatch,
    q: Posterior,
    batches: Batches,
    noise: Tensor | None,
) -> NDArray[np.float32]:
    """Values of a table (b, D), in units of the network: missing ones read out, all others the decoder's."""
    asked = [_averaged(net, m, None, q, c, noise, None).cpu().numpy() for c in batches.asked(minibatch)]
    out: NDArray[np.float32] = np.array(_mean(asked), np.float32)
    data = mosaic.modalities[m]
    row = data.row_of_cell[cells]
    has = row >= 0
    if has.any():
        of = Values.of(data, row[has], mosaic.batch[cells[has]])
        decoder = [value[has].astype(np.float64) for value in asked]
        found = np.mean(table(of, table.levels(of, batches.shares), decoder), 0)
        out[has] = np.where(np.isnan(table.error(of)), out[has], found)
    return out


def _averaged(
    net: MosaicVAE,
    m: int,
    features: NDArray[np.int64] | None,
    q: Posterior,
    covariates: Tensor,
    noise: Tensor | None,
    total: float | None,
) -> Tensor:
    """Mean over draws of z, added up on the fly; (b, d)."""
    library = None if total is None else q.mean.new_full((len(q.mean), 1), total)
    draws = [None] if noise is None else list(noise)
    sd = torch.exp(0.5 * q.log_var)
    added: Tensor | None = None
    for eps in draws:
        z = q.mean if eps is None else q.mean + sd * eps
        value = decoded(net, m, z, q, covariates, library=library, features=features)
        added = value if added is None else added.add_(value)
    assert added is not None
    return added.div_(len(draws))
