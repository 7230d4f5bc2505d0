"""Files of any format that the field writes -> AnnData or MuData."""

from __future__ import annotations

from mosaicvi.data.read.files import dataset_names, read, read_mudata
from mosaicvi.data.read.modalities import mudata_as_it_is, to_mudata

__all__ = ["dataset_names", "mudata_as_it_is", "read", "read_mudata", "to_mudata"]
