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

from mosaicvi import device
from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import ModalityRows
from mosaicvi.nn.groups import block_groups
from mosaicvi.nn.hidden_stack import HiddenStack
from mosaicvi.nn.layers import glorot_, leaky, make_linear
from mosaicvi.nn.likelihoods import dispersion, zero_inflation
from mosaicvi.nn.targets import Job
from mosaicvi.nn.task import Given, Head, Task, of_block
from mosaicvi.nn.work import run

HAS_DISPERSION = frozenset({"NB", "ZINB", "Gaussian"})


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
        """Hidden rows (P * B, width of the last hidden layer), float32."""
        parts = [z, embedding, covariates] if self.config.decode_mask else [z, covariates]
        return self.hidden(torch.cat(parts, 1), n_passes).float()  # type: ignore[no-any-return]

    def block_hidden(self, i: int, h: Tensor, skip: Tensor | None) -> Tensor:
        """g_b of group i: (R, G * K), or (R, width) without a sub-network."""
        if not self.groups[i].dec:
            return h
        g: Tensor = leaky(self.inner[i](h))
        return g if skip is None else g + skip.flatten(1)

    def alpha_table(self, m: int, covariate_table: Tensor, features: Tensor | None = None) -> Tensor | None:
        """Dispersion of modality m by covariate row, (A, D_m), of all or some features; None without one."""
        if str(m) not in self.dispersion:
            return None
        kernel = self.dispersion[str(m)]
        with torch.autocast(kernel.device.type, enabled=False):
            return dispersion(covariate_table, kernel, self.config.max_disp, features)

    def pi(self, m: int, features: Tensor | None = None) -> Tensor | None:
        """Zero inflation of modality m, (D_m,), of all or some features, or None."""
        if str(m) not in self.inflation:
            return None
        logit = self.inflation[str(m)]
        return zero_inflation(logit if features is None else logit.index_select(0, features))

    def task(
        self,
        head: Head,
        m: int,
        rows: ModalityRows,
        jobs: list[Job],
        context: Context,
    ) -> Task:
        """What modality m must predict in a step.

        Parameters
        ----------
        head
            Constants of the modality's likelihood, of the features that the rows hold.
        m
            Its position.
        rows
            What the minibatch holds of it.
        jobs
            What must be predicted.
        context
            What the modalities share.
        """
        of_pass = torch.cat([j.of_pass for j in jobs]) if jobs else rows.cells[:0]
        pick = torch.cat([j.pick for j in jobs]) if jobs else rows.cells[:0]
        at = rows.cells[pick] + of_pass * context.n_cells
        groups = self.of_modality(m)
        features = None if rows.features is None else torch.from_numpy(rows.features).to(at.device)
        inner = [layer if isinstance(layer, nn.Linear) else None for layer in (self.inner[i] for i in groups)]
        given = Given(
            trunk=context.hidden,
            alpha=self.alpha_table(m, context.covariate_table, features),
            pi=self.pi(m, features),
            weight=[None if layer is None else layer.weight for layer in inner],
            bias=[None if layer is None else layer.bias for layer in inner],
            skip=[context.blocks[i].flatten(1).float() if self.config.skip_conn else None for i in groups],
            last=[self.last[i] for i in groups],
        )
        return Task(
            head=head,
            aware=self.config.library_aware[m],
            jobs=jobs,
            code=context.covariate_code[rows.cells],
            at=at,
            weight=context.weights[of_pass] * context.beta[m],
            of_pass=of_pass,
            n_passes=context.weights.shape[0],
            given=given,
        )

    def output(self, m: int, hidden: list[Tensor]) -> Tensor:
        """Dense decoder output of modality m, (R, D_m)."""
        parts = []
        for i, h in zip(self.of_modality(m), hidden, strict=True):
            g = self.groups[i]
            for b, (lo, hi) in enumerate(g.spans):
                weight = self.last[i][:, lo - g.lo : hi - g.lo]
                parts.append(torch.addmm(weight[-1], h[:, of_block(g, b)], weight[:-1]))
        return torch.cat(parts, 1)


def loss(tasks: list[Task]) -> tuple[Tensor, Tensor]:
    """Weighted loss of all modalities, 0-d, and the plain log-likelihood of each in each pass, (P, M)."""
    given = [v for task in tasks for v in task.given.tensors()]
    total, log_prob = _Likelihood.apply(tasks, torch.is_grad_enabled(), *given)  # type: ignore[no-untyped-call]
    return total, log_prob


class _Likelihood(torch.autograd.Function):
    """Sum over rows of -weight * log-likelihood, its gradients computed on the way.

    Besides the tasks and whether gradients are wanted it is given the tensors of the tasks that have one.
    """

    @staticmethod
    def forward(ctx: Any, tasks: list[Task], want: bool, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        rest, at_hand = iter(tensors), []
        for task in tasks:  # here the tensors are without their history
            own = task.given.like([next(rest) for _ in task.given.tensors()])
            at_hand.append(dataclasses.replace(task, given=own))
        losses, log_prob = [], []
        ctx.which = []  # of the inputs that have a gradient
        grads: list[Tensor] = []
        with torch.autocast(tasks[0].weight.device.type, enabled=False):  # in float32 whatever the precision
            results = run(at_hand, want=want)
        for task, (value, found) in zip(tasks, results, strict=True):
            ctx.which += [d is not None for d in found]
            grads += [d for d in found if d is not None]
            by_pass = value.new_zeros(task.n_passes)
            log_prob.append(by_pass.index_add_(0, task.of_pass, value))
            losses.append(torch.dot(task.weight, value))
        ctx.save_for_backward(*grads)
        by_modality = torch.stack(log_prob, 1)
        ctx.mark_non_differentiable(by_modality)
        return -torch.stack(losses).sum(), by_modality

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        one = not device.is_apart(grad) and float(grad) == 1  # as a loss that is minimised has
        saved = iter(g if one else g * grad for g in ctx.saved_tensors)
        return (None, None, *(next(saved) if there else None for there in ctx.which))
