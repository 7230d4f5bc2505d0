"""Two dimensions to look at, from the latent space."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.errors import MosaicWarning
from mosaicvi.metrics import neighbors
from mosaicvi.view.cells import representation

HINT = "pip install 'mosaicvi[plot]'"
LONG_UP_TO = 2_000  # more cells need fewer rounds
FEWEST = 5  # with fewer cells there are no neighbourhoods to lay out


def umap(
    data: MuData | AnnData,
    *,
    key: str = "X_mosaicvi",
    n_neighbors: int = 15,
    min_dist: float = 0.3,
    seed: int = 0,
) -> None:
    """Lay cells out in two dimensions and store them in ``obsm["X_umap"]``.

    By UMAP (McInnes, Healy & Melville 2018). Where the package umap-learn is not installed, the first two
    principal components are stored instead, with a warning. ``uns["X_umap"]`` says which.

    Parameters
    ----------
    data
        With a latent space in ``obsm``; it is changed in place.
    key
        Which ``obsm``.
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
    xy, method = layout(z, n_neighbors=n_neighbors, min_dist=min_dist, seed=seed)
    if method != "UMAP" and len(z) >= FEWEST:
        warnings.warn(
            f"umap-learn is not installed, so obsm['X_umap'] holds two principal components: {HINT}",
            MosaicWarning,
            stacklevel=2,
        )
    data.obsm["X_umap"] = xy
    data.uns["X_umap"] = {"method": method, "use_rep": key, "seed": seed}


def layout(
    z: NDArray[Any], *, n_neighbors: int = 15, min_dist: float = 0.3, seed: int = 0
) -> tuple[NDArray[np.float32], str]:
    """Two dimensions, float32 (n, 2), and how they were made: ``"UMAP"`` or ``"PCA"``."""
    try:
        learn = importlib.import_module("umap")
    except ImportError:
        return _pca(z), "PCA"
    if len(z) < FEWEST:
        return _pca(z), "PCA"
    k = min(n_neighbors, len(z) - 1)
    near = neighbors(z, k, seed=seed)
    own = np.arange(len(z))[:, None]
    graph = (np.hstack([own, near.indices[:, :-1]]), np.pad(near.distances[:, :-1], ((0, 0), (1, 0))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reducer = learn.UMAP(
            n_neighbors=k,
            min_dist=min_dist,
            n_epochs=500 if len(z) <= LONG_UP_TO else 200,
            random_state=seed,
            n_jobs=1,
            init="spectral" if len(z) > 50 else "random",
            # umap-learn's own search compiles itself for half a minute
            precomputed_knn=(graph[0], graph[1].astype(np.float32), None),
        )
        return np.asarray(reducer.fit_transform(np.asarray(z, np.float32)), np.float32), "UMAP"


def _pca(z: NDArray[Any]) -> NDArray[np.float32]:
    """Two principal components; each one's largest entry is positive, so that its sign is not arbitrary."""
    centred = np.asarray(z, np.float64) - np.mean(z, 0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    axis = axis * np.sign(axis[np.abs(axis).argmax(0), np.arange(axis.shape[1])])
    return np.asarray(centred @ axis, np.float32)
