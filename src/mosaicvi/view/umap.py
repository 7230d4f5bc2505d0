"""Two dimensions to look at, from the latent space."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config.arguments import number, whole
from mosaicvi.config.names import names_ours
from mosaicvi.errors import warn
from mosaicvi.metrics import neighbors
from mosaicvi.view.cells import representation

HINT = "pip install 'mosaicvi[plot]'"
LONG_UP_TO = 2_000  # more cells need fewer rounds
FEWEST = 5  # with fewer cells there are no neighbourhoods to lay out


@names_ours
def umap(
    data: MuData | AnnData,
    *,
    key: str = "X_mosaicvi",
    n_neighbors: int = 15,
    min_dist: float = 0.3,
    seed: int = 0,
) -> None:
    """Lay cells out in two dimensions and store them in ``obsm["X_umap"]``.

    By UMAP (McInnes, Healy & Melville 2018). Where the package umap-learn is not installed, or for fewer
    than five cells, the first two principal components are stored instead, with a warning.
    ``uns["X_umap"]`` says which.

    Parameters
    ----------
    data
        With a latent space in ``obsm``; it is changed in place.
    key
        Which ``obsm``; ``use_rep`` is the same.
    n_neighbors, min_dist
        Of UMAP: more neighbours show more of the whole, a larger distance spreads cells out.
    seed
        The same seed gives the same picture.

    Raises
    ------
    InputError
        There is no such ``obsm``.
    """
    z = representation(data, key, remedy="store model.get_latent_representation() there first")
    xy, method = layout(
        z,
        n_neighbors=whole("n_neighbors", n_neighbors, least=2),
        min_dist=number("min_dist", min_dist),
        seed=whole("seed", seed),
    )
    if method != "UMAP":
        text = f"obsm['X_umap'] holds two principal components, as {why_not(len(z))}."
        warn(text)
    data.obsm["X_umap"] = xy
    data.uns["X_umap"] = {"method": method, "use_rep": key, "seed": seed}


def why_not(n_cells: int) -> str:
    """Why cells are not laid out by UMAP."""
    if n_cells < FEWEST:
        return f"UMAP needs at least {FEWEST} cells"
    return f"umap-learn is not installed: {HINT}"


def layout(
    z: NDArray[Any], *, n_neighbors: int = 15, min_dist: float = 0.3, seed: int = 0
) -> tuple[NDArray[np.float32], str]:
    """Two dimensions, float32 (n, 2), and how they were made: ``"UMAP"`` or ``"PCA"``."""
    try:
        learn = importlib.import_module("umap")
    except ImportError:
        return principal_components(z), "PCA"
    if len(z) < FEWEST:
        return principal_components(z), "PCA"
    k = min(n_neighbors, len(z) - 1)
    near = neighbors(z, k, seed=seed)
    graph = memberships(near.indices[:, :-1], near.distances[:, :-1], k)
    a, b = learn.umap_.find_ab_params(1.0, min_dist)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # umap-learn's own search of neighbours and its fuzzy set compile themselves for half a minute
        xy, _ = learn.umap_.simplicial_set_embedding(
            np.asarray(z, np.float32),
            graph,
            n_components=2,
            initial_alpha=1.0,
            a=a,
            b=b,
            gamma=1.0,
            negative_sample_rate=5,
            n_epochs=500 if len(z) <= LONG_UP_TO else 200,
            init="spectral" if len(z) > 50 else "random",
            random_state=np.random.RandomState(seed),
            metric="euclidean",
            metric_kwds={},
            densmap=False,
            densmap_kwds={},
            output_dens=False,
        )
    return np.asarray(xy, np.float32), "UMAP"


def memberships(indices: NDArray[np.int64], distances: NDArray[np.float64], k: int) -> sp.csr_matrix:
    """UMAP's fuzzy set of neighbours, symmetric, sparse float32 (n, n).

    Parameters
    ----------
    indices, distances
        Nearest other cells of each, nearest first, (n, k - 1).
    k
        Neighbours with the cell itself; the weights of each cell add up to its logarithm to base 2.
    """
    n = len(indices)
    positive = np.where(distances > 0, distances, np.inf).min(1, initial=np.inf)
    nearest = np.where(np.isfinite(positive), positive, 0)[:, None]
    beyond = np.maximum(distances - nearest, 0)
    low, width, high = np.zeros(n), np.ones(n), np.full(n, np.inf)
    for _ in range(64):
        excess = np.exp(-beyond / width[:, None]).sum(1) - np.log2(k)
        open_ = np.abs(excess) >= 1e-5
        if not open_.any():
            break
        high = np.where(open_ & (excess > 0), width, high)
        low = np.where(open_ & (excess <= 0), width, low)
        middle = np.where(np.isinf(high), 2 * width, (low + high) / 2)
        width = np.where(open_, middle, width)
    mean = distances.sum(1) / k
    floor = np.where(nearest[:, 0] > 0, mean, mean.mean())
    width = np.maximum(width, 1e-3 * floor)
    weight = np.exp(-np.divide(beyond, width[:, None], where=beyond > 0, out=np.zeros_like(beyond)))
    at = np.repeat(np.arange(n), indices.shape[1])
    one_way = sp.csr_matrix((weight.ravel().astype(np.float32), (at, indices.ravel())), shape=(n, n))
    both = one_way.multiply(one_way.T)
    graph = sp.csr_matrix(one_way + one_way.T - both)
    graph.eliminate_zeros()
    return graph


def principal_components(z: NDArray[Any]) -> NDArray[np.float32]:
    """Two principal components, float32 (n, 2).

    Each one's largest entry is positive, so that its sign is not arbitrary.
    """
    centred = np.asarray(z, np.float64) - np.mean(z, 0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    axis = axis * np.sign(axis[np.abs(axis).argmax(0), np.arange(axis.shape[1])])
    return np.asarray(centred @ axis, np.float32)
