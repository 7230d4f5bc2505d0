"""Who answers for which cells: a model that grew, or the one that it was before.

Cells that have nothing new are answered for by what the model was before it grew, so that their answers stay
the same to the bit; others by all that it knows now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mosaicvi.config.names import names_ours
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.infer.covariates import TransformBatch, batches_of
from mosaicvi.infer.impute import ImputationRequest, Scale, imputed, scale_of
from mosaicvi.infer.known import as_before, known_cells
from mosaicvi.infer.latent import latent, rows_together
from mosaicvi.model.state import ModelState

Stream = Iterator[tuple[slice, NDArray[np.float32]]]


class Routing(ModelState):
    """What parts cells between a model and the one that it grew from."""

    def _latent_of(
        self,
        mosaic: Mosaic,
        loader: MinibatchLoader,
        cells: NDArray[np.int64],
        *,
        modalities: Collection[str] | None,
        batch_size: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and variance of the latent of cells, (n, K) each."""
        if self._base is None:
            return latent(self.net, loader, cells, modalities=modalities, batch_size=batch_size)
        known = known_cells(mosaic, self._base.registry)
        before = as_before(mosaic, self._base.registry, known)
        mean, var = np.empty((2, len(cells), self.config.dim_latent), np.float32)
        is_old = known[cells]
        mean[~is_old], var[~is_old] = latent(
            self.net, loader, cells[~is_old], modalities=modalities, batch_size=batch_size
        )
        mean[is_old], var[is_old] = self._base._latent_of(
            before,
            MinibatchLoader(before, device=loader.device),
            cells[is_old],
            modalities=_among(modalities, before),
            batch_size=batch_size,
        )
        return mean, var

    def _imputed_stream(
        self,
        mosaic: Mosaic,
        cells: NDArray[np.int64],
        *,
        modality: str,
        features: Sequence[str] | None,
        modalities: Collection[str] | None,
        batch_size: int,
        **how: Any,
    ) -> Stream:
        """Imputed values of cells, (rows, values) at a time; arguments as `MosaicVI.get_imputed_values`."""
        base = self._base
        asked = {"modality": modality, "batch_size": batch_size, **how}
        of_other_batches = how.get("transform_batch") is not None  # which may be new
        if base is None or of_other_batches or modality not in base.config.uni_block_names:
            yield from self._own_values(mosaic, cells, features=features, modalities=modalities, **asked)
            return

        def own(data: Mosaic, some: NDArray[np.int64], at: NDArray[np.int64], **which: Any) -> Stream:
            return self._own_values(data, some, **which, **asked)

        def theirs(data: Mosaic, some: NDArray[np.int64], at: NDArray[np.int64], **which: Any) -> Stream:
            return base._imputed_stream(data, some, **which, **asked)

        parts = self._parted(mosaic, cells, base, modality, features, modalities, batch_size, own, theirs)
        yield from ((rows, values) for rows, (values,) in parts)

    def _parted(
        self,
        mosaic: Mosaic,
        cells: NDArray[np.int64],
        base: Self,
        modality: str,
        features: Sequence[str] | None,
        modalities: Collection[str] | None,
        batch_size: int,
        own: Callable[..., Iterator[tuple[Any, ...]]],
        theirs: Callable[..., Iterator[tuple[Any, ...]]],
        n_tables: int = 1,
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Answers of cells, (rows, tables) at a time, each part of them by the model that knows it.

        Parameters
        ----------
        mosaic, cells, modality, features, modalities, batch_size
            What is asked for, as in `_imputed_stream`.
        base
            The model that this one grew from.
        own, theirs
            Answers of this model and of that one, (rows, table, ...) at a time, of data, cells, and their
            positions among all that are asked for.
        n_tables
            How many tables an answer has.
        """
        known = known_cells(mosaic, base.registry)
        before = as_before(mosaic, base.registry, known)
        names = self.imputed_features(modality)
        names = names if features is None else names[self._places(modality, features)]
        before_names = base.imputed_features(modality)
        is_theirs = names.isin(before_names)
        some = None if features is None and len(before_names) == is_theirs.sum() else list(names[is_theirs])
        columns = names.get_indexer(before_names if some is None else pd.Index(some))
        more, others = list(names[~is_theirs]), np.flatnonzero(~is_theirs)
        step = self._together(batch_size)
        for start in range(0, len(cells), step):
            chunk = cells[start : start + step]
            out = np.empty((n_tables, len(chunk), len(names)), np.float32)
            new, old = np.flatnonzero(~known[chunk]), np.flatnonzero(known[chunk])
            streams: list[tuple[Any, ...]] = [
                (new, np.arange(len(names)), own, mosaic, features, modalities),
                (old, others, own, mosaic, more, modalities),
                (old, columns, theirs, before, some, _among(modalities, before)),
            ]
            for rows, at, answer, data, wanted, seen in streams:
                if len(rows) and len(at):
                    answers = answer(data, chunk[rows], start + rows, features=wanted, modalities=seen)
                    for part, *tables in answers:
                        for i, values in enumerate(tables):
                            out[i][np.ix_(rows[part], at)] = values
            yield slice(start, start + len(chunk)), out

    def _together(self, batch_size: int) -> int:
        """Cells at a time that are as many as any of the models it grew from computes together."""
        own = rows_together(self.net, batch_size)
        return own if self._base is None else max(own, self._base._together(batch_size))

    def _own_values(
        self,
        mosaic: Mosaic,
        cells: NDArray[np.int64],
        *,
        modality: str,
        features: Sequence[str] | None,
        scale: str | None,
        library: float | None,
        transform_batch: TransformBatch,
        **how: Any,
    ) -> Stream:
        """The same by this model's own network, whatever it grew from."""
        _, loader = self._data(mosaic)
        wanted = ImputationRequest(
            m=self._position(modality),
            scale=self.imputed_scale(modality, scale=scale, library=library),
            features=None if features is None else self._places(modality, features),
            batches=batches_of(self.registry, modality, transform_batch),
        )
        stream = imputed(self.net, loader, mosaic, cells, [wanted], readout=self.readout(mosaic), **how)
        return ((part.rows, part.values[0]) for part in stream)

    @names_ours
    def imputed_scale(
        self, modality: str, *, scale: str | None = None, library: float | None = None
    ) -> Scale:
        """What imputed values of a modality mean; arguments as `get_imputed_values`."""
        m, readout = self._position(modality), self.readout()
        compared = None if readout is None else readout.scale_of(modality)
        return scale_of(self.net, self.registry, m, kind=scale, library=library, compared=compared)


def _among(modalities: Collection[str] | None, before: Mosaic) -> Collection[str] | None:
    """Those of some modalities that a model knew before."""
    known = [m.name for m in before.modalities]
    return None if modalities is None else [name for name in modalities if name in known]
