"""Which process this is, and how many threads it may have."""

from __future__ import annotations

import os

import pytest

from mosaicvi import InputError
from mosaicvi.ranks import Place, place, threads_each


def test_a_process_is_alone_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert place() == Place(rank=0, size=1, local_rank=0, local_size=1)
    monkeypatch.setenv("RANK", "5")
    assert place() == Place()  # a scheduler may number jobs that have nothing to do with each other
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert place() == Place(rank=5, size=8, local_rank=5, local_size=8)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert place() == Place(rank=5, size=8, local_rank=1, local_size=4)
    assert not place().is_first


@pytest.mark.parametrize(
    ("rank", "size", "says"), [("x", "2", "RANK=x"), ("2", "2", "RANK=2 of"), ("0", "0", "WORLD_SIZE=0")]
)
def test_numbers_that_make_no_sense_are_refused(
    monkeypatch: pytest.MonkeyPatch, rank: str, size: str, says: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(InputError, match=f"{says}.*torchrun"):
        place()


@pytest.mark.parametrize(
    ("cores", "processes", "said", "threads"),
    [(16, 2, None, 8), (16, 2, "1", 8), (16, 2, "4", 4), (16, 2, "12", 8), (2, 4, None, 1), (3, 2, "x", 1)],
)
def test_processes_of_a_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, said: str | None, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_each(Place(rank=0, size=processes, local_rank=0, local_size=processes)) == threads
