"""A model whose data stay on disk: trained, resumed and asked, it is the same as one in memory."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from tests.builders import random_mudata
from tests.data.stored.test_stored import assert_same, written

from mosaicvi import InputError, MosaicVI
from mosaicvi.cli import run
from mosaicvi.data import sampling
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.stored.values import StoredMatrix
from mosaicvi.errors import MosaicWarning

SMALL: dict[str, Any] = {"dimensions": 12, "dim_latent": 3, "dim_block_enc": 6, "dim_block_dec": 6}
HOW: dict[str, Any] = {"batch_size": 16, "train_size": 0.75, "progress": False}
N = 120
STOP_AT = 10  # minibatches, of which an epoch has six and validation some


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on-disk")
    return written(random_mudata(3, n_cells=N), folder / "m.h5mu")


def made(path: Path, in_memory: bool) -> MosaicVI:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return MosaicVI(MosaicVI.setup_mudata(path, batch_key="batch", in_memory=in_memory), **SMALL)


def assert_equal(one: MosaicVI, two: MosaicVI) -> None:
    ours, theirs = one.net.state_dict(), two.net.state_dict()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def answers(model: MosaicVI, data: Any = None) -> list[np.ndarray]:
    mean, var = model.get_latent_representation(data, return_dist=True)
    imputed = model.get_imputed_values(data, modality="adt", batch_size=50)
    return [mean, var, imputed.to_numpy()]


def test_training_and_answers_are_those_in_memory_to_the_bit(path: Path) -> None:
    in_memory, on_disk = made(path, True), made(path, False)
    assert_equal(in_memory, on_disk)
    for model in (in_memory, on_disk):
        model.train(2, **HOW)
    assert_equal(in_memory, on_disk)
    assert in_memory.history.equals(on_disk.history)
    for one, two in zip(answers(in_memory), answers(on_disk), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(answers(in_memory), answers(in_memory, path), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.fixture
def few_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "RUN", 4)


@pytest.mark.usefixtures("few_neighbours")
def test_a_small_buffer_resumes_within_an_epoch_bit_for_bit(path: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = HOW | {"buffer_memory": 5e-6, "checkpoint_dir": tmp_path, "checkpoint_every": 0}
    whole = made(path, False)
    whole.train(3, **HOW | {"buffer_memory": 5e-6})
    assert whole._state is not None
    assert 16 < whole._state.buffer < N
    stopped = made(path, False)
    take, taken = MinibatchLoader.take, 0

    def take_and_stop(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == STOP_AT:
            os.kill(os.getpid(), signal.SIGINT)
        return take(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MinibatchLoader, "take", take_and_stop)
        stopped.train(3, **small)
    assert stopped._state is not None
    assert stopped._state.step > 0
    resumed = made(path, False)
    resumed.train(3, **small, resume=True)
    assert_equal(whole, resumed)
    assert whole.history.equals(resumed.history)


def test_the_command_line_trains_embeds_and_imputes_on_disk(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, how = tmp_path / "model", ["--batch-key", "batch", "--max-epochs", "1", "--batch-size", "20"]
    config = tmp_path / "small.toml"
    config.write_text("[network]\n" + "".join(f"{name} = {value}\n" for name, value in SMALL.items()))
    how += ["--config", str(config)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        assert run(["train", str(path), "--output", str(model), "--on-disk", *how]) == 0
        assert "on disk" in capfd.readouterr().err
        for where in ("--on-disk", "--in-memory"):
            name = str(tmp_path / where[2:])
            assert run(["embed", str(model), str(path), "--output", f"{name}.csv", where]) == 0
            assert run(["embed", str(model), str(path), "--output", f"{name}.h5mu", where]) == 0
            impute = ["impute", str(model), str(path), "--modality", "adt", where]
            assert run([*impute, "--output", f"{name}-imputed.h5ad"]) == 0
    csv = [(tmp_path / f"{name}.csv").read_bytes() for name in ("on-disk", "in-memory")]
    assert csv[0] == csv[1]
    imputed = [anndata.read_h5ad(tmp_path / f"{name}-imputed.h5ad") for name in ("on-disk", "in-memory")]
    np.testing.assert_array_equal(imputed[0].X, imputed[1].X)
    assert imputed[0].obs.equals(imputed[1].obs)
    capfd.readouterr()
    assert run(["train", str(path), "--output", str(tmp_path / "m"), "--on-disk", "--round", "adt"]) == 2
    assert "--on-disk: --round needs the values in memory" in capfd.readouterr().err


def test_memory_for_the_buffer_is_above_zero(path: Path) -> None:
    with pytest.raises(InputError, match="buffer_memory: must be > 0"):
        made(path, False).train(1, **HOW, buffer_memory=0)


def test_what_registering_learnt_is_kept_beside_the_checkpoints(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.h5mu"
    copy.write_bytes(path.read_bytes())
    read: list[str] = []
    blocks = StoredMatrix.blocks

    def noted(self: StoredMatrix) -> Any:
        read.append(self.pieces[0].name)
        return blocks(self)

    monkeypatch.setattr(StoredMatrix, "blocks", noted)

    def registered(**how: Any) -> Mosaic:
        read.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MosaicWarning)
            return MosaicVI.setup_mudata(copy, batch_key="batch", in_memory=False, **how)

    folder = tmp_path / "ckpt"
    assert_same(registered(checkpoint_dir=folder), in_memory := registered_in_memory(copy))
    assert len(read) == 6  # looked at, and read, each of three
    assert_same(registered(checkpoint_dir=folder), in_memory)
    assert not read
    registered(checkpoint_dir=folder, transforms={"rna": "none"})  # asks otherwise of one
    assert len(read) == 1
    kept = folder / "registered.npz"
    kept.write_bytes(kept.read_bytes()[:-100])
    assert_same(registered(checkpoint_dir=folder), in_memory)
    assert len(read) == 6
    os.utime(copy, ns=(1, 1))  # it was written again
    registered(checkpoint_dir=folder)
    assert len(read) == 6
    assert [file.name for file in folder.iterdir()] == ["registered.npz"]


def registered_in_memory(path: Path) -> Mosaic:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return MosaicVI.setup_mudata(path, batch_key="batch", in_memory=True)


@pytest.mark.usefixtures("few_neighbours")
def test_what_was_trained_is_not_lost_where_the_file_changes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.h5mu"
    copy.write_bytes(path.read_bytes())
    stamp, taken, take = copy.stat().st_mtime_ns, 0, MinibatchLoader.take
    small: dict[str, Any] = HOW | {"buffer_memory": 5e-6}
    whole = made(copy, False)
    whole.train(2, **small)
    small |= {"checkpoint_dir": tmp_path / "ckpt", "checkpoint_every": 1e9}
    stopped = made(copy, False)

    def take_and_change(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 3:
            os.utime(copy, ns=(1, 1))
        return take(*arguments)

    monkeypatch.setattr(MinibatchLoader, "take", take_and_change)
    with pytest.raises(InputError, match="it was written again while its values were in use"):
        stopped.train(2, **small)
    os.utime(copy, ns=(stamp, stamp))
    assert stopped._state is None or stopped._state.steps_done < 12
    resumed = made(copy, False)
    resumed.train(2, **small, resume=True)
    assert_equal(whole, resumed)
    assert whole.history.equals(resumed.history)
