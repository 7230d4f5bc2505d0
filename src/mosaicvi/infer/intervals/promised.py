"""Of which cells no interval can be promised to hold its share: of batches that are new or never had it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.registry import Registry
from mosaicvi.errors import quoted


def not_promised(registry: Registry, mosaic: Mosaic, cells: NDArray[Any], modality: str) -> str | None:
    """What to say of intervals of cells whose batch never measured a modality; None if there are none.

    Parameters
    ----------
    registry
        Of the model, which knows what batches measured in training.
    mosaic, cells
        The data, and positions of the cells in question.
    modality
        Its name.
    """
    if registry.setup.batch_key is None:
        return None
    names = np.asarray(mosaic.batches, object)[mosaic.batch[cells]]
    names = names.astype(str)
    is_new = ~np.isin(names, registry.categories[registry.setup.batch_key])
    without = ~is_new & ~np.isin(names, registry.measured_in[modality])
    words = [
        f"{int(those.sum()):,} of {len(cells):,} cells are of {of} ({quoted(sorted({*names[those]}))})"
        for those, of in (
            (without, f"batches of which the model knows no {modality}"),
            (is_new, "a batch that the model has not seen"),
        )
        if those.any()
    ]
    if not words:
        return None
    return (
        f"{', '.join(words)}: their intervals are not promised to hold the share of values that was asked for"
    )
