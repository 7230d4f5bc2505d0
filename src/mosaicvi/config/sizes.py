"""What a network has to know of a mosaic: a registered mosaic has these attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Distribution = str  # the name of a likelihood


class ModalitySizes(Protocol):
    """One modality: its name, its likelihood, and how many features it has, in all and in each block."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def likelihood(self) -> Distribution:
        """Its likelihood."""

    @property
    def n_features(self) -> int:
        """Number of its features."""

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Number of features in each of its blocks."""


class MosaicSizes(Protocol):
    """The modalities of a mosaic, in order."""

    @property
    def modalities(self) -> Sequence[ModalitySizes]:
        """Its modalities."""
