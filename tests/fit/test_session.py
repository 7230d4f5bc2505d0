"""A training run as a user meets it: signals, checkpoints to resume from, refusals, what is said."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mudata import MuData
from tests.builders import random_mudata

from mosaicvi import InputError, ModelFileError, MosaicVI, MosaicWarning, NonFiniteLossError
from mosaicvi.fit import ending
from mosaicvi.fit import progress as progress_module
from mosaicvi.fit.loop import Report
from mosaicvi.fit.progress import listener
from mosaicvi.fit.state import FitConfig
from mosaicvi.fit.usual import BLIND_STEPS, default_batch_size, default_rate, epochs_if_blind, fewest_epochs
from mosaicvi.store.checkpoint import CheckpointStore
from mosaicvi.store.format import save_bundle

SMALL: dict[str, Any] = {"dimensions": 12, "dim_latent": 3, "dim_block_enc": 6, "dim_block_dec": 6}
QUICK: dict[str, Any] = {"batch_size": 12, "train_size": 0.8, "progress": False}


def model_of(seed: int = 0, net_seed: int = 0, **parameters: Any) -> MosaicVI:
    mdata = random_mudata(seed, n_cells=48)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
    return MosaicVI(mosaic, seed=net_seed, **(SMALL | parameters))


def weights(model: MosaicVI) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.net.state_dict().items()}


def assert_same(a: MosaicVI, b: MosaicVI) -> None:
    first, second = weights(a), weights(b)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert a.history.equals(b.history)


# --- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_writes_a_checkpoint_and_says_how_to_go_on(
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = model_of().train(4, **QUICK)
    handler = signal.getsignal(number)
    heard = 0

    def report(self: Any, report: Report) -> None:
        nonlocal heard
        heard += 1
        if heard == 6:
            os.kill(os.getpid(), number)

    model = model_of()
    with monkeypatch.context() as patch:
        patch.setattr(progress_module._Silent, "report", report)
        model.train(4, checkpoint_dir=tmp_path / "run", **QUICK)
    said = capsys.readouterr().err
    assert said == (
        "Stopped after 1 epoch and 1 step; the model can be used as it is. "
        f"Go on with train(..., checkpoint_dir='{tmp_path / 'run'}', resume=True).\n"
    )
    assert signal.getsignal(number) is handler
    assert model._state is not None
    assert model._state.stopped_by == number
    assert len(model.history) == 1
    assert np.isfinite(model.get_latent_representation()).all()
    assert CheckpointStore(tmp_path / "run").steps() == [4, 5]
    other = model_of(net_seed=9).train(4, checkpoint_dir=tmp_path / "run", resume=True, **QUICK)
    assert_same(other, whole)
    model.train(3, **QUICK)
    assert_same(model, whole)


def test_a_constant_rate_is_constant_and_needs_an_end() -> None:
    model = model_of().train(3, lr=1e-3, lr_schedule="constant", **QUICK)
    assert model.history["lr"].tolist() == [1e-3] * 3
    assert model.train(2, lr=2e-3, lr_schedule="constant", **QUICK).history["lr"].tolist()[3:] == [2e-3] * 2
    assert model_of().train(3, lr=1e-3, **QUICK).history["lr"].nunique() == 3
    with pytest.raises(
        InputError, match="lr_schedule: a constant rate has no end of its own; set max_epochs"
    ):
        model_of().train(lr_schedule="constant", **QUICK)
    with pytest.raises(InputError, match="lr_schedule: 'cosine' or 'constant', not 'linear'"):
        model_of().train(1, lr_schedule="linear", **QUICK)  # type: ignore[arg-type]


# --- checkpoints --------------------------------------------------------------------------------


def test_checkpoints_are_kept_the_last_two_and_the_best(tmp_path: Path) -> None:
    model = model_of(beta_modal=1.0).train(3, checkpoint_dir=tmp_path / "run", checkpoint_every=0, **QUICK)
    store = CheckpointStore(tmp_path / "run")
    losses = model.history["validation_loss"].to_numpy()
    best = 4 * (int(np.argmin(losses)) + 1)
    assert store.steps() == sorted({11, 12, best})
    found = store.best()
    assert found is not None
    assert found.document["state"]["best_epoch"] == int(np.argmin(losses))


def test_the_first_epoch_ends_with_a_checkpoint_however_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_of().train(2, checkpoint_dir=tmp_path / "run", **(QUICK | {"progress": True}))
    assert CheckpointStore(tmp_path / "run").steps() == [4]
    first = "the first when epoch 1 ends or after 300 s, then every 300 s."
    assert f"Checkpoints go to {tmp_path / 'run'}: {first}" in capsys.readouterr().err


def test_training_again_with_the_same_folder_goes_on(tmp_path: Path) -> None:
    model = model_of().train(1, checkpoint_dir=tmp_path / "run", checkpoint_every=0, **QUICK)
    model.train(1, checkpoint_dir=tmp_path / "run", checkpoint_every=0, **QUICK)
    assert CheckpointStore(tmp_path / "run").steps()[-1] == 8


def test_resuming_from_nothing_begins(tmp_path: Path) -> None:
    first = model_of().train(2, checkpoint_dir=tmp_path / "run", resume=True, **QUICK)
    assert_same(first, model_of().train(2, **QUICK))


def _checkpointed(folder: Path) -> MosaicVI:
    return model_of().train(1, checkpoint_dir=folder, checkpoint_every=0, **QUICK)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        ({"dim_latent": 4}, {}, r"made with other parameters of the network"),
        ({}, {"lr": 0.5}, r"made with other settings of training"),
        ({}, {"seed": 3}, r"made with other settings of training"),
        ({}, {"batch_size": 16}, r"made with other settings of training"),
        ({"cells": True}, {}, r"made with other cells"),
    ],
)
def test_resuming_something_else_is_refused(
    build: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    _checkpointed(tmp_path / "run")
    model = model_of(**{k: v for k, v in build.items() if k != "cells"})
    if build.get("cells"):
        cells = model.mosaic.cells.to_numpy().copy()
        cells[3] = "another"
        model.mosaic = dataclasses.replace(model.mosaic, cells=model.mosaic.cells[:0].append(_index(cells)))
    before = weights(model)
    with pytest.raises(InputError, match=message) as error:
        model.train(2, checkpoint_dir=tmp_path / "run", resume=True, **(QUICK | settings))
    assert "\n" not in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in weights(model).items())


@pytest.mark.parametrize("what", ["values", "batch", "panels"])
def test_resuming_with_other_values_of_the_same_names_is_refused(what: str, tmp_path: Path) -> None:
    _checkpointed(tmp_path / "run")
    model = model_of()
    first = model.mosaic.modalities[0]
    if what == "values":
        x = first.x.copy()
        x.data[0] += 1
        first = dataclasses.replace(first, x=x)
    elif what == "panels":
        first = dataclasses.replace(first, panels=~first.panels)
    batch = model.mosaic.batch[::-1].copy() if what == "batch" else model.mosaic.batch
    others = (first, *model.mosaic.modalities[1:])
    model.mosaic = dataclasses.replace(model.mosaic, modalities=others, batch=batch)
    with pytest.raises(InputError, match="made with other values, batches or panels of the same cells"):
        model.train(2, checkpoint_dir=tmp_path / "run", resume=True, **QUICK)


def test_the_folder_of_another_training_is_left_to_it(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path / "run").alone(), pytest.raises(InputError, match=r"process \d+ on .* now"):
        model_of().train(1, checkpoint_dir=tmp_path / "run", **QUICK)


def _index(cells: np.ndarray) -> Any:
    import pandas as pd

    return pd.Index(cells)


def test_checkpoints_of_another_run_are_not_in_the_way_unseen(tmp_path: Path) -> None:
    _checkpointed(tmp_path / "run")
    kept = sorted(p.name for p in (tmp_path / "run").iterdir())
    with pytest.raises(
        InputError, match=r"holds checkpoints already; resume from them, or name another folder"
    ):
        model_of().train(1, checkpoint_dir=tmp_path / "run", **QUICK)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == kept


def test_damaged_checkpoints_are_passed_over_and_none_left_is_said(tmp_path: Path) -> None:
    whole = model_of().train(2, **QUICK)
    model_of().train(2, checkpoint_dir=tmp_path / "run", checkpoint_every=0, **QUICK)
    store = CheckpointStore(tmp_path / "run")
    newest = store.path(store.steps()[-1]) / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = model_of(net_seed=4)
    with pytest.warns(MosaicWarning, match=r"cannot be used and is passed over"):
        resumed.train(2, checkpoint_dir=tmp_path / "run", resume=True, **QUICK)
    assert_same(resumed, whole)
    for step in store.steps():
        (store.path(step) / "weights.safetensors").write_bytes(b"")
    with (
        pytest.warns(MosaicWarning),
        pytest.raises(InputError, match=r"none of its \d+ checkpoints can be read"),
    ):
        model_of().train(2, checkpoint_dir=tmp_path / "run", resume=True, **QUICK)


def test_a_checkpoint_of_something_else_is_refused_in_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    document = {"step": 1, "is_best": False, "state": {"surprise": 1}}
    save_bundle(folder / "step-00000001", {}, document, kind="checkpoint")
    with pytest.raises(ModelFileError, match=r"none of a training run") as error:
        model_of().train(2, checkpoint_dir=folder, resume=True, **QUICK)
    assert "\n" not in str(error.value)


# --- what is not finite -------------------------------------------------------------------------


def test_the_cells_of_the_offending_minibatch_are_written_down(tmp_path: Path) -> None:
    model = model_of().train(1, checkpoint_dir=tmp_path / "run", checkpoint_every=0, **QUICK)
    good = CheckpointStore(tmp_path / "run").steps()
    with torch.no_grad():
        model.net.decoder.last[1][-1, 0] = float("nan")
    with pytest.raises(
        NonFiniteLossError, match=r"modality 'adt' is not finite; training stopped before"
    ) as error:
        model.train(1, checkpoint_dir=tmp_path / "run", **QUICK)
    (path,) = (tmp_path / "run").glob("mosaicvi-non-finite-*.json")
    assert str(path) in str(error.value)
    content = json.loads(path.read_text())
    assert content["modality"] == "adt"
    assert content["cells"] == [str(c) for c in model.mosaic.cells[error.value.cells]]
    assert CheckpointStore(tmp_path / "run").steps() == good
    assert len(model.history) == 1


def test_history_is_kept_when_training_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = model_of()
    original = progress_module._Silent.report

    def poison(self: Any, report: Report) -> None:
        original(self, report)
        if report.row is not None and report.epoch == 2:
            with torch.no_grad():
                model.net.decoder.last[0][-1, 0] = float("inf")

    with monkeypatch.context() as patch:
        patch.setattr(progress_module._Silent, "report", poison)
        with pytest.raises(NonFiniteLossError, match=r"modality 'rna'"):
            model.train(4, **QUICK)
    assert len(model.history) == 2


# --- what is said -------------------------------------------------------------------------------


def test_without_held_out_cells_the_number_of_steps_is_given() -> None:
    assert epochs_if_blind(1000, 100, 0.9) is None
    assert epochs_if_blind(1000, 100, 1.0) == BLIND_STEPS // 10
    assert epochs_if_blind(4, 2, 0.9) == BLIND_STEPS // 2  # rounding leaves none


def test_what_counts_as_short_is_a_number_of_steps() -> None:
    assert fewest_epochs(600, 50) == 59  # of 6 steps
    assert fewest_epochs(1280 * 350, 50) == 1


@pytest.mark.parametrize(
    ("cells", "features", "expected"),
    [
        (2, 50, 2),
        (9, 50, 2),
        (600, 50, 100),
        (6144, 8192, 1024),
        (7680, 8192, 1280),
        (6144, 8193, 512),
        (10**6, 2000, 1280),
    ],
)
def test_minibatches_by_default_leave_an_epoch_some_steps(cells: int, features: int, expected: int) -> None:
    assert default_batch_size(cells, features) == expected


def test_the_rate_by_default_follows_the_minibatch() -> None:
    assert default_rate(512) == FitConfig(max_epochs=1).lr
    assert default_rate(128) == pytest.approx(default_rate(512) / 2)


@pytest.mark.parametrize(("most", "expected"), [(12_000, "settled"), (12, "most steps")])
def test_how_training_ended_is_said_and_saved(
    most: int,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limits = {"LEAST_STEPS": 12, "MOST_STEPS": most, "PATIENT_STEPS": 8, "PATIENT_EPOCHS": 2}
    for name, value in (limits | {"LEAST_FALL_STEPS": 8}).items():
        monkeypatch.setattr(ending, name, value)
    model = model_of()
    assert model.training_end is None
    model.train(**{**QUICK, "progress": True}, lr=0.3)
    assert model.training_end == expected
    said = capsys.readouterr().err
    best = int(model.history["validation_loss"].argmin()) + 1
    assert f"Trained for {len(model.history)} epochs; kept are the best weights, of epoch {best}." in said
    assert said.count("the learning rate falls until epoch") == 1
    model.save(tmp_path / "m")
    assert type(model).load(tmp_path / "m").training_end == expected
    model.train(1, **QUICK)
    assert model.training_end is None


def _report(epoch: int, row: dict[str, float] | None = None) -> Report:
    return Report(epoch=epoch, step=1, n_steps=2, n_cells=10, log_prob=[-1.5, -20.25], last_epoch=7, row=row)


@pytest.mark.parametrize("progress", [None, True])
def test_without_a_terminal_lines_are_said(
    progress: bool | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "LINE_EVERY", 0.0)
    config = FitConfig(max_epochs=7)
    state: Any = type("State", (), {"epoch": 3, "stopped_by": None})()
    with listener(config, ("rna", "adt"), progress=progress, log_dir=None) as tell:
        tell.begin(state)
        tell.report(_report(3))
        tell.report(
            _report(3, {"balanced": 1.0, "beta_rna": 0.25, "beta_adt": 0.75, "validation_loss": 3.125})
        )
        tell.report(_report(4))
        tell.end(state, "Trained for 7 epochs.")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training from epoch 4 to 7: ")
    assert lines[1] == progress_module.LEGEND
    assert lines[2].startswith("epoch 4/7 · rna -1.5 · adt -20.2")
    assert lines[3] == (
        "Weights of the modalities (beta_modal), balanced over the first epochs: rna 0.250, adt 0.750"
    )
    assert "validation 3.1" in lines[4]
    assert lines[-1] == "Trained for 7 epochs."


@pytest.mark.parametrize(("epochs", "done", "n_lines"), [(3, 0, 3), (200, 0, 0), (200, 197, 3)])
def test_a_short_run_has_a_line_an_epoch_with_each_log_likelihood(
    epochs: int, done: int, n_lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    state: Any = type("State", (), {"epoch": done, "stopped_by": None})()
    with listener(FitConfig(max_epochs=epochs), ("rna", "adt"), progress=None, log_dir=None) as tell:
        tell.begin(state)
        for epoch in (1, 2, 3):
            row = {"train_log_prob_rna": -10.0 * epoch, "train_log_prob_adt": -2.5, "validation_loss": 7.0}
            tell.report(_report(done + epoch, row))
    lines = capsys.readouterr().err.splitlines()[2:]
    assert lines == [
        f"epoch {done + epoch}/{epochs} · rna -{10 * epoch}.0 · adt -2.5 · validation 7.00"
        for epoch in range(1, n_lines + 1)
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    state: Any = type("State", (), {"epoch": 0, "stopped_by": None})()
    with listener(FitConfig(max_epochs=2), ("rna", "adt"), progress=None, log_dir=None) as tell:
        tell.begin(state)
        tell.report(_report(0))
        tell.end(state, "Trained for 2 epochs.")
    said = capsys.readouterr().err
    assert "Trained for 2 epochs." in said
    assert said.count(progress_module.LEGEND) == 1


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    model_of().train(1, **QUICK)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_tensorboard_is_named_when_it_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'mosaicvi\[log\]'"):
        model_of().train(1, log_dir=tmp_path, **QUICK)


def test_training_needs_no_main_thread() -> None:
    import threading

    model, done = model_of(), []
    thread = threading.Thread(target=lambda: done.append(model.train(1, **QUICK)))
    thread.start()
    thread.join()
    assert done == [model]


def test_the_users_object_is_not_needed_while_training() -> None:
    mdata: MuData = random_mudata(0, n_cells=48)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
    del mdata
    assert len(MosaicVI(mosaic, **SMALL).train(1, **QUICK).history) == 1
