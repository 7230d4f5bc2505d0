"""Imputed values: the likelihood's mean, averaged over draws of z, in one stream of minibatches."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.data.minibatch import Minibatch, MinibatchLoader
from mosaicvi.data.mosaic import Mosaic, Registry
from mosaicvi.infer.latent import encoded
from mosaicvi.nn.encoder import Encoded
from mosaicvi.nn.vae import MosaicVAE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """What imputed values mean.

    Attributes
    ----------
    kind
        ``"counts"``, ``"log1p_cp10k"``, ``"probability"`` or ``"value"``.
    library
        With counts: the library that every cell is given; None where each keeps its own.
    """

    kind: str
    library: float | None = None

    def __str__(self) -> str:
        if self.kind == "counts" and self.library is not None:
            return f"expected counts at a library of {self.library:g}"
        return {
            "counts": "expected counts at each cell's own library",
            "probability": "probability of being accessible",
            "log1p_cp10k": "log(1 + counts per 10,000)",
        }.get(self.kind, "the scale of the input")


def scale_of(net: MosaicVAE, registry: Registry, m: int, library: float | None) -> Scale:
    """Scale of modality m's imputed values, at a `library` or at the median library seen in training."""
    name = net.config.uni_block_names[m]
    if net.config.library_aware[m]:
        return Scale(kind="counts", library=registry.median_library[name] if library is None else library)
    if net.config.distributions[m] == "Bernoulli":
        return Scale(kind="probability")
    return Scale(kind="log1p_cp10k" if registry.transforms[name] == "log1p_cp10k" else "value")


def imputed(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    cells: NDArray[np.int64],
    m: int,
    *,
    scale: Scale,
    modalities: Collection[str] | None,
    n_samples: int | None,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Imputed values of modality m, minibatch by minibatch, float32 (b, D_m) in the user's order.

    Parameters
    ----------
    net, loader, mosaic
        The trained network and the data.
    cells
        Positions in the mosaic.
    m
        Position of the modality.
    scale
        What the values are to mean.
    modalities
        What the encoder may see; None for all.
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
    own = _own_covariates(mosaic, m)
    back = np.argsort(mosaic.modalities[m].features.order, kind="stable")
    identity = np.array_equal(back, np.arange(len(back)))
    for at, minibatch, q in encoded(net, loader, cells, modalities=modalities, batch_size=batch_size):
        with torch.no_grad():
            covariates = _covariates(minibatch, own, mosaic)
            library = None if scale.library is None else torch.full((minibatch.n_cells, 1), scale.library)
            value = _averaged(net, m, q, covariates, library, noise)
        dense = value.cpu().numpy()
        yield at, dense if identity else dense[:, back]


def _averaged(
    net: MosaicVAE, m: int, q: Encoded, covariates: Tensor, library: Tensor | None, noise: Tensor | None
) -> Tensor:
    """Mean over draws of z, added up on the fly; (b, D_m)."""
    library = None if library is None else library.to(q.mean.device)
    draws = [None] if noise is None else list(noise)
    sd = torch.exp(0.5 * q.log_var)
    total: Tensor | None = None
    for eps in draws:
        z = q.mean if eps is None else q.mean + sd * eps
        value = net.imputed_mean(m, z, q.embedding, covariates, library=library, blocks=q.blocks)
        total = value if total is None else total.add_(value)
    assert total is not None
    return total.div_(len(draws))


def _own_covariates(mosaic: Mosaic, m: int) -> NDArray[np.bool_] | None:
    """Which batches measured modality m; None when all did."""
    key = mosaic.registry.setup.batch_key
    if key is None:
        return None
    names = mosaic.registry.categories[key]
    measured = np.isin(names, mosaic.registry.measured_in[mosaic.modalities[m].name])
    return None if measured.all() else measured


def _covariates(minibatch: Minibatch, measured: NDArray[np.bool_] | None, mosaic: Mosaic) -> Tensor:
    """Covariates of each cell; batches that never measured the modality get the mean of those that did."""
    c = minibatch.covariates
    if measured is None:
        return c
    known = torch.from_numpy(measured).to(c.device)
    n = len(known)
    mean = known.to(c.dtype) / known.sum()
    inside = (c[:, :n] * known).sum(1, keepdim=True) > 0
    return torch.cat([torch.where(inside, c[:, :n], mean), c[:, n:]], 1)
