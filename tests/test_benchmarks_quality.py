"""The benchmark of quality: tasks by their files, scores as the scoring script has them, honest marks."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from benchmarks import (
    common,
    made,
    mosaics,
    peers,
    quality_tables,
    records,
    tasks,
    trials,
    variants,
)
from tests import processes

from mosaicvi import MosaicVI


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated tasks as files."""
    out = tmp_path_factory.mktemp("tasks")
    made.write_tasks(out, quick=True)
    return out


def run(*args: object) -> subprocess.CompletedProcess[str]:
    env = common.child_env(ours=True) | {"OMP_NUM_THREADS": "1"}
    done = processes.run(["-m", "benchmarks.quality", "--threads", "1", *args], env=env)
    assert done.returncode == 0, done.stderr
    return done


def rows(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, comment="#", keep_default_na=False)


# --- the whole ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_quick_runs_everything_and_its_tables_can_be_made_again(tmp_path: Path) -> None:
    run("--quick", "--csv", tmp_path / "quality.csv", "--time-to-quality")
    latent, imputed = rows(tmp_path / "quality.csv"), rows(tmp_path / "quality-imputed.csv")
    assert set(latent.task) == set(imputed.task) == {"modalities", "panels", "values"}
    assert list(latent.method[:2]) == ["published", "our defaults"]
    methods = {"nearest cells", "ridge", "published", "our defaults"}
    assert all(set(part.method) == methods for _, part in imputed.groupby(["task", "modality"]))
    assert set(imputed[imputed.task == "modalities"].modality) == {"rna", "adt", "atac"}
    of_ours = imputed[imputed.method == "our defaults"]
    assert all(text[-1] in "✓✗" for text in [*of_ours.r, *of_ours.auc_peak] if text)
    assert {"s_to_nearest", "s_to_ridge"} < set(imputed)
    peptides = rows(tmp_path / "quality-peptides.csv")
    assert set(peptides["missing_%"]) == {30, 60, 90}
    page = tmp_path / "page.md"
    page.write_text("<!-- begin quality -->\n<!-- end quality -->\n")
    run("--from", tmp_path / "quality-runs.csv", "--csv", tmp_path / "again.csv", "--fill", page)
    for name in ("", "-imputed", "-won", "-peptides", "-runs"):
        before, after = rows(tmp_path / f"quality{name}.csv"), rows(tmp_path / f"again{name}.csv")
        pd.testing.assert_frame_equal(before, after, check_exact=False, rtol=1e-9)
    assert page.read_text().count("| panels | our defaults |") == 1


def test_runs_are_read_from_their_own_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "quality.csv"
    path.write_text("# machine\ntask,variant\na,b\n")
    with pytest.raises(SystemExit, match="holds no runs"):
        records.read(path)


# --- tasks ----------------------------------------------------------------------------------------


def test_tasks_are_found_by_their_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mosaics.find(folder) == ["modalities", "panels", "values"]
    assert mosaics.find(folder, ["panels", "mop"]) == ["panels"]
    assert "skipped mop" in capsys.readouterr().err
    assert sorted(mosaics.studies(folder, "panels")) == ["A", "B", "C", "D", "E"]


def test_a_truth_without_its_task_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.truth.h5mu").touch()
    (tmp_path / "two.truth.h5ad").touch()
    assert mosaics.find(tmp_path) == []
    said = capsys.readouterr().err
    assert "skipped one" in said
    assert "skipped two" in said


def test_hidden_is_what_the_truth_has_and_the_mosaic_has_not(folder: Path) -> None:
    for name, modality in (("modalities", "rna"), ("panels", "adt"), ("values", "protein")):
        task = mosaics.read_task(folder, name)
        truth, found = task.truth[modality], mosaics.hidden(task, modality)
        seen = pd.DataFrame(False, index=task.names, columns=truth.var_names)
        data = task.mosaic.modality(modality)
        for cell, row in zip(task.names, data.row_of_cell, strict=True):
            if row >= 0:
                entries = (
                    data.panels[data.panel_of_row[row]]
                    if data.entry_measured is None
                    else data.entry_measured[row]
                )
                seen.loc[cell, np.array(data.features.names)[entries]] = True
        x = truth.X.toarray() if sp.issparse(truth.X) else truth.X
        expected = ~np.isnan(x) & ~seen.loc[truth.obs_names].to_numpy()
        assert expected.any()
        np.testing.assert_array_equal(found.rows, np.flatnonzero(expected.any(1)))
        np.testing.assert_array_equal(found.entries, expected[found.rows])
        np.testing.assert_array_equal(task.names[found.cells], truth.obs_names[found.rows])


def test_groups_that_fit_into_no_neighbourhood_are_what_was_shown_alone() -> None:
    shown = pd.Series(np.resize(["rna", "adt"], 90))
    few, many = (pd.Series(np.arange(90) // size).astype(str) for size in (30, 5))
    assert mosaics.groups_to_mix(few, shown).nunique() == 6
    assert mosaics.groups_to_mix(many, shown).equals(shown)


# --- won and lost ---------------------------------------------------------------------------------


def record(method: str, score: str, value: float, **more: Any) -> records.Record:
    by: records.By = "baseline" if method in ("nearest", "ridge") else "peer" if method == "peer" else "ours"
    said = {"part": "imputed", "task": "t", "modality": "adt", "by": by, "seed": 0} | more
    return records.Record(method=method, score=score, value=value, **said)


def made_records() -> list[records.Record]:
    found = [record(m, "entries", 100) for m in ("nearest", "ridge", "ours")]
    for score, near, ridge, ours in (
        ("r", 0.5, 0.4, (0.49, 0.53)),  # won by the mean over seeds
        ("rho", 0.3, 0.4, (0.39, 0.39)),  # lost to the better one
        ("rmse", 1.0, 2.0, (0.9, 1.1)),  # a tie is won
    ):
        found += [record("nearest", score, near), record("ridge", score, ridge)]
        found += [record("ours", score, value, seed=seed) for seed, value in enumerate(ours)]
    return found


def test_cells_are_marked_against_the_best_of_the_others() -> None:
    table = next(t for t in quality_tables.tables(made_records(), "") if t.name == "imputed")
    ours = next(row for row in table.rows if row["method"] == "ours")
    assert str(ours["r"]) == "0.510 ± 0.028 ✓"
    assert str(ours["rho"]) == "0.390 ± 0.000 ✗"
    assert str(ours["rmse"]) == "1.000 ± 0.141 ✓"
    assert [str(row["r"]) for row in table.rows[:2]] == ["0.500", "0.400"]


def test_won_lost_and_gain_are_counted_for_each_task_and_all() -> None:
    won = next(t for t in quality_tables.tables(made_records(), "") if t.name == "won")
    row, last = won.rows
    assert (row["won"], row["lost"], row["lost_columns"]) == (2, 1, "rho")
    assert row["gain_%"] == pytest.approx(100 * ((0.51 + 0.39) / (0.5 + 0.4) - 1))
    assert (last["task"], last["won"], last["lost"], last["gain_%"]) == ("all", 2, 1, row["gain_%"])


def test_the_latent_is_marked_against_peers_alone() -> None:
    of = {"part": "latent", "modality": ""}
    ours = [record("ours", "mix", 0.5, **of), record("ours", "pcr", 0.2, **of)]
    alone = quality_tables.tables(ours, "")[0]
    assert str(alone.rows[0]["mix"]) == "0.500"
    peer = [record("peer", "mix", 0.6, **of), record("peer", "pcr", 0.3, **of)]
    beside = quality_tables.tables([*peer, *ours], "")[0]
    assert [str(beside.rows[1][k]) for k in ("mix", "pcr")] == ["0.500 ✗", "0.200 ✓"]


def test_a_quality_is_reached_when_all_correlations_are() -> None:
    theirs = {"r": 0.5, "rho": 0.4, "rmse": 0.1, "entries": 9.0}
    assert trials.reaches({"r": 0.5, "rho": 0.41, "rmse": 9.0}, theirs)
    assert not trials.reaches({"r": 0.9, "rho": 0.39, "rmse": 0.0}, theirs)
    assert not trials.reaches({"r": 0.9}, theirs)


def test_time_to_quality_is_that_of_the_shortest_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def trained(*args: Any, epochs: int) -> tuple[int, float]:
        asked.append(epochs)
        return epochs, 10.0 * epochs

    monkeypatch.setattr(trials, "trained", trained)
    trial = trials.Trial(mosaics.read_task(folder, "panels"), argparse.Namespace())
    monkeypatch.setattr(trial, "_imputed", lambda epochs: {"adt": {"r": epochs / 100}})
    trial.rivals = {"adt": {"nearest": {"r": 0.03}, "ridge": {"r": 0.15}, "peer": {"r": 0.9}}}
    found = trial._reached({}, 0, 20, 77.0, {"adt": {"r": 0.2}})
    assert asked == [2, 4, 8, 16]
    expected = {"s_to_nearest": 40.0, "s_to_ridge": 160.0, "s_to_peer": float("nan")}
    assert found["adt"] == pytest.approx(expected, nan_ok=True)
    trial.rivals = {"adt": {"ridge": {"r": 0.19}}}
    assert trial._reached({}, 0, 16, 77.0, {"adt": {"r": 0.2}}) == {"adt": {"s_to_ridge": 77.0}}


# --- peers ----------------------------------------------------------------------------------------

PEER = """
import json, os, sys
import mudata, numpy as np
model, data, task, out, epochs = sys.argv[1:]
truth = mudata.read_h5mu(f"{data}/{task}.truth.h5mu")
os.makedirs(out)
cells = list(truth.obs_names)[::-1]
np.save(f"{out}/latent.npy", np.random.default_rng(0).normal(size=(len(cells), 3)))
open(f"{out}/cells.txt", "w").write("\\n".join(cells))
for name, part in truth.mod.items():
    np.save(f"{out}/imputed.{name}.npy", np.log1p(part[cells].X.toarray()))
    open(f"{out}/imputed.{name}.cells.txt", "w").write("\\n".join(cells))
json.dump({"train_s": 5.0, "scale": "log"}, open(f"{out}/time.json", "w"))
"""


def test_a_peer_is_scored_from_its_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peer_scvi.py").write_text(PEER)
    monkeypatch.setattr(trials, "can_do", lambda *args: "")
    monkeypatch.setattr(peers, "child_env", lambda *, ours: common.child_env(ours=True))
    trial = trials.Trial(mosaics.read_task(folder, "modalities"), argparse.Namespace())
    peer = peers.Peer(key="totalvi", python=sys.executable)
    found = list(trial.peer(peer, peers.PeerRuns(tmp_path, tmp_path, 1)))
    of = {(r.modality, r.score): r.value for r in found}
    assert {r.method for r in found} == {"totalVI"}
    assert of["", "seconds"] == 5
    assert of["rna", "r"] == pytest.approx(1)
    assert of["adt", "rmse"] == pytest.approx(0, abs=1e-5)
    assert trial.rivals["adt"]["totalVI"]["r"] == pytest.approx(1)
    assert not list(tmp_path.glob("totalvi-*/"))


def test_peers_are_asked_only_what_they_can_do(folder: Path) -> None:
    mosaic = MosaicVI.setup_mudata(tasks.simulated_sparse(60, genes=50, peaks=40), batch_key="batch")
    assert "one .h5mu" in peers.can_do("midas", mosaic, folder, "panels")
    assert "does not read atac, rna" in peers.can_do("totalvi", mosaic, folder, "modalities")
    assert peers.can_do("multivi", mosaic, folder, "modalities") == ""
    panels = mosaics.read_task(folder, "modalities").mosaic
    assert "no panels" in peers.can_do("midas", panels, folder, "modalities")


# --- variants -------------------------------------------------------------------------------------


def test_rows_of_the_ablation_add_up() -> None:
    rows = variants.chosen("published,layer,nomask,default:dim_latent=8:gamma=0.1")
    assert rows["layer"]["norm"] == "layer"
    assert rows["layer"]["library_aware"] == "aware"
    assert "encode_covariates" not in rows["layer"]
    assert (rows["nomask"]["gamma"], rows["nomask"]["decode_mask"]) == (0.0, False)
    assert rows["default:dim_latent=8:gamma=0.1"] == {"dim_latent": 8, "gamma": 0.1}


def test_every_row_of_the_ablation_is_a_network() -> None:
    mosaic = MosaicVI.setup_mudata(tasks.simulated_sparse(60, genes=50, peaks=40), batch_key="batch")
    likelihoods = {}
    for name, parameters in variants.chosen(",".join(variants.MEANING)).items():
        read, rest = variants.for_mosaic(parameters, mosaic)
        config = MosaicVI(read, **rest).config
        likelihoods[name] = config.distributions, config.library_aware
    assert likelihoods["published"] == (("NB", "Bernoulli"), (False, False))
    assert likelihoods["library"] == (("NB", "Bernoulli"), (True, False))
    assert likelihoods["peaks"] == likelihoods["default"] == (("NB", "Poisson"), (True, True))


def test_variants_that_change_nothing_on_a_mosaic_are_left_out(folder: Path) -> None:
    values = mosaics.read_task(folder, "values").mosaic
    counts = mosaics.read_task(folder, "modalities").mosaic
    assert [v for v in variants.MEANING if not variants.suits(v, values)] == ["balanced", "library", "peaks"]
    assert all(variants.suits(v, counts) for v in variants.MEANING)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    found = made_records()
    common.write_csv(tmp_path / "runs.csv", records.as_table(found), ["machine"])
    assert records.read(tmp_path / "runs.csv") == found
