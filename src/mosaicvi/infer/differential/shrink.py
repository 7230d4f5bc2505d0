"""Effects given their estimates: a prior is fitted to all of them, and each is drawn towards it.

Adaptive shrinkage (Stephens, Biostatistics 2017): effects are 0, or normal around 0 with one of many spreads,
and how often each of these occurs is what makes the estimates likeliest.

Legend: d features, k spreads.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import ndtr

from mosaicvi.infer.differential.moments import Floats

STEPS = 300  # of expectation and maximisation, at most
FIRST_NULL = 0.95
NULL_COUNTS = 10.0  # features without an effect that are added, so that doubt is in their favour
HALVINGS = 40  # of a bisection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posterior:
    """What is known of d effects: mixtures of normals with shares, means and deviations (d, k)."""

    share: Floats
    centre: Floats
    spread: Floats

    @classmethod
    def of(cls, estimate: Floats, error: Floats) -> Posterior:
        """Of estimates with standard errors, (d,) each."""
        widest = np.sqrt(np.maximum((estimate**2 - error**2).max(initial=0.0), 1e-8)) * 2
        least = max(float(error.min(initial=np.inf)) / 4, widest * 1e-4)
        n = max(2, int(np.ceil(2 * np.log2(max(widest / least, 1.0)))) + 1)
        spreads = np.r_[0.0, np.geomspace(least, max(widest, least * 1.01), n)]
        variance = error[:, None] ** 2 + spreads**2
        log_like = -0.5 * (estimate[:, None] ** 2 / variance + np.log(variance))
        like = np.exp(log_like - log_like.max(1, keepdims=True))
        # small effects and none are hard to tell apart: what does not matter stays with none
        prior = np.r_[FIRST_NULL, np.full(n, (1 - FIRST_NULL) / n)]
        for _ in range(STEPS):
            weight = like * prior
            weight /= weight.sum(1, keepdims=True)
            total = weight.sum(0)
            total[0] += NULL_COUNTS
            new = total / total.sum()
            done = float(np.abs(new - prior).max()) < 1e-6
            prior = new
            if done:
                break
        weight = like * prior
        gain = spreads**2 / variance
        return cls(
            share=weight / weight.sum(1, keepdims=True),
            centre=gain * estimate[:, None],
            spread=np.sqrt(gain) * error[:, None],
        )

    def mean(self) -> Floats:
        """Of each effect, (d,)."""
        return np.asarray((self.share * self.centre).sum(1))

    def deviation(self) -> Floats:
        """Standard deviation of each effect, (d,)."""
        square = (self.share * (self.spread**2 + self.centre**2)).sum(1)
        return np.asarray(np.sqrt(np.maximum(square - self.mean() ** 2, 0.0)))

    def below(self, x: Floats | float, *, or_equal: bool) -> Floats:
        """Probability of an effect below x, (d,)."""
        x = np.broadcast_to(np.asarray(x, np.float64), (len(self.share),))[:, None]
        sd = np.where(self.spread > 0, self.spread, 1.0)
        point = (self.centre <= x) if or_equal else (self.centre < x)
        inside = np.where(self.spread > 0, ndtr((x - self.centre) / sd), point)
        return np.asarray((self.share * inside).sum(1))

    def beyond(self, delta: float) -> Floats:
        """Probability of an effect of more than delta either way, (d,)."""
        return np.clip(self.below(-delta, or_equal=False) + 1 - self.below(delta, or_equal=True), 0.0, 1.0)

    def median(self) -> Floats:
        """Of each effect, (d,)."""
        reach = np.abs(self.centre).max(1) + 6 * self.spread.max(1) + 1e-12
        low, high = -reach, reach
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = self.below(middle, or_equal=True) >= 0.5
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.where(np.abs(high) < 1e-9 * reach, 0.0, high)
