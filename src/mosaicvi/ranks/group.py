"""What the processes of a training tell each other: sums, states, and that one of them is gone.

Every process calls the same functions in the same order. All is exact: a sum has the same bits everywhere.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from mosaicvi.device import would_wait
from mosaicvi.errors import InputError, LostRankError
from mosaicvi.ranks import Place, place, threads_each
from mosaicvi.ranks.meeting import meeting

SLOWEST = timedelta(minutes=30)  # that one process may be busy while others wait for it


@dataclass(frozen=True, kw_only=True)
class Group:
    """The processes of a training.

    Attributes
    ----------
    rank, size
        Number of this one from 0, and how many there are.
    """

    rank: int
    size: int
    _flat: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and says how it goes."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, in place and without a gradient."""
        with _lost():
            distributed.all_reduce(tensor)
        return tensor

    def summed(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, whose gradient is the sum of theirs."""
        out: Tensor = _Summed.apply(tensor, self)  # type: ignore[no-untyped-call]
        return out

    def most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        found = torch.tensor(number)
        with _lost():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Give each parameter the sum of its gradients, or none where no process has one."""
        has = torch.tensor([float(p.grad is not None) for p in parameters])
        grads = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
        if would_wait(grads[0]):  # for the numbers of those who have one, which are told on the host
            self.total(has)
        else:
            grads.append(has)
        flat = self._flat.get(n_all := sum(len(g) for g in grads))
        if flat is None:  # large memory is slow to get anew in each step
            flat = self._flat[n_all] = grads[0].new_empty(n_all)
        parts = torch.split(self.total(torch.cat(grads, out=flat)), [len(g) for g in grads])
        n_have = (has if would_wait(flat) else parts[-1]).tolist()
        for p, n, part in zip(parameters, n_have, parts, strict=False):
            p.grad = part.view_as(p) if n else None

    def as_first(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's values, as processors of other kinds round otherwise."""
        with _lost(), torch.no_grad():
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """What the first process makes.

        Raises
        ------
        InputError
            In all processes, where it does in the first.
        """
        problem: InputError | None = None
        content, length = b"", torch.zeros(2, dtype=torch.int64)
        if self.is_first:
            try:
                content = make()
            except InputError as error:
                problem, content = error, "\n".join(error.problems).encode()
            length = torch.tensor([len(content), problem is not None])
        with _lost():
            distributed.broadcast(length, 0)
            sent = torch.empty(int(length[0]), dtype=torch.uint8)
            if self.is_first:
                sent.copy_(torch.from_numpy(np.frombuffer(content, np.uint8).copy()))
            distributed.broadcast(sent, 0)
        if problem is not None:
            raise problem
        content = sent.numpy().tobytes()
        if length[1]:
            raise InputError(content.decode().split("\n"))
        return content

    def rows_to_first(self, rows: Tensor) -> Tensor:
        """Rows of all processes below each other, in the first; in the others their own."""
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(rows)
        self.total(sizes)
        with _lost():
            if not self.is_first:
                distributed.send(rows.contiguous(), 0)
                return rows
            of_others = [rows.new_empty(n, *rows.shape[1:]) for n in sizes[1:].tolist()]
            for rank, given in enumerate(of_others, 1):
                distributed.recv(given, rank)
        return torch.cat([rows, *of_others])

    def wait(self) -> None:
        """Wait until all are here."""
        self.most(0)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a process has of a minibatch.

    Attributes
    ----------
    group
        The processes among which it is shared.
    first, n, n_all
        Where its cells begin in the minibatch, how many they are, and those of all; with n = 0 the cells at
        hand stand in for none and count nothing.
    """

    group: Group
    first: int
    n: int
    n_all: int

    def summed(self, sums: Tensor) -> Tensor:
        """Sums over this process's cells -> over those of the whole minibatch."""
        return self.group.summed(sums if self.n else sums * 0)

    def gathered(self, rows: Tensor) -> Tensor:
        """A row for each of this process's cells -> of the whole minibatch, (n_all, ...)."""
        own = rows[: self.n]
        before = own.new_zeros(self.first, *own.shape[1:])
        after = own.new_zeros(self.n_all - self.first - self.n, *own.shape[1:])
        return self.group.summed(torch.cat([before, own, after]))


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.total(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.group.total(grad.clone()), None


_JOINED: list[Group] = []  # the group, which lasts until the process ends


def join(device: torch.device) -> Group | None:
    """The group of this process; None if it is alone. The first call waits for the others.

    Parameters
    ----------
    device
        Where this process computes.

    Raises
    ------
    InputError
        The processes cannot meet.
    """
    here = place()
    if here.size == 1:
        return None
    if not _JOINED:
        torch.set_num_threads(threads_each(here))
        if not distributed.is_initialized():
            _initialise(here, device)
        _JOINED.append(Group(rank=distributed.get_rank(), size=distributed.get_world_size()))
    return _JOINED[0]


def _initialise(here: Place, device: torch.device) -> None:
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    try:
        distributed.init_process_group(
            backend, store=meeting(), rank=here.rank, world_size=here.size, timeout=SLOWEST
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise InputError(
            f"The {here.size} processes did not find each other ({reason}); see that all were started."
        ) from None
    atexit.register(_leave)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise LostRankError(
            f"Another of the processes ended, so that this one cannot go on ({reason})."
        ) from None
