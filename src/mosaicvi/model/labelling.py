"""Labels of cells that have none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config.arguments import whole
from mosaicvi.config.names import names_ours
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.errors import InputError
from mosaicvi.infer.hidden import showing
from mosaicvi.infer.labels import UNLABELED, has_label, predict_labels
from mosaicvi.infer.latent import latent
from mosaicvi.infer.readout.views import Shown
from mosaicvi.model.answers import Answers
from mosaicvi.model.asked import minibatch_size, positions_of
from mosaicvi.model.columns import column_of, object_of

FEWEST_LABELLED = 20


class Labelling(Answers):
    """What carries labels from cells that have them to others."""

    @names_ours
    def predict_labels(
        self,
        label_key: str,
        *,
        mdata: MuData | AnnData | None = None,
        unlabeled: str | Collection[str] = UNLABELED,
        indices: Sequence[int] | NDArray[Any] | None = None,
        batch_size: int = 1024,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Label cells as the labelled cells near them in the latent, and say how sure that is.

        Parameters
        ----------
        label_key
            Column of ``obs`` of the model's data: labels of some of its cells.
        mdata
            Other data whose cells are to be labelled, with the same features; the model's own where None.
        unlabeled
            Value, or values, of the column that are no labels, whatever their case; missing ones are none
            either.
        indices
            Positions of the cells to label, or a boolean per cell; all where None. A cell that has a label is
            labelled by the others.
        batch_size
            Cells at a time; it does not change the answers.
        seed
            Decides which cells calibrate the probabilities where there are thousands.

        Returns
        -------
        DataFrame, a row per cell:

        - ``label``, ``probability``: the most probable label;
        - ``second_label``, ``second_probability``: the next;
        - ``distance``: to the nearest label's centre, in standard deviations within labels;
        - ``typicality``: share of labelled cells that lie as far or farther, if of them too only the
          features that this one has are seen;
        - ``none_of_these``: whether that is less than 1 %: then doubt the label, whatever its probability;
        - ``given``: the label that the cell has in the model's data, or None.

        Probabilities add up to less than 1 where the labelled batches show that others can have labels of
        their own.

        Raises
        ------
        InputError
            If there is no such column, or there are fewer than two labels or 20 labelled cells.

        Notes
        -----
        The nearest labelled cells vote, weighted by their distance in units of both posteriors' widths. The
        votes and the normal densities around the labels' centres are combined (logarithmic pooling; Genest &
        Zidek, Statistical Science 1986) such that labelled cells get probabilities that hold, when the
        encoder sees no more features of these than the cells in question have, and they find neighbours in
        other batches only where the batch in question has no labels. The distance is that of Lee et al.
        (NeurIPS 2018).
        """
        source = object_of(self.mosaic)
        if source is None and not self.mosaic.n_cells:
            raise InputError(
                "predict_labels: the model was opened without data, and keeps no labels; open it with the "
                "data that have them, MosaicVI.load(folder, reference), and give the others as mdata."
            )
        if source is None:
            raise InputError(
                "predict_labels: the data that the model was given are gone, and the labels with them; "
                "keep them in a variable while the model is in use."
            )
        column = column_of(source, label_key, "label_key", self.mosaic.cells)
        known = has_label(column, unlabeled)
        names, found = np.unique(column[known].astype(str).to_numpy(dtype=object), return_inverse=True)
        if len(names) < 2 or len(found) < FEWEST_LABELLED:
            raise InputError(
                f"label_key: {label_key!r} has {len(names)} label{'s' * (len(names) != 1)} on {len(found)} "
                f"cells; at least 2 on {FEWEST_LABELLED} cells are needed."
            )
        code = np.full(self.mosaic.n_cells, -1)
        code[known.to_numpy()] = found
        own, loader = self._data(None)
        asked, its_loader = self._data(mdata)
        cells = positions_of(indices, asked)
        size = minibatch_size(batch_size)

        def place(
            mosaic: Mosaic, of: NDArray[np.int64], view: Shown | None
        ) -> tuple[NDArray[Any], NDArray[Any]]:
            """Latent of cells as `get_latent_representation` gives it, in float64."""
            known = loader if mosaic is own else its_loader
            if view is not None:
                mosaic, of = showing(mosaic, of, view.features), np.arange(len(of))
                known = MinibatchLoader(mosaic, device=loader.device)
            mean, var = latent(self.net, known, of, batch_size=size)
            mean, var = self.align(mosaic, of, mean, var)
            return mean.astype(np.float64), var.astype(np.float64)

        labels = predict_labels(place, own, code, asked, cells, seed=whole("seed", seed))
        order = np.argsort(-labels.probability, axis=1, kind="stable")
        rows = np.arange(len(cells))
        first, second = order[:, 0], order[:, 1]
        of_code: NDArray[Any] = np.array([*names, None], object)
        of_name = pd.Series(of_code[code], index=self.mosaic.names())
        frame = pd.DataFrame(
            {
                "label": names[first],
                "probability": labels.probability[rows, first],
                "second_label": names[second],
                "second_probability": labels.probability[rows, second],
                "distance": labels.distance,
                "typicality": labels.typicality,
                "none_of_these": labels.is_far,
                "given": of_name.reindex(asked.names(cells)).to_numpy(),
            },
            index=asked.names(cells),
        )
        frame.attrs.update(
            {
                "label_key": label_key,
                "labels": [str(name) for name in names],
                "labelled_cells": len(found),
                "probability": "calibrated on labelled cells of which as much was measured",
            }
        )
        return frame
