"""The last layer and the likelihood of what a step must predict, with their gradients.

A tile of the output lives in the cache from the product that makes it to the products that carry its
gradient back; the whole output never exists. Workers, one a core, do rows of their own of every job: by
compiled loops where the numbers are at hand and the likelihood is compiled, else by tensors.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from mosaicvi import device
from mosaicvi.nn import compiled_decoder, tensors
from mosaicvi.nn.task import Task
from mosaicvi.workers import in_shares, n_workers


class Work(Protocol):
    """A task as workers do it."""

    def share(self, k: int, n: int) -> None:
        """Do the share of worker k of n."""

    def found(self) -> tuple[Tensor, list[Tensor | None]]:
        """Log-likelihood of each row (R,), and gradients of the loss in the order of `Given.tensors`."""


def run(tasks: list[Task], *, want: bool) -> list[tuple[Tensor, list[Tensor | None]]]:
    """Do the tasks of all modalities, with one start and one end of the workers; `want` gradients.

    Returns
    -------
    For each task the log-likelihood of each row (R,), and gradients of the loss in the order of
    `Given.tensors`, None where there is none.
    """
    n = 1 if any(device.is_apart(task.weight) for task in tasks) else n_workers()
    works: list[Work] = [
        compiled_decoder.Compiled(task, n, want=want)
        if compiled_decoder.can(task)
        else tensors.Tensors(task, n, want=want)
        for task in tasks
    ]

    def share(k: int, n: int) -> None:
        for work in works:
            work.share(k, n)

    in_shares(share, n)
    return [work.found() for work in works]
