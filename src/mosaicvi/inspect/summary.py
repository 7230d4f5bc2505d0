"""The summary of a mosaic: what `describe` finds, as frozen dataclasses that become JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ALL = "all"
"""The name of the one batch, or panel, where nothing names several."""


@dataclass(frozen=True, kw_only=True)
class ModalitySummary:
    """One modality.

    Attributes
    ----------
    name, n_cells, n_features
        Its name and size.
    values
        ``"counts"`` (whole, not negative), ``"positive"`` (not negative) or ``"real"``.
    zeros
        Share of the measured entries that are zero.
    missing
        Share of the entries inside the panels that are missing (NaN).
    """

    name: str
    n_cells: int
    n_features: int
    values: str
    zeros: float
    missing: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cells that measured the same: of one batch, with one panel, in the same modalities."""

    batch: str
    panel: str
    modalities: tuple[str, ...]
    n_cells: int

    def __str__(self) -> str:
        panel = "" if self.panel in (self.batch, ALL) else f" [{self.panel}]"
        return f"{self.batch}{panel}: {'+'.join(self.modalities) or 'nothing'}"


@dataclass(frozen=True, kw_only=True)
class Library:
    """Sums over the cells of a batch in a modality: quantiles 0, 25, 50, 75, 100 %, and cells without any."""

    batch: str
    modality: str
    quantiles: tuple[float, ...]
    n_empty: int


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The features of a modality that exactly these panels measure."""

    modality: str
    panels: tuple[str, ...]
    n_features: int


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """How two modalities are connected.

    Attributes
    ----------
    modalities
        The two.
    n_cells
        Cells that measured both.
    chain
        Without such cells, the modalities on the way from one to the other; empty if there is no way.
    """

    modalities: tuple[str, str]
    n_cells: int
    chain: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MosaicSummary:
    """What a mosaic holds.

    Attributes
    ----------
    n_cells, batch_key, batches
        Cells, the column of ``obs`` that names their batch (None: one batch ``"all"``), and its values.
    modalities, groups, libraries
        Each modality; each group of cells that measured the same; library sizes by batch and modality.
    panels
        Modality → panel → number of features.
    overlaps
        For each modality, its features by the panels that measure them, the largest first.
    bridges
        Each pair of modalities.
    components
        The groups (as text) that something connects; more than one component is a broken mosaic.
    warnings
        What may surprise, in words.
    """

    n_cells: int
    batch_key: str | None
    batches: tuple[str, ...]
    modalities: tuple[ModalitySummary, ...]
    groups: tuple[Group, ...]
    libraries: tuple[Library, ...]
    panels: Mapping[str, Mapping[str, int]]
    overlaps: tuple[Overlap, ...]
    bridges: tuple[Bridge, ...]
    components: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]

    def cells_in(self, batch: str, modality: str | None = None) -> int:
        """Cells of a batch, or those of them in a modality."""
        return sum(g.n_cells for g in self.groups if g.batch == batch and modality in (None, *g.modalities))

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, text and numbers, for JSON."""
        return asdict(self)
