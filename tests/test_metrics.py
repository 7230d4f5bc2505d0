from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.stats as st
from scipy.optimize import brentq
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_rand_score,
    normalized_mutual_info_score,
    roc_auc_score,
    silhouette_samples,
)

from mosaicvi import metrics
from mosaicvi.errors import InputError
from mosaicvi.metrics import embedding, imputation

SCORE = Path(__file__).resolve().parents[2] / "shared" / "tools" / "score.py"


@pytest.fixture(scope="module")
def score() -> ModuleType:
    """The script that scores all runs, if this checkout lies beside it."""
    if not SCORE.exists():
        pytest.skip("needs ../shared/tools/score.py beside the repository")
    mudata = pytest.importorskip("mudata")
    spec = importlib.util.spec_from_file_location("score", SCORE)
    module = importlib.util.module_from_spec(spec)
    with mudata.set_options(pull_on_update=None):  # the script sets it globally; undone here
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embedding, labels (some unknown) and groups of 400 cells."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 400)
    group = rng.choice(["x", "y", "z"], 400, p=[0.5, 0.3, 0.2])
    Z = 1.2 * rng.normal(size=(4, 5))[kind] + 0.7 * rng.normal(size=(400, 5)) + 0.5 * (group == "z")[:, None]
    label = np.array(["T", "B", "NK", "Mono"], dtype=object)[kind]
    label[rng.random(400) < 0.1] = "unknown"
    return Z, label, group


def slow_neighbors(Z: np.ndarray, k: int) -> np.ndarray:
    gap = np.linalg.norm(Z[:, None] - Z[None], axis=-1)
    np.fill_diagonal(gap, np.inf)
    return np.argsort(gap, axis=1, kind="stable")[:, :k]


# ---- against the script that scores all runs -----------------------------------------------------


def test_embedding_scores_equal_the_scoring_script(score, cells):
    Z, label, group = cells
    theirs = score.latent_scores(Z, label, group)
    ours = {
        "mix": metrics.neighbor_mixing(Z, group),
        "knn_label": metrics.neighbor_label_agreement(Z, label),
        "transfer": metrics.label_transfer(Z, label, group),
        "asw_label": metrics.silhouette(Z, label),
    } | metrics.kmeans_ari_nmi(Z, label)._asdict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value == pytest.approx(theirs[key], abs=1e-6), key


def test_mixing_within_equals_the_scoring_script(score, cells):
    Z, label, group = cells
    theirs = score.mixing_within(Z, label, group)["mix_within"]
    assert metrics.neighbor_mixing_within(Z, label, group) == pytest.approx(theirs, abs=1e-12)


def test_correlations_equal_the_scoring_script(score):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(50, 7)), rng.poisson(1.0, size=(50, 7)).astype(float)
    b[:, 2] = 3
    ours = metrics.correlation_per_feature(a, b)
    assert np.isnan(ours[2])
    np.testing.assert_allclose(ours[~np.isnan(ours)], score.colcorr(a, b), atol=1e-6)


# ---- embeddings ------------------------------------------------------------------------------------


def test_neighbors_equal_all_distances(cells):
    Z = cells[0]
    found = metrics.neighbors(Z, 7)
    assert (found.indices == slow_neighbors(Z, 7)).all()
    gap = np.linalg.norm(Z[:, None] - Z[found.indices], axis=-1)
    np.testing.assert_allclose(found.distances, gap, atol=1e-6)


def test_a_cell_is_not_its_own_neighbour_even_among_copies():
    Z = np.repeat(np.arange(3.0)[:, None], 4, axis=0)
    found = metrics.neighbors(Z, 3).indices
    assert (found != np.arange(12)[:, None]).all()
    assert (found // 4 == np.arange(12)[:, None] // 4).all()


class _Descent:
    """Stands in for pynndescent.NNDescent: all distances, and some cells do not find themselves."""

    def __init__(self, Z, *, n_neighbors, random_state):
        gap = np.linalg.norm(Z[:, None] - Z[None], axis=-1)
        gap[::3, ::3] += np.diag(np.full(len(gap[::3]), np.inf))
        indices = np.argsort(gap, axis=1, kind="stable")[:, :n_neighbors]
        self.neighbor_graph = indices, np.take_along_axis(gap, indices, axis=1)


def test_approximate_neighbours_leave_out_the_cell_itself(monkeypatch, cells):
    library = SimpleNamespace(NNDescent=_Descent)
    monkeypatch.setattr(embedding.importlib, "import_module", {"pynndescent": library}.__getitem__)
    monkeypatch.setattr(embedding, "EXACT_UP_TO", 399)
    found = metrics.neighbors(cells[0], 6)
    assert (found.indices == slow_neighbors(cells[0], 6)).all()
    assert np.isfinite(found.distances).all()


@pytest.mark.slow
@pytest.mark.skipif("MOSAICVI_SLOW" not in os.environ, reason="compiles for a minute; set MOSAICVI_SLOW=1")
def test_approximate_neighbours_are_nearly_all_right_and_repeatable():
    pytest.importorskip("pynndescent")
    Z = np.random.default_rng(0).normal(size=(2000, 8))
    near, again = (metrics.neighbors(Z, 15, exact=False, seed=1) for _ in range(2))
    assert (near.indices == again.indices).all()
    assert (near.indices != np.arange(2000)[:, None]).all()
    true = metrics.neighbors(Z, 15, exact=True).indices
    recall = np.mean([len(np.intersect1d(a, b)) / 15 for a, b in zip(near.indices, true, strict=True)])
    assert recall > 0.97
    assert (np.diff(near.distances, axis=1) >= 0).all()


def test_without_the_approximate_library_neighbours_are_exact(monkeypatch, cells):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(embedding.importlib, "import_module", absent)
    found = metrics.neighbors(cells[0], 4, exact=False)
    assert (found.indices == slow_neighbors(cells[0], 4)).all()
    with pytest.raises(ImportError, match="pip install igraph leidenalg"):
        metrics.leiden_ari_nmi(cells[0], cells[1])


def test_label_agreement_equals_counting(cells):
    Z, label, _ = cells
    near = slow_neighbors(Z, 9)
    slow = [np.mean([label[j] == label[i] for j in near[i]]) for i in range(400) if label[i] != "unknown"]
    assert metrics.neighbor_label_agreement(Z, label, 9) == pytest.approx(np.mean(slow), abs=1e-12)
    # every label counts once nothing is ignored
    slow = [np.mean(label[near[i]] == label[i]) for i in range(400)]
    assert metrics.neighbor_label_agreement(Z, label, 9, ignore=()) == pytest.approx(np.mean(slow), abs=1e-12)


@pytest.mark.parametrize("missing", [np.nan, None, "unknown"])
def test_missing_labels_are_like_ignored_ones(cells, missing):
    Z, label, group = cells
    other = pd.Series(label).where(label != "unknown", missing)
    assert metrics.neighbor_label_agreement(Z, other) == metrics.neighbor_label_agreement(Z, label)
    assert metrics.label_transfer(Z, other.to_numpy(), group) == metrics.label_transfer(Z, label, group)
    assert metrics.silhouette(Z, pd.Categorical(other)) == metrics.silhouette(Z, label)
    renamed = np.where(label == "unknown", "doublet", label)
    assert metrics.silhouette(Z, renamed, ignore=("doublet",)) == metrics.silhouette(Z, label)


def test_mixing_equals_entropy_by_scipy(cells):
    Z, _, group = cells
    near = slow_neighbors(Z, 15)
    local = [st.entropy([(group[near[i]] == g).mean() for g in "xyz"]) for i in range(400)]
    whole = st.entropy([(group == g).mean() for g in "xyz"])
    assert metrics.neighbor_mixing(Z, group) == pytest.approx(np.mean(local) / whole, abs=1e-12)
    assert np.isnan(metrics.neighbor_mixing(Z, ["x"] * 400))


def test_mixing_within_equals_entropies_one_by_one(cells):
    Z, label, group = cells
    group = np.where(label == "T", "x", group)  # a label of one group is not scored
    near = slow_neighbors(Z, 15)
    ratio = []
    for i in range(400):
        alike = group[label == label[i]]
        whole = st.entropy([(alike == g).mean() for g in "xyz"])
        if label[i] not in ("unknown", "T"):
            ratio.append(min(st.entropy([(group[near[i]] == g).mean() for g in "xyz"]) / whole, 1))
    assert 0 < len(ratio) < 400
    assert metrics.neighbor_mixing_within(Z, label, group) == pytest.approx(np.mean(ratio), abs=1e-12)
    assert np.isnan(metrics.neighbor_mixing_within(Z, label, ["x"] * 400))


def test_mixing_and_lisi_at_their_ends():
    rng = np.random.default_rng(0)
    group = np.repeat(["a", "b"], 150)
    together, apart = rng.normal(size=(300, 3)), rng.normal(size=(300, 3)) + 100 * (group == "b")[:, None]
    assert metrics.neighbor_mixing(apart, group) == 0
    assert 0.9 < metrics.neighbor_mixing(together, group) <= 1
    assert metrics.ilisi(apart, group) == pytest.approx(0, abs=1e-9)
    assert metrics.ilisi(together, group) > 0.85


def test_lisi_equals_solving_for_each_cell(cells):
    Z, _, group = cells
    near = slow_neighbors(Z, 29)
    ours = metrics.lisi(Z, group, perplexity=10)
    for i in range(0, 400, 37):
        gap = np.linalg.norm(Z[i] - Z[near[i]], axis=1)
        beta = brentq(lambda b, gap=gap: st.entropy(np.exp(-b * (gap - gap[0]))) - np.log(10), 0, 1e4)
        weight = np.exp(-beta * gap) / np.exp(-beta * gap).sum()
        simpson = sum(weight[group[near[i]] == g].sum() ** 2 for g in "xyz")
        assert ours[i] == pytest.approx(1 / simpson, rel=1e-4)
    assert metrics.ilisi(Z, group, perplexity=10) == pytest.approx((np.median(ours) - 1) / 2)
    assert np.isnan(metrics.ilisi(Z, ["x"] * 400))


def test_lisi_survives_copies_of_a_cell():
    values = metrics.lisi(np.zeros((60, 2)), np.repeat(["a", "b"], 30), perplexity=10)
    assert np.isfinite(values).all()


def test_kmeans_scores_equal_scikit_learn(cells):
    Z, label, _ = cells
    known = label != "unknown"
    names = label[known].astype(str)
    runs = [KMeans(4, n_init=4, random_state=s).fit_predict(Z[known]) for s in range(3)]
    best = max((adjusted_rand_score(names, c), normalized_mutual_info_score(names, c)) for c in runs)
    assert metrics.kmeans_ari_nmi(Z, label) == pytest.approx(best, abs=1e-12)
    one = metrics.kmeans_ari_nmi(Z, label, n_clusters=1)
    assert one.ari == 0


def test_leiden_finds_separate_clusters():
    pytest.importorskip("igraph", reason="igraph is not installed")
    pytest.importorskip("leidenalg", reason="leidenalg is not installed")
    label = np.repeat(["a", "b", "c"], 40)
    Z = np.random.default_rng(0).normal(size=(120, 3)) + 50 * np.repeat(np.eye(3), 40, axis=0)
    assert metrics.leiden_ari_nmi(Z, label, resolution=0.1) == (1.0, 1.0)


def test_silhouette_equals_scikit_learn_and_samples_repeatably(cells):
    Z, label, _ = cells
    known = label != "unknown"
    whole = silhouette_samples(Z[known], label[known].astype(str)).mean()
    assert metrics.silhouette(Z, label) == pytest.approx(whole, abs=1e-9)
    part = metrics.silhouette(Z, label, max_cells=200)
    assert part == metrics.silhouette(Z, label, max_cells=200)
    assert part != metrics.silhouette(Z, label, max_cells=200, seed=1)
    assert part == pytest.approx(whole, abs=0.05)
    assert metrics.silhouette(Z, label, max_cells=None) == pytest.approx(whole, abs=1e-9)


def test_label_transfer_equals_voting_by_hand(cells):
    Z, label, group = cells
    shares = []
    for g in "xyz":
        query = np.flatnonzero((label != "unknown") & (group == g))
        source = np.flatnonzero((label != "unknown") & (group != g))
        right = []
        for i in query:
            near = source[np.argsort(np.linalg.norm(Z[source] - Z[i], axis=1), kind="stable")[:11]]
            names, counts = np.unique(label[near].astype(str), return_counts=True)
            right.append(names[counts.argmax()] == label[i])
        shares.append(np.mean(right))
    assert metrics.label_transfer(Z, label, group, 11) == pytest.approx(np.mean(shares), abs=1e-12)
    assert np.isnan(metrics.label_transfer(Z, label, ["x"] * 400))


def test_foscttm_equals_all_distances(monkeypatch):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(90, 4)) + 30
    B = A + 0.5 * rng.normal(size=A.shape)
    gap = np.linalg.norm(A[:, None] - B[None], axis=-1)
    own = np.diag(gap)
    slow = ((gap < own[:, None]).sum() + (gap < own[None]).sum()) / (2 * 90 * 89)
    assert metrics.foscttm(A, B) == pytest.approx(slow, abs=1e-12)
    monkeypatch.setattr(embedding, "CHUNK", 90 * 7)
    assert metrics.foscttm(A, B) == pytest.approx(slow, abs=1e-12)
    assert metrics.foscttm(A, A) == 0
    assert metrics.foscttm(np.ones((5, 2)), np.ones((5, 2))) == 0
    assert metrics.foscttm(A, rng.permutation(A)) == pytest.approx(0.5, abs=0.1)


# ---- imputation ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imputed() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    rate = rng.gamma(0.5, 0.6, size=(80, 13))
    measured = rng.poisson(rate).astype(np.float32)
    measured[:, 3] = 0
    measured[:, 5] = 1
    predicted = (rate + 0.2 * rng.random(rate.shape)).round(1).astype(np.float32)  # has ties
    predicted[:, 7] = 0.1
    return predicted, measured


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_array])
@pytest.mark.parametrize("chunk", [4_000_000, 160])
@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_correlations_equal_scipy(imputed, kind, chunk, method, monkeypatch):
    monkeypatch.setattr(imputation, "CHUNK", chunk)
    p, m = imputed
    call = {"pearson": st.pearsonr, "spearman": st.spearmanr}[method]
    ours = metrics.correlation_per_feature(p, kind(m), method)
    assert np.isnan(ours[[3, 5, 7]]).all()
    for j in set(range(13)) - {3, 5, 7}:
        assert ours[j] == pytest.approx(call(p[:, j].astype(float), m[:, j].astype(float))[0], abs=1e-6)
    whole = call(p.ravel().astype(float), m.ravel().astype(float))[0]
    assert metrics.correlation_overall(p, kind(m), method) == pytest.approx(whole, abs=1e-6)


def test_entries_not_measured_are_left_out(imputed):
    p, m = imputed
    hide = np.random.default_rng(0).random(m.shape) < 0.3
    hide[:, 0] = True
    seen = np.where(hide, np.nan, m)
    pearson, auc = metrics.correlation_per_feature(p, seen), metrics.auroc_per_feature(p, seen)
    assert np.isnan(pearson[0])
    assert np.isnan(auc[0])
    for j in (1, 2, 9):
        keep = ~hide[:, j]
        assert pearson[j] == pytest.approx(st.pearsonr(p[keep, j], m[keep, j])[0], abs=1e-6)
        assert auc[j] == pytest.approx(roc_auc_score(m[keep, j] > 0, p[keep, j]), abs=1e-12)
    whole = st.pearsonr(p[~hide].astype(float), m[~hide].astype(float))[0]
    assert metrics.correlation_overall(p, seen) == pytest.approx(whole, abs=1e-6)
    assert metrics.auroc_overall(p, seen) == pytest.approx(roc_auc_score(m[~hide] > 0, p[~hide]), abs=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_array])
def test_auroc_equals_scikit_learn(imputed, kind, monkeypatch):
    monkeypatch.setattr(imputation, "CHUNK", 160)
    p, m = imputed
    ours = metrics.auroc_per_feature(p, kind(m))
    assert np.isnan(ours[[3, 5]]).all()
    assert ours[7] == 0.5
    for j in set(range(13)) - {3, 5}:
        assert ours[j] == pytest.approx(roc_auc_score(m[:, j] > 0, p[:, j]), abs=1e-12)
    assert metrics.auroc_overall(p, kind(m)) == pytest.approx(
        roc_auc_score(m.ravel() > 0, p.ravel()), abs=1e-12
    )
    pick = np.random.default_rng(4).choice(p.size, 500)
    sampled = roc_auc_score(m.ravel()[pick] > 0, p.ravel()[pick])
    assert metrics.auroc_overall(p, kind(m), max_entries=500, seed=4) == pytest.approx(sampled, abs=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_coverage_equals_counting_and_is_calibrated(kind):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(300, 20))
    measured = np.maximum(rng.normal(mean), 0)
    lower, upper = mean - 1.0, mean + 1.2
    slow = np.mean((lower <= measured) & (measured <= upper))
    assert metrics.interval_coverage(lower, upper, kind(measured)) == pytest.approx(slow, abs=1e-12)
    z = st.norm.ppf(0.95)
    assert metrics.interval_coverage(mean - z, mean + z, rng.normal(mean)) == pytest.approx(0.9, abs=0.01)
    hidden = np.where(rng.random(mean.shape) < 0.5, np.nan, 5.0)
    assert metrics.interval_coverage(mean * 0, mean * 0 + 5, hidden) == 1.0
    assert np.isnan(metrics.interval_coverage(lower, upper, np.full(mean.shape, np.nan)))


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_root_mean_square_error_leaves_out_what_was_not_measured(kind, monkeypatch):
    monkeypatch.setattr(imputation, "CHUNK", 100)
    rng = np.random.default_rng(0)
    p, m = rng.normal(size=(50, 7)), rng.poisson(1.0, size=(50, 7)).astype(float)
    assert metrics.root_mean_square_error(p, kind(m)) == pytest.approx(
        np.sqrt(((p - m) ** 2).mean()), abs=1e-12
    )
    m[:, 2], m[3:, 4] = np.nan, np.nan
    plain = np.sqrt(np.nanmean((p - m) ** 2))
    assert metrics.root_mean_square_error(p, m) == pytest.approx(plain, abs=1e-12)
    assert np.isnan(metrics.root_mean_square_error(p, np.full(m.shape, np.nan)))


# ---- wrong input -----------------------------------------------------------------------------------

Z3 = np.arange(9.0).reshape(3, 3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.neighbors(Z3, 3), "k is 3, but there are 3 cells"),
        (lambda: metrics.neighbors(Z3[0], 1), r"Z has shape \(3,\)"),
        (lambda: metrics.neighbors(np.where(Z3 == 1, np.nan, Z3), 1), "Z has 1 values that are not finite"),
        (lambda: metrics.neighbor_label_agreement(Z3, ["a"], 1), "labels has 1 values for 3 cells"),
        (lambda: metrics.neighbor_label_agreement(Z3, ["unknown"] * 3, 1), "no known value"),
        (lambda: metrics.neighbor_label_agreement(Z3, ["a"] * 3, 1, ignore="unknown"), "ignore is the text"),
        (lambda: metrics.neighbor_mixing(Z3, ["a", None, "b"], 1), "groups has 1 missing"),
        (lambda: metrics.lisi(Z3, ["a"] * 3), "perplexity is 30"),
        (lambda: metrics.kmeans_ari_nmi(Z3, ["a"] * 3, n_clusters=4), "n_clusters is 4"),
        (lambda: metrics.silhouette(Z3, ["a"] * 3), "labels has 1 kinds"),
        (lambda: metrics.foscttm(Z3, Z3[:, :2]), r"A is \(3, 3\) and B \(3, 2\)"),
        (lambda: metrics.correlation_per_feature(Z3, Z3[:2]), r"predicted is \(3, 3\) and measured \(2, 3\)"),
        (lambda: metrics.correlation_per_feature(Z3, Z3, "kendall"), "method is 'kendall'"),
        (lambda: metrics.correlation_overall(Z3 * np.nan, Z3), "predicted has 9 values that are not finite"),
        (lambda: metrics.auroc_per_feature(sp.csr_matrix(Z3), Z3), "predicted is sparse"),
        (lambda: metrics.interval_coverage(Z3 + 1, Z3, Z3), "were the two swapped"),
    ],
)
def test_wrong_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_every_public_function_is_documented_and_leaves_the_input_alone(cells, imputed):
    for name in metrics.__all__:
        assert getattr(metrics, name).__doc__
    Z, label, group = cells
    p, m = imputed
    before = [np.array(x, copy=True) for x in (Z, label, group, p, m)]
    metrics.foscttm(Z, Z)
    metrics.label_transfer(Z, label, group)
    metrics.correlation_per_feature(p, m, "spearman")
    metrics.auroc_per_feature(p, m)
    for x, y in zip((Z, label, group, p, m), before, strict=True):
        assert (x == y).all()
