"""Threads that work on tiles side by side, each alone on its core.

Torch would share the arithmetic of one tile among the cores and make them wait for each other at its
end, hundreds of times a step; here each core has tiles of its own and they wait once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
MAX_WORKERS = 8  # more would wait for Python's lock


class _Pool:
    """The threads besides the caller's own, made when first needed."""

    def __init__(self) -> None:
        self.threads: ThreadPoolExecutor | None = None

    def get(self) -> ThreadPoolExecutor:
        if self.threads is None:
            self.threads = ThreadPoolExecutor(MAX_WORKERS - 1, thread_name_prefix="mosaicvi")
        return self.threads

    def forget(self) -> None:
        """Threads do not survive a fork."""
        self.threads = None


_POOL = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget)


def n_workers() -> int:
    """How many can work side by side."""
    return min(torch.get_num_threads(), MAX_WORKERS)


def side_by_side(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Results of calls that need no gradient, each in a thread of its own, the first in this one.

    Parameters
    ----------
    calls
        At most `n_workers()` of them, which share no memory that they write to.
    """
    if len(calls) <= 1:
        return [call() for call in calls]
    threads = torch.get_num_threads()
    each = max(1, threads // len(calls))
    waiting = [_POOL.get().submit(_alone, call, each) for call in calls[1:]]
    torch.set_num_threads(each)
    try:
        first = calls[0]()
    finally:
        try:
            failures = [w.exception() for w in waiting]  # wait even when this thread failed
        finally:
            torch.set_num_threads(threads)
    for failure in failures:
        if failure is not None:
            raise failure
    return [first, *(w.result() for w in waiting)]


def _alone(call: Callable[[], T], threads: int) -> T:
    torch.set_num_threads(threads)
    with torch.no_grad():
        return call()
