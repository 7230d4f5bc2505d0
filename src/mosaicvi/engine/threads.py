"""Threads that work on tiles side by side, each alone on its core.

Torch would share the arithmetic of one tile among the cores and make them wait for each other at its
end, hundreds of times a step; here each core has tiles of its own and they wait once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from mosaicvi.engine import gemm
from mosaicvi.engine.jit import Floats

T = TypeVar("T")
Share = Callable[[int, int], None]  # (k, n): does worker k's share of the work of n workers
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


class _OfThisThread(threading.local):
    """Workers of a thread that left its cores to them; 0 for as many as torch has threads."""

    cores = 0


_OF_THIS_THREAD = _OfThisThread()


@contextmanager
def without_threads_of_torch() -> Iterator[None]:
    """Leave the cores to the workers: this thread's other operations of torch use no more threads.

    Torch's threads wait for the next operation by turning in circles, for milliseconds, and workers that want
    the same cores would start late.
    """
    threads, cores = torch.get_num_threads(), _OF_THIS_THREAD.cores
    _OF_THIS_THREAD.cores = n_workers()
    _set_in_this_thread(1)
    try:
        yield
    finally:
        _set_in_this_thread(threads)
        _OF_THIS_THREAD.cores = cores


def _set_in_this_thread(n: int) -> None:
    """Set torch's number of threads here; threads to come take what was last set anywhere, and still do."""
    with ThreadPoolExecutor(1) as newcomer:  # has the number of threads to come
        usual = newcomer.submit(torch.get_num_threads).result()
        torch.set_num_threads(n)
        newcomer.submit(torch.set_num_threads, usual).result()


def n_workers() -> int:
    """How many can work side by side for this thread."""
    return _OF_THIS_THREAD.cores or min(torch.get_num_threads(), MAX_WORKERS)


def share_of(n: int, k: int, n_shares: int) -> tuple[int, int]:
    """Where worker k's share of n things begins and ends."""
    return k * n // n_shares, (k + 1) * n // n_shares


def in_shares(share: Share, n: int | None = None) -> None:
    """Call share(k, n) for each of n workers k, or of as many as there are, side by side."""
    n = n or n_workers()
    with gemm.alone():
        side_by_side([partial(share, k, n) for k in range(n)])


class Sums:
    """Arrays of some shapes to which each worker adds by itself."""

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        self._of: dict[int, list[Tensor]] = {}

    def of(self, k: int) -> list[Floats]:
        """Those of worker k, zero at first."""
        self._of[k] = [torch.zeros(shape) for shape in self.shapes]
        return [v.numpy() for v in self._of[k]]

    def total(self) -> list[Tensor]:
        """Their sums over the workers, in an order that is always the same."""
        first, *others = (self._of[k] for k in sorted(self._of))
        for other in others:
            for mine, theirs in zip(first, other, strict=True):
                mine += theirs
        return first


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
    inference = torch.is_inference_mode_enabled()
    waiting = [_POOL.get().submit(_alone, call, each, inference) for call in calls[1:]]
    if each != threads:
        torch.set_num_threads(each)
    try:
        first = calls[0]()
    finally:
        try:
            failures = [w.exception() for w in waiting]  # wait even when this thread failed
        finally:
            if each != threads:
                torch.set_num_threads(threads)
    for failure in failures:
        if failure is not None:
            raise failure
    return [first, *(w.result() for w in waiting)]


def _alone(call: Callable[[], T], threads: int, inference: bool) -> T:
    if torch.get_num_threads() != threads:
        _set_in_this_thread(threads)
    with torch.inference_mode(inference), torch.no_grad():
        return call()
