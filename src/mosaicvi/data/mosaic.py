"""Mosaic: what was measured where, as `register` reads it from a MuData or AnnData.

Shapes: n cells, n_m cells that have modality m, D_m features of it, P panels, C covariates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi import likelihoods
from mosaicvi.config import Distribution
from mosaicvi.data.blocks import Block, blocks, is_dense, row_slices
from mosaicvi.data.registry import Levels, ModalityFeatures, Registry, Standard
from mosaicvi.data.stored.names import plain
from mosaicvi.data.stored.parked import picked
from mosaicvi.data.stored.values import StoredMeasured, StoredValues
from mosaicvi.data.sums import Columns, ColumnSums, by_panel
from mosaicvi.data.transforms import Transform, cell_scale
from mosaicvi.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModalityData:
    """One modality of the mosaic, rows only for the cells that have it.

    Attributes
    ----------
    x
        Values (n_m, D_m): CSR float32 in canonical form without stored zeros, or dense float32 for
        Gaussian; what is missing is 0. Shares memory with the user's object where it can; or `StoredValues`,
        whose rows are read from a file when they are asked for.
    entry_measured
        What was measured, entry by entry, (n_m, D_m); None when the panels say it all.
    row_of_cell
        Row of each cell, -1 where the cell lacks the modality, shape (n,).
    panels
        Boolean (P, D_m): what each panel measures.
    panel_of_row
        Panel of each row, shape (n_m,).
    library
        Sum of the measured values of each row, shape (n_m,).
    scale
        Scale of the transform of each row, shape (n_m,).
    whole
        Whether all values are whole numbers >= 0.
    standard
        How the network's values come from those in `x`; None where they are the same.
    known_columns, known_digest
        Sums by transform, and the digest of the values, where they were found when stored values were read.
    """

    name: str
    features: ModalityFeatures
    likelihood: Distribution
    transform: Transform
    x: Block | StoredValues
    entry_measured: NDArray[np.bool_] | StoredMeasured | None
    row_of_cell: NDArray[np.int64]
    panels: NDArray[np.bool_]
    panel_of_row: NDArray[np.int64]
    library: NDArray[np.float32]
    scale: NDArray[np.float32]
    whole: bool
    standard: Standard | None = None
    known_columns: Mapping[str, Columns] = dataclasses.field(default_factory=dict)
    known_digest: str | None = None

    @property
    def n_features(self) -> int:
        """Number of features, D_m."""
        return len(self.features.names)

    @property
    def n_cells(self) -> int:
        """Number of cells that have the modality, n_m."""
        return len(self.panel_of_row)

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """ModalityFeatures of each block."""
        return self.features.sizes

    def measured(
        self, rows: slice | NDArray[np.int64] = slice(None), columns: slice = slice(None)
    ) -> NDArray[np.bool_]:
        """Which entries of some rows and columns were measured."""
        if self.entry_measured is not None:
            return self.entry_measured[rows, columns]
        return self.panels[:, columns][self.panel_of_row[rows]]

    def has_any(self) -> NDArray[np.bool_]:
        """Which cells measured any feature, (n,)."""
        out = np.zeros(len(self.row_of_cell), bool)
        there = self.row_of_cell >= 0
        any_of_row: NDArray[np.bool_] = np.any(self.panels, axis=1)[self.panel_of_row]
        if isinstance(self.entry_measured, np.ndarray):
            any_of_row = any_of_row & self.entry_measured.any(1)
        out[there] = any_of_row[self.row_of_cell[there]]
        return out

    @property
    def on_disk(self) -> bool:
        """Whether the values stay in a file."""
        return isinstance(self.x, StoredValues)

    def blocks(self) -> Iterator[tuple[slice, Block, NDArray[np.bool_] | None]]:
        """All rows in order, some at a time, with what was measured of them.

        That is None of sparse rows without gaps, of which the panels say it all.
        """
        for rows, block, entry in self._stored_blocks():
            if entry is None and isinstance(block, np.ndarray):
                entry = self.panels[self.panel_of_row[rows]]
            yield rows, block, entry

    def _stored_blocks(self) -> Iterator[tuple[slice, Block, NDArray[np.bool_] | None]]:
        if isinstance(self.x, StoredValues):
            yield from self.x.measured_blocks()
            return
        for rows in row_slices(self.x.shape[0]):
            yield rows, self.x[rows], None if self.entry_measured is None else self.entry_measured[rows]

    def columns(self, transform: Transform) -> Columns:
        """Sums of each feature's measured values, as a transform shows them; ``"none"`` for raw ones."""
        known = self.known_columns.get(transform)
        if known is not None:
            return known
        sums = ColumnSums(self.n_features, transform)
        n_measured, exposure = np.zeros((2, self.n_features))
        for rows, block, measured in self.blocks():
            sums.add(block, self.scale[rows], measured)
            if self.entry_measured is not None and measured is not None:
                n_measured += measured.sum(0)
                exposure += self.library[rows].astype(np.float64) @ measured
        if self.entry_measured is None:
            n_measured = by_panel(self.panels, self.panel_of_row, np.ones(self.n_cells))
            exposure = by_panel(self.panels, self.panel_of_row, self.library)
        return sums.found(n_measured, exposure)

    def totals(self) -> NDArray[np.float64]:
        """Sum of each feature's values, (D_m,)."""
        if is_dense(self.x) or "none" in self.known_columns:
            return self.columns("none").total
        total = np.zeros(self.n_features)
        for _, block in blocks(self.x):
            x = sp.csr_matrix(block)
            total += np.bincount(x.indices, weights=x.data, minlength=self.n_features)
        return total

    def some(self, cells: NDArray[np.int64]) -> ModalityData:
        """The modality of some cells alone, in memory.

        Parameters
        ----------
        cells
            Positions in the mosaic, each once.
        """
        of_cell = picked(self.row_of_cell, cells)
        has = of_cell >= 0
        rows = of_cell[has]
        entry: NDArray[np.bool_] | None
        if isinstance(self.x, StoredValues):
            x, entry = self.x.both(rows)
        else:
            x, entry = self.x[rows], None if self.entry_measured is None else self.entry_measured[rows]
        return dataclasses.replace(
            self,
            x=x,
            entry_measured=entry,
            row_of_cell=np.where(has, np.cumsum(has) - 1, -1),
            panel_of_row=picked(self.panel_of_row, rows),
            library=picked(self.library, rows),
            scale=picked(self.scale, rows),
            known_columns={},
            known_digest=None,
        )

    def raw(self, values: NDArray[np.float32], columns: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """Values of some columns, all for None, in the user's units, of those on the network's scale."""
        if self.standard is None:
            return values
        at = slice(None) if columns is None else columns
        return (values * self.standard.spread[at] + self.standard.centre[at]).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mosaic:
    """A registered mosaic: modalities, covariates and names of n cells.

    Attributes
    ----------
    cells
        Names of the cells; of many on disk as `StoredNames`, which answers give as strings, by `names`.
    covariates
        One-hot batches and other categories, then standardised numbers, float32 (n, C).
    batch
        Batch of each cell, shape (n,), a position in `batches`.
    group
        Condition group of each cell, from 1, by the batch and the measured modalities, shape (n,); or one
        of each of k columns of conditions, 0 for none, shape (n, k).
    unseen
        By column of obs, categories that the model whose registry this is has not seen.
    levels
        Of modalities and batches that it has not seen, the logarithm of what counts of each feature were
        divided by, to be at the level of those that it has.
    """

    cells: pd.Index[str]
    modalities: tuple[ModalityData, ...]
    covariates: NDArray[np.float32]
    batch: NDArray[np.int64]
    group: NDArray[np.int64]
    group_names: tuple[str, ...]
    registry: Registry
    unseen: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    levels: Levels = dataclasses.field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def batches(self) -> tuple[str, ...]:
        """Names of the batches, those that the model has not seen last."""
        key = self.registry.setup.batch_key
        return ("all",) if key is None else (*self.registry.categories[key], *self.unseen.get(key, ()))

    def names(self, cells: slice | NDArray[Any] = slice(None)) -> pd.Index[str]:
        """Names of some cells as strings, which `cells` need not hold."""
        return plain(self.cells[cells])

    def modality(self, name: str) -> ModalityData:
        """One modality by name; `InputError` names those that exist."""
        for m in self.modalities:
            if m.name == name:
                return m
        raise InputError(f"No modality {name!r}; the model has {', '.join(m.name for m in self.modalities)}.")

    def some(self, cells: NDArray[np.int64], modalities: tuple[ModalityData, ...] | None = None) -> Mosaic:
        """Some cells, by their positions, each once; `modalities` where they hold something else of them."""
        return dataclasses.replace(
            self,
            cells=self.cells[cells],
            modalities=tuple(m.some(cells) for m in self.modalities) if modalities is None else modalities,
            covariates=picked(self.covariates, cells),
            batch=picked(self.batch, cells),
            group=picked(self.group, cells),
        )

    def as_published(self) -> Mosaic:
        """The mosaic as the published implementation reads it.

        Peaks are accessible or not by default, all other counts are seen per 10,000, and nothing is
        standardised or brought to a common level.
        """
        mods = tuple(self._published(dataclasses.replace(m, standard=None)) for m in self.modalities)
        registry = dataclasses.replace(
            self.registry,
            likelihoods={m.name: m.likelihood for m in mods},
            transforms={m.name: m.transform for m in mods},
            standards={},
            input_levels={},
        )
        return dataclasses.replace(self, modalities=mods, registry=registry)

    def _published(self, m: ModalityData) -> ModalityData:
        setup = self.registry.setup
        binary = likelihoods.get(m.likelihood).published_as
        if binary and m.name not in setup.likelihoods:
            return dataclasses.replace(
                m, likelihood=binary, transform="binarize", scale=np.ones_like(m.scale)
            )
        if m.transform == "clr" and m.name not in setup.transforms:
            scale = cell_scale("log1p_cp10k", m.library.astype(np.float64), np.zeros(m.n_cells))
            return dataclasses.replace(m, transform="log1p_cp10k", scale=scale)
        return m

    def nbytes(self) -> int:
        """Bytes in memory: of the values, and of what is kept beside them for each cell."""
        total = self.covariates.nbytes + self.batch.nbytes + self.group.nbytes
        for m in self.modalities:
            parts: list[NDArray[Any]] = [m.row_of_cell, m.panel_of_row, m.library, m.scale]
            if not isinstance(m.x, StoredValues):
                parts += [m.x] if isinstance(m.x, np.ndarray) else [m.x.data, m.x.indices, m.x.indptr]
            total += sum(p.nbytes for p in parts)
            total += m.entry_measured.nbytes if isinstance(m.entry_measured, np.ndarray) else 0
        return int(total)

    def __repr__(self) -> str:
        lines = [f"Mosaic of {self.n_cells:,} cells"]
        for m in self.modalities:
            kind = f"{m.likelihood}, {len(m.block_sizes)} block{'s' if len(m.block_sizes) > 1 else ''}"
            where = ", on disk" if m.on_disk else ""
            lines.append(f"  {m.name}: {m.n_cells:,} cells x {m.n_features:,} features ({kind}{where})")
        return "\n".join(lines)
