"""The latent of each cell, seeing everything that was measured of it or chosen modalities."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping

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
    modalities: Collection[str] | None = None,
    shown: Mapping[str, NDArray[np.bool_]] | None = None,
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
    shown
        The same by features: a mask (D_m,) of each modality of which something may be seen.
    batch_size
        Cells at a time; it does not change the answers.
    """
    names = net.config.uni_block_names
    net.eval()
    parts = [[cells[start : start + batch_size]] for start in range(0, len(cells), batch_size)]
    start = 0
    for part in loader.ahead(parts):
        minibatch = loader.take(part)
        views: list[View] = []
        for name, rows in zip(names, minibatch.rows, strict=True):
            mask = None if shown is None else shown.get(name)
            is_blind = (modalities is not None and name not in modalities) or (
                shown is not None and mask is None
            )
            view = blind_view(rows) if is_blind else observed_view(rows)
            if mask is not None and not mask.all():
                table = view.table & torch.from_numpy(mask).to(view.table.device)
                view = dataclasses.replace(view, table=table, full=False)
            views.append(view)
        with torch.no_grad():
            q = net.encode(minibatch, [views])
        yield slice(start, start + minibatch.n_cells), minibatch, q
        start += minibatch.n_cells


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
