"""Of which cells no interval can be promised to hold its share: those of batches that never measured it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.mosaic import Mosaic, Registry
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
    without = ~np.isin(names.astype(str), registry.measured_in[modality])
    if not without.any():
        return None
    batches = quoted(sorted({str(name) for name in names[without]}))
    return (
        f"{int(without.sum()):,} of {len(cells):,} cells are of batches of which the model knows no "
        f"{modality} ({batches}): their intervals are not promised to hold the share of values that was "
        "asked for"
    )
