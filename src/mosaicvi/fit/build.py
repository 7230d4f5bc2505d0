"""A network for a mosaic: bounds from the measured values, and a first guess of the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from mosaicvi.config import COUNT_DISTRIBUTIONS, NetworkConfig
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.data.transforms import apply
from mosaicvi.errors import InputError
from mosaicvi.nn.vae import MosaicVAE

Bounds = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
NAMES = ("mean_vals", "min_vals", "max_vals")
EDGE = 1e-7  # Bernoulli bounds stay this far from 0 and 1
COLUMNS = 256  # of a dense matrix, looked at together


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
    for data, aware in zip(mosaic.modalities, config.library_aware, strict=True):
        if aware and not data.whole:
            raise InputError(
                f"{data.name}: values are fractional, so they look normalised already, but {data.likelihood} "
                f"with a library needs raw counts; name their layer, layers={{{data.name!r}: ...}}, "
                "or set library_aware=False."
            )
    generator = torch.Generator().manual_seed(seed)
    net = MosaicVAE(config, mosaic.covariates.shape[1], bounds(mosaic, config), generator)
    if guess:
        with torch.no_grad():
            for m, data in enumerate(mosaic.modalities):
                _guess_output(net, m, data)
    return net


# --- bounds -------------------------------------------------------------------------------------


def bounds(mosaic: Mosaic, config: NetworkConfig) -> list[Bounds]:
    """`mean_vals`, `min_vals` and `max_vals` of each modality, (D_m,) each, in block order.

    What the user gave wins; else they come from measured values only (docs/parameters.md, "min_vals"), as the
    likelihood sees them: transformed, or raw where it is library-aware.

    Raises
    ------
    InputError
        If a lower bound lies above the upper one, or below 0 for counts.
    """
    out: list[Bounds] = []
    at = block = 0
    for m, (data, aware) in enumerate(zip(mosaic.modalities, config.library_aware, strict=True)):
        values = []
        for name, found in zip(NAMES, _bounds_of(data, aware), strict=True):
            given = getattr(config, name)
            values.append(found if given is None else _given(given, config, data, at, block))
        centre, low, high = values
        if data.likelihood == "Bernoulli":
            low, high = np.clip(low, EDGE, 1 - EDGE), np.clip(high, EDGE, 1 - EDGE)
        if data.likelihood in COUNT_DISTRIBUTIONS and (low < 0).any():
            bad = data.features.names[int(np.argmax(low < 0))]
            raise InputError(f"min_vals: below 0 for {bad!r} of {data.name!r}, which is {data.likelihood}.")
        if not (low <= high).all():
            bad = data.features.names[int(np.argmax(low > high))]
            raise InputError(f"min_vals: larger than max_vals for {bad!r} of {data.name!r}.")
        centre_t, low_t, high_t = (torch.from_numpy(v.astype(np.float32)) for v in (centre, low, high))
        out.append((centre_t, low_t, high_t))
        at += config.dim_input_arr[m]
        block += len(data.block_sizes)
    return out


def _given(
    given: tuple[float, ...], config: NetworkConfig, data: ModalityData, at: int, block: int
) -> NDArray[np.float64]:
    """A user's value, one per block, or one per feature in the user's order, as (D_m,)."""
    values = np.asarray(given, np.float64)
    if len(values) == 1:
        return np.full(data.n_features, values[0])
    if len(values) == len(config.dim_block):
        return np.repeat(values[block : block + len(data.block_sizes)], data.block_sizes)
    return values[at : at + data.n_features][data.features.order]


def _bounds_of(data: ModalityData, aware: bool) -> tuple[NDArray[np.float64], ...]:
    zero, one = np.zeros(data.n_features), np.ones(data.n_features)
    if data.likelihood == "Bernoulli":
        return zero, one * 1e-5, one * (1 - 1e-5)
    if isinstance(data.x, np.ndarray):
        return _moments(data, data.x)
    value, col = _seen(data, raw=aware)
    ends = np.cumsum(data.block_sizes)
    top = np.zeros(len(ends))
    np.maximum.at(top, np.searchsorted(ends, col, side="right"), value)
    return zero, zero, np.repeat(np.maximum(top, 1e-6), data.block_sizes)


def _moments(data: ModalityData, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], ...]:
    """Mean of each column, and the reach of its values and of three standard deviations around it."""
    scale = torch.from_numpy(data.scale)[:, None]
    out = np.empty((3, data.n_features))
    for first in range(0, data.n_features, COLUMNS):
        cols = slice(first, first + COLUMNS)
        seen = apply(data.transform, torch.from_numpy(x[:, cols]), scale).double().numpy()
        if data.entry_measured is not None:
            measured = data.entry_measured[:, cols]
        else:
            measured = data.panels[:, cols][data.panel_of_row]
        mean = seen.mean(0, where=measured)
        sd = seen.std(0, where=measured)
        least = seen.min(0, where=measured, initial=np.inf)
        most = seen.max(0, where=measured, initial=-np.inf)
        out[:, cols] = mean, np.minimum(least, mean - 3 * sd), np.maximum(most, mean + 3 * sd)
    return tuple(out)


def _seen(data: ModalityData, *, raw: bool) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Non-zero values as the likelihood sees them, and the column of each."""
    x: sp.csr_matrix = data.x
    if raw:
        return x.data, x.indices
    scale = torch.from_numpy(np.repeat(data.scale, np.diff(x.indptr)))
    return apply(data.transform, torch.from_numpy(x.data), scale).numpy(), x.indices


# --- a first guess ------------------------------------------------------------------------------


def _guess_output(net: MosaicVAE, m: int, data: ModalityData) -> None:
    """Set the output bias so that the first prediction is each feature's mean over those who measured it."""
    aware = net.config.library_aware[m]
    if not (aware or data.likelihood == "Bernoulli"):
        return
    value, col = _seen(data, raw=aware)
    total = np.bincount(col, weights=value, minlength=data.n_features) + 0.5
    if aware:
        guess = np.log(total / np.maximum(_over_measured(data, data.library), 1.0))
    else:
        p = total / (_over_measured(data, np.ones(data.n_cells)) + 1)
        guess = np.log(p) - np.log1p(-p)
    for i in net.decoder.of_modality(m):
        g = net.decoder.groups[i]
        net.decoder.last[i][-1].copy_(torch.from_numpy(guess[g.lo : g.hi].astype(np.float32)))


def _over_measured(data: ModalityData, weight: NDArray[Any]) -> NDArray[np.float64]:
    """Sum of a weight over the rows that measured each feature, (D_m,)."""
    if data.entry_measured is not None:
        parts = range(0, data.n_features, COLUMNS)
        return np.concatenate([weight @ data.entry_measured[:, i : i + COLUMNS] for i in parts])
    by_panel = np.bincount(data.panel_of_row, weights=weight, minlength=len(data.panels))
    return np.asarray(by_panel @ data.panels, np.float64)
