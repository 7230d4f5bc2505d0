"""Which answers can be believed: features that are imputed well, and cells like those of the training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config.arguments import whole
from mosaicvi.config.names import names_ours
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.registry import Registry
from mosaicvi.infer.accuracy import FeatureAccuracy, accuracies
from mosaicvi.infer.likelihood import depths, log_likelihoods, ranks
from mosaicvi.model.asked import minibatch_size, positions_of
from mosaicvi.model.comparing import Comparing
from mosaicvi.model.learning import learning


class Trusting(Comparing):
    """What says how far the model's other answers can be trusted."""

    @names_ours
    def imputation_accuracy(
        self,
        mdata: MuData | AnnData | Mosaic | None = None,
        *,
        modality: str | Sequence[str] | None = None,
        query: MuData | AnnData | Mosaic | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """How well each feature is imputed, by what was measured of a cell.

        For every set of features that cells of the data have, and for each modality alone, cells that
        measured more are shown to the model as those are, held-out cells where there are enough. Where single
        entries are missing, measured ones are hidden at random; those that are missing because they are low
        may be imputed worse.

        Parameters
        ----------
        mdata
            Other data with the same features; the model's own where None. A model that was opened without
            data says what it measured by them when it was saved: of a query, from what is most like that
            which its cells show.
        modality
            Which modality, or several; all where None.
        query
            Other cells, which lack something: asked is how well that is imputed, by hiding it of the data's
            cells. Where None, the data's own cells.
        seed
            Decides the test cells, where there are many.

        Returns
        -------
        DataFrame, a row for each feature and view that hides it, first the features that a panel lacks, then
        by how many cells lack them:

        - ``modality``, ``feature``, ``view``: what is imputed, and from what;
        - ``score``, ``measure``: correlation with the measured values within batches (of logarithms, for
          counts), or for peaks the area under the ROC curve;
        - ``believe``: ``"yes"`` from a correlation of 0.5 (AUROC 0.75) on, ``"partly"`` if above chance, else
          ``"no"``;
        - ``test_cells``, ``held_out``: by how many cells that was measured, and whether no training saw them;
        - ``lacking``: how many cells of the data, or of the query, have this view, and so lack the feature;
          of single entries (``view`` is "other entries of ..."), how many lack it though their panel has it;
        - ``panel``: whether other features of the modality are shown.

        Of views in the same words, such as two panels of as many features, a feature has the row of that
        which most cells have.
        """
        names = [modality] if isinstance(modality, str) else list(modality or self.config.uni_block_names)
        for name in names:
            self._position(name)
        asked = None if query is None else self._data(query)[0]
        found: Iterable[tuple[FeatureAccuracy, Registry]]
        if mdata is None and not self.mosaic.n_cells and self.kept_accuracy() is not None:
            found = self._kept_for(asked, names)
        else:
            learning("how well each feature is imputed")
            mosaic, loader = self._data(mdata)
            scored = accuracies(
                self.net,
                mosaic,
                loader,
                names,
                imputing=self._imputing,
                held_out=self.held_out(mosaic),
                seed=whole("seed", seed),
                query=asked,
            )
            found = ((one, self.registry) for one in scored)
        parts = []
        for one, registry in sorted(found, key=lambda pair: _place(pair[0])):
            features = np.asarray(registry.features[one.modality].names, object)[one.features]
            part = pd.DataFrame({"modality": one.modality, "feature": features, "view": one.view})
            part["score"], part["measure"] = one.score, one.measure
            part["believe"] = one.believe()
            part["test_cells"], part["held_out"] = one.n_cells, one.held_out
            part["lacking"], part["panel"] = one.lacking, one.partial
            parts.append(part)
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
        return table.drop_duplicates(["modality", "feature", "view"], ignore_index=True)

    @names_ours
    def cell_fit(
        self,
        mdata: MuData | AnnData | None = None,
        *,
        indices: Sequence[int] | NDArray[Any] | None = None,
        batch_size: int = 512,
        seed: int = 0,
    ) -> pd.DataFrame:
        """How likely what each cell measured is under the model, and which cells are unlike the training's.

        Parameters
        ----------
        mdata
            Other data with the same features; the model's own where None.
        indices
            Positions of cells, or a boolean per cell; all where None.
        batch_size
            Cells at a time; it does not change the answers.
        seed
            Decides with which of the model's cells they are compared, where there are thousands.

        Returns
        -------
        DataFrame, a row for each cell:

        - ``log_likelihood``: of all that it measured, at the mean of its latent;
        - ``per_feature_MOD``: of a modality, divided by the number of features, NaN where it has none;
        - ``rank_MOD``: the share of the model's own cells of about the same depth that are as unlikely;
        - ``rank``: the smallest of these, times their number;
        - ``unlike``: whether that is below 1 %: doublets, damaged cells, other tissue, other processing.
        """
        mosaic, loader = self._data(mdata)
        cells = positions_of(indices, mosaic)
        size = minibatch_size(batch_size)
        total, count = log_likelihoods(self.net, loader, cells, batch_size=size)
        own, own_loader = self._data(None)
        rng = np.random.default_rng(whole("seed", seed))
        some = np.sort(rng.permutation(own.n_cells)[:MOST_COMPARED])
        own_total, own_count = log_likelihoods(self.net, own_loader, some, batch_size=size)
        columns = {"log_likelihood": total.sum(1)}
        rank = np.full((len(cells), len(mosaic.modalities)), np.nan)
        for m, data in enumerate(mosaic.modalities):
            has, theirs = count[:, m] > 0, own_count[:, m] > 0
            each = np.divide(total[:, m], count[:, m], out=np.full(len(cells), np.nan), where=has)
            columns[f"per_feature_{data.name}"] = each
            if has.any() and theirs.any():
                rank[has, m] = ranks(
                    each[has],
                    depths(data, cells[has]),
                    own_total[theirs, m] / own_count[theirs, m],
                    depths(own.modality(data.name), some[theirs]),
                )
            columns[f"rank_{data.name}"] = rank[:, m]
        known = ~np.isnan(rank)
        least = np.where(known, rank, np.inf).min(1) * known.sum(1)
        columns["rank"] = np.where(known.any(1), np.minimum(least, 1.0), np.nan)
        frame = pd.DataFrame(columns, index=mosaic.names(cells))
        frame["unlike"] = frame["rank"] < UNLIKE
        return frame


def _place(one: FeatureAccuracy) -> tuple[bool, int]:
    """What panels lack comes first, then by how many cells lack it."""
    most = int(np.max(one.lacking, initial=0))
    return not (one.partial and most), -most


MOST_COMPARED = 5000
UNLIKE = 0.01
COLUMNS = ["modality", "feature", "view", "score", "measure", "believe"]
COLUMNS += ["test_cells", "held_out", "lacking", "panel"]
