"""Two processes that train together, one of which is killed: sums, equal weights, and an exact resume."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from tests import processes
from tests.builders import random_mudata

from mosaicvi.cli import run
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.ranks.group import join

PROGRAM = Path(__file__).parent / "two_ranks.py"


def start(folder: Path, part: str) -> list[int | None]:
    """Exit codes of two processes that do a part, on a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "MOSAICVI_ENGINE": "torch",
    }
    command = [PROGRAM, folder, part]
    ranks = [processes.start(command, env=os.environ | common | {"RANK": str(r)}) for r in range(2)]
    try:
        for rank in ranks:
            rank.join(timeout=120)
        return [rank.exitcode for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left, one of which was killed in the middle of its second training."""
    path = tmp_path_factory.mktemp("ranks")
    mdata = random_mudata(3, n_cells=41)
    mdata.obs["kind"] = np.resize(["a", "b", "unknown"], mdata.n_obs)
    mdata.write_h5mu(path / "mosaic.h5mu")
    assert start(path, "train") == [0, -signal.SIGKILL]
    assert start(path, "resume") == [0, 0]
    return path


@pytest.mark.parametrize("rank", [0, 1])
def test_what_processes_tell_each_other(folder: Path, rank: int) -> None:
    found: dict[str, Any] = json.loads((folder / f"found{rank}.json").read_text())
    assert found["total"] == [2.0, 1.0]
    assert found["most"] == 4
    assert found["gradients"] == [[3.0, 3.0], [5.0, 5.0], None]
    assert found["slope"] == 2 * 3 * (1 + 2)
    assert found["as_first"] == 0.0
    assert found["from_first"] == "of 0"
    assert found["refused"] == "one\ntwo"
    assert found["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)


def test_both_have_equal_weights_and_one_writes_the_model(folder: Path) -> None:
    assert (folder / "whole0").read_bytes() == (folder / "whole1").read_bytes()
    assert json.loads((folder / "found0.json").read_text())["is_saved"]


def test_a_killed_process_ends_the_other_with_a_checkpoint(folder: Path) -> None:
    said = (folder / "lost.txt").read_text()
    assert "\n" not in said
    assert said.startswith("Another of the 2 processes ended, so that training stopped after 1 epoch and ")
    assert f"{folder / 'ckpt'} holds what was trained" in said


def test_a_resumed_training_ends_as_if_nothing_had_happened(folder: Path) -> None:
    for rank in range(2):
        assert (folder / f"resumed{rank}").read_bytes() == (folder / "whole0").read_bytes()


@pytest.mark.filterwarnings("ignore::mosaicvi.errors.MosaicWarning")
def test_answers_of_both_are_one_file_as_of_one_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", "torch")
    given = [str(folder / "model"), str(folder / "mosaic.h5mu"), "--quiet", "--output"]
    assert run(["embed", *given, str(tmp_path / "latent.csv")]) == 0
    assert run(["impute", *given, str(tmp_path / "imputed.h5mu"), "--interval", "0.8"]) == 0
    assert run(["label", *given, str(tmp_path / "labels.csv"), "--label-key", "kind"]) == 0
    latents = [pd.read_csv(where / "latent.csv", index_col=0) for where in (folder, tmp_path)]
    pd.testing.assert_frame_equal(*latents, rtol=1e-5, atol=1e-6)
    with mudata_as_it_is():
        shared, alone = (mudata.read_h5mu(where / "imputed.h5mu") for where in (folder, tmp_path))
    assert shared.mod.keys() == alone.mod.keys() == {"rna", "adt", "atac"}
    for name in shared.mod:
        assert shared[name].obs_names.equals(alone[name].obs_names)
        np.testing.assert_allclose(shared[name].X, alone[name].X, rtol=1e-4, atol=1e-5)
        for end in ("lower", "upper"):
            ends = [of[name].layers[end] for of in (shared, alone)]
            np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-5)
    labels = [pd.read_csv(where / "labels.csv", index_col=0) for where in (folder, tmp_path)]
    pd.testing.assert_frame_equal(*labels, rtol=1e-4, atol=1e-6)


def test_one_of_one_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join(torch.device("cpu")) is None
