"""A network for a mosaic: bounds from the measured values, and a first guess of the output."""

from __future__ import annotations

from typing import cast

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from mosaicvi.config import NetworkConfig
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.data.transforms import apply
from mosaicvi.errors import InputError
from mosaicvi.nn.vae import MosaicVAE

Bounds = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
EDGE = 1e-7  # Bernoulli bounds stay this far from 0 and 1


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
        Whether the output begins at each feature's mean instead of at zero.

    Raises
    ------
    InputError
        If a library-aware modality does not hold counts, or bounds do not fit.
    """
    for m, aware in zip(mosaic.modalities, config.library_aware, strict=True):
        if aware and not m.whole:
            raise InputError(
                f"{m.name}: values are fractional, so they look normalised already, but {m.likelihood} with a library "
                f"needs raw counts; name their layer, layers={{{m.name!r}: ...}}, or set library_aware=False."
            )
    generator = torch.Generator().manual_seed(seed)
    net = MosaicVAE(config, mosaic.covariates.shape[1], bounds(mosaic, config), generator)
    if guess:
        with torch.no_grad():
            for m, data in enumerate(mosaic.modalities):
                _guess_output(net, m, data)
    return net


def _encoded(data: ModalityData, *, raw: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Non-zero values as the likelihood sees them, and the column of each."""
    x = cast(sp.csr_matrix, data.x)
    if raw:
        return x.data, x.indices
    scale = torch.from_numpy(np.repeat(data.scale, np.diff(x.indptr)))
    return apply(data.transform, torch.from_numpy(x.data), scale).numpy(), x.indices


def bounds(mosaic: Mosaic, config: NetworkConfig) -> list[Bounds]:
    """`mean_vals`, `min_vals` and `max_vals` of each modality, (D_m,) each, in block order.

    What the user gave wins; else they come from measured values only (spec, "Parameters").
    """
    out: list[Bounds] = []
    at = block = 0
    for m, (data, aware) in enumerate(zip(mosaic.modalities, config.library_aware, strict=True)):
        centre, low, high = _bounds_of(data, aware)
        found = {"mean_vals": centre, "min_vals": low, "max_vals": high}
        for name in found:
            given = getattr(config, name)
            if given is not None:
                found[name] = _given(given, config, data, at, block)
        centre, low, high = (v.astype(np.float32) for v in found.values())
        if data.likelihood == "Bernoulli":
            low, high = np.clip(low, EDGE, 1 - EDGE), np.clip(high, EDGE, 1 - EDGE)
        if not (low <= high).all():
            bad = data.features.names[int(np.argmax(low > high))]
            raise InputError(f"min_vals: larger than max_vals for {bad!r} of {data.name!r}.")
        out.append((torch.from_numpy(centre), torch.from_numpy(low), torch.from_numpy(high)))
        at += config.dim_input_arr[m]
        block += len(data.block_sizes)
    return out


def _given(
    given: tuple[float, ...], config: NetworkConfig, data: ModalityData, at: int, block: int
) -> NDArray[np.float64]:
    """A user's value, one per block, or one per feature in the user's order, as (D_m,)."""
    if len(given) == 1:
        return np.full(data.n_features, given[0])
    if len(given) == len(config.dim_block):
        return np.repeat(np.asarray(given[block : block + len(data.block_sizes)]), data.block_sizes)
    return np.asarray(given[at : at + data.n_features])[data.features.order]


def _bounds_of(data: ModalityData, aware: bool) -> tuple[NDArray[np.float64], ...]:
    d = data.n_features
    zero, one = np.zeros(d), np.ones(d)
    if data.likelihood == "Bernoulli":
        return zero, one * 1e-5, one * (1 - 1e-5)
    if data.likelihood != "Gaussian":
        value, col = _encoded(data, raw=aware)
        edges = np.concatenate([[0], np.cumsum(data.block_sizes)])
        top = np.zeros(len(data.block_sizes))
        np.maximum.at(top, np.searchsorted(edges, col, side="right") - 1, value)
        return zero, zero, np.repeat(np.maximum(top, 1e-6), data.block_sizes)
    x = np.asarray(data.x, np.float64)
    measured = data.entry_measured if data.entry_measured is not None else np.ones(x.shape, bool)
    n = np.maximum(measured.sum(0), 1)
    mean = np.where(measured, x, 0).sum(0) / n
    sd = np.sqrt(np.where(measured, (x - mean) ** 2, 0).sum(0) / n)
    least = np.where(measured, x, np.inf).min(0)
    most = np.where(measured, x, -np.inf).max(0)
    seen = measured.any(0)
    low, high = np.minimum(least, mean - 3 * sd), np.maximum(most, mean + 3 * sd)
    return mean, np.where(seen, low, -1.0), np.where(seen, high, 1.0)


def _guess_output(net: MosaicVAE, m: int, data: ModalityData) -> None:
    """Set the output bias so that the first prediction is each feature's mean over those who measured it."""
    aware = net.config.library_aware[m]
    if data.likelihood == "Gaussian" or not (aware or data.likelihood == "Bernoulli"):
        return
    value, col = _encoded(data, raw=aware)
    rows_of_panel = np.bincount(data.panel_of_row, minlength=len(data.panels))
    if aware:
        exposure = (
            np.bincount(data.panel_of_row, weights=data.library, minlength=len(data.panels)) @ data.panels
        )
        share = (np.bincount(col, weights=value, minlength=data.n_features) + 0.5) / np.maximum(exposure, 1.0)
        guess = np.log(share)
    else:
        n = np.maximum(rows_of_panel @ data.panels, 1)
        p = (np.bincount(col, weights=value, minlength=data.n_features) + 0.5) / (n + 1)
        guess = np.log(p) - np.log1p(-p)
    for i in net.decoder.of_modality(m):
        g = net.decoder.groups[i]
        net.decoder.bias[i].copy_(torch.from_numpy(guess[g.lo : g.hi].astype(np.float32)))
