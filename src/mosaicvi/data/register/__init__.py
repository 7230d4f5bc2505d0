"""MuData or AnnData -> `Mosaic`, checked."""

from __future__ import annotations

from mosaicvi.data.register.register import register, without_cells

__all__ = ["register", "without_cells"]
