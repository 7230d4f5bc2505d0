"""Which features differ between groups of cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from itertools import permutations
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config.arguments import number, whole
from mosaicvi.config.names import names_ours
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.errors import InputError, quoted, warn
from mosaicvi.infer.differential import Comparison, Differential, Question
from mosaicvi.infer.differential.contrast import FEWEST_CELLS
from mosaicvi.infer.labels import UNLABELED, has_label
from mosaicvi.model.asked import minibatch_size, positions_of
from mosaicvi.model.columns import cells_where, column_of, object_of
from mosaicvi.model.keeping import Keeping

DELTA = 0.25
REST = "Rest"
Cells = str | Sequence[int] | NDArray[Any]


class Comparing(Keeping):
    """What compares groups of cells, feature by feature."""

    @names_ours
    def differential_expression(
        self,
        mdata: MuData | AnnData | None = None,
        *,
        modality: str,
        groupby: str | None = None,
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        idx1: Cells | None = None,
        idx2: Cells | None = None,
        unlabeled: str | Collection[str] = UNLABELED,
        mode: Literal["change", "vanilla"] = "change",
        delta: float | None = None,
        batch_correction: bool = True,
        fdr_target: float = 0.05,
        features: Sequence[str] | None = None,
        batch_size: int = 512,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Compare groups of cells: which genes, proteins, peaks or other values differ, and by how much.

        Parameters
        ----------
        mdata
            Other data with the same features; the model's own where None.
        modality
            Whose features are compared.
        groupby
            Column of ``obs`` with the groups.
        group1, group2
            Which groups: one or several of the column, each against `group2`, or against all other cells
            of the column where that is None; all of them where `group1` is None. ``group2="pairs"``
            compares every group with every other.
        idx1, idx2
            In place of a column: positions of the cells of the groups, a boolean per cell, or a query of
            ``obs`` such as ``"cell_type == 'B'"``; `idx2` is all others where None.
        unlabeled
            Value, or values, of the column that are no group, as missing ones are none, unless `group1` or
            `group2` names it.
        mode
            ``"change"`` asks for effects of more than `delta`, ``"vanilla"`` for any.
        delta
            Of effects, either way: 0.25 where None.
        batch_correction
            Compare cells with cells of their own batch. Where no batch has cells of both groups, False
            compares what was measured all the same.
        fdr_target
            False discovery rate of ``is_de_fdr_...`` within each comparison.
        features
            Names of features to return; they are judged together with all others.
        batch_size
            Cells at a time; it does not change the answers.
        seed
            Decides which cells tell of the error of imputed values.

        Returns
        -------
        DataFrame, a row for each feature and comparison, likeliest differences first, with the names of
        scvi-tools where they mean the same:

        - ``proba_de``, ``proba_not_de``, ``bayes_factor``: probability of an effect of more than `delta`
          (vanilla: of any), and the logarithm of its odds;
        - ``lfc_mean``, ``lfc_median``, ``lfc_std``: the effect given all there is, drawn towards 0; ``lfc``,
          ``lfc_se``: its estimate and standard error;
        - ``p_value``, ``p_adjusted``, ``is_de_fdr_0.05``: the test, corrected for the number of features;
        - ``scale1``, ``scale2``: the means that are compared; ``raw_mean1``, ``non_zeros_proportion1``,
          ``n_measured1`` and the same of group 2: of the values that cells of the group measured;
        - ``evidence``: ``"measured"``, or ``"imputed"`` where no batch has cells of both groups that measured
          the feature, or ``"none"``;
        - ``comparison``, ``group1``, ``group2``.

        ``attrs["effect"]`` says what the effect is: the log2 ratio of shares of the library for RNA and
        peaks, the difference of the mean log2(1 + count) for counts often above 0 such as proteins, the
        difference of the means for other values.

        Raises
        ------
        InputError
            If groups are not named, unknown, or empty.

        Notes
        -----
        Imputed values are no measurements: a test that took them for such would find differences that the
        model itself has made. Where cells measured a feature, their values alone are compared, batch by
        batch, by a score test whose variance comes from those cells (see the page on differential features).
        Where none did, imputed values are compared, with an error learned by hiding what held-out cells
        measured. p-values are adjusted after Benjamini and Hochberg (1995); effects are drawn towards 0 by a
        prior that is fitted to all of them (Stephens, Biostatistics 2017).
        """
        mosaic, loader = self._data(mdata)
        m = self._position(modality)
        if mode not in ("change", "vanilla"):
            raise InputError(f"mode: 'change' or 'vanilla', not {mode!r}.")
        if mode == "vanilla" and delta:
            raise InputError("delta: 'vanilla' asks for any difference; use mode='change', or no delta.")
        least = (DELTA if delta is None else number("delta", delta)) if mode == "change" else 0.0
        if not least >= 0:
            raise InputError(f"delta: must be >= 0, not {delta!r}.")
        if not 0 < number("fdr_target", fdr_target) < 1:
            raise InputError(f"fdr_target: between 0 and 1, not {fdr_target!r}.")
        chosen = None if features is None else self._places(modality, features)
        if (groupby is None) == (idx1 is None):
            raise InputError("groupby: name a column of obs, or the cells of the groups with idx1 and idx2.")
        if groupby is not None:
            source = _source_of(mosaic, "groupby")
            named = {unlabeled} if isinstance(unlabeled, str) else set(unlabeled)
            code, comparisons = _by_column(source, groupby, group1, group2, mosaic, no_group=named)
        else:
            code, comparisons = _by_cells(idx1, idx2, mosaic)
        question = Question(
            m=m,
            code=code,
            comparisons=comparisons,
            delta=float(least),
            by_batch=batch_correction,
            fdr_target=float(fdr_target),
        )
        ask = Differential(
            self.net,
            loader,
            mosaic,
            question,
            imputing=partial(self._imputing, modality),
            held_out=self.held_out(mosaic),
            batch_size=minibatch_size(batch_size),
            seed=whole("seed", seed),
        )
        order = np.argsort(mosaic.modalities[m].features.order, kind="stable")
        tables, apart = [], []
        for table in ask.tables():
            if batch_correction and _never_together(table):
                apart.append(f"{table['group1'].iloc[0]} and {table['group2'].iloc[0]}")
            ours = table.iloc[order if chosen is None else order[chosen]]
            tables.append(ours.sort_values(["proba_de", "p_value"], ascending=[False, True], kind="stable"))
        found = pd.concat(tables)
        if apart:
            more = f" (as in {len(apart) - 1:,} more comparisons)" if apart[1:] else ""
            warn(
                f"{modality}: no batch has three cells of both {apart[0]} that measured the "
                f"same feature{more}; batch_correction=False compares what was measured, differences between "
                "batches included."
            )
        found.attrs.update(
            {
                "modality": modality,
                "effect": ask.kind.effect,
                "mode": mode,
                "delta": question.delta,
                "fdr_target": question.fdr_target,
                "batch_correction": batch_correction,
                "groupby": groupby,
                "cells_without_a_group": int((code < 0).sum()),
            }
        )
        return found


def _never_together(table: pd.DataFrame) -> bool:
    """Whether both groups have measured values, but no batch has enough of both to compare them."""
    both = table[["n_measured1", "n_measured2"]].min(axis=1) >= FEWEST_CELLS
    return not (table["evidence"] == "measured").any() and bool(both.any())


def _by_column(
    source: MuData | AnnData,
    groupby: str,
    group1: str | Sequence[str] | None,
    group2: str | None,
    mosaic: Mosaic,
    *,
    no_group: Collection[str],
) -> tuple[NDArray[np.int64], list[Comparison]]:
    """Group of each cell, and the comparisons of these that were asked for."""
    column = column_of(source, groupby, "groupby", mosaic.cells)
    asked = {group1, group2} if isinstance(group1, str) else {*(group1 or ()), group2}
    meant = {name.casefold() for name in asked if name is not None}
    known = has_label(column, [name for name in no_group if name.casefold() not in meant]).to_numpy()
    names, found = np.unique(column[known].astype(str).to_numpy(dtype=object), return_inverse=True)
    code = np.full(mosaic.n_cells, -1)
    code[known] = found
    at = {str(name): i for i, name in enumerate(names)}
    if len(names) < 2:
        raise InputError(f"groupby: {groupby!r} has {len(names)} group; two at least are compared.")
    wanted = [group1] if isinstance(group1, str) else list(at) if group1 is None else list(group1)
    against = [] if group2 in (None, "pairs") else [group2]
    for argument, some in (("group1", wanted), ("group2", against)):
        for name in some:
            if name not in at:
                if argument == "group2" and name.casefold() == REST.casefold():
                    raise InputError("group2: leave it out; each group is then compared with all others.")
                raise InputError(f"{argument}: {groupby!r} has no group {name!r}; it has {quoted(at)}.")
    if group2 == "pairs":
        pairs = list(permutations(at, 2)) if group1 is not None else list(_pairs(list(at)))
        pairs = [(a, b) for a, b in pairs if group1 is None or a in wanted]
    else:
        pairs = [(name, group2 or REST) for name in wanted if name != group2]
    out = []
    for one, other in pairs:
        second = (at[other],) if other in at else tuple(i for name, i in at.items() if name != one)
        out.append(Comparison(name1=one, name2=other, first=(at[one],), second=second))
    return code, out


def _pairs(names: list[str]) -> list[tuple[str, str]]:
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]


def _by_cells(
    idx1: Cells | None, idx2: Cells | None, mosaic: Mosaic
) -> tuple[NDArray[np.int64], list[Comparison]]:
    """Group of each cell, and the one comparison."""
    first = _cells(idx1, mosaic, "idx1")
    second = np.setdiff1d(np.arange(mosaic.n_cells), first) if idx2 is None else _cells(idx2, mosaic, "idx2")
    for argument, cells in (("idx1", first), ("idx2", second)):
        if not len(cells):
            raise InputError(f"{argument}: no cell; name at least one.")
    both = np.intersect1d(first, second)
    if len(both):
        raise InputError(f"idx2: {len(both):,} cells are in idx1 as well; a cell belongs to one group.")
    code = np.full(mosaic.n_cells, -1)
    code[first], code[second] = 0, 1
    name2 = REST if idx2 is None else "group2"
    return code, [Comparison(name1="group1", name2=name2, first=(0,), second=(1,))]


def _cells(chosen: Cells | None, mosaic: Mosaic, argument: str) -> NDArray[np.int64]:
    if isinstance(chosen, str):
        return cells_where(_source_of(mosaic, argument), chosen, argument, mosaic.names())
    return positions_of(chosen, mosaic, argument=argument)


def _source_of(mosaic: Mosaic, argument: str) -> MuData | AnnData:
    """The data that have the columns."""
    source = object_of(mosaic)
    if source is None:
        raise InputError(
            f"{argument}: the data that the model was given are gone, and their columns with them; keep them "
            "in a variable while the model is in use."
        )
    return source
