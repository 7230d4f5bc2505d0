"""Threads of one process in the place of processes: the same group, whose sums need no network."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from mosaicvi.errors import InputError, LostRankError
from mosaicvi.ranks.group import Group

T = TypeVar("T")


class Gone(BaseException):
    """A rank raises it to be gone, as if it were killed."""


class _Table:
    """Where the threads lay down what they tell each other; broken as soon as one of them is gone."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.said: list[Any] = [None] * size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        try:
            self.said[rank] = value
            self.barrier.wait()
        except threading.BrokenBarrierError:
            raise LostRankError("a thread is gone") from None
        found = list(self.said)
        with contextlib.suppress(threading.BrokenBarrierError):  # all have said it, whoever is gone since
            self.barrier.wait()
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThreadGroup(Group):
    """A `Group` of threads."""

    table: _Table

    def total(self, tensor: Tensor) -> Tensor:
        parts = self.table.exchange(self.rank, tensor.clone())
        assert len({(p.shape, p.dtype) for p in parts}) == 1
        return tensor.copy_(torch.stack(parts).sum(0))

    def most(self, number: int) -> int:
        return max(self.table.exchange(self.rank, number))

    def as_first(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(self.table.exchange(self.rank, tensor.clone())[0])

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        made: bytes | InputError = b""
        if self.is_first:
            try:
                made = make()
            except InputError as error:
                made = error
        found = self.table.exchange(self.rank, made)[0]
        if isinstance(found, InputError):
            raise InputError(found.problems)
        return bytes(found)


def by_ranks(size: int, work: Callable[[Group], T]) -> list[T]:
    """What each of `size` ranks makes of its group; the first failure that is not the loss of another."""
    table = _Table(size)

    def alone(rank: int) -> T:
        try:
            return work(ThreadGroup(rank=rank, size=size, table=table))
        except BaseException:
            table.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as threads:
        waiting = [threads.submit(alone, rank) for rank in range(size)]
    failures = [f for w in waiting if (f := w.exception()) is not None and not isinstance(f, Gone)]
    for failure in sorted(failures, key=lambda f: isinstance(f, LostRankError)):
        raise failure
    return [w.result() for w in waiting]
