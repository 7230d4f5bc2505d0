"""Datasets of different features, modalities and cells -> one MuData that says what was measured."""

from __future__ import annotations

from mosaicvi.data.combine.combine import combine, combine_stored

__all__ = ["combine", "combine_stored"]
