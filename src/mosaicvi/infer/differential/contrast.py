"""Whether the mean of a value differs between two groups, stratum by stratum, by a score test.

In stratum b, the values y of a group's cells with exposures l have a mean rate theta = sum y / sum l. The
score U = sum_b w_b (theta_1b - R theta_2b) compares them with a ratio R (for differences: with a shift). Its
variance comes from the residuals of the very cells, so that it holds whatever their distribution. Where few
cells have counts, U is skewed: its tails are those of a shifted gamma distribution (Pearson's type III) with
the third moment of the residuals.

Legend: s strata, d features.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from mosaicvi.infer.differential.moments import Floats, Moments

FEWEST_CELLS = 3  # of each group in a stratum
FEWEST_FOR_CENTRE = 20  # features
COUNTS_FOR_CENTRE = 20  # of either group, where counts are compared
NARROW = 0.05  # effects of features that do not differ, besides their errors, to base 2
POOLED_CELLS = 20.0  # values of the group itself that weigh as much as all cells together
PSEUDO = 0.5  # counts that are added to both groups for the logarithm of their ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two groups compared, (d,) each.

    Attributes
    ----------
    effect
        Logarithm of the ratio to base 2, or the difference.
    error
        Its standard error.
    level1, level2
        Mean rate of each group, over the strata.
    fewest
        Sum of the values of the group that has less.
    usable
        Whether any stratum has cells of both groups that measured the feature.
    """

    effect: Floats
    error: Floats
    level1: Floats
    level2: Floats
    fewest: Floats
    usable: NDArray[np.bool_]


class Score:
    """The two groups' sums in each stratum, ready to be compared with any ratio or shift.

    Parameters
    ----------
    first, second
        Sums of the groups, rows are strata (s, d).
    is_ratio
        Whether a ratio of rates is meant, else a difference.
    """

    def __init__(self, first: Moments, second: Moments, *, is_ratio: bool) -> None:
        self.first, self.second, self.is_ratio = first, second, is_ratio
        enough = (first.n >= FEWEST_CELLS) & (second.n >= FEWEST_CELLS) & (first.l1 > 0) & (second.l1 > 0)
        e1, e2 = np.where(enough, first.l1, 1.0), np.where(enough, second.l1, 1.0)
        self.exposure1, self.exposure2 = e1, e2
        self.weight = np.where(enough, e1 * e2 / (e1 + e2), 0.0)
        self.rate1, self.rate2 = first.y1 / e1, second.y1 / e2

    def levels(self) -> tuple[Floats, Floats, Floats]:
        """Mean rate of each group over the strata, and the weight that they have together, (d,)."""
        total = self.weight.sum(0)
        some = np.where(total > 0, total, 1.0)
        return (self.weight * self.rate1).sum(0) / some, (self.weight * self.rate2).sum(0) / some, total

    def statistic(self, apart: Floats | float) -> tuple[Floats, Floats]:
        """The score over its standard deviation, and its skewness, if the groups are so far apart, (d,)."""
        ratio, shift = (2.0**apart, 0.0) if self.is_ratio else (1.0, apart)
        e1, e2 = self.exposure1, self.exposure2
        # the common rate under the hypothesis: group 1 has `ratio` times it, or `shift` more
        common = (self.first.y1 - shift * e1 + self.second.y1) / (ratio * e1 + e2)
        common1 = ratio * common + shift
        squares1, squares2 = self.first.squares(common1), self.second.squares(common)
        cubes = self.first.cubes(common1) + self.second.cubes(common)
        # of counts, variance and third moment are proportional to the expected count
        share1 = ratio * e1 / (ratio * e1 + e2)
        together = squares1 + squares2
        v1 = _blend(squares1, share1 * together, self._seen(self.first)) * _freed(self.first.n) / e1**2
        v2 = (
            _blend(squares2, (1 - share1) * together, self._seen(self.second)) * _freed(self.second.n) / e2**2
        )
        m1, m2 = share1 * cubes / e1**3, (1 - share1) * cubes / e2**3
        w = self.weight
        u = (w * (self.rate1 - ratio * self.rate2 - shift)).sum(0)
        variance = (w**2 * (v1 + ratio**2 * v2)).sum(0)
        third = (w**3 * (m1 - ratio**3 * m2)).sum(0)
        sd = np.sqrt(np.where(variance > 0, variance, 1.0))
        return np.where(variance > 0, u / sd, 0.0), np.where(variance > 0, third / sd**3, 0.0)

    def _seen(self, group: Moments) -> Floats:
        """How many values tell of the spread of a group: of counts those above zero."""
        return group.positive if self.is_ratio else group.n

    def contrast(self, centre: float = 0.0) -> Contrast:
        """The effect beyond `centre` and its standard error.

        The error is that with which effect over error has the probability of the score.
        """
        level1, level2, total = self.levels()
        if self.is_ratio:
            more = PSEUDO / np.where(total > 0, total, 1.0)
            effect = np.log2((level1 + more) / (level2 + more)) - centre
        else:
            effect = level1 - level2 - centre
        z, skew = self.statistic(centre)
        normal = -scipy.stats.norm.ppf(np.clip(upper_tail(np.abs(z), np.sign(z) * skew), 1e-300, 0.5))
        rough = self._rough_error(level1, level2)
        tested = np.abs(effect) / np.maximum(normal, 0.5)
        return Contrast(
            effect=effect,
            error=np.where(normal > 0.5, np.maximum(tested, rough / 3), np.maximum(tested, rough)),
            level1=level1,
            level2=level2,
            fewest=np.minimum(
                (self.first.y1 * (self.weight > 0)).sum(0), (self.second.y1 * (self.weight > 0)).sum(0)
            ),
            usable=total > 0,
        )

    def _rough_error(self, level1: Floats, level2: Floats) -> Floats:
        """Standard error of the effect by the residuals around each group's own rate (delta method)."""
        w = self.weight
        total = np.where(w.sum(0) > 0, w.sum(0), 1.0)
        v1 = self.first.squares(self.rate1) / self.exposure1**2
        v2 = self.second.squares(self.rate2) / self.exposure2**2
        v1, v2 = (w**2 * v1).sum(0) / total**2, (w**2 * v2).sum(0) / total**2
        if not self.is_ratio:
            return np.asarray(np.sqrt(np.maximum(v1 + v2, 1e-24)))
        least = PSEUDO / total  # a group without any count may have had one
        v1, v2 = np.maximum(v1, least**2), np.maximum(v2, least**2)
        relative = v1 / (level1 + least) ** 2 + v2 / (level2 + least) ** 2
        return np.asarray(np.sqrt(relative) / np.log(2))

    def p_value(self, delta: float, centre: float = 0.0) -> Floats:
        """Probability of so large a score if the effect beyond `centre` is at most delta either way, (d,)."""
        total = self.weight.sum(0)
        p = np.zeros(len(total))
        seen = self.statistic(centre)[0]
        higher = seen > 0
        for side in (1.0, -1.0):
            for bound in (delta, -delta):
                z, skew = self.statistic(centre + side * bound)
                tail = upper_tail(side * z, side * skew)
                p = np.where(higher == (side > 0), p + tail, p)
        p = np.where(seen == 0, 1.0, p)  # neither group is higher
        return np.where(total > 0, np.minimum(p, 1.0), np.nan)


def _blend(own: Floats, pooled: Floats, n: Floats) -> Floats:
    """A group's squared residuals by its own cells; the fewer they are, the more by all cells."""
    return np.asarray((n * own + POOLED_CELLS * pooled) / (n + POOLED_CELLS))


def _freed(n: Floats) -> Floats:
    """N / (n - 1), for the mean that was taken from the cells themselves."""
    return np.asarray(n / np.maximum(n - 1, 1.0))


def upper_tail(z: Floats, skew: Floats) -> Floats:
    """Probability that a variable of mean 0, variance 1 and this skewness is above z (Pearson's type III).

    That distribution ends on its short side, where the third moment of a few cells would make certain what
    is not: beyond the mean that tail is at least a normal one.
    """
    shifted_gamma = scipy.stats.pearson3.sf(z, np.where(np.abs(skew) < 1e-4, 0.0, skew))
    is_short = (z > 0) & (skew < 0)
    return np.asarray(np.where(is_short, np.maximum(shifted_gamma, scipy.stats.norm.sf(z)), shifted_gamma))


def adjusted(p: Floats) -> Floats:
    """Benjamini and Hochberg's adjusted p-values; NaN stays."""
    out = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    if known.any():
        out[known] = scipy.stats.false_discovery_control(p[known])
    return out


def centre_of(contrast: Contrast, *, is_ratio: bool) -> float:
    """Where most effects lie: shares of a total all move when a few features take much of it.

    A mean with weights that leave out what lies far (Tukey's biweight), begun at the median.
    """
    ok = contrast.usable & ((contrast.fewest >= COUNTS_FOR_CENTRE) | (not is_ratio))
    if ok.sum() < FEWEST_FOR_CENTRE:
        return 0.0
    x, error = contrast.effect[ok], contrast.error[ok]
    at = float(np.median(x))
    for _ in range(30):
        width = 4.7 * np.sqrt(error**2 + NARROW**2)
        u = np.clip((x - at) / width, -1, 1)
        weight = (1 - u**2) ** 2 / (error**2 + NARROW**2)
        if weight.sum() <= 0:
            break
        at = float((weight * x).sum() / weight.sum())
    return at
