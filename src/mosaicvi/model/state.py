"""What a model holds, and what every kind of answer needs of it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config import NetworkConfig
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register import without_cells
from mosaicvi.data.register.join import joined
from mosaicvi.data.register.source import Paths
from mosaicvi.data.registry import Registry
from mosaicvi.data.splits import Split, held_out
from mosaicvi.data.staining import Staining, as_reference
from mosaicvi.data.stored.parked import is_parked, let_go, room
from mosaicvi.errors import InputError, warn
from mosaicvi.fit.ending import Ending, outcome
from mosaicvi.fit.state import FitState
from mosaicvi.infer.alignment import Alignment, fit_alignment
from mosaicvi.infer.intervals import Spreads, fit_spreads
from mosaicvi.infer.kept_accuracy import KeptAccuracy
from mosaicvi.infer.known import as_before
from mosaicvi.infer.latent import latent
from mosaicvi.infer.readout import ReadOut, fit_readout
from mosaicvi.infer.readout.views import Shown, shown_of_cells
from mosaicvi.infer.reference import Met, ReferenceCells
from mosaicvi.model.asked import Asked
from mosaicvi.model.columns import same_source
from mosaicvi.model.history import History
from mosaicvi.model.learning import learning
from mosaicvi.model.registering import read_as
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.store.saved import weights_digest

ALIGNED = 1 << 18  # cells together


class ModelState(Asked):
    """A network, the mosaic it was made for, how far it was trained, and its read-out."""

    def _take(self, mosaic: Mosaic, config: NetworkConfig, net: MosaicVAE) -> None:
        self.mosaic, self.config, self.net = mosaic, config, net
        self._loader: MinibatchLoader | None = None
        self._state: FitState | None = None
        self._saved_rows: list[dict[str, float]] = []
        self._saved_fit: dict[str, Any] | None = None
        self._splits: list[Split] = []
        self._reads_out = True  # or the decoder alone imputes, as the published method does
        self._readout: ReadOut | None = None
        self._views: set[Shown] = set()  # for which the read-out was fitted
        # cells of the model that this one grew from, and which of them were held out
        self._earlier: tuple[Mosaic, NDArray[np.bool_] | None] | None = None
        self._aligns = True  # or the latent is what the encoder says, as in the published method
        self._alignment: Alignment | None = None
        self._spreads: Spreads | None = None
        self._accuracy: KeptAccuracy | None = None
        self._reference_cells: ReferenceCells | None = None
        self._met: Met | None = None  # of a model that grew: all cells that it learnt from
        self._written_by: Mapping[str, str] = {}  # versions of a model that was opened
        self._lineage: tuple[dict[str, Any], ...] = ()  # the models that it grew from, the first one first
        self._base: Self | None = None  # what a model was before it grew with frozen weights
        self._free: Mapping[str, torch.Tensor] | None = None  # entries of weights that may be trained then
        self._sees: tuple[str, ...] = ()  # known modalities of whose new features the encoder learns

    @property
    def _rows(self) -> list[dict[str, float]]:
        return self._saved_rows if self._state is None else self._state.rows

    @property
    def history(self) -> pd.DataFrame:
        """Every term of the loss for training and validation, one row an epoch."""
        return History(pd.DataFrame(self._rows).rename_axis("epoch"))

    @property
    def training_end(self) -> Literal["settled", "most steps"] | None:
        """How a training without a number of epochs ended, None for another one or one that was stopped.

        The loss on held-out cells had stopped falling, or the most steps at one learning rate were done.
        """
        if self._state is not None:
            return outcome(self._state.ending, self._state.epoch)
        saved = (self._saved_fit or {}).get("ending")
        return None if saved is None else outcome(Ending.from_dict(saved), len(self._rows))

    @property
    def is_trained(self) -> bool:
        """Whether at least one epoch was finished, of this model or of one that it grew from."""
        return bool(self._rows or self._lineage)

    @property
    def stopped_by(self) -> int | None:
        """Number of the signal that ended the last training early, or None."""
        return None if self._state is None else self._state.stopped_by

    def ancestor(self) -> dict[str, Any]:
        """What a model that grows from this one remembers of it."""
        met = self.met()
        return {
            "weights": weights_digest(self.net),
            "cells": None if met is None else met.n_cells,
            "epochs": len(self._rows),
        }

    def met(self) -> Met | None:
        """The cells that this model and those that it grew from learnt from; None where that is not known."""
        kept = self.reference_cells() if self._met is None and not self._lineage else None
        return self._met if kept is None else Met(cells=kept.cells, panels=kept.panels)

    def _spreads_if_sure(self) -> Spreads | None:
        """How far values lie from what is imputed; None where no cells in training can tell."""
        return self.spreads() if self._spreads is not None or self.held_out() is not None else None

    def without_data(self) -> Self:
        """The same model without its cells, as if it had been saved and opened."""
        twin = type(self).__new__(type(self))
        twin._take(without_cells(self.registry), self.config, copy.deepcopy(self.net))
        twin._reads_out, twin._readout = self._reads_out, self.readout()
        twin._met = self._met
        twin._reference_cells, twin._written_by = self.reference_cells(), self._written_by
        twin._aligns, twin._spreads = self._aligns, self._spreads_if_sure()
        twin._alignment = self.alignment() if self._base is None else None
        twin._saved_rows, twin._splits = list(self._rows), list(self._splits)
        twin._lineage, twin._base, twin._free, twin._sees = (
            self._lineage,
            self._base,
            self._free,
            self._sees,
        )
        return twin

    def held_out(self, mosaic: Mosaic | None = None) -> NDArray[np.bool_] | None:
        """Which cells were kept for validation in every training of this model.

        Parameters
        ----------
        mosaic
            The cells; the model's own where None.

        Returns
        -------
        A boolean per cell; None where it cannot be told: nothing was trained, these are other cells, or an
        older version saved the model.
        """
        return held_out(self._splits, self.mosaic if mosaic is None else mosaic)

    def _data(self, data: MuData | AnnData | Paths | Mosaic | None) -> tuple[Mosaic, MinibatchLoader]:
        """The model's own data, or others read in the same way; a warning if the model knows nothing yet."""
        if not self.is_trained:
            warn("The model is not trained, so its answers are those of random weights; call train() first.")
        device = next(self.net.parameters()).device
        if data is None or data is self.mosaic:
            self._check_has_cells()
            if self._loader is None or self._loader.device != device:
                self._loader = MinibatchLoader(self.mosaic, device=device)
            return self.mosaic, self._loader
        if isinstance(data, Mosaic):
            if data.registry is not self.registry:
                raise InputError("The Mosaic was registered for another model; give the MuData or AnnData.")
            return data, MinibatchLoader(data, device=device)
        mosaic = self.registered(data)
        return mosaic, MinibatchLoader(mosaic, device=device)

    def registered(self, data: MuData | AnnData | Paths) -> Mosaic:
        """Other data as the model reads them, to ask it several things of them."""
        return self._as_reference(read_as(data, self.registry))

    def _as_reference(self, mosaic: Mosaic) -> Mosaic:
        """Cells of batches that the model has not seen, brought to the level of those that it has."""
        kept = self.reference_cells() if mosaic.unseen else None
        if kept is None:
            return mosaic
        found = as_reference(mosaic, self.staining_of(kept, self.registry))
        same_source(found, mosaic)
        return found

    def staining_of(self, kept: ReferenceCells, registry: Registry) -> dict[str, Staining]:
        """How strongly the batches of the reference are stained, with the features of a larger registry."""
        source, out = self._source(), {}
        for name, of in kept.staining.items():
            names = pd.Index(registry.features[name].names)
            out[name] = of.placed(
                names.get_indexer(pd.Index(source.registry.features[name].names)), len(names)
            )
        return out

    def _source(self) -> ModelState:
        """The model of which the cells were kept: the first of those that this one grew from, frozen."""
        source: ModelState = self
        while source._base is not None:
            source = source._base
        return source

    def _check_has_cells(self) -> None:
        if not self.mosaic.n_cells:
            raise InputError(
                "The model was opened without data; give the data to each answer, such as "
                "model.get_latent_representation(data), or open it with them, MosaicVI.load(dir_path, data)."
            )

    @property
    def registry(self) -> Registry:
        """What the model remembers of its data."""
        return self.mosaic.registry

    def readout(self, mosaic: Mosaic | None = None) -> ReadOut | None:
        """How counts are read out, fitted when it is first needed; None where the decoder alone imputes.

        Parameters
        ----------
        mosaic
            Cells that are to be answered for: where they show what no cell in training did, and the data in
            training are there, it is fitted for that as well.
        """
        if not (self._reads_out and self.is_trained):
            return None
        if self._readout is None:
            self._check_has_cells()
            learning("how counts are read out")
            self._readout = self._fit_readout()
        if mosaic is not None and mosaic is not self.mosaic and self.held_out() is not None:
            new = [v for v in shown_of_cells(mosaic)[1] if v not in self._views]
            self._views |= set(new)
            if new:
                learning("how counts are read out of what these cells show")
                more = self._fit_readout(new)
                self._readout = more.after(
                    self._readout, same=self.registry.features, n_batches=self._n_batches
                )
        return self._readout

    @property
    def _n_batches(self) -> int:
        """How many batches the model knows; 0 where its data have none."""
        key = self.registry.setup.batch_key
        return 0 if key is None else len(self.registry.categories[key])

    def _fit_readout(self, views: Sequence[Shown] | None = None) -> ReadOut:
        """The read-out by the model's own cells, and those of the one that it grew from."""
        whole, held = self.mosaic, self.held_out()
        if self._earlier is not None:
            earlier, held_earlier = self._earlier
            parts = [
                np.zeros(m.n_cells, bool) if h is None else h
                for m, h in ((earlier, held_earlier), (whole, held))
            ]
            whole, held = joined(earlier, whole), np.concatenate(parts)
        device = next(self.net.parameters()).device
        loader = MinibatchLoader(whole, device=device)
        before = None if self._base is None or views is not None else self._base.readout()
        known = {} if self._base is None else self._base.registry.features
        same = {name for name, of in known.items() if of.names == self.registry.features[name].names}
        left_out = () if before is None else before.untouched_by(self.mosaic, same=same)
        found = fit_readout(self.net, loader, whole, held_out=held, views=views, left_out=left_out)
        self._views |= set(shown_of_cells(whole)[1])
        if before is None:
            return found
        taught_by = whole if self._earlier is None else None
        return found.after(before, same=same, n_batches=self._n_batches, taught_by=taught_by)

    def reference_cells(self) -> ReferenceCells | None:
        """What is kept of the cells in training; None where nothing was trained, or was kept."""
        if self._base is not None:
            return self._base.reference_cells()
        if self._reference_cells is None and self.is_trained and self.held_out() is not None:
            learning("how far from one another cells lie")
            mosaic, loader = self._data(None)
            some = ReferenceCells.choose(mosaic.n_cells)
            z = self._place(mosaic, loader, some)

            def place(less: Mosaic) -> NDArray[np.float32]:
                return self._place(less, MinibatchLoader(less, device=loader.device), np.arange(less.n_cells))

            self._reference_cells = ReferenceCells.of(mosaic, z, place)
        return self._reference_cells

    def _place(
        self, mosaic: Mosaic, loader: MinibatchLoader, cells: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Latent of some cells, aligned, (n, ``dim_latent``)."""
        return self.align(mosaic, cells, *latent(self.net, loader, cells))[0]

    def align(
        self,
        mosaic: Mosaic,
        cells: NDArray[np.int64],
        mean: NDArray[np.float32],
        var: NDArray[np.float32],
        *,
        modalities: Collection[str] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and variance of the latent of cells, (n, ``dim_latent``) each, with their groups aligned.

        Parameters
        ----------
        mosaic, cells
            The data, and positions of the cells.
        mean, var
            What the encoder says of them.
        modalities
            What it was shown; all that was measured where None.
        """
        if self._base is not None:  # whose groups stay where they were
            before = as_before(mosaic, self._base.registry, np.ones(mosaic.n_cells, bool))
            known = [m.name for m in before.modalities]
            seen = None if modalities is None else [name for name in modalities if name in known]
            return self._base.align(before, cells, mean, var, modalities=seen)
        alignment = self.alignment()
        if alignment is None or not alignment.groups:
            return mean, var
        code, views = shown_of_cells(mosaic)
        shown = [view.only(modalities) for view in views]
        make = room if is_parked(mean) else np.empty
        z, spread = (make(one.shape, np.float32) for one in (mean, var))
        for first in range(0, len(cells), ALIGNED):
            some = slice(first, first + ALIGNED)
            of = mosaic.batch[cells[some]], code[cells[some]]
            z[some], spread[some] = alignment(mean[some].astype(float), var[some].astype(float), *of, shown)
            let_go()
        return z, spread

    def alignment(self) -> Alignment | None:
        """How batches are aligned in the latent, learnt when it is first needed; None where they are not."""
        if self._alignment is None and self._aligns and self.is_trained:
            learning("how batches are aligned")
            _, loader = self._data(None)
            self._alignment = fit_alignment(self.net, loader, self.mosaic)
        return self._alignment

    def spreads(self) -> Spreads | None:
        """How far values lie from what is imputed, learnt when it is first needed; None of nothing trained.

        Raises
        ------
        InputError
            These are other cells than the model was trained with, and it was saved without.
        """
        if self._spreads is None and self.is_trained:
            if self.held_out() is None:
                raise InputError(
                    "The model was saved without what its intervals need; open it with the data that it was "
                    "trained with, and save it again."
                )
            learning("how wide intervals are")
            _, loader = self._data(None)
            self._spreads = fit_spreads(
                self.net, loader, self.mosaic, self.readout(), held_out=self.held_out()
            )
        return self._spreads
