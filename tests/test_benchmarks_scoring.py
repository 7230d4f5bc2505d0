"""Scores of the benchmark of quality: those of the script that scores all runs, and of scib-metrics."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import mudata
import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks import made, mosaics, scib, scoring
from sklearn.metrics import roc_auc_score

from mosaicvi import MosaicVI

SCORE = Path(__file__).parents[2] / "shared" / "tools" / "score.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated tasks as files."""
    out = tmp_path_factory.mktemp("tasks")
    made.write_tasks(out, quick=True)
    return out


@pytest.fixture(scope="module")
def score() -> ModuleType:
    """The script that scores all runs, if this checkout lies beside it."""
    if not SCORE.exists():
        pytest.skip("needs ../shared/tools/score.py beside the repository")
    spec = importlib.util.spec_from_file_location("score", SCORE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mudata.set_options(pull_on_update=None):  # the script sets it globally; undone here
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["rna", "adt", "atac", "protein"])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_imputation_scores_equal_the_scoring_script(score: ModuleType, name: str, share: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.gamma(0.5, 2.0, 40), size=(70, 40)).astype(np.float32)
    guess = (rng.gamma(1.0, 1.0, x.shape) + x).astype(np.float32)
    if name == "protein":
        x, guess = (x + rng.normal(size=x.shape)).astype(np.float32), guess - 3
        x[rng.random(x.shape) < 0.2] = np.nan
    else:
        x[:, 5], x[5:, 6] = 0, 0
    guess[:, 3] = 0.0
    hidden = (rng.random(x.shape) < share) & ~np.isnan(x)
    theirs = score.imputation_scores(name, x, guess, hidden)
    kind, measured = scoring.kind_of(name, x), ~np.isnan(x)
    truth = scoring.on_scale(kind, x, measured)
    values = guess if kind in ("value", "peaks") else scoring.on_scale(kind, guess, measured)
    ours = scoring.imputation_scores(kind, truth, values, hidden)
    expected = {scoring.SCRIPT_NAMES.get(k.split(".")[1], k.split(".")[1]): v for k, v in theirs.items()}
    assert ours == pytest.approx(expected, abs=1e-5)


def test_of_many_entries_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "AUC_ALL", 100)
    monkeypatch.setattr(scoring, "AUC_DRAWN", 700)
    rng = np.random.default_rng(1)
    truth, guess = (rng.random((30, 20)) < 0.3).astype(np.float32), rng.random((30, 20))
    hidden = rng.random((30, 20)) < 0.7
    drawn = np.random.default_rng(0)
    row, column = drawn.integers(0, 30, 700), drawn.integers(0, 20, 700)
    there = hidden[row, column]
    plain = roc_auc_score(truth[row, column][there], guess[row, column][there])
    assert scoring.imputation_scores("peaks", truth, guess, hidden)["auc"] == pytest.approx(plain)


def test_latent_scores_equal_the_scoring_script(score: ModuleType) -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(["T", "B", "unknown"], 200).astype(object)
    group = rng.choice(["x", "y"], 200).astype(object)
    latent = rng.normal(size=(200, 4)) + 2 * (label == "T")[:, None] + (group == "x")[:, None]
    theirs = score.latent_scores(latent, label, group) | score.mixing_within(latent, label, group)
    ours = scoring.latent_scores(latent, label, group)
    assert list(ours) == list(scoring.LATENT)
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_without_labels_only_mixing_is_scored() -> None:
    latent = np.random.default_rng(0).normal(size=(50, 2))
    unknown, groups = np.full(50, "unknown", object), np.resize(np.array(["a", "b"], object), 50)
    assert list(scoring.latent_scores(latent, unknown, groups)) == ["mix"]
    assert scoring.latent_scores(latent, unknown, unknown) == {}


def test_the_truth_itself_scores_perfectly(folder: Path) -> None:
    for name in mosaics.find(folder):
        task = mosaics.read_task(folder, name)
        for question in scoring.questions(task):
            x = task.truth[question.modality][question.hidden.rows].X
            values = x.toarray() if sp.issparse(x) else np.nan_to_num(np.asarray(x))
            found = question.of_counts(values)
            assert found.pop("entries") == question.hidden.entries.sum()
            assert found.pop("rmse", 0) == pytest.approx(0, abs=1e-6)
            assert found
            assert all(value == pytest.approx(1) for value in found.values()), (name, question.modality)
            on_scale = question.on_its_scale(np.where(question.hidden.entries, question.truth, np.nan))
            assert all(on_scale[k] == pytest.approx(1) for k in found)


@pytest.mark.parametrize("task", ["panels", "values"])  # it does not read the panels of one file
def test_a_run_scores_the_same_by_the_script(score: ModuleType, folder: Path, task: str) -> None:
    read = mosaics.read_task(folder, task)
    model = MosaicVI(read.mosaic).train(1, progress=False, accelerator="cpu")
    asked = scoring.questions(read)
    latent, imputed = scoring.by_script(SCORE, model, read, asked)
    assert scoring.latent_scores(model.get_latent_representation(), read.label, read.group) == pytest.approx(
        latent, abs=1e-4
    )
    for question in asked:
        values, is_log = scoring.answer(model, question)
        assert question.of_counts(values, is_log=is_log) == pytest.approx(
            imputed[question.modality], abs=2e-4
        )


def test_scib_scores_a_separated_and_a_mixed_latent() -> None:
    if reason := scib.missing():
        pytest.skip(reason)
    rng = np.random.default_rng(0)
    label = np.resize(np.array(["T", "B"], object), 300)
    group = rng.choice(np.array(["x", "y"], object), 300)
    latent = rng.normal(size=(300, 4)) + 20 * (label == "T")[:, None]
    mixed, apart = (scib.scores(latent + 20 * m * (group == "x")[:, None], label, group) for m in (0, 1))
    assert list(mixed) == ["ilisi", "pcr", "clisi", "graph_conn", "kbet", "isolated"]
    assert all(mixed[k] > apart[k] for k in ("ilisi", "kbet"))
    assert mixed["pcr"] < apart["pcr"]
    assert mixed["clisi"] == pytest.approx(1, abs=1e-3)
    assert mixed["graph_conn"] == pytest.approx(1)
