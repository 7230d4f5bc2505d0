"""A network for a mosaic: bounds from the measured values, and a first guess of the output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicvi import likelihoods
from mosaicvi.config import NetworkConfig
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.errors import InputError
from mosaicvi.likelihoods import Summary
from mosaicvi.likelihoods.base import Bounds
from mosaicvi.nn.vae import MosaicVAE

FIRST_DISPERSION = 0.25  # of standardised values: from 0.7, what softplus(0) is, training comes less far
NAMES = {"centre": "mean_vals", "low": "min_vals", "high": "max_vals"}  # as the user knows them


def build_network(mosaic: Mosaic, config: NetworkConfig, *, seed: int, guess: bool) -> MosaicVAE:
    """Network with fresh weights.

    Parameters
    ----------
    mosaic
        The data, which give the bounds.
    config
        The parameters.
    seed
        Decides the first weights.
    guess
        Whether the output begins at each feature's mean instead of at zero, and the dispersion of
        standardised features at a quarter of their spread.

    Raises
    ------
    InputError
        If a library-aware modality does not hold counts, or bounds do not fit.
    """
    for data, aware in zip(mosaic.modalities, config.library_aware, strict=True):
        if aware and not data.whole:
            raise InputError(
                f"{data.name}: values are fractional, so they look normalised already, but {data.likelihood} "
                f"with a library needs raw counts; name their layer, layers={{{data.name!r}: ...}}, "
                "or set library_aware=False."
            )
    pairs = zip(mosaic.modalities, config.library_aware, strict=True)
    seen = [summary(data, raw=aware) for data, aware in pairs]
    generator = torch.Generator().manual_seed(seed)
    net = MosaicVAE(config, mosaic.covariates.shape[1], bounds(mosaic, config, seen), generator)
    net.engine()  # which the user may have asked for in vain
    if guess:
        with torch.no_grad():
            for m, of_modality in enumerate(seen):
                _begin_at_mean(net, m, of_modality)
                if mosaic.modalities[m].standard is not None:
                    _begin_close(net, m, mosaic)
    return net


def build_grown(
    mosaic: Mosaic, config: NetworkConfig, new: Mapping[int, NDArray[np.int64]], *, seed: int, guess: bool
) -> MosaicVAE:
    """Network with fresh weights for a mosaic of which a smaller network knows all but some features.

    Parameters
    ----------
    mosaic, config
        The new data, and the parameters.
    new
        By position of the modality, features whose bounds and first output are found in the data; those of
        the others are left open.
    seed, guess
        As in `build_network`.
    """
    blank = [
        Bounds(centre=torch.zeros(d), low=torch.zeros(d), high=torch.ones(d)) for d in config.dim_input_arr
    ]
    net = MosaicVAE(config, mosaic.covariates.shape[1], blank, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for m, at in new.items():
            data, aware = mosaic.modalities[m], config.library_aware[m]
            seen, family = summary(data, raw=aware), likelihoods.get(data.likelihood)
            found = _single(family.possible(family.bounds(seen)), inwards=data.standard is not None)
            for field, values in found.items():
                net.get_buffer(f"{field}_{m}")[at] = torch.from_numpy(values[at])
            if guess:
                _begin_at_mean(net, m, seen)
            if guess and data.standard is not None:
                _begin_close(net, m, mosaic)
    return net


def _begin_at_mean(net: MosaicVAE, m: int, seen: Summary) -> None:
    """Set the output bias so that the first prediction is each feature's mean over those who measured it."""
    aware = net.config.library_aware[m]
    first = net.decoder.families[m].first_output(seen, library_aware=aware)
    if first is None:
        return
    for i in net.decoder.of_modality(m):
        g = net.decoder.groups[i]
        net.decoder.last[i][-1].copy_(torch.from_numpy(first[g.lo : g.hi].astype(np.float32)))


def _begin_close(net: MosaicVAE, m: int, mosaic: Mosaic) -> None:
    """Set the first dispersion of a standardised modality, in every batch."""
    key = mosaic.registry.setup.batch_key
    n_batches = 1 if key is None else len(mosaic.registry.categories[key])
    if net.decoder.families[m].has_dispersion:
        net.decoder.dispersion[str(m)][:n_batches] += math.log(math.expm1(FIRST_DISPERSION))


# --- bounds -------------------------------------------------------------------------------------


def bounds(mosaic: Mosaic, config: NetworkConfig, seen: Sequence[Summary]) -> list[Bounds]:
    """Centre and bounds of each modality's mean, (D,) each, in block order.

    What the user gave wins; else they come from measured values only (docs/parameters.md, "min_vals"), as the
    likelihood sees them: transformed or standardised, or raw where it is library-aware.

    Raises
    ------
    InputError
        If a lower bound lies above the upper one, or below 0 for counts.
    """
    out: list[Bounds] = []
    at = block = 0
    for m, (data, of_modality) in enumerate(zip(mosaic.modalities, seen, strict=True)):
        family = likelihoods.get(data.likelihood)
        found = family.bounds(of_modality)
        values = {}
        for field, name in NAMES.items():
            given = getattr(config, name)
            values[field] = getattr(found, field) if given is None else _given(given, config, data, at, block)
        chosen = family.possible(Bounds(**values))
        if family.counts:
            _refuse("min_vals: below 0 for", data, chosen.low < 0, f", which is {data.likelihood}")
        _refuse("min_vals: larger than max_vals for", data, ~(chosen.low <= chosen.high))
        arrays = _single(chosen, inwards=data.standard is not None)
        out.append(Bounds(**{field: torch.from_numpy(value) for field, value in arrays.items()}))
        at += config.dim_input_arr[m]
        block += len(data.block_sizes)
    return out


def _single(chosen: Bounds, *, inwards: bool) -> dict[str, NDArray[np.float32]]:
    """Bounds as float32; `inwards`, so that back in the user's units no value passes a bound such as 0."""
    arrays = {field: getattr(chosen, field).astype(np.float32) for field in NAMES}
    if inwards:
        low, high = arrays["low"], arrays["high"]
        high = np.where(high > chosen.high, np.nextafter(high, np.float32(-np.inf)), high)
        low = np.where(low < chosen.low, np.nextafter(low, np.float32(np.inf)), low)
        arrays |= {"low": np.minimum(low, high), "high": high}
    return arrays


def _refuse(what: str, data: ModalityData, bad: NDArray[np.bool_], why: str = "") -> None:
    if bad.any():
        raise InputError(f"{what} {data.features.names[int(np.argmax(bad))]!r} of {data.name!r}{why}.")


def _given(
    given: tuple[float, ...], config: NetworkConfig, data: ModalityData, at: int, block: int
) -> NDArray[np.float64]:
    """A user's value, one per block or per feature in the user's order, on the network's scale, as (D,)."""
    values = np.asarray(given, np.float64)
    if len(values) == 1:
        values = np.full(data.n_features, values[0])
    elif len(values) == len(config.dim_block):
        values = np.repeat(values[block : block + len(data.block_sizes)], data.block_sizes)
    else:
        values = values[at : at + data.n_features][data.features.order]
    return values if data.standard is None else data.standard.standardised(values)


# --- what was measured ----------------------------------------------------------------------------


def summary(data: ModalityData, *, raw: bool) -> Summary:
    """Measured values of each feature, as the encoder sees them or `raw`."""
    found = data.columns("none" if raw else data.transform)
    mean, sd, least, most = found.mean, found.sd, found.least, found.most
    if data.standard is not None:
        mean, least, most = (data.standard.standardised(v) for v in (mean, least, most))
        sd = sd / data.standard.spread
    starts = np.cumsum([0, *data.block_sizes[:-1]])
    return Summary(
        total=found.total if data.standard is None else mean * found.n_measured,
        n_measured=found.n_measured,
        exposure=found.exposure,
        mean=mean,
        sd=sd,
        least=least,
        most=most,
        most_of_block=np.repeat(np.maximum.reduceat(most, starts), data.block_sizes),
    )
