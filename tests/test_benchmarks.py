"""Each benchmark runs in seconds with --quick, and the parts that figures rest on are right."""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from benchmarks import common, peers, peptides, phases, scaling, tasks
from tests import processes

from mosaicvi import MosaicVI

ROOT = Path(__file__).parents[1]


def run(module: str, *args: object) -> str:
    env = common.child_env(ours=True) | {"OMP_NUM_THREADS": "1"}
    done = processes.run(["-m", f"benchmarks.{module}", "--quick", "--threads", "1", *args], env=env)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr, done.stderr
    return done.stdout


def rows(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


# --- each runs ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_odd_files() -> None:
    done = processes.run(["-m", "benchmarks.files", "--valid", "5", "--mutated", "10"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 valid files: " in done.stdout
    assert "10 mutated files: " in done.stdout


@pytest.mark.slow
def test_speed(tmp_path: Path) -> None:
    out = run("speed", "--settings", "like", "--csv", tmp_path / "speed.csv", "--markdown")
    assert "benchmarks.speed --quick" in out
    assert "torch" in out
    (row,) = rows(tmp_path / "speed.csv")
    assert row["compared"] == "like for like"
    assert float(row["s_per_epoch"]) > 0
    spent = {r["phase"]: float(r["ms_per_step"]) for r in rows(tmp_path / "speed-phases.csv")}
    (total,) = [v for k, v in spent.items() if k.startswith("all")]
    assert all(spent[phase] > 0 for phase in phases.PHASES)
    assert sum(v for k, v in spent.items() if not k.startswith("all")) == pytest.approx(total)


@pytest.mark.slow
def test_labels(tmp_path: Path) -> None:
    out = run("labels", "--csv", tmp_path / "labels.csv")
    assert "benchmarks.labels --quick" in out
    found = rows(tmp_path / "labels.csv")
    assert {row["hidden"] for row in found} >= {"A:rna+adt", "a random half", "all"}
    for row in found:
        assert 0 <= float(row["error"]) <= 1
        assert 0 <= float(row["right"]) <= 1
    assert int(found[-1]["cells"]) == sum(int(row["cells"]) for row in found[:-1])


@pytest.mark.slow
def test_intervals(tmp_path: Path) -> None:
    out = run("intervals", "--csv", tmp_path / "intervals.csv")
    assert "benchmarks.intervals --quick" in out
    assert "Features that it never measured" in out
    found = rows(tmp_path / "intervals.csv")
    assert {row["modality"] for row in found} == {"rna", "adt", "atac"}
    assert {row["batch"] for row in found} == {"measured", "never"}
    for row in found:
        assert 0 <= float(row["inside"]) <= 1
        assert float(row["width"]) >= 0


@pytest.mark.slow
def test_memory(tmp_path: Path) -> None:
    run("memory", "--csv", tmp_path / "memory.csv")
    peak = {r["what"]: float(r["peak_GiB"]) for r in rows(tmp_path / "memory.csv")}
    assert set(peak) == {"import", "train", "impute"}
    assert peak["train"] > 0.9 * peak["import"]


@pytest.mark.slow
def test_interval_memory(tmp_path: Path) -> None:
    run("interval_memory", "--csv", tmp_path / "memory.csv")
    train, impute = rows(tmp_path / "memory.csv")
    assert (train["what"], impute["what"]) == ("train", "impute")
    assert float(impute["output_GiB"]) > 3 * 4 * 600 * 200 / 2**30
    assert train["within"] == impute["within"] == "True"


@pytest.mark.slow
def test_scaling(tmp_path: Path) -> None:
    run("scaling", "--csv", tmp_path / "scaling.csv")
    small, large = rows(tmp_path / "scaling.csv")
    assert float(small["times_smallest"]) == 1
    ratio = float(large["state_bytes_per_cell"]) / float(small["state_bytes_per_cell"])
    assert ratio == pytest.approx(1, abs=0.2)


@pytest.mark.slow
def test_disk(tmp_path: Path) -> None:
    run("disk", "--scratch", tmp_path, "--csv", tmp_path / "disk.csv", "--in-memory", 300)
    found = [(r["where"], int(r["cells"])) for r in rows(tmp_path / "disk.csv")]
    assert found == [("memory", 300), ("disk", 300), ("disk", 600)]
    assert all(float(r["cpu_us_per_cell"]) > 0 for r in rows(tmp_path / "disk.csv"))


def test_real_data_that_are_not_there_are_skipped_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(task=None, quick=False, data=tmp_path)
    assert common.tasks(options) == ["simulated"]
    assert "skipped reap" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"nothing to run: .*--data"):
        common.tasks(argparse.Namespace(task=["reap"], quick=False, data=tmp_path))


# --- tables ---------------------------------------------------------------------------------------


def test_a_table_as_markdown_and_csv(tmp_path: Path) -> None:
    table = common.Table(name="t", title="T", columns=("what", "ms_per_step"), note="Note.")
    table.add(what="a|b", ms_per_step=1.23456)
    table.add(what="c")
    assert common.markdown(table) == (
        "**T**\n\n| what | ms/step |\n| --- | ---: |\n| a\\|b | 1.23 |\n| c | – |\n\nNote."
    )
    common.write_csv(tmp_path / "t.csv", table, ["machine"])
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "# machine",
        "what,ms_per_step",
        "a|b,1.23456",
        "c,",
    ]


def test_a_page_is_filled_between_the_marks_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin speed -->\nold\n<!-- end speed -->\nb\n")
    common.fill(page, "speed", "new")
    assert page.read_text() == "a\n<!-- begin speed -->\n\nnew\n\n<!-- end speed -->\nb\n"
    with pytest.raises(SystemExit, match="memory"):
        common.fill(page, "memory", "new")


@pytest.mark.parametrize("module", ["speed", "memory", "scaling", "quality", "published"])
def test_the_page_has_a_place_for_each_table(module: str, tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks.md"
    copy.write_text((ROOT / "docs" / "benchmarks.md").read_text())
    common.fill(copy, module, "measured")
    assert "measured" in copy.read_text()


def test_a_table_takes_no_column_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="wrong"):
        common.Table(name="t", title="T", columns=("what",)).add(wrong=1)


def test_the_peak_of_a_child_is_its_own(tmp_path: Path) -> None:
    # a benchmark starts its children from a small process, which a process that runs tests is not
    small = """
import sys
from pathlib import Path
from benchmarks import common

print(common.run(sys.argv[2:], Path(sys.argv[1])).peak_gib)
"""
    child = [sys.executable, "-c", "x = b'1' * 300_000_000"]
    command = [sys.executable, "-c", small, tmp_path / "log", *child]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert 0.28 < float(told) < 0.4
    assert not common.run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log").ok


# --- peers ----------------------------------------------------------------------------------------


def test_a_peer_is_run_with_its_python_and_its_time_is_read(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "peer_scvi.py").write_text(
        "import json, os, sys\nmodel, data, task, out, epochs = sys.argv[1:]\nos.makedirs(out)\n"
        "said = dict(method=model, epochs=int(epochs), epoch_s=1.5, peak_gib=0.1)\n"
        "json.dump(said, open(f'{out}/time.json', 'w'))\n"
    )
    parser = argparse.ArgumentParser()
    peers.add_peers(parser)
    options = parser.parse_args(["--peer", f"totalvi={sys.executable}"])
    found = peers.PeerRuns(tools, tmp_path, 3).once(options.peer[0], tmp_path, "reap")
    assert found == {"method": "totalvi", "epochs": 3, "epoch_s": 1.5, "peak_gib": 0.1}


def test_a_peer_that_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer = peers.Peer(key="midas", python=sys.executable)
    assert peers.PeerRuns(tmp_path, tmp_path, 1).once(peer, tmp_path, "mop") is None
    assert "MIDAS failed" in capsys.readouterr().err


@pytest.mark.parametrize("said", ["scvaeit", "other=python", "midas=/no/such/python"])
def test_a_bad_peer_is_refused(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    peers.add_peers(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--peer", said])
    assert said in capsys.readouterr().err


# --- parts ----------------------------------------------------------------------------------------


def test_the_simulated_task_is_a_sparse_mosaic_of_three_groups() -> None:
    mdata = tasks.simulated_sparse(90, genes=50, peaks=200)
    assert sorted(mdata.obs.group.value_counts()) == [30, 30, 30]
    for name, a in mdata.mod.items():
        assert sp.issparse(a.X)
        assert a.n_obs == 60
        assert mdata.obs.group[a.obs_names].str.contains(name).all()
        assert a.X.sum(1).min() > 0
        assert a.X.sum(0).min() > 0


def test_like_for_like_has_the_widths_of_the_reference() -> None:
    mosaic = MosaicVI.setup_mudata(tasks.simulated_sparse(60, genes=600, peaks=200), batch_key="batch")
    config = MosaicVI(mosaic, **tasks.like_for_like(mosaic)).config
    assert config.dim_block_enc == config.dim_block_dec == (256, *(16,) * tasks.CHROMOSOMES)
    assert config.dim_block_embed == (32, *(2,) * tasks.CHROMOSOMES)
    assert config.dist_block == ("NB", *("Bernoulli",) * tasks.CHROMOSOMES)
    assert (config.dimensions, config.dim_latent, config.norm) == ((256,), 32, "batch")
    assert (config.beta_kl, config.beta_unobs, config.beta_modal) == (1, 2 / 3, (0.93, 0.07))
    assert not any(config.library_aware)
    assert config.encode_covariates


def test_operations_of_a_product_come_from_its_shapes() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    batch = torch.randn(2, 3, 5)
    with torch.profiler.profile(record_shapes=True) as recorded, torch.profiler.record_function("decode"):
        _ = a @ b
        torch.addmm(torch.zeros(7), a, b)
        torch.zeros(3, 7).addmm_(a, b)
        torch.bmm(batch, b.expand(2, 5, 7))
    found = [
        (phases._phase_of_dense(e), phases._flops(e.input_shapes))
        for e in recorded.events()
        if e.name in phases.PRODUCTS
    ]
    assert sorted(found) == [("decode", 210.0)] * 3 + [("decode", 420.0)]


def test_state_counts_shared_memory_once() -> None:
    x = np.zeros(1000, np.float32)
    assert scaling.state_bytes({"a": x, "b": [torch.from_numpy(x), x[10:20]]}) == 4000
    assert scaling.state_bytes(x, x.copy()) == 8000


@pytest.mark.parametrize("missing", [0.3, 0.6, 0.9])
def test_peptides_hold_out_only_what_was_measured(missing: float) -> None:
    table = peptides.peptide_table(missing, samples=300, peptides=80)
    row, col, truth = table.held_out
    assert np.isnan(table.seen[row, col]).all()
    assert np.isfinite(truth).all()
    share = np.isnan(table.seen).mean()
    assert share == pytest.approx(missing + 0.1 * (1 - missing), abs=0.02)
    assert (~np.isnan(table.seen)).sum(0).min() >= 2
    by_mean = peptides.errors(table, peptides.by_mean(table))
    filled = peptides.by_neighbours(table)
    assert np.isfinite(filled).all()
    assert peptides.errors(table, filled)["rmse"] < by_mean["rmse"]


def test_nothing_leaks_into_the_environment_of_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "src")
    assert "PYTHONPATH" not in common.child_env(ours=False)
    assert common.child_env(ours=True)["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT / "src")
