"""MuData or AnnData -> `Mosaic`, checked."""

from __future__ import annotations

from mosaicvi.data.register.register import register

__all__ = ["register"]
