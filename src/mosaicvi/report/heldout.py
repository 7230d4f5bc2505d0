"""How well values are filled in that the model is not shown: whole modalities, and single entries.

What was measured is hidden from the encoder, imputed, and compared with the truth; so are the mean of each
feature, and the average over the nearest cells in what remains.

Shapes: q test cells, d features scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi import likelihoods
from mosaicvi.baselines import knn_baseline, mean_baseline, nearest_baseline
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.hidden import without_entries
from mosaicvi.infer.impute import Scale
from mosaicvi.metrics import auroc_overall, auroc_per_feature, correlation_overall, correlation_per_feature

if TYPE_CHECKING:
    from mosaicvi.model import MosaicVI

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MODEL, NEIGHBOURS, MEAN = "model", "neighbours", "mean"
METHODS = (MODEL, NEIGHBOURS, MEAN)
MOST_CELLS = 500
MOST_TRAINING = 2_500
MOST_FEATURES = 1_000
FEWEST_PAIRED = 40
FEWEST_POSITIVE = 10
FEWEST_MEASURED = 20
PARTS = 5
N_NEIGHBOURS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One test: what was hidden, and how well each method filled it in.

    Attributes
    ----------
    modality
        Of the hidden values.
    source
        What remained to impute from, in words.
    whole
        Whether the whole modality was hidden, or single entries.
    every_part
        Of single entries: whether each was hidden once, a part of them at a time, or one part of them alone.
    n_cells
        Number of test cells.
    held_out
        Whether the test cells were held out from training; None where that is not known.
    features
        Names of those scored, the most variable ones.
    n_features
        How many the modality has.
    n_values
        How many hidden values were compared.
    measure
        ``"correlation"`` (of logarithms for counts), or for accessibility ``"AUROC"``.
    per_feature
        Method → score of each feature, (d,).
    overall
        Method → score over all entries together.
    explained
        Method → share of the variance around the feature's mean that is explained, over all entries.
    """

    modality: str
    source: str
    whole: bool
    every_part: bool
    n_cells: int
    n_features: int
    n_values: int
    features: tuple[str, ...]
    measure: str
    per_feature: dict[str, Floats]
    overall: dict[str, float]
    explained: dict[str, float]
    held_out: bool | None = None

    @property
    def chance(self) -> float:
        """Score of knowing nothing about a cell."""
        return 0.5 if self.measure == "AUROC" else 0.0

    def median(self, method: str) -> float:
        """Median score of the features; NaN if none can be scored."""
        known = self.per_feature[method][~np.isnan(self.per_feature[method])]
        return float(np.median(known)) if len(known) else float("nan")


def hide_modality(model: MosaicVI, mosaic: Mosaic, name: str, *, seed: int = 0) -> Accuracy | None:
    """Hide a whole modality of cells that measured another one; None where no test is possible."""
    m = mosaic.modality(name)
    source = _best_source(mosaic, m)
    if source is None:
        return None
    paired = np.flatnonzero((m.row_of_cell >= 0) & (source.row_of_cell >= 0))
    asked, rest, unseen = _split_cells(paired, model.held_out(mosaic), np.random.default_rng([seed, 2]))
    others = [o.name for o in mosaic.modalities if o.name != name]
    chosen = _scorable(m, m.row_of_cell[asked], m.row_of_cell[rest])
    if not len(chosen):
        return None
    scale = _scale(model, name)
    truth = _comparable(m, asked, chosen, scale)
    training = _comparable(m, rest, chosen, scale)
    guesses = {
        MODEL: _of_model(model, mosaic, m, asked, chosen, scale, others),
        NEIGHBOURS: _of_neighbours(source, rest, asked, training, seed),
        MEAN: mean_baseline(training, len(asked)),
    }
    seen = [o.name for o in mosaic.modalities if o.name != name and (o.row_of_cell[asked] >= 0).any()]
    said = {"source": " and ".join(seen), "whole": True, "every_part": False, "held_out": unseen}
    return _scored(m, chosen, truth, guesses, scale, **said)


def hide_entries(model: MosaicVI, mosaic: Mosaic, name: str, *, seed: int = 0) -> Accuracy | None:
    """Hide a fifth of a modality's measured entries at random; None where no test is possible.

    Where single entries are missing, the other fifths as well, one after the other: each feature has fewer
    values to compare.
    """
    m = mosaic.modality(name)
    rng = np.random.default_rng([seed, 3])
    has = np.flatnonzero(m.row_of_cell >= 0)
    if len(has) < FEWEST_PAIRED:
        return None
    asked, rest, unseen = _split_cells(has, model.held_out(mosaic), rng)
    chosen = _scorable(m, m.row_of_cell[asked], m.row_of_cell[rest])
    if not len(chosen):
        return None
    part = np.floor(rng.random((len(asked), m.n_features), dtype=np.float32) * PARTS)
    scale = _scale(model, name)
    truth = _comparable(m, asked, chosen, scale)
    training = _comparable(m, rest, chosen, scale)
    n_hidden = 1 if m.entry_measured is None else PARTS
    truth[part[:, chosen] >= n_hidden] = np.nan
    guesses: dict[str, Any] = {MEAN: mean_baseline(training, len(asked))}
    for i in range(n_hidden):
        hidden = part == i
        masked = without_entries(mosaic, m, asked, hidden)
        remaining = masked.modality(name)
        query = remaining.x if m.whole else _with_gaps(remaining, np.arange(len(asked)))
        found = {
            MODEL: _of_model(model, masked, remaining, np.arange(len(asked)), chosen, scale, None),
            NEIGHBOURS: _of_neighbours(m, rest, asked, training, seed, query=query),
        }
        for method, guess in found.items():
            if guess is not None:
                guesses[method] = np.where(hidden[:, chosen], guess, guesses.get(method, guess))
    source = f"the other {1 - 1 / PARTS:.0%} of {name} and what else the cell measured"
    said = {"source": source, "whole": False, "every_part": n_hidden == PARTS, "held_out": unseen}
    return _scored(m, chosen, truth, guesses, scale, **said)


# --- who and what -------------------------------------------------------------------------------


def _best_source(mosaic: Mosaic, m: ModalityData) -> ModalityData | None:
    """The other modality that most cells measured together with m."""
    pairs = {
        o.name: int(((o.row_of_cell >= 0) & (m.row_of_cell >= 0)).sum())
        for o in mosaic.modalities
        if o.name != m.name
    }
    best = max(pairs, key=lambda n: pairs[n], default=None)
    return mosaic.modality(best) if best is not None and pairs[best] >= FEWEST_PAIRED else None


def _split_cells(
    cells: Ints, unseen: NDArray[np.bool_] | None, rng: np.random.Generator
) -> tuple[Ints, Ints, bool | None]:
    """Test cells, at most a third; training cells of the baselines; whether the model never saw the former.

    Where enough cells were held out from training, they are the test cells, and the baselines are trained on
    cells that the model was trained on.
    """
    order = rng.permutation(cells)
    n = min(MOST_CELLS, len(cells) // 3)
    if unseen is not None and unseen[cells].sum() >= FEWEST_PAIRED:
        new, old = order[unseen[order]], order[~unseen[order]]
        if len(old) >= FEWEST_PAIRED:
            return np.sort(new[:n]), np.sort(old[:MOST_TRAINING]), True
    return np.sort(order[:n]), np.sort(order[n : n + MOST_TRAINING]), None if unseen is None else False


def _scorable(m: ModalityData, rows: Ints, taught: Ints) -> Ints:
    """The most variable features that enough of the rows measured, and that are not the same in nearly all.

    As many of `taught` have to have measured them, from which the simple ways learn.
    """
    measured = m.measured(rows)
    enough = np.ones(m.n_features, bool)
    for those in (measured, m.measured(taught)):
        enough &= those.sum(0) >= min(FEWEST_MEASURED, len(those))
    x: Any = m.x[rows]
    n = np.maximum(measured.sum(0), 1)
    mean = np.asarray(x.sum(0), np.float64).ravel() / n
    square = x.multiply(x) if sp.issparse(x) else x.astype(np.float64) ** 2
    variance = np.asarray(square.sum(0), np.float64).ravel() / n - mean**2
    positive = np.asarray((x != 0).sum(0)).ravel()
    fewest = min(FEWEST_POSITIVE, max(2, len(rows) // 10))
    usable = np.flatnonzero((positive >= fewest) & (variance > 0) & enough)
    relative = variance[usable] / np.maximum(np.abs(mean[usable]), 1e-9) if m.whole else variance[usable]
    return np.sort(usable[np.argsort(-relative, kind="stable")[:MOST_FEATURES]])


# --- guesses ------------------------------------------------------------------------------------


def _scale(model: MosaicVI, name: str) -> Scale:
    """Scale of imputed values; of counts at a library that is the same for all cells."""
    own = model.imputed_scale(name)
    if own.kind != "counts" or own.library is not None:
        return own
    return model.imputed_scale(name, library=model.registry.median_library[name])


def _comparable(m: ModalityData, cells: Ints, chosen: Ints, scale: Scale) -> Floats:
    """Measured values on the scale of the imputed ones, before logarithms; NaN where not measured."""
    rows = m.row_of_cell[cells]
    x: Any = m.x[rows][:, chosen]
    value = np.asarray(x.toarray() if sp.issparse(x) else x, np.float64)
    library = np.maximum(m.library[rows].astype(np.float64), 1)[:, None]
    if scale.kind == "probability":
        value = (value > 0).astype(np.float64)
    elif scale.kind == "counts" and scale.library is not None:
        value = value / library * scale.library
    elif scale.kind == "log1p_cp10k":
        value = value / library * 1e4
    value[~m.measured(rows)[:, chosen]] = np.nan
    return value


def _of_model(
    model: MosaicVI,
    mosaic: Mosaic,
    m: ModalityData,
    cells: Ints,
    chosen: Ints,
    scale: Scale,
    modalities: Collection[str] | None,
) -> Floats:
    names = np.asarray(m.features.names, object)[chosen]
    out = np.empty((len(cells), len(chosen)))
    for rows, values in model.iter_imputed_values(
        mosaic,
        modality=m.name,
        features=names.tolist(),
        indices=cells,
        library=scale.library,
        modalities=modalities,
    ):
        out[rows] = values
    return np.expm1(out) if scale.kind == "log1p_cp10k" else out


def _of_neighbours(
    source: ModalityData, rest: Ints, asked: Ints, training: Floats, seed: int, *, query: Any = None
) -> Floats | None:
    """Averages over the nearest of the remaining cells; None where these are too few, or nothing is shared.

    Parameters
    ----------
    source
        Modality by which cells are compared.
    rest, asked, training
        Cells to average over, cells to guess for, and values of the former.
    seed
        Of the decomposition.
    query
        What is seen of the cells to guess for, where it is not what they measured.
    """
    near, far = source.row_of_cell[rest], source.row_of_cell[asked]
    if len(rest) < N_NEIGHBOURS:
        return None
    if source.whole:
        common = np.flatnonzero(source.panels[np.unique(source.panel_of_row[np.r_[near, far]])].all(0))
        if len(common) < 2:
            return None
        query = source.x[far] if query is None else query
        target = np.where(np.isnan(training), 0, training)
        known = (~np.isnan(training)).astype(np.float64)
        both = knn_baseline(
            source.x[near][:, common],
            np.hstack([target, known]),
            query[:, common],
            k=N_NEIGHBOURS,
            seed=seed,
        )
        total, weight = np.hsplit(both, 2)
        guess = np.divide(total, weight, where=weight > 0, out=np.full_like(total, np.nan))
    else:
        query = _with_gaps(source, far) if query is None else query
        guess = nearest_baseline(_with_gaps(source, near), training, query, k=N_NEIGHBOURS)
    return np.where(np.isnan(guess), mean_baseline(training, len(asked)), guess)


def _with_gaps(m: ModalityData, rows: Ints) -> Floats:
    """Values of some rows, NaN where not measured."""
    x: Any = m.x[rows]
    return np.where(m.measured(rows), x.toarray() if sp.issparse(x) else x, np.nan).astype(np.float64)


# --- scores -------------------------------------------------------------------------------------


def _scored(
    m: ModalityData, chosen: Ints, truth: Floats, guesses: dict[str, Any], scale: Scale, **said: Any
) -> Accuracy:
    """The guesses compared with the truth; `said` are the fields of `Accuracy` that say what was hidden."""
    binary = likelihoods.get(m.likelihood).of_peaks and (
        scale.kind == "probability" or len(m.block_sizes) > 1
    )
    if scale.kind in ("counts", "log1p_cp10k"):
        truth = np.log1p(truth)
        guesses = {k: None if g is None else np.log1p(np.maximum(g, 0)) for k, g in guesses.items()}
    guesses = {k: g for k, g in guesses.items() if g is not None}
    each, overall = (
        (auroc_per_feature, auroc_overall) if binary else (correlation_per_feature, correlation_overall)
    )
    base = float(np.nansum((truth - guesses[MEAN]) ** 2))
    names = np.asarray(m.features.names, object)[chosen]
    return Accuracy(
        modality=m.name,
        n_cells=len(truth),
        n_features=m.n_features,
        n_values=int((~np.isnan(truth)).sum()),
        features=tuple(str(n) for n in names),
        measure="AUROC" if binary else "correlation",
        per_feature={k: each(g, truth) for k, g in guesses.items()},
        overall={k: overall(g, truth) for k, g in guesses.items()},
        explained={k: 1 - float(np.nansum((truth - g) ** 2)) / base for k, g in guesses.items()}
        if base > 0
        else {},
        **said,
    )
