"""Files of any format that the field writes -> AnnData or MuData."""

from __future__ import annotations

from mosaicvi.data.read.files import dataset_names, read, read_mosaic
from mosaicvi.data.read.modalities import mudata_as_it_is, to_mosaic

__all__ = ["dataset_names", "mudata_as_it_is", "read", "read_mosaic", "to_mosaic"]
