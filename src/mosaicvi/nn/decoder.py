"""Decoder: latent -> hidden rows; hidden rows and targets -> loss, tile by tile.

The last layer and the likelihood are one operation: a tile of the output lives in the cache from the
product that makes it to the products that carry its gradient back, and B x D never exists.

Legend: R rows that have a target, D_m features of a modality, G blocks of a group, K = `dim_block_dec`,
A distinct covariate rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import ModalityRows
from mosaicvi.nn.groups import block_groups
from mosaicvi.nn.layers import HiddenStack, glorot_, leaky, make_linear
from mosaicvi.nn.likelihoods import dispersion, zero_inflation
from mosaicvi.nn.targets import Job, divided
from mosaicvi.nn.work import Head, Step, Task, cost_of_row, of_block, run
from mosaicvi.nn.workers import n_workers

HAS_DISPERSION = frozenset({"NB", "ZINB", "Gaussian"})
Given = tuple[Task, list[Tensor | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """What the modalities of a step share.

    Attributes
    ----------
    hidden
        Rows of the decoder's last hidden layer (P * B, width).
    blocks
        The encoder's h_b of each group, for the skip connection.
    n_cells
        B.
    weights
        Factor of each pass in the loss, over B, (P,).
    beta
        Weight of each modality, (M,).
    covariate_table, covariate_code
        Distinct covariate rows (A, C), and the row of each cell (B,).
    """

    hidden: Tensor
    blocks: list[Tensor]
    n_cells: int
    weights: Tensor
    beta: Tensor
    covariate_table: Tensor
    covariate_code: Tensor


class Decoder(nn.Module):
    """p(x | z).

    Parameters
    ----------
    config
        The network's parameters.
    n_covariates
        Number of covariates, C.
    generator
        Decides the first weights.
    """

    def __init__(self, config: NetworkConfig, n_covariates: int, generator: Generator) -> None:
        super().__init__()
        self.config = config
        self.groups = block_groups(config)
        n_in = config.dim_latent + n_covariates + (sum(config.dim_block_embed) if config.decode_mask else 0)
        self.hidden = HiddenStack(n_in, config.dimensions[::-1], config.norm, generator)
        width = self.hidden.n_out
        self.inner = nn.ModuleList(
            [
                make_linear(width, g.n_blocks * g.dec, generator) if g.dec else nn.Identity()
                for g in self.groups
            ]
        )
        self.last = nn.ParameterList()  # of each group, weights with the bias as last row, (K + 1, D_g)
        for g in self.groups:
            w = torch.zeros((g.dec or width) + 1, g.hi - g.lo)
            for lo, hi in g.spans:
                glorot_(w[:-1, lo - g.lo : hi - g.lo], g.dec or width, hi - lo, generator)
            self.last.append(nn.Parameter(w))
        self.dispersion, self.inflation = nn.ParameterDict(), nn.ParameterDict()
        for m, (size, dist) in enumerate(zip(config.dim_input_arr, config.distributions, strict=True)):
            if dist in HAS_DISPERSION:
                kernel = torch.empty(n_covariates, size)
                glorot_(kernel, n_covariates, size, generator)
                self.dispersion[str(m)] = nn.Parameter(kernel)
            if dist == "ZINB":
                self.inflation[str(m)] = nn.Parameter(torch.full((size,), -2.0))

    def of_modality(self, m: int) -> list[int]:
        """Positions of a modality's groups."""
        return [i for i, g in enumerate(self.groups) if g.modality == m]

    def trunk(self, z: Tensor, embedding: Tensor, covariates: Tensor, n_passes: int) -> Tensor:
        """Hidden rows (P * B, width of the last hidden layer)."""
        parts = [z, embedding, covariates] if self.config.decode_mask else [z, covariates]
        return self.hidden(torch.cat(parts, 1), n_passes)  # type: ignore[no-any-return]

    def block_hidden(self, i: int, h: Tensor, skip: Tensor | None) -> Tensor:
        """g_b of group i: (R, G * K), or (R, width) without a sub-network."""
        if not self.groups[i].dec:
            return h
        g: Tensor = leaky(self.inner[i](h))
        return g if skip is None else g + skip.flatten(1)

    def alpha_table(self, m: int, covariate_table: Tensor) -> Tensor | None:
        """Dispersion of modality m for each distinct covariate row, (A, D_m), or None."""
        if str(m) not in self.dispersion:
            return None
        return dispersion(covariate_table, self.dispersion[str(m)], self.config.max_disp)

    def pi(self, m: int) -> Tensor | None:
        """Zero inflation of modality m, (D_m,), or None."""
        return zero_inflation(self.inflation[str(m)]) if str(m) in self.inflation else None

    def divided(self, jobs: list[list[Job]]) -> list[list[list[Job]]]:
        """Shares of each modality's jobs for the workers of this machine, or all for one on a device."""
        costs = [
            cost_of_row(dist, aware=aware, layers=[self.last[i] for i in self.of_modality(m)])
            for m, (dist, aware) in enumerate(
                zip(self.config.distributions, self.config.library_aware, strict=True)
            )
        ]
        return divided(jobs, costs, 1 if self.last[0].is_cuda else n_workers())

    def task(
        self,
        head: Head,
        m: int,
        rows: ModalityRows,
        values: Tensor,
        shares: list[list[Job]],
        context: Context,
    ) -> Given:
        """What modality m must predict in a step, and the tensors whose gradients its likelihood gives.

        Parameters
        ----------
        head
            Constants of the modality.
        m
            Its position.
        rows
            What the minibatch holds of it.
        values
            Its values as the likelihood sees them: non-zeros (Z,), or dense (n_m, D_m).
        shares
            What each worker must predict.
        context
            What the modalities share.
        """
        ordered = [job for share in shares for job in share]
        of_pass = torch.cat([j.of_pass for j in ordered]) if ordered else rows.cells[:0]
        pick = torch.cat([j.pick for j in ordered]) if ordered else rows.cells[:0]
        at = rows.cells[pick] + of_pass * context.n_cells
        h = context.hidden.index_select(0, at)
        groups = self.of_modality(m)
        skip = self.config.skip_conn
        hidden = [self.block_hidden(i, h, context.blocks[i][at] if skip else None) for i in groups]
        task = Task(
            head=head,
            rows=rows,
            values=values,
            library=rows.library if self.config.library_aware[m] else None,
            code=context.covariate_code[rows.cells],
            shares=shares,
            weight=context.weights[of_pass] * context.beta[m],
            of_pass=of_pass,
            n_passes=len(context.weights),
        )
        alpha, pi = self.alpha_table(m, context.covariate_table), self.pi(m)
        return task, [alpha, pi, *[h.float() for h in hidden], *[self.last[i] for i in groups]]

    def output(self, m: int, hidden: list[Tensor]) -> Tensor:
        """Dense decoder output of modality m, (R, D_m)."""
        parts = []
        for i, h in zip(self.of_modality(m), hidden, strict=True):
            g = self.groups[i]
            for b, (lo, hi) in enumerate(g.spans):
                span = slice(lo - g.lo, hi - g.lo)
                weight = self.last[i][:, span]
                parts.append(torch.addmm(weight[-1], of_block(g, h, b), weight[:-1]))
        return torch.cat(parts, 1)


def loss(given: list[Given]) -> tuple[Tensor, Tensor]:
    """Weighted loss of all modalities, 0-d, and the plain log-likelihood of each in each pass, (P, M)."""
    tasks = [task for task, _ in given]
    total, log_prob = _Likelihood.apply(  # type: ignore[no-untyped-call]
        tasks, torch.is_grad_enabled(), *[tensor for _, tensors in given for tensor in tensors]
    )
    return total, log_prob


class _Likelihood(torch.autograd.Function):
    """Sum over rows of -weight * log-likelihood, its gradients computed on the way.

    Besides the tasks it is told whether gradients are wanted. Of each task it is given dispersion and zero
    inflation or None, then hidden rows and last layer of each group.
    """

    @staticmethod
    def forward(ctx: Any, tasks: list[Task], want: bool, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        steps, rest = [], list(tensors)
        for task in tasks:
            n = len(task.head.groups)
            alpha, pi, *both = rest[: 2 + 2 * n]
            del rest[: 2 + 2 * n]
            layers = [v for v in both if v is not None]
            steps.append(Step(task, alpha, pi, layers[:n], layers[n:], want=want))
        losses, log_prob = [], []
        ctx.which = []  # of the inputs that have a gradient
        grads: list[Tensor] = []
        for step, sums in zip(steps, run(steps), strict=True):
            if step.want:
                found = [sums.alpha, sums.pi, *step.d_hidden, *sums.weight]
                ctx.which += [g is not None for g in found]
                grads += [g for g in found if g is not None]
            by_pass = step.values.new_zeros(step.task.n_passes)
            log_prob.append(by_pass.index_add_(0, step.task.of_pass, step.values))
            losses.append(-(step.task.weight * step.values).sum())
        ctx.save_for_backward(*grads)
        by_modality = torch.stack(log_prob, 1)
        ctx.mark_non_differentiable(by_modality)
        return torch.stack(losses).sum(), by_modality

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(g.mul_(grad) for g in ctx.saved_tensors)
        return (None, None, *(next(saved) if there else None for there in ctx.which))
