"""Tools on the latent space."""

from __future__ import annotations

from mosaicvi.view.umap import umap

__all__ = ["umap"]
