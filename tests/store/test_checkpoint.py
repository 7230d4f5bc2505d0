from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mosaicvi.errors import InputError, ModelFileError, MosaicWarning
from mosaicvi.store import files
from mosaicvi.store.checkpoint import CheckpointStore, flatten, unflatten
from mosaicvi.store.format import DOCUMENT, WEIGHTS, Bundle, save_bundle

NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def save(store: CheckpointStore, step: int, *, is_best: bool = False) -> Path:
    tensors, document = flatten({"step": step, "w": torch.full((50,), float(step)), "loss": float("nan")})
    return store.save(tensors, document, step=step, is_best=is_best)


def step_of(bundle: Bundle | None) -> int | None:
    """Return the step of a checkpoint, once it is sure that all of it is of that step."""
    if bundle is None:
        return None
    state = unflatten(bundle.tensors, bundle.document)
    assert torch.equal(state["w"], torch.full((50,), float(state["step"])))
    return int(state["step"])


def damage(path: Path, how: str) -> None:
    weights = path / WEIGHTS
    data = weights.read_bytes()
    if how == "truncated":
        weights.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "without weights":
        weights.unlink()
    elif how == "without document":
        (path / DOCUMENT).unlink()
    else:
        (path / DOCUMENT).write_bytes(b"")


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def test_an_empty_store_has_nothing(store: CheckpointStore) -> None:
    assert (store.latest(), store.best(), store.steps()) == (None, None, [])
    assert not store.folder.exists()


def test_the_last_two_and_the_best_are_kept(store: CheckpointStore) -> None:
    for step, kept in [(10, [10]), (20, [10, 20]), (30, [20, 30]), (40, [20, 30, 40]), (50, [20, 40, 50])]:
        assert save(store, step, is_best=step == 20) == store.path(step)
        assert store.steps() == kept
    assert sorted(os.listdir(store.folder)) == ["step-00000020", "step-00000040", "step-00000050"]
    assert step_of(store.latest()) == 50
    assert step_of(store.best()) == 20
    save(store, 60, is_best=True)
    assert store.steps() == [50, 60]
    assert step_of(store.best()) == 60


def test_a_checkpoint_of_the_same_step_is_replaced(store: CheckpointStore) -> None:
    save(store, 10)
    save(store, 10, is_best=True)
    assert store.steps() == [10]
    assert step_of(store.best()) == 10


@pytest.mark.parametrize(
    "how", ["truncated", "flipped", "without weights", "without document", "empty document"]
)
def test_a_damaged_checkpoint_is_passed_over(store: CheckpointStore, how: str) -> None:
    for step in (10, 20, 30):
        save(store, step)
    damage(store.path(30), how)
    with pytest.warns(MosaicWarning, match="step 30 .*passed over") as caught:
        assert step_of(store.latest()) == 20
    assert "\n" not in str(caught[0].message)
    save(store, 25)
    assert store.steps() == [20, 25]
    assert "damaged-0-step-00000030" in os.listdir(store.folder)
    assert step_of(store.latest()) == 25


def test_a_damaged_checkpoint_never_pushes_out_a_whole_one(store: CheckpointStore) -> None:
    save(store, 10)
    damage(save(store, 20), "flipped")
    with pytest.warns(MosaicWarning):
        assert step_of(store.latest()) == 10
    save(store, 30)
    assert store.steps() == [10, 30]


def test_all_damaged_is_none(store: CheckpointStore) -> None:
    damage(save(store, 10, is_best=True), "truncated")
    for find in (store.latest, store.best):
        with pytest.warns(MosaicWarning, match="step 10"):
            assert find() is None


def test_the_checkpoints_of_another_run_are_never_overwritten(store: CheckpointStore) -> None:
    save(store, 100)
    with pytest.raises(InputError, match="step 100, later than step 10; resume") as caught:
        save(store, 10)
    assert "\n" not in str(caught.value)
    assert step_of(store.latest()) == 100
    store.clear()
    assert os.listdir(store.folder) == []
    save(store, 10)
    assert step_of(store.latest()) == 10


def test_other_files_in_the_folder_are_left_alone(store: CheckpointStore) -> None:
    store.folder.mkdir()
    for name in ("notes.txt", "step-1", "step-00000001x"):
        (store.folder / name).write_text("mine")
    for step in range(1, 6):
        save(store, step)
    assert store.steps() == [4, 5]
    store.clear()
    assert len(os.listdir(store.folder)) == 3


def test_a_model_is_no_checkpoint(store: CheckpointStore) -> None:
    save(store, 10)
    save_bundle(store.path(20), {}, {}, kind="model")
    save_bundle(store.path(30), {}, {}, kind="checkpoint")
    with pytest.warns(MosaicWarning) as caught:
        assert step_of(store.latest()) == 10
    assert ["not a 'checkpoint'" in str(one.message) for one in caught] == [False, True]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        save(CheckpointStore(tmp_path / "file"), 1)
    with pytest.raises(InputError, match="does not exist; create it"):
        save(CheckpointStore(tmp_path / "a" / "b"), 1)
    with pytest.raises(InputError, match="no folder of checkpoints"):
        CheckpointStore(tmp_path / "file").latest()


@pytest.mark.parametrize("n_failures", [1, 2, 3])
def test_a_reading_is_tried_again(
    store: CheckpointStore, n_failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 9)
    save(store, 10)
    load, failures = CheckpointStore._load, [10] * n_failures

    def unsure(self: CheckpointStore, step: int) -> Bundle:
        if failures and failures.pop() == step:
            raise ModelFileError("half of it is there")
        return load(self, step)

    monkeypatch.setattr(CheckpointStore, "_load", unsure)
    if n_failures < 3:
        assert step_of(store.latest()) == 10
    else:
        with pytest.warns(MosaicWarning, match="step 10 cannot be used and is passed over"):
            assert step_of(store.latest()) == 9


def test_reading_writes_nothing(store: CheckpointStore) -> None:
    save(store, 10, is_best=True)
    before = [(path, path.stat().st_mtime_ns) for path in sorted(store.folder.rglob("*"))]
    store.latest()
    store.best()
    assert [(path, path.stat().st_mtime_ns) for path in sorted(store.folder.rglob("*"))] == before


@NEEDS_FORK
@pytest.mark.parametrize("exchange", [True, False])
def test_reading_while_another_process_writes(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_renameat2", lambda *_: False)
    save(store, 1)
    child = os.fork()
    if child == 0:
        for step in range(2, 10_000):
            save(store, step // 2, is_best=True)
        os._exit(0)
    try:
        last = 0
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            found = step_of(store.latest())
            assert found is not None
            assert found >= last
            last = found
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# Full disks


@NEEDS_FORK
def test_a_limit_on_file_sizes_leaves_the_previous_checkpoint(store: CheckpointStore) -> None:
    save(store, 10, is_best=True)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        os._exit(attempt(store, 20))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert os.listdir(store.folder) == ["step-00000010"]
    assert step_of(store.latest()) == 10


def attempt(store: CheckpointStore, step: int) -> int:
    try:
        save(store, step)
    except InputError as error:
        return 2 if "free space there" in str(error) and "\n" not in str(error) else 3
    except BaseException:
        return 4
    return 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_previous_checkpoint(small_disk: Path) -> None:
    store = CheckpointStore(small_disk / "checkpoints")
    save(store, 10)
    (small_disk / "ballast").write_bytes(bytes(54 << 10))
    assert attempt(store, 20) == 2
    assert store.steps() == [10]
    assert step_of(store.latest()) == 10
    (small_disk / "ballast").unlink()
    assert attempt(store, 20) == 0


# Kills


def run_child(store: CheckpointStore, first: int, ready: int) -> None:
    """Save checkpoints without an end, every third the best, some twice."""
    os.write(ready, b"x")
    for step in range(first, first + 10_000):
        save(store, step, is_best=step % 3 == 0)
        if step % 4 == 0:
            save(store, step, is_best=step % 3 == 0)
        with open(store.folder.parent / "done", "w") as file:
            file.write(str(step))


@NEEDS_FORK
@pytest.mark.parametrize("exchange", [True, False])
def test_sigkill_at_random_moments(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """Every checkpoint that a killed process had finished is still there, or a newer one."""
    if not exchange:
        monkeypatch.setattr(files, "_renameat2", lambda *_: False)
    rng = random.Random(5)
    last = 0
    interrupted = 0
    for _ in range(60):
        ready, started = os.pipe()
        child = os.fork()
        if child == 0:
            run_child(store, last + 1, started)
            os._exit(0)
        os.read(ready, 1)
        time.sleep(rng.uniform(0.0, 0.04))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(started)
        done = store.folder.parent / "done"
        finished = int(done.read_text() or 0) if done.exists() else 0
        interrupted += any(name.startswith(".") for name in os.listdir(store.folder)) if finished else 0
        last = check_whole(store, at_least=max(finished, last))
    assert interrupted > 5, "no kill met a save at work"
    save(store, last + 1)
    assert all(name.startswith("step-") for name in os.listdir(store.folder))


def check_whole(store: CheckpointStore, *, at_least: int) -> int:
    """Check that the newest and the best checkpoint are whole; return the newest's step."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest, best = step_of(store.latest()) or 0, step_of(store.best())
    assert newest >= at_least
    assert best is None or best == newest // 3 * 3
    assert newest < 3 or best is not None
    return newest


def die_at(count: int) -> None:
    left = count

    def hook(event: str, _: Any) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "shutil.rmtree"):
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(hook)


@NEEDS_FORK
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("step", [30, 40])
def test_a_kill_at_every_step_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool, step: int
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_renameat2", lambda *_: False)
    template = CheckpointStore(tmp_path / "template")
    for before in (10, 20, 30):
        save(template, before, is_best=before == 10)
    seen = set()
    for moment in range(300):
        store = CheckpointStore(tmp_path / "checkpoints")
        shutil.copytree(template.folder, store.folder)
        child = os.fork()
        if child == 0:
            die_at(moment)
            save(store, step)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] != 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            seen.add(step_of(store.latest()))
            assert step_of(store.best()) == 10
        if not killed:
            break
        save(store, 50)
        assert len(store.steps()) == 3
        assert all(name.startswith("step-") for name in os.listdir(store.folder))
        shutil.rmtree(store.folder)
    assert not killed
    assert moment > 20
    assert seen == {30, step}
