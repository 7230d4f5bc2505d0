"""The latent of each cell, seeing everything that was measured of it or chosen modalities."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import Minibatch
from mosaicvi.data.stored.parked import room
from mosaicvi.nn.encoder import Posterior
from mosaicvi.nn.masks import View, blind_view, observed_view
from mosaicvi.nn.vae import MosaicVAE

MOST_ROWS, FEWEST_ROWS = 256, 16  # cells that a CPU computes together
MOST_VALUES = 2**23  # of a modality of theirs


def rows_together(net: MosaicVAE, batch_size: int) -> int:
    """How many cells are computed together.

    Products of matrices round a row by how many there are. On a CPU it is a power of two that fits the widest
    modality, whatever the batch size, so that answers do not depend on it to the bit.
    """
    if next(net.parameters()).device.type != "cpu":
        return batch_size
    fits = MOST_VALUES // max(net.config.dim_input_arr)
    return min(MOST_ROWS, max(FEWEST_ROWS, 1 << max(fits.bit_length() - 1, 0)))


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
        Cells that are read together, and on a GPU computed together.
    """
    names = net.config.uni_block_names
    net.eval()
    step = rows_together(net, batch_size)
    each = [cells[start : start + step] for start in range(0, len(cells), step)]
    n_read = -(-batch_size // step)
    parts = [each[i : i + n_read] for i in range(0, len(each), n_read)]
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
    make = room if loader.buffer else np.empty  # of values on disk the answers too may be many
    mean, var = (make((len(cells), net.config.dim_latent), np.float32) for _ in range(2))
    for at, _, q in encoded(net, loader, cells, modalities=modalities, batch_size=batch_size):
        mean[at], var[at] = q.mean.cpu().numpy(), q.log_var.exp().cpu().numpy()
    return mean, var
