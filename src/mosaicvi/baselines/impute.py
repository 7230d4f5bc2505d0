"""Simple imputation of a whole mosaic: from the nearest cells, or by ridge regression.

A cell's hidden values enter nothing: what is computed of a cell, its size included, is computed from what it
measured. Shapes: n cells, d features, k components; features stand in the user's order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from mosaicvi.baselines.predict import NearestCells, Ridge, column_chunks, components
from mosaicvi.baselines.scaled import Floats, Ints, ScaledModality, alike
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.transforms import TRANSFORMS, Transform
from mosaicvi.errors import InputError

Method = Literal["nearest", "ridge"]
METHODS: tuple[Method, ...] = get_args(Method)
Answers: TypeAlias = dict[Method, npt.NDArray[np.float32]]

LEAST_CELLS = 20  # that measured a feature, to learn it from
PASSES = 4  # over cells of different panels, until their sizes have settled


def simple_imputation(
    mosaic: Mosaic,
    *,
    modality: str,
    methods: Sequence[Method] = METHODS,
    indices: npt.ArrayLike | None = None,
    transforms: Mapping[str, Transform] | None = None,
    n_neighbors: int = 20,
    n_components: int = 50,
    seed: int = 0,
) -> dict[Method, pd.DataFrame]:
    """Impute a modality from what else the cells measured, in two simple ways.

    ``"nearest"`` is the mean of the nearest cells that measured the feature (Troyanskaya et al.,
    Bioinformatics 2001), ``"ridge"`` a ridge regression (Hoerl & Kennard, Technometrics 1970) with the
    penalty of the least leave-one-out error, both on principal components.

    A cell without the modality is imputed from one other that it has: the one that most cells have together
    with this one. A cell with a part of the modality is imputed feature by feature, from the features that
    its batch shares with the cells that measured the feature, each batch centred. What fewer than 20 cells
    measured is imputed by each feature's mean.

    Parameters
    ----------
    mosaic
        What `MosaicVI.setup_mudata` returns.
    modality
        Which modality.
    methods
        Which of the two; both together cost less than one after the other.
    indices
        Positions of cells, or a boolean per cell; all where None. It does not change the answers.
    transforms
        Scale on which modalities are compared and imputed; a modality's own where none is named. The size of
        a cell that a scale divides by is that of what the cell measured, and in its answer that of all
        features, measured or imputed.
    n_neighbors, n_components
        How many nearest cells and principal components, as far as there are so many.
    seed
        Of the randomised decomposition.

    Returns
    -------
    For each method a DataFrame (cells, features), float32; ``attrs["scale"]`` names the scale. What was
    measured stays as it is; a feature that no cell measured is NaN.

    Raises
    ------
    InputError
        If an argument does not fit.
    """
    said = dict(transforms or {})
    _check(mosaic, methods, said, n_neighbors=n_neighbors, n_components=n_components)
    target = ScaledModality.of(mosaic.modality(modality), said.get(modality))
    others = [ScaledModality.of(m, said.get(m.name)) for m in mosaic.modalities if m.name != modality]
    chosen = _positions(indices, mosaic.n_cells)
    rows = target.row_of_cell[chosen]
    how = _How(n_neighbors=n_neighbors, n_components=n_components, seed=seed)
    complete = _completed(target, mosaic.batch, methods, how)
    out = {method: found.answers(rows) for method, found in complete.items()}
    _impute_cells(out, {m: found.scaled for m, found in complete.items()}, others, chosen, how)
    frames = {}
    for method, values in out.items():
        _fill_with_means(values, complete[method].scaled)
        frame = pd.DataFrame(values, index=mosaic.names(chosen), columns=list(target.names), copy=False)
        frame.attrs["scale"] = target.transform
        frames[method] = frame
    return frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class _How:
    n_neighbors: int
    n_components: int
    seed: int

    def fitted(self, method: Method, reference: Floats, asked: Floats) -> NearestCells | Ridge:
        if method == "nearest":
            return NearestCells(reference, asked, self.n_neighbors)
        return Ridge(reference, asked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Completed:
    """A modality whose scale counts all features, and its complete rows; None where nothing was missing."""

    scaled: ScaledModality
    values: npt.NDArray[np.float32] | None

    def answers(self, rows: Ints) -> npt.NDArray[np.float32]:
        out = self.scaled.filled(rows)
        if self.values is not None:
            out[rows >= 0] = self.values[rows[rows >= 0]]
        return out


def _completed(
    target: ScaledModality, batch: Ints, methods: Sequence[Method], how: _How
) -> dict[Method, _Completed]:
    """Impute what is missing in cells that have the modality, from the rest of it.

    Panels give cells different sizes. What one pass imputes makes their sizes those of all features, which
    the next pass starts from.
    """
    if target.measured is None:
        return {method: _Completed(scaled=target, values=None) for method in methods}
    found = {method: target.filled(np.arange(len(target.scale))) for method in methods}
    _impute_entries(found, target, batch, how)
    out = {}
    for method, values in found.items():
        now = target
        _fill_with_means(values, now)
        for _ in range(PASSES - 1 if target.has_size else 0):
            now, _ = now.resized(values)
            values = now.filled(np.arange(len(now.scale)))
            _impute_entries({method: values}, now, batch, how)
            _fill_with_means(values, now)
        scaled, values = now.resized(values)
        out[method] = _Completed(scaled=scaled, values=values)
    return out


def _impute_entries(out: Answers, target: ScaledModality, batch: Ints, how: _How) -> None:
    """Impute the missing entries of all rows, batch by batch and feature by feature."""
    measured = target.measured
    if measured is None:
        return
    batch_r = np.empty(len(measured), np.int64)
    has = target.row_of_cell >= 0
    batch_r[target.row_of_cell[has]] = batch[has]
    for b in np.unique(batch_r):
        here = np.flatnonzero(batch_r == b)
        missing = np.flatnonzero(~measured[here].all(0))
        for columns, is_known in alike(missing, measured[:, missing]):
            pupils, teachers = here[~is_known[here]], np.flatnonzero(is_known)
            features = target.common(teachers, pupils)
            if len(teachers) < LEAST_CELLS or not len(features):
                continue
            rows = np.concatenate([teachers, pupils])
            x, seen = target.x[rows][:, features], measured[rows][:, features]
            z_nk = components(x, seen, batch_r[rows], how.n_components, how.seed)
            targets = dict.fromkeys(out, target)
            _predict(
                out, pupils, columns, z_nk[: len(teachers)], z_nk[len(teachers) :], targets, teachers, how
            )


def _impute_cells(
    out: Answers,
    targets: Mapping[Method, ScaledModality],
    others: Sequence[ScaledModality],
    chosen: Ints,
    how: _How,
) -> None:
    """Impute the cells that lack the modality, each from one other modality."""
    target = next(iter(targets.values()))
    has = target.row_of_cell >= 0
    waiting = ~has[chosen]
    for other in sorted(others, key=lambda other: -int((has & (other.row_of_cell >= 0)).sum())):
        there = other.row_of_cell >= 0
        at_q = np.flatnonzero(waiting & there[chosen])
        teachers, pupils = np.flatnonzero(there & has), np.flatnonzero(there & ~has)
        if len(teachers) < LEAST_CELLS or not len(at_q):
            continue
        cells = np.concatenate([teachers, pupils])
        features = other.common(other.row_of_cell[teachers], other.row_of_cell[pupils])
        if not len(features):
            continue
        measured = None if other.measured is None else other.measured[other.row_of_cell[cells]][:, features]
        x = other.x[other.row_of_cell[cells]][:, features]
        z_nk = components(x, measured, np.zeros(len(cells)), how.n_components, how.seed)
        z_qk = z_nk[np.searchsorted(pupils, chosen[at_q]) + len(teachers)]
        rows = target.row_of_cell[teachers]
        for columns, is_known in target.patterns(rows):
            if is_known.sum() >= LEAST_CELLS:
                known_nk = z_nk[: len(teachers)][is_known]
                _predict(out, at_q, columns, known_nk, z_qk, targets, rows[is_known], how)
        waiting[at_q] = False


def _predict(
    out: Answers,
    at_q: Ints,
    columns: Ints,
    z_nk: Floats,
    z_qk: Floats,
    targets: Mapping[Method, ScaledModality],
    rows: Ints,
    how: _How,
) -> None:
    """Write what is predicted of features, from components of rows that measured them and of those asked."""
    for method, values in out.items():
        predictor = how.fitted(method, z_nk, z_qk)
        for part in column_chunks(columns, len(z_nk) + len(z_qk)):
            values[np.ix_(at_q, part)] = predictor.predict(targets[method].block(rows, part))


def _fill_with_means(values: npt.NDArray[np.float32], scaled: ScaledModality) -> None:
    row, column = np.nonzero(np.isnan(values))
    values[row, column] = scaled.means()[column]


# --- arguments ------------------------------------------------------------------------------------


def _check(
    mosaic: Mosaic, methods: Sequence[Method], transforms: Mapping[str, Transform], **counts: int
) -> None:
    problems = [f"{name} is {count!r}; give at least 1" for name, count in counts.items() if count < 1]
    strangers = [m for m in methods if m not in METHODS]
    if strangers or not len(methods):
        problems.append(f"methods: {strangers or 'none'}; give of {', '.join(METHODS)}")
    for name, transform in transforms.items():
        mosaic.modality(name)
        if transform not in TRANSFORMS:
            problems.append(
                f"transforms: unknown {transform!r} for {name!r}; use one of {', '.join(TRANSFORMS)}"
            )
    if problems:
        raise InputError(problems)


def _positions(indices: npt.ArrayLike | None, n_cells: int) -> Ints:
    if indices is None:
        return np.arange(n_cells)
    chosen = np.atleast_1d(np.asarray(indices))
    if chosen.dtype == bool:
        if len(chosen) != n_cells:
            raise InputError(f"indices: {len(chosen):,} booleans for {n_cells:,} cells")
        return np.flatnonzero(chosen)
    if chosen.size and (
        not np.issubdtype(chosen.dtype, np.integer) or chosen.min() < 0 or chosen.max() >= n_cells
    ):
        raise InputError(f"indices: give positions from 0 to {n_cells - 1:,}, or a boolean per cell")
    return chosen.astype(np.int64)
