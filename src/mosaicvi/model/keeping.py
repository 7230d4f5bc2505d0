"""How well a model imputes, which it keeps so that it can say so without its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.registry import Registry
from mosaicvi.infer.accuracy import FeatureAccuracy, accuracies, views_of
from mosaicvi.infer.hidden import missing_entries
from mosaicvi.infer.impute import Scale
from mosaicvi.infer.kept_accuracy import KeptAccuracy
from mosaicvi.infer.known import translated
from mosaicvi.infer.readout import ReadOut
from mosaicvi.infer.readout.views import Shown
from mosaicvi.model.answers import Answers
from mosaicvi.model.learning import learning


class Keeping(Answers):
    """What measures, once, how well each feature is imputed."""

    def kept_accuracy(self) -> KeptAccuracy | None:
        """How well features are imputed from each view of the cells in training.

        Measured when it is first needed; None where nothing was trained, or where those cells are not at hand
        and an older version saved the model.
        """
        if self._accuracy is None and self.is_trained and self.held_out() is not None:
            learning("how well each feature is imputed")
            mosaic, loader = self._data(None)
            found = accuracies(
                self.net,
                mosaic,
                loader,
                list(self.config.uni_block_names),
                imputing=self._imputing,
                held_out=self.held_out(),
                seed=0,
            )
            self._accuracy = KeptAccuracy(parts=tuple(found))
        return self._accuracy

    def without_data(self) -> Self:
        """The same model without its cells, as if it had been saved and opened."""
        kept, twin = self.kept_accuracy(), super().without_data()
        twin._accuracy = kept
        return twin

    def _kept_for(
        self, query: Mosaic | None, names: Collection[str]
    ) -> Iterator[tuple[FeatureAccuracy, Registry]]:
        """Of what is kept that which speaks for a query, and whose features it names; all without a query.

        A model that grew says first what its own cells told, then what those told that it grew from.
        """
        if query is None:
            source: Keeping | None = self
            while source is not None:
                kept = source.kept_accuracy()
                for part in () if kept is None else kept.parts:
                    if part.modality in names:
                        yield part, source.registry
                source = source._base
            return
        yield from self._told_by_views(query, names)
        kept = self.kept_accuracy()
        for name in names:
            missing = missing_entries(query.modality(name))
            entries = None if kept is None else kept.of_entries(name)
            if entries is not None and missing.any():
                here = missing[entries.features] > 0
                yield _some(entries, here, missing[entries.features][here]), self.registry

    def _told_by_views(
        self, query: Mosaic, names: Collection[str]
    ) -> Iterator[tuple[FeatureAccuracy, Registry]]:
        """What speaks for the views of a query, each part once, with how many cells lack each feature."""
        told: dict[int, tuple[FeatureAccuracy, Registry, NDArray[np.int64]]] = {}
        for view, n in views_of(query).items():
            for name in names:
                own = view.features.get(name)
                found = self._nearest(view, name)
                if found is not None and (own is None or not own.all()):
                    part, registry = found
                    there = translated(view, self.registry, registry).features.get(name)
                    lacks = np.ones(len(part.features), bool) if there is None else ~there[part.features]
                    told.setdefault(id(part), (part, registry, np.zeros(len(lacks), np.int64)))[2][lacks] += n
        for part, registry, lacking in told.values():
            yield _some(part, lacking > 0, lacking[lacking > 0]), registry

    def _nearest(self, view: Shown, name: str) -> tuple[FeatureAccuracy, Registry] | None:
        source: Keeping | None = self
        while source is not None and name in source.registry.features:
            kept, there = source.kept_accuracy(), translated(view, self.registry, source.registry)
            found = None if kept is None else kept.nearest(there, name)
            if found is not None:
                return found, source.registry
            source = source._base
        return None

    def _imputing(self, modality: str) -> tuple[Scale, ReadOut | None]:
        """On which scale values are imputed to be compared, counts at one library, and how."""
        scale = self.imputed_scale(modality)
        if scale.kind == "counts":
            scale = self.imputed_scale(modality, library=self.registry.median_library[modality])
        return scale, self.readout()


def _some(part: FeatureAccuracy, which: np.ndarray, lacking: int | np.ndarray) -> FeatureAccuracy:
    """That of some of the features, which so many cells lack."""
    return dataclasses.replace(
        part,
        features=part.features[which],
        score=part.score[which],
        n_cells=part.n_cells[which],
        lacking=lacking,
    )
