"""Comparisons of groups of cells, feature by feature, as a table.

Legend: n cells, d features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.covariates import batches_of
from mosaicvi.infer.differential.contrast import Contrast, adjusted, centre_of
from mosaicvi.infer.differential.kinds import Kind
from mosaicvi.infer.differential.measured import Comparison, column_chunks, score_of, strata_of, sums
from mosaicvi.infer.differential.moments import Floats, Ints, Moments
from mosaicvi.infer.differential.shrink import Posterior
from mosaicvi.infer.differential.unmeasured import ImputedError, imputed_contrast, learn_error
from mosaicvi.infer.impute import ImputationRequest, Scale, imputed
from mosaicvi.infer.latent import latent, rows_together
from mosaicvi.infer.readout import ReadOut
from mosaicvi.nn.vae import MosaicVAE

SMALLEST_Z = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is compared, and how.

    Attributes
    ----------
    m
        Position of the modality.
    code
        Group of each cell, -1 for none, (n,).
    comparisons
        Of these groups.
    delta
        Effects up to this size either way count as none.
    by_batch
        Whether cells are compared with cells of their own batch.
    fdr_target
        False discovery rate of what is called different, within a comparison.
    """

    m: int
    code: Ints
    comparisons: Sequence[Comparison]
    delta: float
    by_batch: bool
    fdr_target: float


class Differential:
    """Compares groups of a mosaic's cells.

    Parameters
    ----------
    net, loader, mosaic
        The trained network and the data.
    question
        What is compared.
    imputing
        Gives the scale of imputed values and how counts are read out, None for the decoder alone; asked where
        nothing was measured.
    held_out
        Which cells no training saw, (n,); None where that is not known.
    batch_size
        Cells at a time; it does not change the answers.
    seed
        Decides which cells tell of the error of imputed values.
    """

    def __init__(
        self,
        net: MosaicVAE,
        loader: MinibatchLoader,
        mosaic: Mosaic,
        question: Question,
        *,
        imputing: Callable[[], tuple[Scale, ReadOut | None]],
        held_out: NDArray[np.bool_] | None,
        batch_size: int,
        seed: int,
    ) -> None:
        self.net, self.loader, self.mosaic, self.question = net, loader, mosaic, question
        self.imputing, self.held_out, self.batch_size, self.seed = imputing, held_out, batch_size, seed
        self.data: ModalityData = mosaic.modalities[question.m]
        self.kind = Kind.of(self.data)
        self.n_groups = int(question.code.max()) + 1
        self.stratum, self.n_strata = strata_of(mosaic, self.data, by_batch=question.by_batch)
        self._error: ImputedError | None = None
        self._has_error = False

    def tables(self) -> Iterator[pd.DataFrame]:
        """A table of each comparison, a row for each feature in the network's order."""
        chunks = column_chunks(self.data.n_features, self.n_groups * self.n_strata)
        only = self._sums(chunks[0]) if len(chunks) == 1 else None

        def by_chunk(make: Callable[[Moments], dict[str, Floats]]) -> dict[str, Floats]:
            parts = [make(self._sums(chunk) if only is None else only) for chunk in chunks]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        for comparison in self.question.comparisons:
            centre = self._centre(by_chunk(partial(self._contrast, comparison=comparison, centre=0.0)))
            measured = by_chunk(partial(self._measured, comparison=comparison, centre=centre))
            yield self._table(comparison, measured)

    def _sums(self, columns: Ints) -> Moments:
        code = np.full(self.data.n_cells, -1)
        there = self.data.row_of_cell >= 0
        code[self.data.row_of_cell[there]] = self.question.code[there]
        return sums(self.data, self.kind, code, self.stratum, self.n_groups, self.n_strata, columns)

    def _contrast(self, found: Moments, comparison: Comparison, centre: float) -> dict[str, Floats]:
        score = score_of(found, comparison, self.n_groups, self.n_strata, self.kind)
        return {k: np.asarray(v) for k, v in dataclasses.asdict(score.contrast(centre)).items()}

    def _centre(self, contrast: dict[str, Floats]) -> float:
        return centre_of(_as_contrast(contrast), is_ratio=self.kind.is_ratio) if self.kind.counts else 0.0

    def _measured(self, found: Moments, comparison: Comparison, centre: float) -> dict[str, Floats]:
        """What the measured values say of some features."""
        score = score_of(found, comparison, self.n_groups, self.n_strata, self.kind)
        out = self._contrast(found, comparison, centre)
        out["p_value"] = score.p_value(self.question.delta, centre)
        for i, group in enumerate((score.first, score.second), 1):
            n = group.n.sum(0)
            some = np.where(n > 0, n, np.nan)
            out[f"n_measured{i}"] = n
            out[f"raw_mean{i}"] = group.raw.sum(0) / some
            out[f"non_zeros_proportion{i}"] = group.positive.sum(0) / some
        return out

    def _table(self, comparison: Comparison, found: dict[str, Floats]) -> pd.DataFrame:
        usable = found["usable"].astype(bool)
        p, contrast = found["p_value"], _as_contrast(found)
        evidence = np.where(usable, "measured", "none")
        if not usable.all():
            imputed_too = self._of_imputed(comparison)
            if imputed_too is not None:
                other, their_p = imputed_too
                contrast = _where(usable, contrast, other)
                p = np.where(usable, p, their_p)
                evidence = np.where(usable, "measured", "imputed")
        known = evidence != "none"
        q = adjusted(np.where(known, p, np.nan))
        answer = _posterior(contrast, known, self.question.delta)
        frame = pd.DataFrame(
            {
                "proba_de": answer["beyond"],
                "proba_not_de": 1 - answer["beyond"],
                "bayes_factor": answer["odds"],
                "lfc_mean": answer["mean"],
                "lfc_median": answer["median"],
                "lfc_std": answer["deviation"],
                "lfc": np.where(known, contrast.effect, np.nan),
                "lfc_se": np.where(known, contrast.error, np.nan),
                "p_value": np.where(known, p, np.nan),
                "p_adjusted": q,
                f"is_de_fdr_{self.question.fdr_target:g}": q <= self.question.fdr_target,
                "scale1": np.where(known, contrast.level1, np.nan),
                "scale2": np.where(known, contrast.level2, np.nan),
                **{
                    f"{name}{i}": found[f"{name}{i}"]
                    for name in ("raw_mean", "non_zeros_proportion")
                    for i in (1, 2)
                },
                "n_measured1": found["n_measured1"].astype(np.int64),
                "n_measured2": found["n_measured2"].astype(np.int64),
                "evidence": evidence,
            },
            index=pd.Index(self.data.features.names),
        )
        frame["comparison"] = f"{comparison.name1} vs {comparison.name2}"
        frame["group1"], frame["group2"] = comparison.name1, comparison.name2
        return frame

    # --- where nothing was measured ---------------------------------------------------------------

    def _of_imputed(self, comparison: Comparison) -> tuple[Contrast, Floats] | None:
        """The comparison by imputed values, and its p-values; None where their error is not known."""
        error = self._imputed_error()
        if error is None:
            return None
        first, second = (
            np.flatnonzero(np.isin(self.question.code, codes))
            for codes in (comparison.first, comparison.second)
        )
        found = imputed_contrast(
            self.mosaic,
            self.kind,
            self._impute,
            first,
            second,
            error,
            by_batch=self.question.by_batch,
            step=rows_together(self.net, self.batch_size),
        )
        if self.kind.counts:
            centre = centre_of(found, is_ratio=self.kind.is_ratio)
            found = dataclasses.replace(found, effect=found.effect - centre)
        p = error.p_value(found, 0.0)
        z = -scipy.stats.norm.ppf(np.clip(p / 2, 1e-300, 0.5))
        wide = np.where(z > SMALLEST_Z, np.abs(found.effect) / np.maximum(z, SMALLEST_Z), found.error)
        return dataclasses.replace(found, error=wide), error.p_value(found, self.question.delta)

    def _imputed_error(self) -> ImputedError | None:
        if not self._has_error:
            self._error = learn_error(
                self.mosaic,
                self.data,
                self.kind,
                lambda cells: latent(self.net, self.loader, cells, modalities=self._others())[0].astype(
                    np.float64
                ),
                self._impute,
                self.held_out,
                seed=self.seed,
            )
            self._has_error = True
        return self._error

    def _others(self) -> list[str]:
        return [m.name for m in self.mosaic.modalities if m.name != self.data.name]

    def _impute(self, cells: Ints, hide: bool) -> Floats:
        """Expected values of some cells, (n, d), in the network's order."""
        scale, readout = self.imputing()
        registry = self.mosaic.registry
        as_mean = None if registry.setup.batch_key is None else "mean"
        batches = batches_of(registry, self.data.name, as_mean)
        stream = imputed(
            self.net,
            self.loader,
            self.mosaic,
            cells,
            [ImputationRequest(m=self.question.m, scale=scale, batches=batches)],
            modalities=self._others() if hide else None,
            readout=readout,
            batch_size=self.batch_size,
        )
        values = np.concatenate([part.values[0] for part in stream]).astype(np.float64)
        return np.asarray(values[:, self.data.features.order])


def _as_contrast(found: dict[str, Floats]) -> Contrast:
    fields = [f.name for f in dataclasses.fields(Contrast)]
    return Contrast(**{name: found[name] for name in fields if name != "usable"}, usable=found["usable"] > 0)


def _where(chosen: NDArray[np.bool_], one: Contrast, other: Contrast) -> Contrast:
    fields = [f.name for f in dataclasses.fields(Contrast)]
    return Contrast(**{name: np.where(chosen, getattr(one, name), getattr(other, name)) for name in fields})


def _posterior(contrast: Contrast, known: NDArray[np.bool_], delta: float) -> dict[str, Floats]:
    """What is known of the effects, NaN where nothing is."""
    out = {name: np.full(len(known), np.nan) for name in ("beyond", "odds", "mean", "median", "deviation")}
    if known.any():
        found = Posterior.of(contrast.effect[known], contrast.error[known])
        beyond = found.beyond(delta)
        out["beyond"][known] = beyond
        out["odds"][known] = np.log(beyond + 1e-10) - np.log(1 - beyond + 1e-10)
        out["mean"][known], out["median"][known] = found.mean(), found.median()
        out["deviation"][known] = found.deviation()
    return out
