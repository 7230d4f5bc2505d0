"""What a modality must predict in a step, and what was found.

Legend: R rows with a target, r of them in a job, D_m features, d of them in a step, G blocks of a group,
K = `dim_block_dec`, N rows of the trunk of width W, A covariate rows, P passes.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mosaicvi.compiled import Ints
from mosaicvi.config import Distribution
from mosaicvi.data.minibatch import transformed
from mosaicvi.nn.groups import BlockGroup
from mosaicvi.nn.targets import Job


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """The constants of one modality's likelihood; bounds are (d,)."""

    dist: Distribution
    groups: tuple[BlockGroup, ...]
    low: Tensor
    high: Tensor
    centre: Tensor

    def only(self, columns: Ints | None) -> Head:
        """With the bounds of some columns, ascending, on the host; None for all."""
        if columns is None:
            return self
        at = torch.from_numpy(columns).to(self.low.device)
        low, high, centre = (v.index_select(0, at) for v in (self.low, self.high, self.centre))
        return dataclasses.replace(self, low=low, high=high, centre=centre)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """The tensors of a task that have a gradient.

    Attributes
    ----------
    trunk
        Rows of the last hidden layer (N, W).
    alpha, pi
        Dispersion (A, d) and zero inflation (d,), or None.
    weight, bias
        Of each group, the inner layer (G * K, W) and (G * K,), or None without a sub-network.
    skip
        Of each group, what is added to the hidden rows (N, G * K), or None.
    last
        Of each group, all weights of the last layer with the bias as last row, (K + 1, D_g).
    """

    trunk: Tensor
    alpha: Tensor | None
    pi: Tensor | None
    weight: list[Tensor | None]
    bias: list[Tensor | None]
    skip: list[Tensor | None]
    last: list[Tensor]

    def tensors(self) -> list[Tensor | None]:
        """All of them, in order."""
        return [self.trunk, self.alpha, self.pi, *self.weight, *self.bias, *self.skip, *self.last]

    def like(self, tensors: list[Tensor | None]) -> Given:
        """Others in their places."""
        trunk, alpha, pi, *rest = tensors
        n = len(self.last)
        weight, bias, skip, last = (rest[k : k + n] for k in range(0, 4 * n, n))
        return Given(trunk=trunk, alpha=alpha, pi=pi, weight=weight, bias=bias, skip=skip, last=last)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a modality must predict in a step.

    Attributes
    ----------
    head
        Its constants: bounds of the step's features, and the groups of all.
    aware
        Whether the mean is library x softmax.
    jobs
        Of the step's features; the R rows are theirs in this order.
    code
        Covariate row of each cell that has the modality, (n_m,).
    at, weight, of_pass
        Of each row: its row of the trunk, its factor in the loss, and its pass, (R,).
    n_passes
        P.
    given
        What has a gradient.
    """

    head: Head
    aware: bool
    jobs: list[Job]
    code: Tensor
    at: Tensor
    weight: Tensor
    of_pass: Tensor
    n_passes: int
    given: Given


def values_of(task: Task, job: Job) -> Tensor:
    """The job's values as the likelihood sees them: non-zeros (Z,), or dense (n_m, d)."""
    if not task.aware:
        return transformed(job.rows)
    value = job.rows.sparse.value if job.rows.sparse is not None else job.rows.dense
    assert value is not None
    return value


def of_block(group: BlockGroup, b: int) -> slice:
    """Columns of a group's hidden rows that feed block b."""
    return slice(b * group.dec, (b + 1) * group.dec) if group.dec else slice(None)
