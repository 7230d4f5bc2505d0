"""Pictures: functions return the Axes or the Figure they drew, show nothing and set nothing globally."""

from __future__ import annotations

from mosaicvi.view.curves import history
from mosaicvi.view.differential import dotplot, volcano
from mosaicvi.view.embedding import embedding, umap
from mosaicvi.view.imputation import calibration, imputation
from mosaicvi.view.mixing import modality_mixing
from mosaicvi.view.mosaic_plot import mosaic

__all__ = [
    "calibration",
    "dotplot",
    "embedding",
    "history",
    "imputation",
    "modality_mixing",
    "mosaic",
    "umap",
    "volcano",
]
