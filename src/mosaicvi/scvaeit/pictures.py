"""Arguments of scanpy's pictures, as scripts for scVAEIT hand them on."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from mosaicvi.errors import MosaicWarning
from mosaicvi.view.embedding import embedding

LOOKS = (
    "wspace", "hspace", "legend_loc", "legend_fontsize", "legend_fontweight", "legend_fontoutline",
    "add_outline", "outline_width", "outline_color", "sort_order",
)  # fmt: skip


def drawable(how: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without those that change the looks alone and that our pictures do not have; says which."""
    idle = sorted(how.keys() & set(LOOKS) - inspect.signature(embedding).parameters.keys())
    if idle:
        warnings.warn(f"{', '.join(idle)}: no effect in visualize_latent.", MosaicWarning, stacklevel=3)
    return {name: value for name, value in how.items() if name not in idle}
