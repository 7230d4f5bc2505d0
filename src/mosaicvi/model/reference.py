"""What a model knows, with its data or without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from mosaicvi.config.names import names_ours
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register.source import Paths
from mosaicvi.errors import InputError, quoted
from mosaicvi.infer.known import translated
from mosaicvi.infer.latent import latent
from mosaicvi.infer.readout.views import panels_of_cells
from mosaicvi.model.asked import minibatch_size
from mosaicvi.model.state import ModelState
from mosaicvi.store.format import versions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """What a model knows of the data that it was trained on.

    Attributes
    ----------
    modalities
        One row each: likelihood, transform, layer (empty for ``X``), number of features, blocks and panels.
    categories
        By column of obs, the batch's first, the categories that have weights of their own.
    numbers
        Columns of obs with numbers that are corrected for.
    cells
        Cells of each batch, in all and with each modality, of the training and of all growth; empty where an
        older version saved the model.
    panels
        By modality, features × panels, boolean.
    training
        Epochs, the loss on held-out cells, their share and the seed.
    versions
        Of the libraries that wrote the model, or that run now.
    lineage
        The models that it grew from, the first one first: a digest of their weights, cells and epochs; and of
        each whether its weights stayed as they were when it grew, and what was new then.
    levels
        By modality, of batches learnt by growth × features, by what their counts are divided, as they are
        stained more strongly by so much; NaN where that is not known.
    """

    modalities: pd.DataFrame
    categories: Mapping[str, tuple[str, ...]]
    numbers: tuple[str, ...]
    cells: pd.DataFrame
    panels: Mapping[str, pd.DataFrame]
    training: Mapping[str, float | int | None]
    versions: Mapping[str, str]
    lineage: tuple[Mapping[str, Any], ...] = ()
    levels: Mapping[str, pd.DataFrame] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON; of panels their names and numbers of features."""
        return {
            "modalities": self.modalities.to_dict("index"),
            "categories": {key: list(names) for key, names in self.categories.items()},
            "numbers": list(self.numbers),
            "cells": self.cells.to_dict("index"),
            "panels": {name: table.sum().astype(int).to_dict() for name, table in self.panels.items()},
            "training": dict(self.training),
            "versions": dict(self.versions),
            "lineage": [dict(one) for one in self.lineage],
            "levels": {
                name: {str(batch): row.dropna().to_dict() for batch, row in table.iterrows()}
                for name, table in self.levels.items()
            },
        }

    def __repr__(self) -> str:
        n = "" if self.cells.empty else f" of {int(self.cells['cells'].sum()):,} cells"
        corrected = [f"{key} ({len(names)})" for key, names in self.categories.items()] + list(self.numbers)
        parts = [
            f"Reference{n}",
            self.modalities.to_string(),
            f"Corrected for: {', '.join(corrected) or 'nothing'}",
            "" if self.cells.empty else self.cells.to_string(),
            "Training: " + ", ".join(f"{k} {v:.6g}" for k, v in self.training.items() if v is not None),
            "" if not self.lineage else "\n".join(["Grew from", *_told(self.lineage)]),
            "Versions: " + ", ".join(f"{k} {v}" for k, v in self.versions.items()),
        ]
        return "\n\n".join(part for part in parts if part)


def _told(lineage: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each model and one for what it learnt next."""
    said = []
    for one in lineage:
        n = "a model" if one["cells"] is None else f"a model of {one['cells']:,} cells"
        said.append(f"  {n}, {one['epochs']} epochs, weights {one['weights'][:12]},")
        new, frozen = one.get("new"), one.get("frozen")
        parts = [] if new is None else _words_of(new)
        how = {None: "", True: ", its weights frozen", False: ", all weights trained"}[frozen]
        said.append(f"  which learnt {', '.join(parts) or ('nothing new' if new else 'more')}{how}")
    return said


def _words_of(new: Mapping[str, Any]) -> list[str]:
    said = [f"{key} {quoted(names)}" for key, names in new["categories"].items() if names]
    said += [f"modality {name} ({new['features'][name]:,} features)" for name in new["modalities"]]
    known = {name: n for name, n in new["features"].items() if name not in new["modalities"]}
    return said + [f"{n:,} features of {name}" for name, n in known.items()]


class Referring(ModelState):
    """What says of a model what it knows."""

    @property
    def reference(self) -> Reference:
        """What the model knows: modalities, panels, batches, how it was trained, and with which versions."""
        registry, met = self.registry, self.met()
        rows = {
            name: {
                "likelihood": registry.likelihoods[name],
                "transform": registry.transforms[name],
                "layer": registry.setup.layers.get(name, ""),
                "features": len(features.names),
                "blocks": len(features.blocks),
                "panels": len(met.panels[name]) if met is not None and name in met.panels else None,
            }
            for name, features in registry.features.items()
        }
        modalities = pd.DataFrame.from_dict(rows, orient="index").convert_dtypes()
        cells = pd.DataFrame() if met is None else pd.DataFrame.from_dict(dict(met.cells), orient="index")
        if met is not None:
            cells = cells[["", *registry.features]].fillna(0).astype(int)
        return Reference(
            modalities=modalities.rename_axis("modality"),
            categories=registry.categories,
            numbers=tuple(registry.centre),
            cells=cells.rename(columns={"": "cells"}),
            panels={}
            if met is None
            else {
                name: pd.DataFrame(table.T, index=list(registry.features[name].names))
                for name, table in met.panels.items()
            },
            lineage=self._lineage,
            levels={
                name: pd.DataFrame.from_dict(
                    {batch: {f: float(np.exp(gap)) for f, gap in gaps.items()} for batch, gaps in of.items()},
                    orient="index",
                )
                for name, of in registry.levels.items()
            },
            training=self._how_trained(),
            versions=self._written_by or versions(),
        )

    @names_ours
    def distance_to_reference(
        self, mdata: MuData | AnnData | Paths | Mosaic | None = None, *, batch_size: int = 1024
    ) -> pd.DataFrame:
        """How far cells lie from those that the model was trained on, in the latent space.

        Parameters
        ----------
        mdata
            The cells; the model's own where None.
        batch_size
            Cells at a time; it does not change the answers.

        Returns
        -------
        One row a cell: ``distance``, the mean over its 15 nearest reference cells, and ``rank``, the share of
        the reference's own cells that lie nearer to theirs when no more is seen of them: the same modalities,
        and about as many features. A rank of 1 is a cell unlike all of them.

        Raises
        ------
        InputError
            If the model is not trained, or an older version saved it and its data are not there.
        """
        kept = self.reference_cells()
        if kept is None:
            raise InputError(
                "The model keeps no cells to compare with; train it, or open it with the data that it was "
                "trained on, MosaicVI.load(dir_path, data), and save it again."
            )
        mosaic, loader = self._data(mdata)
        cells = np.arange(mosaic.n_cells)
        z, var = latent(self.net, loader, cells, batch_size=minibatch_size(batch_size))
        code, views = panels_of_cells(mosaic)
        source = self._source()  # of which the cells were kept
        known = [translated(view, self.registry, source.registry) for view in views]
        far, rank = kept.distances(self.align(mosaic, cells, z, var)[0], code, known)
        return pd.DataFrame({"distance": far, "rank": rank}, index=mosaic.names())

    def _how_trained(self) -> dict[str, float | int | None]:
        last = self._rows[-1] if self._rows else {}
        split = self._splits[-1] if self._splits else None
        return {
            "epochs": len(self._rows),
            "validation loss": last.get("validation_loss"),
            "share of cells trained on": None if split is None else split.train_size,
            "seed": None if split is None else split.seed,
        }
