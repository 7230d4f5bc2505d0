"""The regressions and nearest cells of a table's read-out, and how well they do in a batch without a feature.

Legend: n reference cells, D features, B batches, c predictors, p components, g features of a part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from sklearn.decomposition import PCA

from mosaicvi.infer.readout.regression import PENALTIES, Linear
from mosaicvi.infer.readout.table import (
    NEVER_MEASURED,
    WINSORISED,
    Bools,
    Differences,
    Floats,
    Ints,
    TablePart,
    Values,
    nearest,
)

N_COMPONENTS, MOST_EXACT = 50, 1000
FEWEST_TAUGHT = 10  # cells that measured a feature and can teach it
MOST_PARTS, MOST_FITS = 64, 10_000
MOST_TRIED, MOST_CELLS_TRIED = 100, 200  # features and cells of each batch that is left out of a feature
MOST_PARTS_TRIED = 64  # of a batch and features that the same batches measured, of all batches together
FEWEST_CORRELATED = 3  # values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts, and which of them a batch needs; as in `TableReadOut`."""

    patterns: Bools
    pattern_of_batch: Ints
    parts: tuple[TablePart, ...]


def fit_parts(differences: Differences, values: Values, held: Bools) -> Parts:
    """Parts for all batches, or one for all of them where these would be too many.

    Parameters
    ----------
    differences, values
        How batches differ, and the reference cells.
    held
        Cells that teach only what the batch that is asked about never measured, so that of what it did they
        can tell how good an answer is, (n,).
    """
    known = differences.known
    patterns, pattern_of_batch = np.unique(known, axis=0, return_inverse=True)
    who, who_of_feature = np.unique(known[:-1].T, axis=0, return_inverse=True)
    if len(patterns) * len(who) > MOST_PARTS or len(patterns) * known.shape[1] > MOST_FITS:
        patterns, pattern_of_batch = np.ones_like(known[:1]), np.zeros(len(known), np.int64)
        who, who_of_feature = np.ones_like(who[:1]), np.zeros(known.shape[1], np.int64)
    pattern_of_batch = pattern_of_batch.reshape(-1)
    z, row = differences(values), differences.row(values.batch)
    parts = []
    for i, shown in enumerate(patterns):
        for j, batches in enumerate(who):
            features = np.flatnonzero(who_of_feature.reshape(-1) == j)
            cells = np.append(batches, False)[row]
            cells &= ~held | ~shown[features].any()
            columns = np.flatnonzero(shown & known[:-1][batches].any(0))
            asked = cells | (pattern_of_batch[row] == i)
            found = _part(differences, values, z, features, columns, cells, asked)
            if found is not None:
                parts.append(dataclasses.replace(found, pattern=i))
    return Parts(patterns=patterns, pattern_of_batch=pattern_of_batch, parts=tuple(parts))


def _part(
    differences: Differences,
    values: Values,
    z: Floats,
    features: Ints,
    columns: Ints,
    cells: Bools,
    asked: Bools,
) -> TablePart | None:
    """Features read out as some cells teach them; None where these are too few."""
    taught = values.measured[cells]
    features = features[taught[:, features].sum(0) >= FEWEST_TAUGHT]
    if not len(features) or len(columns) < 2:
        return None
    spread = differences.spread[differences.row(values.batch)][:, None]
    compared = z * spread
    axes, near_axes = _axes(compared[asked][:, columns]), _axes(z[asked][:, columns])
    components, compared = compared[cells][:, columns] @ axes, compared[cells]
    place = np.full(z.shape[1], -1)
    place[columns] = np.arange(len(columns))
    weight, intercept, error = np.zeros((axes.shape[1], len(features))), *np.zeros((2, len(features)))
    for k, f in enumerate(features):
        rows = taught[:, f]
        x, y = components[rows], compared[rows, f]
        if place[f] >= 0:  # what the feature itself adds to the components is taken away
            x = x - y[:, None] * axes[place[f]]
        weight[:, k], intercept[k], error[k] = ridge(x, y)
    return TablePart(
        pattern=0,
        features=features,
        columns=columns,
        axes=axes,
        near_axes=near_axes,
        ridge=Linear(weight=weight, intercept=intercept),
        error=np.maximum(error / differences.weight[features], 1e-6),
        cells=cells,
    )


def _axes(x: Floats) -> Floats:
    """Principal axes, (c, p)."""
    k = min(N_COMPONENTS, *x.shape)
    if min(x.shape) > MOST_EXACT:
        found = PCA(k, svd_solver="randomized", random_state=0).fit(x).components_.T
        return np.ascontiguousarray(found)
    x = x - x.mean(0)
    if len(x) >= x.shape[1]:
        return np.ascontiguousarray(np.linalg.eigh(x.T @ x)[1][:, : -k - 1 : -1])
    square, vector = np.linalg.eigh(x @ x.T)
    axes = x.T @ vector[:, : -k - 1 : -1]
    return np.asarray(axes / np.sqrt(np.maximum(square[: -k - 1 : -1], 1e-9 * max(square[-1], 1e-300))))


def ridge(x: Floats, y: Floats) -> tuple[Floats, float, float]:
    """Weight, intercept, and error of a cell that is left out, at the penalty at which that is least."""
    centre, mean = x.mean(0), y.mean()
    x, y = x - centre, y - mean
    value, vector = np.linalg.eigh(x.T @ x)
    value, turned = np.maximum(value, 0), x @ vector
    shrunk = 1 / (value[:, None] + PENALTIES)
    coefficient = (turned.T @ y)[:, None] * shrunk
    leverage = turned**2 @ shrunk + 1 / len(y)
    error = ((y[:, None] - turned @ coefficient) / np.maximum(1 - leverage, 1e-6)) ** 2
    best = int(error.mean(0).argmin())
    weight = vector @ coefficient[:, best]
    return weight, float(mean - centre @ weight), float(np.sqrt(error[:, best].mean()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Across:
    """Values of features predicted as if their batch had not measured them.

    Attributes
    ----------
    agreement
        Mean correlation of predicted and true values, of each feature in each batch; 0 without any.
    slope
        Share of what is predicted that is in the true differences, 0 to 1.
    errors
        What true values differ by from that share and the expected level, in units of `TablePart.error`.
    """

    agreement: float
    slope: float
    errors: Floats


def left_out(differences: Differences, expected: Floats, values: Values, rng: np.random.Generator) -> Across:
    """Each batch in turn without features that other batches measured as well.

    Parameters
    ----------
    differences, values
        How batches differ, and the reference cells.
    expected
        Levels without what the batch itself measured of the feature, (B, D).
    rng
        Decides which features and cells are tried.
    """
    known, z, row = differences.known[:-1], differences(values), differences.row(values.batch)
    several = known.sum(0) > 1
    scores, found = [], []  # differences from the level, from the expected level, as predicted, and the error
    tries = []
    for b in np.unique(row):
        tried = rng.permutation(np.flatnonzero(known[b] & several))[:MOST_TRIED]
        some = rng.permutation(np.flatnonzero(row == b))[:MOST_CELLS_TRIED]
        for who in np.unique(known[:, tried].T, axis=0):
            tries.append((int(b), some, who, np.sort(tried[(who == known[:, tried].T).all(1)])))
    if len(tries) > MOST_PARTS_TRIED:
        tries = [tries[i] for i in np.sort(rng.permutation(len(tries))[:MOST_PARTS_TRIED])]
    for b, some, who, features in tries:
        others = who & (np.arange(len(known)) != b)
        cells = np.append(others, False)[row]
        columns = np.flatnonzero(known[b] & known[others].any(0))
        part = _part(differences, values, z, features, columns, cells, cells | (row == b))
        for f, guess, error in _guesses(part, differences, z, values, some, b) if part else ():
            there = values.measured[some, f]
            if there.sum() < FEWEST_CORRELATED:
                continue
            truth, guess = values.value[some[there], f], guess[there]
            off = truth - differences.level[b, f]
            scores.append(_correlation(off, guess))
            most = WINSORISED * differences.spread[b] / differences.weight[f]
            off = np.clip(off, -most, most)  # as the differences that the guess comes from
            found.append(np.stack([off, truth - expected[b, f], guess, np.full(len(guess), error)]))
    if not found:
        return Across(agreement=0.0, slope=1.0, errors=np.zeros(0))
    off, truth, guess, error = np.concatenate(found, 1)
    slope = float(np.clip((off * guess).sum() / max((guess**2).sum(), 1e-300), 0, 1))
    return Across(agreement=float(np.mean(scores)), slope=slope, errors=(truth - slope * guess) / error)


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0


def _guesses(
    part: TablePart, differences: Differences, z: Floats, values: Values, some: Ints, b: int
) -> Iterator[tuple[int, Floats, float]]:
    """Features, predicted differences of some cells of batch b, in units of the network, and their error."""
    spread, there = differences.spread[b], values.measured[part.cells]
    taught, asked = z[part.cells], z[some]
    components = asked[:, part.columns] @ part.axes
    places = [of[:, part.columns] @ part.near_axes for of in (asked, taught)]
    at = np.full(z.shape[1], -1)
    at[part.columns] = np.arange(len(part.columns))
    for k, f in enumerate(part.features):
        # without what the feature itself adds
        axis, near_axis = part.axes[at[f]], part.near_axes[at[f]]
        mine = components - asked[:, f, None] * axis
        read = spread * mine @ part.ridge.weight[:, k] + part.ridge.intercept[k]
        mine, theirs = (
            of - z_f[:, f, None] * near_axis for of, z_f in zip(places, (asked, taught), strict=True)
        )
        near = spread * nearest(mine, theirs, taught[:, f, None], there[:, f, None])[:, 0]
        guess = NEVER_MEASURED[0] * read + NEVER_MEASURED[1] * near
        yield int(f), guess / differences.weight[f], float(part.error[k])
