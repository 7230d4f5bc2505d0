"""Draws of values: latent from its posterior, then a value from the likelihood.

What is random of a cell is a function of the seed and the cell's name, whoever else is asked for.

Legend: b cells of a minibatch, K latent, D features of a modality, d of them asked for, S draws.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.infer.covariates import Batches
from mosaicvi.infer.latent import encoded
from mosaicvi.nn.vae import MosaicVAE

SMALLEST = 2.0**-54  # added to a uniform number, so that it is never 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawRequest:
    """Which values to draw.

    Attributes
    ----------
    m
        Position of the modality.
    n_samples
        How many draws, S.
    batches
        As which batches; of several, draws take turns.
    library
        Total of each requested cell's counts, (n,); None where the modality has no library.
    features
        Positions of features in the user's order; None for all.
    """

    m: int
    n_samples: int
    batches: Batches
    library: NDArray[np.float64] | None
    features: NDArray[np.int64] | None = None


def generator_of(seed: int, cell: str, purpose: str) -> np.random.Generator:
    """Random numbers of one cell for one purpose."""
    key = hashlib.blake2b(f"{seed}\0{purpose}\0{cell}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def latent_noise(seed: int, cells: Iterable[str], n_samples: int, dim: int) -> NDArray[np.float32]:
    """Standard normal numbers of some cells, (S, b, K); fewer draws are the first of more."""
    found = [generator_of(seed, cell, "latent").standard_normal((n_samples, dim)) for cell in cells]
    return np.asarray(np.stack(found, 1), np.float32) if found else np.zeros((n_samples, 0, dim), np.float32)


def drawn(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    cells: NDArray[np.int64],
    wanted: DrawRequest,
    *,
    modalities: Collection[str] | None = None,
    batch_size: int = 512,
    seed: int = 0,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Draws of a modality's values, minibatch by minibatch: rows, and values (S, b, d) in the user's units.

    Parameters
    ----------
    net, loader, mosaic, cells
        The trained network, its data, and positions of cells.
    wanted
        Which values.
    modalities
        What the encoder may see; None for all.
    batch_size
        Cells at a time.
    seed
        Decides the draws.
    """
    data, family = mosaic.modalities[wanted.m], net.decoder.families[wanted.m]
    back = np.argsort(data.features.order, kind="stable")
    at = back if wanted.features is None else back[wanted.features]
    places = torch.from_numpy(at).to(loader.device)
    for rows, minibatch, q in encoded(net, loader, cells, modalities=modalities, batch_size=batch_size):
        names = mosaic.names(cells[rows])
        noise = torch.from_numpy(latent_noise(seed, names, wanted.n_samples, net.config.dim_latent))
        uniform = [generator_of(seed, name, data.name) for name in names]
        as_batches = wanted.batches.asked(minibatch)
        library = None
        if wanted.library is not None:
            library = torch.tensor(wanted.library[rows, None]).to(q.mean)
        values = np.empty((wanted.n_samples, len(names), len(at)), np.float32)
        for s in range(wanted.n_samples):
            u = np.stack([one.random(data.n_features) for one in uniform])[:, at] + SMALLEST
            z = q.mean + torch.exp(0.5 * q.log_var) * noise[s].to(q.mean)
            covariates = as_batches[s % len(as_batches)]
            with torch.no_grad():
                parameters = net.parameters_of(wanted.m, z, q, covariates, library=library)
            found = family.at(u, parameters.each(lambda part: part[..., places]))
            values[s] = data.raw(np.asarray(found, np.float32), at)
        yield rows, values
