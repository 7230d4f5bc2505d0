"""The latent space in two dimensions, as scVAEIT draws it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anndata import AnnData

from mosaicvi.errors import InputError
from mosaicvi.view.embedding import embedding
from mosaicvi.view.umap import layout, principal_components

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(
    adata: AnnData,
    method: str,
    color: str | Sequence[str] | None,
    *,
    n_neighbors: int,
    show: bool,
    **how: Any,
) -> Axes | list[Axes]:
    """A picture for each column to colour by; the two dimensions stay in ``obsm``.

    Raises
    ------
    InputError
        For a method that is not here.
    """
    import matplotlib.pyplot as plt

    if method not in ("UMAP", "PCA"):
        raise InputError(f"method: 'UMAP' or 'PCA', not {method!r}; for others give model.adata to scanpy.")
    key, z = f"X_{method.lower()}", adata.obsm["X_VAE"]
    if key not in adata.obsm:
        umap = method == "UMAP"
        adata.obsm[key] = layout(z, n_neighbors=n_neighbors)[0] if umap else principal_components(z)
    colors = [color] if color is None or isinstance(color, str) else list(color)
    size = (5.6 * len(colors), 4.4)
    _, axes = plt.subplots(1, len(colors), figsize=size, layout="constrained", squeeze=False)
    for ax, one in zip(axes[0], colors, strict=True):
        embedding(adata, color=one, basis=key, ax=ax, **how)
    if show:
        plt.show()
    return list(axes[0]) if len(colors) > 1 else axes[0, 0]
