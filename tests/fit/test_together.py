"""Training by several ranks: equal weights, exact resuming, an end on which all agree."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builders import random_mudata
from tests.threads_as_ranks import Gone, by_ranks

from mosaicvi import InputError, MosaicVI, NonFiniteLossError
from mosaicvi.data import sampling
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.errors import LostRankError
from mosaicvi.fit import session
from mosaicvi.fit.state import FitConfig, FitState
from mosaicvi.fit.together import agree
from mosaicvi.ranks.group import Group

SMALL: dict[str, Any] = {"dimensions": 8, "dim_latent": 3, "dim_block_enc": 4, "dim_block_dec": 4}


@pytest.fixture(autouse=True)
def by_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", "torch")


@pytest.fixture(scope="module")
def mosaic() -> Mosaic:
    with pytest.warns(match="only zeros"):
        return MosaicVI.setup_mudata(random_mudata(3, n_cells=41), batch_key="batch")


def config_of(**changes: Any) -> FitConfig:
    return FitConfig(**({"max_epochs": 3, "batch_size": 10, "train_size": 0.8} | changes))


def trained(
    mosaic: Mosaic,
    group: Group | None,
    folder: Path | None = None,
    *,
    stop: tuple[int, int] = (0, 0),
    resume: bool = False,
    config: FitConfig | None = None,
    **parameters: Any,
) -> FitState:
    """A run; with `stop`, (rank, step), that rank is gone before the step ends."""
    config = config or config_of()
    net = MosaicVI(mosaic, seed=0 if group is None else group.rank, **SMALL, **parameters).net
    state = session.begin(net, mosaic, config, earlier=None, saved=None)

    class Loader(MinibatchLoader):
        def take(self, *args: Any) -> Any:
            if stop[1] and group is not None and (group.rank, state.steps_done + 1) == stop:
                raise Gone
            return super().take(*args)

    session.run(
        state, mosaic, config, Loader(mosaic), checkpoint_dir=folder, checkpoint_every=300, resume=resume,
        log_dir=None, progress=False, group=group,
    )  # fmt: skip
    return state


def assert_same(a: FitState, b: FitState) -> None:
    assert a.rows == b.rows
    first, second = a.net.state_dict(), b.net.state_dict()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    for one, other in zip(a.optimizer.moments(), b.optimizer.moments(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [2, 3])
def test_all_ranks_have_equal_weights_and_history(mosaic: Mosaic, size: int) -> None:
    first, *others = by_ranks(size, lambda group: trained(mosaic, group))  # though they began at others
    for other in others:
        assert_same(first, other)
    again, *_ = by_ranks(size, lambda group: trained(mosaic, group))
    assert_same(first, again)
    assert len(first.rows) == 3


def test_the_loss_goes_as_that_of_one_process(mosaic: Mosaic) -> None:
    config = config_of(max_epochs=12)

    def losses(size: int, seed: int) -> np.ndarray:
        of_seed = dataclasses.replace(config, seed=seed)
        state = (
            trained(mosaic, None, config=of_seed, beta_modal=1.0)
            if size == 1
            else by_ranks(size, lambda group: trained(mosaic, group, config=of_seed, beta_modal=1.0))[0]
        )
        return np.array([row["train_loss"] for row in state.rows])

    alone = np.stack([losses(1, seed) for seed in range(3)])
    shared = losses(2, 0)
    assert shared[-1] < shared[0]
    width = alone.max(0) - alone.min(0)
    assert abs(shared[3:] - alone.mean(0)[3:]).mean() < 2 * width[3:].mean()


@pytest.mark.parametrize("step", [1, 3, 4, 7])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_gone_ends_all_and_the_run_goes_on_to_the_bit(
    mosaic: Mosaic, tmp_path: Path, rank: int, step: int
) -> None:
    folder = tmp_path / "ckpt"
    with pytest.raises(LostRankError, match=f"Another of the 2 processes.*{folder.name} holds"):
        by_ranks(2, lambda group: trained(mosaic, group, folder, stop=(rank, step)))
    resumed = by_ranks(2, lambda group: trained(mosaic, group, folder, resume=True))
    whole = by_ranks(2, lambda group: trained(mosaic, group))
    for one, other in zip(resumed, whole, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("size", [1, 3])
def test_another_number_of_ranks_goes_on(mosaic: Mosaic, tmp_path: Path, size: int) -> None:
    folder = tmp_path / "ckpt"
    with pytest.raises(LostRankError):
        by_ranks(2, lambda group: trained(mosaic, group, folder, stop=(1, 6)))
    if size == 1:
        states = [trained(mosaic, None, folder, resume=True)]
    else:
        states = by_ranks(size, lambda group: trained(mosaic, group, folder, resume=True))
    whole = by_ranks(2, lambda group: trained(mosaic, group))[0]
    assert all(s.rows[0] == whole.rows[0] and len(s.rows) == 3 for s in states)


def test_a_loss_that_is_not_finite_in_one_rank_stops_all_before_the_update(mosaic: Mosaic) -> None:
    def work(group: Group) -> dict[str, torch.Tensor]:
        net = MosaicVI(mosaic, seed=0, **SMALL).net
        state = session.begin(net, mosaic, config_of(), earlier=None, saved=None)
        loader = MinibatchLoader(mosaic)
        assert loader.held is not None
        for store in loader.held.stores:
            if group.rank == 1 and store.dense is None:
                store.values = torch.full_like(store.values, torch.inf)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        with pytest.raises(NonFiniteLossError, match="the loss of modality 'rna' is not finite"):
            session.run(
                state, mosaic, config_of(), loader, checkpoint_dir=None, checkpoint_every=300, resume=False,
                log_dir=None, progress=False, group=group,
            )  # fmt: skip
        assert state.steps_done == 0
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        return before

    by_ranks(2, work)


def test_ranks_with_other_data_or_settings_are_refused() -> None:
    def work(group: Group) -> None:
        agree(group, {"fit": {"lr": 0.1}, "cells": f"digest{group.rank}"})

    with pytest.raises(InputError, match="Process 1 of 2 was given other cells than process 0"):
        by_ranks(2, work)


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_of_which_one_alone_has_levels_are_refused(rank: int) -> None:
    def work(group: Group) -> None:
        agree(group, {"cells": "digest"} | ({"levels": "digest"} if group.rank == rank else {}))

    with pytest.raises(InputError, match="Process 1 of 2 was given other levels of batches"):
        by_ranks(2, work)


def test_what_the_first_rank_refuses_all_refuse(mosaic: Mosaic, tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    by_ranks(2, lambda group: trained(mosaic, group, folder))
    refused = []

    def work(group: Group) -> None:
        try:
            trained(mosaic, group, folder)
        except InputError as error:
            refused.append(str(error))

    by_ranks(2, work)
    assert len(refused) == 2
    assert "holds checkpoints already" in refused[0] == refused[1]


def test_each_rank_reads_its_own_runs_of_neighbours_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "RUN", 4)
    random_mudata(3, n_cells=120).write_h5mu(tmp_path / "m.h5mu")
    with pytest.warns(match="only zeros"):
        mosaic = MosaicVI.setup_mudata(tmp_path / "m.h5mu", batch_key="batch", in_memory=False)
    read: list[tuple[int, np.ndarray]] = []

    def work(group: Group) -> FitState:
        net = MosaicVI(mosaic, seed=0, **SMALL).net

        class Loader(MinibatchLoader):
            def _read(self, cells: Any) -> Any:
                read.append((group.rank, cells))
                return super()._read(cells)

        loader = Loader(mosaic, memory=5e-6)
        state = session.begin(net, mosaic, config_of(), earlier=None, saved=None, buffer=loader.buffer)
        assert 10 < state.buffer < 120
        session.run(
            state, mosaic, config_of(), loader, checkpoint_dir=None, checkpoint_every=300, resume=False,
            log_dir=None, progress=False, group=group,
        )  # fmt: skip
        return state

    assert_same(*by_ranks(2, work))
    assert {rank for rank, _ in read} == {0, 1}
    for rank, cells in read:
        assert (cells // 4 % 2 == rank).all()
