"""Mosaic integration, imputation and transfer of multimodal single-cell data."""

from mosaicvi._version import __version__

__all__ = ["__version__"]
