"""The latent of each cell, seeing everything that was measured of it or chosen modalities."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import Minibatch
from mosaicvi.nn.encoder import Posterior
from mosaicvi.nn.masks import View, blind_view, observed_view
from mosaicvi.nn.vae import MosaicVAE


def encoded(
    net: MosaicVAE,
    loader: MinibatchLoader,
    cells: NDArray[np.int64],
    *,
    modalities: Collection[str] | None,
    batch_size: int,
) -> Iterator[tuple[slice, Minibatch, Posterior]]:
    """Minibatches of cells with their posterior; a cell's is a function of that cell alone.

    Parameters
    ----------
    net
        Trained network.
    loader
        The data.
    cells
        Positions in the mosaic, (n,).
    modalities
        What the encoder may see; None for all.
    batch_size
        Cells at a time; it does not change the answers.
    """
    names = net.config.uni_block_names
    net.eval()
    for start in range(0, len(cells), batch_size):
        minibatch = loader.take(cells[start : start + batch_size])
        views: list[View] = [
            observed_view(rows) if modalities is None or name in modalities else blind_view(rows)
            for name, rows in zip(names, minibatch.rows, strict=True)
        ]
        with torch.no_grad():
            q = net.encode(minibatch, [views])
        yield slice(start, start + minibatch.n_cells), minibatch, q


def latent(
    net: MosaicVAE,
    loader: MinibatchLoader,
    cells: NDArray[np.int64],
    *,
    modalities: Collection[str] | None = None,
    batch_size: int = 1024,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and variance of each cell's latent, float32 (n, `dim_latent`) each; arguments as `encoded`."""
    shape = (len(cells), net.config.dim_latent)
    mean, var = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for at, _, q in encoded(net, loader, cells, modalities=modalities, batch_size=batch_size):
        mean[at], var[at] = q.mean.cpu().numpy(), q.log_var.exp().cpu().numpy()
    return mean, var
