"""Several devices and processes as a user asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.builders import random_mudata

from mosaicvi import InputError, MosaicVI
from mosaicvi.cli.say import for_terminal

SMALL: dict[str, Any] = {"dimensions": 8, "dim_latent": 3, "dim_block_enc": 4, "dim_block_dec": 4}
pytestmark = pytest.mark.filterwarnings("ignore::mosaicvi.errors.MosaicWarning")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> MosaicVI:
    monkeypatch.setenv("MOSAICVI_ENGINE", "torch")
    return MosaicVI(MosaicVI.setup_mudata(random_mudata(3, n_cells=41), batch_key="batch"), **SMALL)


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(size))


def test_several_devices_are_processes_that_torchrun_starts(model: MosaicVI) -> None:
    with pytest.raises(InputError, match="devices: 2 need as many processes, and this is one") as error:
        model.train(1, devices=2, batch_size=10)
    assert "torchrun --standalone --nproc-per-node 2 your_script.py" in str(error.value)
    assert "torchrun --standalone --nproc-per-node 2 -m mosaicvi train ..." in for_terminal(str(error.value))


def test_other_devices_than_processes(model: MosaicVI, monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 1, 4)
    with pytest.raises(InputError, match="devices: 2 need as many processes, and 4 were started"):
        model.train(1, devices=2, batch_size=10)


def test_a_gpu_is_missing(model: MosaicVI, monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 0, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes train on this machine, but torch sees 1 GPU") as error:
        model.train(1, batch_size=10)
    assert "--nproc-per-node 1" in str(error.value)
    assert "--accelerator cpu" in for_terminal(str(error.value))


def test_one_of_one_trains_as_without_torchrun(model: MosaicVI, monkeypatch: pytest.MonkeyPatch) -> None:
    model.train(2, batch_size=10, progress=False)
    as_rank(monkeypatch, 0, 1)
    other = MosaicVI(model.mosaic, **SMALL).train(2, batch_size=10, progress=False, devices=1)
    for name, value in model.net.state_dict().items():
        assert torch.equal(other.net.state_dict()[name], value), name


def test_only_the_first_process_saves(
    model: MosaicVI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_rank(monkeypatch, 1, 2)
    model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    as_rank(monkeypatch, 0, 2)
    model.save(tmp_path / "model")
    assert (tmp_path / "model").exists()
