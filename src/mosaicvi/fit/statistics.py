"""Statistics of batch norms for answers: those of cells of which everything measured is seen."""

from __future__ import annotations

import numpy as np
import torch

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.sampling import shuffled
from mosaicvi.nn.layers import PassBatchNorm
from mosaicvi.nn.masks import observed_view
from mosaicvi.nn.vae import MosaicVAE

MINIBATCHES = 100  # which a norm's running average weighs alike


def settle(net: MosaicVAE, mosaic: Mosaic, *, batch_size: int, seed: int) -> None:
    """Estimate the running statistics of every batch norm anew, over minibatches of all cells.

    In training they run over all passes, also those in which part of a cell is hidden, whose statistics are
    others. Weights stay as they are, and the network is left ready for answers.

    Parameters
    ----------
    net, mosaic
        The trained network and its data.
    batch_size
        Cells at a time, as in training.
    seed
        Decides their order, and the draws of the latent.
    """
    loader = MinibatchLoader(mosaic, device=next(net.parameters()).device)
    generator = torch.Generator(loader.device).manual_seed(seed)
    for module in net.modules():
        if isinstance(module, PassBatchNorm):
            module.updates.zero_()
    cells = np.arange(loader.n_cells)
    epochs = -(-MINIBATCHES // max(1, -(-len(cells) // batch_size)))
    net.train()
    with torch.no_grad():
        for part in (part for epoch in range(epochs) for part in shuffled(cells, batch_size, seed, epoch)):
            minibatch = loader.take(part)
            q = net.encode(minibatch, [[observed_view(rows) for rows in minibatch.rows]])
            noise = torch.randn(q.mean.shape, generator=generator, device=loader.device)
            z = q.mean + torch.exp(0.5 * q.log_var) * noise
            net.shared_layers(z, q, minibatch.covariates, 1)
    net.eval()
