"""Fit the ways to the values of features that the same reference cells measured, and how far each is trusted.

Legend: n reference cells, D features of a modality, g of a group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from mosaicvi.infer.readout.readout import Floats, Group, Known, Part
from mosaicvi.infer.readout.regression import Linear, Nearest, stacking_weights

MOST_NEAR_VALUES = 2_000_000  # values that are kept for the nearest cells
FEWEST_REFERENCES, FEWEST_HELD_OUT = 50, 20
HELD_OUT_SHARE = 5  # one in so many references decides on weights where too few were held out from training
FEW = 60  # values of the decoder that need no principal components
N_DECODED = 30
FOLDS = 5


def fit_groups(
    known: Known,
    truth: Floats,
    measured: NDArray[np.bool_],
    hidden: NDArray[np.int64],
    held: NDArray[np.bool_],
    seed: int,
) -> tuple[Group, ...]:
    """The hidden features by who measured them."""
    out = []
    for pattern, at in by_pattern(measured[:, hidden]):
        features = hidden[at]
        if pattern.sum() < FEWEST_REFERENCES:
            continue
        rest = pattern & held
        if rest.sum() < FEWEST_HELD_OUT:
            order = np.random.default_rng(seed).permutation(np.flatnonzero(pattern))
            rest = np.zeros(len(pattern), bool)
            rest[order[: max(1, len(order) // HELD_OUT_SHARE)]] = True
        out.append(_group(known, truth, features, pattern & ~rest, rest))
    return tuple(out)


def by_pattern(measured: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Which cells measured features, (n,), and the positions of the features that just they did."""
    of: dict[bytes, list[int]] = {}
    for feature, bits in enumerate(np.packbits(measured.T, axis=1)):
        of.setdefault(bits.tobytes(), []).append(feature)
    for _, features in sorted(of.items()):
        yield measured[:, features[0]], np.array(features)


def _group(
    known: Known, truth: Floats, features: NDArray[np.int64], fit: NDArray[np.bool_], rest: NDArray[np.bool_]
) -> Group:
    group = _ways(known, truth, features, fit)
    ways = group.ways(_of(known, rest))
    weights = stacking_weights(ways, truth[rest][:, features], group.mean)
    return dataclasses.replace(group, weights=weights)


def _ways(
    known: Known,
    truth: Floats,
    features: NDArray[np.int64],
    fit: NDArray[np.bool_],
    like: Group | None = None,
) -> Group:
    """The ways to values of some features as some cells teach them, with penalties and weights of another."""
    y, here = truth[fit][:, features], _of(known, fit)
    centre = here.decoded.mean(0)
    axes = _axes(here.decoded - centre)
    latent_and_decoded = np.concatenate([here.z, (here.decoded - centre) @ axes], 1)
    penalties = (0.0, 0.0) if like is None else (like.ridge_latent.penalty, like.ridge_measured.penalty)
    near = y.size <= MOST_NEAR_VALUES if like is None else like.near_latent is not None
    return Group(
        features=features,
        centre=centre,
        axes=axes,
        decoder=Linear.by_feature(here.decoded[:, features], y),
        ridge_latent=Linear.ridge(latent_and_decoded, y, penalties[0]),
        ridge_measured=Linear.ridge(here.measured, y, penalties[1]),
        near_latent=_nearest(here.z, y) if near else None,
        near_measured=_nearest(here.measured, y) if near else None,
        weights=np.zeros(0) if like is None else like.weights,
        mean=y.mean(0),
    )


def left_out(
    part: Part, known: Known, truth: Floats, measured: NDArray[np.bool_], rng: np.random.Generator
) -> Floats:
    """What cells would be given that had not been among those which taught the read-out, (n, D).

    It is fitted again without each fold of them, with the same penalties and weights.

    Parameters
    ----------
    part, known
        How the modality is read out, and what is known of the cells.
    truth, measured
        Their values at the mean of the batches on the scale of comparison, and which were measured, (n, D).
    rng
        Divides the cells.
    """
    out = part.shown_line(known.decoded)
    fold = rng.permutation(len(out)) % FOLDS
    for group in part.groups:
        who = measured[:, group.features[0]]
        for i in range(FOLDS):
            rest, fit = fold == i, who & (fold != i)
            enough = fit.sum() >= FEWEST_HELD_OUT
            ways = _ways(known, truth, group.features, fit, group) if enough else group
            out[np.ix_(rest, group.features)] = ways(_of(known, rest))
    return out


def _of(known: Known, which: NDArray[np.bool_]) -> Known:
    return Known(z=known.z[which], decoded=known.decoded[which], measured=known.measured[which])


def _axes(decoded_nd: Floats) -> Floats:
    """Principal axes of the decoder's values, scaled to a variance of 1 in all, (D, p')."""
    d = decoded_nd.shape[1]
    if d <= FEW:
        axes = np.eye(d)
    else:
        k = min(N_DECODED, d, len(decoded_nd) - 1)
        axes = PCA(k, svd_solver="randomized", random_state=0).fit(decoded_nd).components_.T
    spread = np.sqrt(max((decoded_nd @ axes).var(0).sum(), 1e-12))
    return np.asarray(axes / spread * np.sqrt(axes.shape[1]))


def _nearest(place: Floats, value: Floats) -> Nearest:
    return Nearest(place=place.astype(np.float32), value=value.astype(np.float32))
