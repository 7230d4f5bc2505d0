"""Imputed values: the likelihood's mean, averaged over draws of z, in one stream of minibatches."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import Minibatch
from mosaicvi.data.mosaic import Mosaic, Registry
from mosaicvi.infer.decode import decoded
from mosaicvi.infer.latent import encoded
from mosaicvi.nn.encoder import Posterior
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
    aware = net.config.library_aware[m]
    kind = net.decoder.families[m].scale(library_aware=aware, transform=registry.transforms[name])
    if not aware:
        return Scale(kind=kind)
    return Scale(kind=kind, library=registry.median_library[name] if library is None else library)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImputationRequest:
    """What to impute: features of one modality, on a scale.

    Attributes
    ----------
    m
        Position of the modality.
    scale
        What the values are to mean.
    features
        Positions of features in the user's order; None for all.
    """

    m: int
    scale: Scale
    features: NDArray[np.int64] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imputed:
    """The answers for one minibatch of cells.

    Attributes
    ----------
    rows
        Which of the requested cells these are.
    latent
        Mean of z, float32 (b, K).
    values
        Imputed values for each request, float32 (b, d), features in the requested order.
    """

    rows: slice
    latent: NDArray[np.float32]
    values: tuple[NDArray[np.float32], ...]


def imputed(
    net: MosaicVAE,
    loader: MinibatchLoader,
    mosaic: Mosaic,
    cells: NDArray[np.int64],
    wanted: Sequence[ImputationRequest],
    *,
    modalities: Collection[str] | None = None,
    n_samples: int | None = None,
    batch_size: int = 512,
    seed: int = 0,
) -> Iterator[Imputed]:
    """Imputed values, minibatch by minibatch, of any modalities in one pass over the cells.

    Parameters
    ----------
    net, loader, mosaic
        The trained network and the data.
    cells
        Positions in the mosaic.
    wanted
        Which values.
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
    own = [_own_covariates(mosaic, w.m) for w in wanted]
    places = [_places(mosaic, w) for w in wanted]
    for rows, minibatch, q in encoded(net, loader, cells, modalities=modalities, batch_size=batch_size):
        values = []
        with torch.no_grad():
            for w, measured, at in zip(wanted, own, places, strict=True):
                covariates = _covariates(minibatch, measured, mosaic)
                value = _averaged(net, w, at, q, covariates, noise)
                values.append(mosaic.modalities[w.m].raw(value.cpu().numpy(), at))
        yield Imputed(rows=rows, latent=q.mean.cpu().numpy(), values=tuple(values))


def _places(mosaic: Mosaic, wanted: ImputationRequest) -> NDArray[np.int64] | None:
    """Positions of the wanted features in the network's order; None where that is all of them as they are."""
    back = np.argsort(mosaic.modalities[wanted.m].features.order, kind="stable")
    if wanted.features is not None:
        return np.asarray(back[wanted.features])
    return None if np.array_equal(back, np.arange(len(back))) else back


def _averaged(
    net: MosaicVAE,
    wanted: ImputationRequest,
    at: NDArray[np.int64] | None,
    q: Posterior,
    covariates: Tensor,
    noise: Tensor | None,
) -> Tensor:
    """Mean over draws of z, added up on the fly; (b, d)."""
    library = (
        None if wanted.scale.library is None else q.mean.new_full((len(q.mean), 1), wanted.scale.library)
    )
    some = at if wanted.features is not None else None
    draws = [None] if noise is None else list(noise)
    sd = torch.exp(0.5 * q.log_var)
    total: Tensor | None = None
    for eps in draws:
        z = q.mean if eps is None else q.mean + sd * eps
        value = decoded(net, wanted.m, z, q, covariates, library=library, features=some)
        total = value if total is None else total.add_(value)
    assert total is not None
    total.div_(len(draws))
    return total if at is None or some is not None else total[:, torch.from_numpy(at).to(total.device)]


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
