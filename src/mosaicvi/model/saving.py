"""Saving a model, opening it again, and fitting new data to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from anndata import AnnData
from mudata import MuData

from mosaicvi.config.names import names_ours
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register import without_cells
from mosaicvi.data.register.query import align_to_model, told
from mosaicvi.data.register.source import Paths, Source
from mosaicvi.data.stored.memory import InMemory
from mosaicvi.fit.ending import Ending
from mosaicvi.infer.alignment import read_alignment
from mosaicvi.infer.intervals import read_spreads
from mosaicvi.infer.kept_accuracy import read_accuracy
from mosaicvi.infer.readout import read_readout
from mosaicvi.infer.reference import read_met, read_reference
from mosaicvi.model.keeping import Keeping
from mosaicvi.model.learning import shown_learning
from mosaicvi.model.registering import read_as
from mosaicvi.model.state import ModelState
from mosaicvi.nn.growth import transplant
from mosaicvi.ranks import place
from mosaicvi.store.parts import fitting_the_network
from mosaicvi.store.saved import Saved, described, known_of, read_model, write_model


class Saving(Keeping):
    """What writes and reads a model."""

    @names_ours
    def save(self, dir_path: str | Path, *, overwrite: bool = False, progress: bool | None = None) -> None:
        """Write the model to a folder: ``weights.safetensors`` and ``model.json``, nothing pickled.

        Parameters
        ----------
        dir_path
            The folder, which is written whole or not at all.
        overwrite
            Replace a model that is there.
        progress
            Say what is learnt from the data for answers without them; None does so on a terminal.

        Notes
        -----
        Of several processes the first writes, and the others return at once.
        """
        if not place().is_first:
            return
        with shown_learning(progress):
            said = self._described()
        write_model(
            Path(dir_path),
            said,
            net=self.net,
            fit=self._saved_fit if self._state is None else self._state.to_dict(),
            overwrite=overwrite,
        )

    def _described(self) -> dict[str, Any]:
        """All that is saved but the weights and the state of training."""
        readout = self.readout()
        reference = self.reference_cells() if self._base is None else None
        base = None if self._base is None else self._base._described()
        alignment = self.alignment() if base is None else None
        spreads, accuracy = self._spreads_if_sure(), self.kept_accuracy()
        return described(
            net=self.net,
            registry=self.registry,
            history=self.history,
            splits=self._splits,
            readout=readout.to_dict() if readout is not None else {} if self._reads_out else None,
            reference=None if reference is None else reference.to_dict(),
            alignment=(
                alignment.to_dict()
                if alignment is not None
                else {}
                if self._aligns and base is None
                else None
            ),
            lineage=self._lineage,
            met=None if self._met is None else self._met.to_dict(),
            grown=None if base is None else {"base": base, "sees": list(self._sees)},
            spreads=None if spreads is None else spreads.to_dict(),
            accuracy=None if accuracy is None else accuracy.to_dict(),
        )

    @classmethod
    @names_ours
    def load(
        cls,
        dir_path: str | Path,
        mdata: MuData | AnnData | Paths | Source | None = None,
        *,
        in_memory: InMemory = "auto",
    ) -> Self:
        """Read a saved model; it answers the same, to the bit.

        Parameters
        ----------
        dir_path
            The folder that `save` wrote. Nothing in it is executed.
        mdata
            The data to answer for, with the model's features, or their path, as in `setup_mudata`. Where
            None, every answer has to be given data.
        in_memory
            Whether values of a file are brought into memory, as in `setup_mudata`.

        Raises
        ------
        ModelFileError
            If the folder is damaged, foreign or too new.
        InputError
            If the data do not fit the model, naming the features.
        """
        saved = read_model(Path(dir_path))
        known = saved.registry
        mosaic = without_cells(known) if mdata is None else read_as(mdata, known, in_memory)
        model = cls._of_saved(saved, mosaic, Path(dir_path))
        model.mosaic = model._as_reference(mosaic)
        return model

    @classmethod
    def _of_saved(cls, saved: Saved, mosaic: Mosaic, folder: Path) -> Self:
        model = cls.__new__(cls)
        model._take(mosaic, saved.config, saved.net)
        model._saved_rows = saved.rows
        with fitting_the_network(folder, "the state of its training does not fit"):
            Ending.from_dict((saved.fit or {}).get("ending", {}))
        model._saved_fit = saved.fit
        model._splits = list(saved.splits)
        model._reads_out = saved.readout is not None
        model._written_by = saved.written_by
        model._lineage = saved.lineage
        if saved.met is not None:
            model._met = read_met(saved.met, saved.config, folder)
        if saved.reference is not None:
            model._reference_cells = read_reference(saved.reference, saved.config, folder)
        if saved.readout:
            model._readout = read_readout(saved.readout, saved.config, folder, n_batches=model._n_batches)
        if saved.spreads is not None:
            model._spreads = read_spreads(saved.spreads, saved.config, folder)
        if saved.accuracy is not None:
            model._accuracy = read_accuracy(saved.accuracy, saved.config, folder)
        model._aligns = saved.alignment is not None
        if saved.alignment:
            model._alignment = read_alignment(saved.alignment, saved.config, folder)
        if saved.base is not None:
            model._base = cls._of_saved(saved.base, without_cells(saved.base.registry), folder)
            small, large = (known_of(s.config, s.registry) for s in (saved.base, saved))
            weights = saved.base.net.state_dict()
            scratch = copy.deepcopy(saved.net)
            model._free = transplant(scratch, weights, small, large, sees=saved.sees)
            model._sees = saved.sees
        return model

    @staticmethod
    @names_ours
    def prepare_query(
        data: MuData | AnnData,
        reference: ModelState | str | Path,
        *,
        layers: Mapping[str, str] | None = None,
        take_as: Mapping[str, str] | None = None,
        match: Mapping[str, str | Sequence[str]] | None = None,
    ) -> MuData | AnnData:
        """A copy of new data with the features of a model, to ask the model about their cells.

        What the model knows and the data lack is marked as not measured, ``varm["measured"]``; what the model
        does not know is left out. Values are where those in training were, if they fit, or else in the one
        place that does.

        Parameters
        ----------
        data
            Cells with any of the model's modalities; an AnnData is the one whose features it has most of.
        reference
            The model, or the folder where it is saved.
        layers
            By modality, where its values are: a layer, ``"raw"``, or ``"X"``.
        take_as
            By column of obs, such as the batch's, the category as which cells are taken whose own the model
            has not seen, or that have none: they are decoded as of it, and the encoder sees counts of
            proteins without the level of that batch. Where none is named, they are decoded with the mean of
            all that it knows, and such counts of a new batch are brought to the level of the reference.
        match
            By modality, one or several rules for features that are written otherwise than the model's, as in
            `combine`; ``"overlap"`` takes a peak for that of the model which it overlaps most.
            ``uns["mosaicvi"]["matches"]`` then lists them.

        Returns
        -------
        MuData or AnnData for `load`, `get_latent_representation` and `get_imputed_values`.

        Raises
        ------
        InputError
            If a modality has none of the model's features, or its names occur more than once; if there is no
            such layer, column or category.
        ModelFileError
            If the folder cannot be read.
        MosaicWarning
            A warning that says how many of a modality's features are there, if not all are, and which values
            are taken, if they are not where those in training were.
        """
        registry = (
            reference.registry if isinstance(reference, ModelState) else read_model(Path(reference)).registry
        )
        return align_to_model(told(data, registry, layers=layers, take_as=take_as, match=match), registry)
