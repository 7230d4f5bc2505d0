"""Groups of which no two cells of one batch measured a modality: compared by their imputed values.

How far such a comparison can be off is learned from cells that measured the modality, held out from training
where there are enough: the modality is hidden from the encoder, clusters of these cells in the latent are
compared with all others of them by imputed and by measured values, and the differences of both comparisons
are the error of an imputed one: beyond the noise of the measured values of held-out cells, and together
with that of cells that the model was trained on.

Legend: n cells, d features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.differential.contrast import Contrast
from mosaicvi.infer.differential.kinds import Kind
from mosaicvi.infer.differential.measured import Comparison, score_of, strata_of, sums
from mosaicvi.infer.differential.moments import Floats, Ints, Moments, moments

MOST_CELLS = 4000
FEWEST_CELLS = 120
FEWEST_HELD_OUT = 240
CELLS_OF_CLUSTER = 30
MOST_CLUSTERS = 12
FEWEST_CLUSTERS = 4
PRIOR_CLUSTERS = 4.0  # clusters that the typical error of all features stands for

Impute = Callable[[Ints, bool], Floats]  # cells, whether to hide the modality -> expected values (n, d)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImputedError:
    """How far comparisons of imputed values are off.

    Attributes
    ----------
    variance
        Of the imputed level of a group, on the scale of the effects, (d,).
    freedom
        Degrees of freedom of these variances.
    """

    variance: Floats
    freedom: float

    def p_value(self, contrast: Contrast, delta: float) -> Floats:
        """Probability of so large an effect if the true one is at most delta either way, (d,)."""
        size = np.abs(contrast.effect)
        tails = [scipy.stats.t.sf((size - bound) / contrast.error, self.freedom) for bound in (delta, -delta)]
        return np.asarray(np.minimum(tails[0] + tails[1], 1.0))


def learn_error(
    mosaic: Mosaic,
    data: ModalityData,
    kind: Kind,
    latent: Callable[[Ints], Floats],
    impute: Impute,
    held_out: NDArray[np.bool_] | None,
    *,
    seed: int,
) -> ImputedError | None:
    """The error of imputed comparisons; None where too few cells tell of it.

    Parameters
    ----------
    mosaic, data, kind
        The data, the modality, and how it is compared.
    latent, impute
        Latent of cells when the modality is hidden, and their imputed values.
    held_out
        Which cells no training saw; None where that is not known.
    seed
        Decides cells and clusters, where there are many.
    """
    others = np.zeros(mosaic.n_cells, bool)
    for other in mosaic.modalities:
        others |= (other.row_of_cell >= 0) & (other.name != data.name)
    able = np.flatnonzero(others & (data.row_of_cell >= 0))
    unseen = able if held_out is None else able[held_out[able]]
    is_new = held_out is not None and len(unseen) >= FEWEST_HELD_OUT
    chosen = unseen if is_new else able
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(chosen)[:MOST_CELLS])
    k = min(MOST_CLUSTERS, len(chosen) // CELLS_OF_CLUSTER)
    if len(chosen) < FEWEST_CELLS or k < FEWEST_CLUSTERS:
        return None
    cluster = KMeans(k, n_init=3, random_state=seed).fit_predict(latent(chosen))
    stratum, n_strata = strata_of(mosaic, data, by_batch=True)
    row = data.row_of_cell[chosen]
    code = np.full(data.n_cells, -1)
    code[row] = cluster
    every = np.arange(data.n_features)
    truth = sums(data, kind, code, stratum, k, n_strata, every)
    guess = _sums_of(kind.imputed(impute(chosen, True)), cluster * n_strata + stratum[row], k * n_strata)
    square, n = np.zeros(data.n_features), np.zeros(data.n_features)
    for i in range(k):
        rest = tuple(j for j in range(k) if j != i)
        comparison = Comparison(name1="", name2="", first=(i,), second=rest)
        seen = score_of(truth, comparison, k, n_strata, kind).contrast()
        imputed = score_of(guess, comparison, k, n_strata, kind).contrast()
        # cells that the model was trained on have made their noise its own; others add theirs
        off = (imputed.effect - seen.effect) ** 2 + (-1 if is_new else 1) * seen.error**2
        square += np.where(seen.usable, off, 0.0)
        n += seen.usable
    usual = max(float(np.median((square / np.maximum(n, 1))[n > 0])), 1e-4) if (n > 0).any() else np.inf
    variance = (np.maximum(square, 0.0) + PRIOR_CLUSTERS * usual) / (n + PRIOR_CLUSTERS)
    return ImputedError(variance=variance, freedom=float(k - 1))


def _sums_of(value_nd: Floats, member: Ints, c: int) -> Moments:
    return moments(value_nd, value_nd, np.ones(len(value_nd)), member, c)


def imputed_contrast(
    mosaic: Mosaic,
    kind: Kind,
    impute: Impute,
    first: Ints,
    second: Ints,
    error: ImputedError,
    *,
    by_batch: bool,
    step: int,
) -> Contrast:
    """Two groups of cells compared by their imputed values, in batches that have both where there are any.

    Parameters
    ----------
    mosaic, kind, impute
        The data, how they are compared, and imputed values of cells.
    first, second
        Positions of the cells of each group.
    error
        Of such comparisons.
    by_batch
        Whether to compare within batches.
    step
        Cells at a time.
    """
    cells = np.concatenate([first, second])
    group = np.repeat([0, 1], [len(first), len(second)])
    both = np.intersect1d(mosaic.batch[first], mosaic.batch[second])
    batch = mosaic.batch[cells] if by_batch and len(both) else np.zeros(len(cells), np.int64)
    n_strata = int(batch.max()) + 1
    total: Moments | None = None
    for at in (slice(i, i + step) for i in range(0, len(cells), step)):
        value = kind.imputed(impute(cells[at], False))
        part = _sums_of(value, group[at] * n_strata + batch[at], 2 * n_strata)
        total = part if total is None else total + part
    assert total is not None
    pair = Comparison(name1="", name2="", first=(0,), second=(1,))
    found = score_of(total, pair, 2, n_strata, kind).contrast()
    return dataclasses.replace(found, error=np.sqrt(found.error**2 + 2 * error.variance))
