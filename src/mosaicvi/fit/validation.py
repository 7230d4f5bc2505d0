"""The loss on held-out cells."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.device import would_wait
from mosaicvi.fit.state import FitConfig
from mosaicvi.fit.step import features_of, seed_of, shared, total_of
from mosaicvi.nn.losses import Losses
from mosaicvi.nn.masks import MaskSampler
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.ranks.group import Group


def validate(
    net: MosaicVAE,
    loader: MinibatchLoader,
    sampler: MaskSampler,
    cells: NDArray[np.int64],
    gamma: float,
    config: FitConfig,
    names: tuple[str, ...],
    group: Group | None = None,
    run: int = 1,
) -> dict[str, float]:
    """Terms of the loss on held-out cells; masks, features and noise are the same in every epoch.

    Each process of a group has a share of the cells, in runs of so many neighbours.
    """
    seed = config.seed + 1 if group is None else seed_of(config.seed + 1, 5, group.rank)
    generator = torch.Generator(loader.device).manual_seed(seed)
    sums: dict[str, Tensor] = {}
    net.eval()
    with torch.no_grad():
        size = config.batch_size
        if not would_wait(loader.covariate_table):  # it goes tile by tile: parts may be larger
            size = 5 * config.batch_size // 2
        parts = [[part] for part in np.array_split(cells, max(1, -(-len(cells) // size)))]
        for k, part in enumerate(loader.ahead(parts, own=lambda part: shared(part, group, run)[0])):
            own, share = shared(part, group, run)
            minibatch = loader.take(own, features_of(net, loader, (config.seed, 3, k)))
            masks = sampler.draw(minibatch, generator)
            shape = (net.n_passes() * len(own), net.config.dim_latent)
            noise = torch.randn(shape, generator=generator, device=loader.device)
            losses: Losses = net(minibatch, masks, gamma=gamma, noise=noise, share=share)
            losses = losses if share is None else total_of(losses, share.group)
            for name, value in losses.by_name(names).items():
                sums[name] = sums.get(name, 0) + value.double() * len(part) / len(cells)
    net.train()
    return dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
