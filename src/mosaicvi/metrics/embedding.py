"""How good an embedding is: labels together, groups mixed, pairs close.

Shapes: n cells, k neighbours or latent dimensions. A row is a cell. Labels and groups are one value per
cell; values listed in ``ignore``, and missing ones (NaN, None), are unknown: such cells stay in the
neighbourhoods of others, where they agree with nobody, and are not scored themselves.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mosaicvi.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# On two cores 50,000 × 32 take 10 s exactly; the approximate search first compiles itself for half a minute.
EXACT_UP_TO = 50_000
CHUNK = 4_000_000  # distances at a time


class ClusterScores(NamedTuple):
    """Agreement of clusters with labels: adjusted Rand index and normalised mutual information."""

    ari: float
    nmi: float


class Neighbors(NamedTuple):
    """The nearest other cells of each cell, nearest first: ``indices`` and Euclidean ``distances``, n × k."""

    indices: Ints
    distances: Floats


def neighbors(Z: npt.ArrayLike, k: int = 15, *, exact: bool | None = None, seed: int = 0) -> Neighbors:
    """Find the nearest other cells of each cell.

    Parameters
    ----------
    Z
        Embedding, n × dimensions.
    k
        How many, below n.
    exact
        By default exact up to 50,000 cells; above, by nearest-neighbour descent (Dong, Charikar & Li, WWW
        2011; the library pynndescent) if it is installed.
    seed
        Of the approximate search.

    Returns
    -------
    Indices and distances; a cell is never its own neighbour.

    Raises
    ------
    InputError
        If Z is not a finite matrix or k does not fit.
    """
    z_nk = _embedding(Z)
    n = len(z_nk)
    if not 1 <= k < n:
        raise InputError(f"k is {k}, but there are {n} cells: give at least 1 and at most {n - 1}")
    if exact is None:
        exact = n <= EXACT_UP_TO
    if not exact:
        try:
            descent = importlib.import_module("pynndescent")
        except ImportError:
            exact = True
    if exact:
        from sklearn.neighbors import NearestNeighbors

        distances, indices = NearestNeighbors(n_neighbors=k).fit(z_nk).kneighbors()
        return Neighbors(indices.astype(np.int64), distances.astype(np.float64))
    # Ask for one more: a cell is usually, not always, found among its own.
    index = descent.NNDescent(z_nk.astype(np.float32), n_neighbors=k + 1, random_state=seed)
    indices, distances = index.neighbor_graph
    own = indices == np.arange(n)[:, None]
    own[~own.any(1), -1] = True
    return Neighbors(
        indices[~own].reshape(n, k).astype(np.int64), distances[~own].reshape(n, k).astype(np.float64)
    )


def neighbor_label_agreement(
    Z: npt.ArrayLike, labels: npt.ArrayLike, k: int = 15, *, ignore: Sequence[str] = ("unknown",)
) -> float:
    """Share of a cell's k nearest neighbours that have its label, averaged over cells with a known label.

    The neighbourhood consistency used, among others, by Wolf et al. (Genome Biology 2018) and Luecken et al.
    (Nature Methods 2022).
    """
    z_nk = _embedding(Z)
    code_n = _codes(labels, len(z_nk), "labels", ignore)
    known_n = _some_known(code_n)
    near_nk = neighbors(z_nk, k).indices[known_n]
    return float((code_n[near_nk] == code_n[known_n, None]).mean())


def neighbor_mixing(Z: npt.ArrayLike, groups: npt.ArrayLike, k: int = 15) -> float:
    """Mean entropy of the groups among a cell's k neighbours, over the entropy of the overall composition.

    1 when every neighbourhood is composed like the whole (a little less for small k), 0 when groups
    lie apart; NaN with a single group. The entropy of batch mixing of Haghverdi et al. (Nature Biotechnology
    2018), per neighbourhood and normalised.
    """
    z_nk = _embedding(Z)
    code_n = _codes(groups, len(z_nk), "groups", ())
    share_g = np.bincount(code_n) / len(code_n)
    if len(share_g) < 2:
        return float("nan")
    near_ng = _shares(code_n[neighbors(z_nk, k).indices], len(share_g))
    return float(_entropy(near_ng).mean() / _entropy(share_g[None])[0])


def neighbor_mixing_within(
    Z: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    k: int = 15,
    *,
    ignore: Sequence[str] = ("unknown",),
) -> float:
    """Mean entropy of the groups among a cell's k neighbours, over that of all cells with the cell's label.

    As :func:`neighbor_mixing`, but other composition costs nothing; more than 1 counts as 1. Scored are cells
    whose label is known and not almost all of one group (entropy above 0.1); NaN if there are none.
    """
    z_nk = _embedding(Z)
    code_n = _codes(labels, len(z_nk), "labels", ignore)
    group_n = _codes(groups, len(z_nk), "groups", ())
    known_n = _some_known(code_n)
    share_lg = pd.crosstab(code_n[known_n], group_n[known_n], normalize="index").to_numpy()
    entropy_l = _entropy(share_lg)
    scored_n = known_n & (entropy_l[code_n] > 0.1)
    if not scored_n.any():
        return float("nan")
    found_n = _entropy(_shares(group_n[neighbors(z_nk, k).indices[scored_n]], group_n.max() + 1))
    return float(np.minimum(found_n / entropy_l[code_n[scored_n]], 1).mean())


def _shares(code_nk: Ints, kinds: int) -> Floats:
    """Share of each kind in each row."""
    return np.stack([(code_nk == kind).mean(1) for kind in range(kinds)], axis=1)


def _entropy(share_ng: Floats) -> Floats:
    """Entropy of each row of shares."""
    return np.asarray(-(share_ng * np.log(np.where(share_ng > 0, share_ng, 1))).sum(1))


def lisi(Z: npt.ArrayLike, groups: npt.ArrayLike, *, perplexity: float = 30) -> Floats:
    """Local inverse Simpson's index of each cell: the effective number of groups around it.

    Korsunsky et al. (Nature Methods 2019): Gaussian-like weights on the nearest 3 × perplexity − 1 cells,
    so wide that their entropy is log(perplexity); 1 / Σ (weight of a group)².

    Returns
    -------
    n values between 1 and the number of groups.
    """
    z_nk = _embedding(Z)
    code_n = _codes(groups, len(z_nk), "groups", ())
    if not 1 < perplexity <= len(z_nk) / 3:
        raise InputError(f"perplexity is {perplexity}; give more than 1 and at most {len(z_nk) / 3:.0f}")
    near_nk, distance_nk = neighbors(z_nk, int(3 * perplexity) - 1)
    weight_nk = _perplexity_weights(distance_nk, perplexity)
    simpson_n = np.zeros(len(z_nk))
    for g in range(code_n.max() + 1):
        simpson_n += (weight_nk * (code_n[near_nk] == g)).sum(1) ** 2
    return np.asarray(1 / simpson_n)


def ilisi(Z: npt.ArrayLike, groups: npt.ArrayLike, *, perplexity: float = 30) -> float:
    """Median :func:`lisi` over cells, scaled from [1, number of groups] to [0, 1].

    The scaling of Luecken et al. (Nature Methods 2022). NaN with a single group.
    """
    kinds = len(np.unique(_codes(groups, len(_embedding(Z)), "groups", ())))
    median = np.median(lisi(Z, groups, perplexity=perplexity))
    return float((median - 1) / (kinds - 1)) if kinds > 1 else float("nan")


def kmeans_ari_nmi(
    Z: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    n_clusters: int | None = None,
    n_init: int = 4,
    seeds: Sequence[int] = (0, 1, 2),
    ignore: Sequence[str] = ("unknown",),
) -> ClusterScores:
    """Agreement of k-means clusters of the cells of known label with their labels, the best of several seeds.

    Adjusted Rand index (Hubert & Arabie, Journal of Classification 1985) and normalised mutual information
    (arithmetic mean). As many clusters as there are labels, unless ``n_clusters`` says otherwise.
    """
    from sklearn.cluster import KMeans

    z_nk, code_n = _known(Z, labels, ignore)
    kinds = len(np.unique(code_n)) if n_clusters is None else n_clusters
    if not 1 <= kinds <= len(z_nk):
        raise InputError(
            f"n_clusters is {kinds}, for {len(z_nk)} cells of known label; give fewer, at least 1"
        )
    return max(
        _agreement(code_n, KMeans(kinds, n_init=n_init, random_state=s).fit_predict(z_nk)) for s in seeds
    )


def leiden_ari_nmi(
    Z: npt.ArrayLike,
    labels: npt.ArrayLike,
    k: int = 15,
    *,
    resolution: float = 1.0,
    seed: int = 0,
    ignore: Sequence[str] = ("unknown",),
) -> ClusterScores:
    """Agreement of Leiden clusters of the k-nearest-neighbour graph with labels.

    Traag, Waltman & van Eck (Scientific Reports 2019). Needs igraph and leidenalg.
    """
    try:
        igraph, leidenalg = importlib.import_module("igraph"), importlib.import_module("leidenalg")
    except ImportError as missing:
        raise ImportError(
            "leiden_ari_nmi needs igraph and leidenalg: pip install igraph leidenalg; or use kmeans_ari_nmi"
        ) from missing
    z_nk, code_n = _known(Z, labels, ignore)
    near_nk = neighbors(z_nk, k).indices
    edges = np.column_stack([np.repeat(np.arange(len(z_nk)), k), near_nk.ravel()])
    graph = igraph.Graph(n=len(z_nk), edges=np.unique(np.sort(edges, axis=1), axis=0).tolist())
    parts = leidenalg.find_partition(
        graph, leidenalg.RBConfigurationVertexPartition, resolution_parameter=resolution, seed=seed
    )
    return _agreement(code_n, np.asarray(parts.membership))


def silhouette(
    Z: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    max_cells: int | None = 10_000,
    seed: int = 0,
    ignore: Sequence[str] = ("unknown",),
) -> float:
    """Mean silhouette width of the cells of known label (Rousseeuw 1987), between −1 and 1.

    Above ``max_cells`` on a random sample of that many, the same for the same seed; None for all.
    """
    from sklearn.metrics import silhouette_score

    z_nk, code_n = _known(Z, labels, ignore)
    if max_cells is not None and len(z_nk) > max_cells:
        pick = np.random.default_rng(seed).choice(len(z_nk), max_cells, replace=False)
        z_nk, code_n = z_nk[pick], code_n[pick]
    kinds = len(np.unique(code_n))
    if not 2 <= kinds < len(z_nk):
        raise InputError(
            f"labels has {kinds} kinds among {len(z_nk)} scored cells; a silhouette needs 2 to n − 1"
        )
    return float(silhouette_score(z_nk, code_n))


def label_transfer(
    Z: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    k: int = 15,
    *,
    ignore: Sequence[str] = ("unknown",),
) -> float:
    """Share of labels right when each group's come from the k nearest cells of all other groups, by majority.

    Averaged over groups that have cells of known label (k-nearest-neighbour label transfer, as in
    Cao & Gao, Nature Biotechnology 2022). Of equally frequent labels the first in sorted order wins.
    NaN if no group can be scored.
    """
    from sklearn.neighbors import NearestNeighbors

    z_nk = _embedding(Z)
    code_n = _codes(labels, len(z_nk), "labels", ignore)
    group_n = _codes(groups, len(z_nk), "groups", ())
    known_n, kinds = _some_known(code_n), int(code_n.max()) + 1
    shares = []
    for g in range(group_n.max() + 1):
        query_n, source_n = known_n & (group_n == g), known_n & (group_n != g)
        if not query_n.any() or not source_n.any():
            continue
        near = NearestNeighbors(n_neighbors=min(k, int(source_n.sum()))).fit(z_nk[source_n])
        voter_qk = code_n[source_n][near.kneighbors(z_nk[query_n], return_distance=False)]
        shares.append((_shares(voter_qk, kinds).argmax(1) == code_n[query_n]).mean())
    return float(np.mean(shares)) if shares else float("nan")


def foscttm(A: npt.ArrayLike, B: npt.ArrayLike) -> float:
    """Fraction of samples closer than the true match, for n paired cells embedded twice.

    Liu, Huang, Singh, Vert & Noble (WABI 2019): for each cell, the share of the other cells whose
    embedding in B is closer to it in A than its own, and the other way round, averaged. 0 is perfect,
    about 0.5 is chance. Exact; time grows with n².

    Parameters
    ----------
    A, B
        Embeddings of the same cells in the same order, n × dimensions each.
    """
    a_nk, b_nk = _embedding(A, "A"), _embedding(B, "B")
    if a_nk.shape != b_nk.shape or len(a_nk) < 2:
        raise InputError(
            f"A is {a_nk.shape} and B {b_nk.shape}; give two paired embeddings of one shape, n > 1"
        )
    n = len(a_nk)
    middle_k = a_nk.mean(0)
    a_nk, b_nk = a_nk - middle_k, b_nk - middle_k
    own_n = ((a_nk - b_nk) ** 2).sum(1)
    # nothing is closer than a match at distance 0, whatever rounding says
    limit_n = np.where(own_n > 0, -own_n, np.inf)
    # −‖a − b‖² as one product: [2a, −‖a‖², −1] · [b, 1, ‖b‖²]
    left_nk = np.column_stack([2 * a_nk, -(a_nk**2).sum(1), -np.ones(n)])
    right_nk = np.column_stack([b_nk, np.ones(n), (b_nk**2).sum(1)])
    closer, step = 0, max(1, CHUNK // n)
    for start in range(0, n, step):
        near = left_nk[start : start + step] @ right_nk.T
        near[np.arange(len(near)), start + np.arange(len(near))] = -np.inf
        closer += int(np.count_nonzero(near > limit_n[start : start + step, None]))
        closer += int(np.count_nonzero(near > limit_n))
    return closer / (2 * n * (n - 1))


def _embedding(Z: npt.ArrayLike, name: str = "Z") -> Floats:
    z_nk = np.asarray(Z, dtype=np.float64)
    if z_nk.ndim != 2 or z_nk.size == 0:
        raise InputError(f"{name} has shape {z_nk.shape}; give a matrix, cells × dimensions")
    if not np.isfinite(z_nk).all():
        raise InputError(f"{name} has {(~np.isfinite(z_nk)).sum()} values that are not finite")
    return z_nk


def _codes(values: npt.ArrayLike, n: int, name: str, ignore: Sequence[str]) -> Ints:
    """Rank of each cell's value in sorted order; −1 where it is missing or ignored."""
    series: pd.Series[Any] = pd.Series(values).astype(object)
    if len(series) != n:
        raise InputError(f"{name} has {len(series)} values for {n} cells; give one per cell, in their order")
    if isinstance(ignore, str):
        raise InputError(f"ignore is the text {ignore!r}; give a list of values, such as ({ignore!r},)")
    known = series.notna() & ~series.astype(str).isin([str(value) for value in ignore])
    codes = np.full(n, -1, np.int64)
    codes[known.to_numpy()] = pd.factorize(series[known].astype(str).to_numpy(dtype=object), sort=True)[0]
    if name == "groups" and not known.all():
        raise InputError(f"groups has {(~known).sum()} missing values; give every cell a group")
    return codes


def _some_known(code_n: Ints) -> Bools:
    known_n: Bools = code_n >= 0
    if not known_n.any():
        raise InputError("labels has no known value; check which values are ignored")
    return known_n


def _known(Z: npt.ArrayLike, labels: npt.ArrayLike, ignore: Sequence[str]) -> tuple[Floats, Ints]:
    z_nk = _embedding(Z)
    code_n = _codes(labels, len(z_nk), "labels", ignore)
    known_n = _some_known(code_n)
    return z_nk[known_n], code_n[known_n]


def _agreement(code_n: Ints, cluster_n: npt.NDArray[Any]) -> ClusterScores:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return ClusterScores(
        float(adjusted_rand_score(code_n, cluster_n)), float(normalized_mutual_info_score(code_n, cluster_n))
    )


def _perplexity_weights(distance_nk: Floats, perplexity: float) -> Floats:
    """Weights ∝ exp(−β distance) whose entropy is log(perplexity), β per cell by bisection."""
    n = len(distance_nk)
    beta_n, low_n, high_n = np.ones(n), np.zeros(n), np.full(n, np.inf)
    # the weights do not change when all distances of a cell do, and cannot vanish together
    gap_nk = distance_nk - distance_nk[:, :1]
    for _ in range(60):
        w_nk = np.exp(-gap_nk * beta_n[:, None])
        total_n = w_nk.sum(1)
        over_n = np.log(total_n) + beta_n * (gap_nk * w_nk).sum(1) / total_n - np.log(perplexity)
        if (np.abs(over_n) < 1e-5).all():
            break
        low_n, high_n = np.where(over_n > 0, beta_n, low_n), np.where(over_n > 0, high_n, beta_n)
        beta_n = np.where(np.isinf(high_n), 2 * beta_n, (low_n + high_n) / 2)
    return np.asarray(w_nk / total_n[:, None])
