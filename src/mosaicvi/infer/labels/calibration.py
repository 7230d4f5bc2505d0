"""From neighbours to probabilities that are right as often as they say, decided on labelled cells.

Legend: q cells, k neighbours, L labels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mosaicvi.infer.labels.reference import Floats, Ints, Near

NEIGHBOURS = (15, 30, 60)
SPREADS = (2.0, 8.0, np.inf)  # of the weights, in squared posterior widths; infinite weighs equally
PLAIN = 15  # neighbours that vote evenly, unless more is right more often
SURE = 1.0  # standard deviations by which it must be
PULL = 1e-4  # of the powers towards 0, in mean log loss
MOST_APART = 1000.0  # squared distances to two centres that are told apart
PRIOR_CELLS = 0.5  # neighbours that the labels' overall shares stand for
FAR = 0.01  # cells farther from the reference than this share of labelled ones are of none of the labels

Try = tuple[float, tuple[float, float, float], int, float]  # loss, powers and noise, k, spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """How neighbours and distances become probabilities, and which distances are usual.

    Attributes
    ----------
    k
        How many neighbours vote.
    spread
        Weight of a neighbour at a squared distance a beyond the nearest: exp(-a / (2 spread)).
    powers
        Probabilities are proportional to the votes, and to the normal densities around the labels' centres,
        to these powers,
    noise
        but for this share of cells, whose labels are as all are.
    distances
        Of the cells that decided, to the reference, ascending.
    known
        Intercept and slope, by the logarithm of the distance, of the log-odds that a cell's label is one
        of those of the reference; None where nothing speaks for others.
    """

    k: int
    spread: float
    powers: tuple[float, float]
    noise: float
    distances: Floats
    known: tuple[float, float] | None = None

    @classmethod
    def fit(
        cls,
        near: Near,
        squares: Floats,
        truth: Ints,
        share: Floats,
        strangers: Floats | None = None,
        *,
        plainly: bool = False,
    ) -> Calibration:
        """The choice under which the true labels of cells are likeliest.

        Parameters
        ----------
        near
            Neighbours of the cells, themselves not among them.
        squares
            Squared distances to the labels' centres, (q, L).
        truth
            Their labels, (q,).
        share
            Of each label among the labelled cells, (L,).
        strangers
            Distances to the reference of cells whose labels it lacks, (s,); None where there can be none.
        plainly
            Whether the nearest vote evenly and nothing else counts, as where the cells cannot tell what
            else would be right.
        """
        tries: list[Try] = []
        for k in sorted({min(k, near.code.shape[1]) for k in NEIGHBOURS}):
            for spread in SPREADS:
                evidence = _evidence(near, squares, share, k=k, spread=spread)
                tries.append((*_best(evidence, truth, share), k, spread))
        chosen = min(tries, key=lambda one: one[0])
        k, spread = min(PLAIN, near.code.shape[1]), np.inf
        evidence = _evidence(near, squares, share, k=k, spread=spread)
        plain = *_best(evidence, truth, share, density=0.0), k, spread
        _, (vote, density, noise), k, spread = (
            plain if plainly else _more_often_right(chosen, plain, near, squares, truth, share)
        )
        distances = np.sort(np.sqrt(squares.min(1)))
        known = None
        if strangers is not None and len(strangers):
            known = _known(distances, strangers)
        return cls(k=k, spread=spread, powers=(vote, density), noise=noise, distances=distances, known=known)

    def probabilities(self, near: Near, squares: Floats, share: Floats) -> Floats:
        """Probability of each label, (q, L); what is missing to 1 is that of a label that nobody has."""
        evidence = _evidence(near, squares, share, k=self.k, spread=self.spread)
        found = (1 - self.noise) * _pool(evidence, np.asarray(self.powers)) + self.noise * share
        if self.known is None:
            return found
        intercept, slope = self.known
        return np.asarray(found * expit(intercept + slope * _log(np.sqrt(squares.min(1))))[:, None])

    def typicality(self, distances: Floats) -> Floats:
        """Share of the deciding cells that lie at least as far from the reference (conformal p-value)."""
        as_far = distances * (1 - 1e-5)  # a cell that decided is as far as itself, however it was rounded
        farther = len(self.distances) - np.searchsorted(self.distances, as_far, side="left")
        return np.asarray((farther + 1) / (len(self.distances) + 1))


def _known(own: Floats, strangers: Floats) -> tuple[float, float]:
    """Logistic regression on the logarithm of the distance: cells of the reference's labels, and others."""
    x = _log(np.concatenate([own, strangers]))[:, None]
    found = LogisticRegression().fit(x, np.arange(len(x)) < len(own))
    return float(found.intercept_[0]), min(float(found.coef_[0, 0]), 0.0)


def _log(distances: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(distances, 1e-9)))


def votes(near: Near, share: Floats, *, k: int, spread: float) -> Floats:
    """Share of the weight of the k nearest cells that each label has, never 0, (q, L)."""
    apart = near.apart[:, :k]
    weight = np.exp(-(apart - apart.min(1, keepdims=True)) / (2 * spread))
    total = np.zeros((len(apart), len(share)))
    for label in range(len(share)):
        total[:, label] = (weight * (near.code[:, :k] == label)).sum(1)
    return np.asarray((total + PRIOR_CELLS * share) / (weight.sum(1, keepdims=True) + PRIOR_CELLS))


def _evidence(near: Near, squares: Floats, share: Floats, *, k: int, spread: float) -> Floats:
    """Logarithms of the votes and of the densities times the labels' shares, (2, q, L)."""
    density = np.log(share) - 0.5 * np.minimum(squares - squares.min(1, keepdims=True), MOST_APART)
    return np.stack([np.log(votes(near, share, k=k, spread=spread)), density])


def _best(
    evidence: Floats, truth: Ints, share: Floats, *, density: float = 10.0
) -> tuple[float, tuple[float, float, float]]:
    """Mean log loss at the best powers and noise, and these (Genest & Zidek, Statistical Science 1986)."""
    rows = np.arange(len(truth))
    of_truth = evidence[:, rows, truth]

    def loss(chosen: Floats) -> tuple[float, Floats]:
        powers, noise = chosen[:2], chosen[2]
        p = _pool(evidence, powers)
        own = p[rows, truth]
        mixed = np.maximum((1 - noise) * own + noise * share[truth], 1e-12)
        value = -np.log(mixed).mean() + PULL * (powers**2).sum()
        slope = ((1 - noise) * own / mixed * ((evidence * p).sum(2) - of_truth)).mean(1) + 2 * PULL * powers
        return float(value), np.r_[slope, ((own - share[truth]) / mixed).mean()]

    bounds = [(1e-3, 10), (0, density), (0, 0.5)]
    found = minimize(
        loss, np.array([0.5, min(0.5, density), 0.02]), jac=True, method="L-BFGS-B", bounds=bounds
    )
    vote, of_density, noise = (float(x) for x in found.x)
    return float(found.fun), (vote, of_density, noise)


def _more_often_right(
    chosen: Try, plain: Try, near: Near, squares: Floats, truth: Ints, share: Floats
) -> Try:
    """The choice, if it is right more often than the plain votes by more than chance, else these."""
    ok = []
    for _, (vote, density, noise), k, spread in (chosen, plain):
        evidence = _evidence(near, squares, share, k=k, spread=spread)
        p = (1 - noise) * _pool(evidence, np.array([vote, density])) + noise * share
        ok.append(p.argmax(1) == truth)
    gained, lost = (ok[0] & ~ok[1]).sum(), (ok[1] & ~ok[0]).sum()
    return chosen if gained - lost > SURE * np.sqrt(gained + lost) else plain


def _pool(evidence: Floats, powers: Floats) -> Floats:
    scaled = np.tensordot(powers, evidence, 1)
    scaled = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(scaled / scaled.sum(1, keepdims=True))
