"""Threads of the workers, and torch's own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mosaicvi.engine import threads as workers
from mosaicvi.engine.threads import in_shares, n_workers, share_of, without_threads_of_torch


@pytest.mark.usefixtures("three_threads")
def test_torch_leaves_the_cores_to_the_workers_and_takes_them_back() -> None:
    with without_threads_of_torch():
        assert (torch.get_num_threads(), n_workers()) == (1, 3)
        with without_threads_of_torch():
            assert (torch.get_num_threads(), n_workers()) == (1, 3)
        assert (torch.get_num_threads(), n_workers()) == (1, 3)
    assert (torch.get_num_threads(), n_workers()) == (3, 3)


@pytest.mark.usefixtures("three_threads")
def test_torch_has_its_threads_back_after_a_failure() -> None:
    with contextlib.suppress(ValueError), without_threads_of_torch():
        raise ValueError
    assert (torch.get_num_threads(), n_workers()) == (3, 3)


def in_a_new_thread(call: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as newcomer:
        return newcomer.submit(call).result()


@pytest.mark.usefixtures("three_threads")
def test_other_threads_keep_the_threads_they_have() -> None:
    leave, inside = threading.Event(), threading.Event()

    def other() -> tuple[int, int]:
        with without_threads_of_torch():
            inside.set()
            assert leave.wait(30)
        return torch.get_num_threads(), n_workers()

    with ThreadPoolExecutor(1) as pool:
        with without_threads_of_torch():
            in_shares(lambda k, n: None)
            found = pool.submit(other)
            assert inside.wait(30)
            assert in_a_new_thread(lambda: (torch.get_num_threads(), n_workers())) == (3, 3)
        leave.set()
        assert found.result() == (3, 3)
    assert (torch.get_num_threads(), n_workers()) == (3, 3)
    assert in_a_new_thread(torch.get_num_threads) == 3


@pytest.mark.usefixtures("three_threads")
def test_workers_of_one_thread_are_not_those_of_another() -> None:
    def confined() -> int:
        torch.set_num_threads(1)
        return n_workers()

    with without_threads_of_torch():
        assert in_a_new_thread(confined) == 1
        assert n_workers() == 3


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("inference", [True, False])
def test_workers_may_write_to_what_inference_made(inference: bool) -> None:
    with torch.inference_mode(inference):
        out = torch.zeros(9, 2)

        def share(k: int, n: int) -> None:
            rows = slice(*share_of(9, k, n))
            torch.mm(torch.ones(3, 1), torch.ones(1, 2), out=out[rows])

        in_shares(share)
        assert out.tolist() == [[1, 1]] * 9


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("alone", [True, False])
def test_every_worker_has_a_share_and_one_thread_of_torch(alone: bool) -> None:
    seen: dict[int, tuple[int, int, int]] = {}
    together = threading.Barrier(3, timeout=30)  # breaks if they were not at work at the same time

    def share(k: int, n: int) -> None:
        together.wait()
        seen[k] = (*share_of(10, k, n), torch.get_num_threads())

    if alone:
        with without_threads_of_torch():
            in_shares(share)
    else:
        in_shares(share)
    assert seen == {0: (0, 3, 1), 1: (3, 6, 1), 2: (6, 10, 1)}


@pytest.mark.usefixtures("three_threads")
def test_a_failure_of_a_worker_is_everyones() -> None:
    def share(k: int, n: int) -> None:
        if k == n - 1:
            raise ValueError("the last one's")

    with pytest.raises(ValueError, match="the last one's"):
        in_shares(share)
    assert torch.get_num_threads() == 3


def test_there_are_never_more_than_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert n_workers() == workers.MAX_WORKERS
