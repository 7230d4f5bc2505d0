"""A digest of values that come block by block, by which changed data are noticed."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.blocks import Block


class ValuesDigest:
    """SHA-256 of rows and of what was measured of them, however they are cut into blocks."""

    def __init__(self) -> None:
        self._values, self._places, self._lengths, self._measured = (hashlib.sha256() for _ in range(4))

    def add(self, block: Block, measured: NDArray[np.bool_] | None) -> None:
        """Add rows, and what was measured of them, entry by entry, where there are gaps."""
        if isinstance(block, np.ndarray):
            self._values.update(np.ascontiguousarray(block).data)
        else:
            self._values.update(block.data.data)
            self._places.update(np.ascontiguousarray(block.indices, np.int32).data)
            self._lengths.update(np.diff(block.indptr).astype(np.int32).data)
        if measured is not None:
            self.add_measured(measured)

    def add_measured(self, measured: NDArray[np.bool_]) -> None:
        """Add what was measured of rows."""
        self._measured.update(np.ascontiguousarray(measured).data)

    def hexdigest(self) -> str:
        """Of everything that was added."""
        whole = hashlib.sha256()
        for part in (self._values, self._places, self._lengths, self._measured):
            whole.update(part.digest())
        return whole.hexdigest()
