"""Slow dense references in float64: likelihoods, masks, the encoder's input, the whole network and its loss.

Nothing here is shared with the package but the names of parameters: products are dense, gradients are
autograd's, likelihoods are those of torch.distributions and of sums that are written out.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributions

from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import Minibatch, ModalityRows

SLOPE, EPS = 0.3, 1e-3
WIDTHS = [10.0**k for k in range(-6, 0)] + [1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6]


# --- likelihoods --------------------------------------------------------------------------------


def log_rising(x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Sum of log(1 + k a) for k below x, term by term."""
    return np.array([
        np.log1p(np.arange(int(n), dtype=np.float64) * a).sum()
        for n, a in np.broadcast(np.asarray(x, float), np.asarray(alpha, float))
    ]).reshape(np.broadcast_shapes(np.shape(x), np.shape(alpha)))  # fmt: skip


def nb_exact(x: np.ndarray, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Log NB(x) without a difference of two large numbers, for any a > 0."""
    x, mean, alpha = (np.asarray(v, np.float64) for v in (x, mean, alpha))
    factorial = np.array([math.lgamma(v + 1) for v in x.ravel()]).reshape(x.shape)
    log_mean = np.where(x > 0, np.log(np.maximum(mean, 1e-300)), 0.0)
    return log_rising(x, alpha) - factorial + x * log_mean - (x + 1 / alpha) * np.log1p(alpha * mean)


def log_prob(dist: str, x: Tensor, mean: Tensor, alpha: Tensor | None, pi: Tensor | None) -> Tensor:
    """Log-likelihood of each entry; `mean` is p of a Bernoulli, and `alpha` sd of a Gaussian."""
    if dist == "Poisson":
        log_mean = torch.log(mean.clamp(min=torch.finfo(mean.dtype).tiny))
        return torch.where(x > 0, x * log_mean, torch.zeros_like(x)) - mean - torch.lgamma(x + 1)
    if dist == "Bernoulli":
        return x * torch.log(mean) + (1 - x) * torch.log1p(-mean)
    assert alpha is not None
    if dist == "Gaussian":
        return distributions.Normal(mean, alpha).log_prob(x)
    tiny = torch.finfo(mean.dtype).tiny
    logits = torch.log((alpha * mean).clamp(min=tiny))
    nb = distributions.NegativeBinomial(1 / alpha, logits=logits, validate_args=False).log_prob(x)
    if dist == "NB":
        return nb
    assert pi is not None
    zero = torch.logaddexp(torch.log(pi).expand_as(nb), torch.log1p(-pi) + nb)
    return torch.where(x > 0, torch.log1p(-pi) + nb, zero)


def clipped(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(value, low), high)


def mean_of(
    dist: str,
    o: Tensor,
    *,
    low: Tensor,
    high: Tensor,
    centre: Tensor,
    library: Tensor | None = None,
    panel: Tensor | None = None,
) -> Tensor:
    """Mean of the likelihood for a decoder output (r, d); `panel` boolean (r, d)."""
    if library is not None:
        logits = o if panel is None else o.masked_fill(~panel, -math.inf)
        return torch.softmax(logits, dim=1) * library
    if dist in ("NB", "ZINB"):
        return low + torch.sigmoid(o) * (high - low)
    if dist == "Poisson":
        return torch.exp(clipped(o, low.log(), high.log()))
    if dist == "Bernoulli":
        return clipped(torch.sigmoid(o), low, high)
    return clipped(o + centre, low, high)


# --- masks --------------------------------------------------------------------------------------


def measured_of(minibatch: Minibatch, m: int) -> Tensor:
    """What was measured of modality m, boolean (B, D_m)."""
    rows = minibatch.rows[m]
    own = rows.panels[rows.panel] if rows.entry_measured is None else rows.entry_measured
    return spread(own, rows, minibatch.n_cells)


def chosen_of(minibatch: Minibatch, m: int) -> Tensor:
    """The features of modality m that the likelihood is of, boolean (D_m,)."""
    features = minibatch.targets[m].features
    every = torch.ones(minibatch.rows[m].panels.shape[1], dtype=torch.bool)
    if features is None:
        return every
    return torch.zeros_like(every).index_fill(0, torch.from_numpy(features), True)


def spread(own: Tensor, rows: ModalityRows, n_cells: int) -> Tensor:
    """Rows of the cells that have a modality, spread over all cells, (B, D_m)."""
    out = own.new_zeros(n_cells, own.shape[1])
    out[rows.cells] = own
    return out


def values_of(minibatch: Minibatch, m: int, n_features: int) -> Tensor:
    """Raw values, float64 (B, D_m), 0 where missing."""
    rows = minibatch.rows[m]
    n = len(rows.cells)
    own = torch.zeros(n, n_features, dtype=torch.float64)
    if rows.sparse is None:
        assert rows.dense is not None
        own = rows.dense.double()
    elif n:
        own[rows.sparse.cell, rows.sparse.col] = rows.sparse.value.double()
    return spread(own, rows, minibatch.n_cells)


def transformed_of(minibatch: Minibatch, m: int, x: Tensor) -> Tensor:
    """What the encoder sees of raw values (B, D_m)."""
    rows = minibatch.rows[m]
    if rows.transform == "binarize":
        return (x > 0).double()
    if rows.transform == "none":
        return x
    scale = spread(rows.scale.double()[:, None], rows, minibatch.n_cells)
    return torch.log1p(x * scale)


def seen_of(minibatch: Minibatch, m: int, x: Tensor) -> Tensor:
    """What the encoder sees of raw values x (B, D): as above, with all batches at one level."""
    rows = minibatch.rows[m]
    if rows.factors is None or rows.factor is None:
        return transformed_of(minibatch, m, x)
    factor = spread(rows.factors.double()[rows.factor], rows, minibatch.n_cells)
    return transformed_of(minibatch, m, x * factor)


# --- the network --------------------------------------------------------------------------------


@dataclasses.dataclass
class Pass:
    """F(in, out) of a minibatch."""

    mean: Tensor
    log_var: Tensor
    log_prob: list[Tensor]  # of each modality, (B, D_m), zero outside the targets
    likelihood_mean: list[Tensor]


class DenseVAE:
    """The network of the specification with dense float64 products, from the weights of a `MosaicVAE`."""

    def __init__(self, config: NetworkConfig, state: dict[str, Tensor], beta_modal: list[float]) -> None:
        self.config, self.beta = config, beta_modal
        self.w = {k: v.detach().double().clone() for k, v in state.items()}
        for k, v in self.w.items():
            plain = k.rsplit(".", 1)[-1]
            if not (plain.startswith(("centre", "low", "high", "running", "updates"))):
                v.requires_grad_()

    def passes(
        self, minibatch: Minibatch, masked: list[Tensor], noise: Tensor | None, *, training: bool
    ) -> tuple[list[Pass], list[list[Tensor]]]:
        """All passes, and the targets of each: ``targets[p][m]``, boolean (B, D_m)."""
        measured = [measured_of(minibatch, m) for m in range(len(masked))]
        hidden = [k & h for k, h in zip(measured, masked, strict=True)]
        visible = [k & ~h for k, h in zip(measured, masked, strict=True)]
        plan = [(measured, measured), (visible, hidden)]
        if self.config.beta_reverse > 0:
            plan.append((hidden, visible))
        out = []
        for p, (seen, wanted) in enumerate(plan):
            n = minibatch.n_cells
            own = None if noise is None else noise[p * n : (p + 1) * n].double()
            out.append(self.run(minibatch, seen, wanted, own, training=training))
        return out, [wanted for _, wanted in plan]

    def run(
        self,
        minibatch: Minibatch,
        seen: list[Tensor],
        wanted: list[Tensor],
        noise: Tensor | None,
        *,
        training: bool,
    ) -> Pass:
        c, w = self.config, self.w
        covariates = minibatch.covariates.double()
        blind = ~torch.cat(seen, 1)
        kernel = torch.cat([w[f"encoder.embedding.weight.{m}"] for m in range(len(seen))])
        e = torch.tanh(blind.double() @ kernel + w["encoder.embedding.bias"])
        raw = [values_of(minibatch, m, d) for m, d in enumerate(c.dim_input_arr)]
        shown = [seen_of(minibatch, m, x) for m, x in enumerate(raw)]
        blocks = list(self.blocks())
        h_enc = []
        for b in blocks:
            x = torch.where(
                seen[b.m][:, b.own],
                shown[b.m][:, b.own] - w[f"centre_{b.m}"][b.own],
                torch.zeros((), dtype=torch.float64),
            )
            parts = [x, e[:, b.embed]] + ([covariates] if c.encode_covariates else [])
            h = torch.cat(parts, 1)
            if b.enc:
                full = [
                    w[f"encoder.block.{b.group}.value"][b.in_group],
                    w[f"encoder.block.{b.group}.embed"][b.k],
                ]
                if c.encode_covariates:
                    full.append(w[f"encoder.block.{b.group}.covariate"][:, b.k * b.enc : (b.k + 1) * b.enc])
                h = self.leaky(h @ torch.cat(full))
            h_enc.append(h)
        h = self.stack("encoder.hidden", torch.cat(h_enc, 1), training)
        mean = self.batch_norm("encoder.mean_norm", self.linear("encoder.mean", h), training)
        log_var = self.linear("encoder.log_var", h)
        z = mean if noise is None else mean + torch.exp(0.5 * log_var) * noise
        parts = [z, e, covariates] if c.decode_mask else [z, covariates]
        h = self.stack("decoder.hidden", torch.cat(parts, 1), training)
        outputs: list[list[Tensor]] = [[] for _ in seen]
        for b, skip in zip(blocks, h_enc, strict=True):
            g = h
            if b.dec:
                rows = slice(b.k * b.dec, (b.k + 1) * b.dec)
                g = self.leaky(
                    h @ w[f"decoder.inner.{b.group}.weight"][rows].T
                    + w[f"decoder.inner.{b.group}.bias"][rows]
                )
                g = g + skip if c.skip_conn else g
            last = w[f"decoder.last.{b.group}"][:, b.in_group]
            outputs[b.m].append(g @ last[:-1] + last[-1])
        log_probs, means = [], []
        for m, o in enumerate(torch.cat(parts, 1) for parts in outputs):
            mean_m = self.mean_of(minibatch, m, o)
            x = raw[m] if c.library_aware[m] else transformed_of(minibatch, m, raw[m])
            means.append(mean_m)
            at, alpha, pi = wanted[m] & chosen_of(minibatch, m), self.alpha(m, covariates), self.pi(m)
            entries = log_prob(
                c.distributions[m],
                x[at],
                mean_m[at],
                None if alpha is None else alpha[at],
                None if pi is None else pi.expand_as(o)[at],
            )
            log_probs.append(torch.zeros_like(o).masked_scatter(at, entries))
        return Pass(mean=mean, log_var=log_var, log_prob=log_probs, likelihood_mean=means)

    def mean_of(self, minibatch: Minibatch, m: int, o: Tensor) -> Tensor:
        c = self.config
        library = panel = None
        if c.library_aware[m]:
            chosen = chosen_of(minibatch, m)
            raw = values_of(minibatch, m, len(chosen))
            library = (raw * chosen).sum(1, keepdim=True)
            panel = measured_of(minibatch, m) & chosen
            panel = panel | ~panel.any(1, keepdim=True)  # cells without the modality have no target there
        bounds = {k: self.w[f"{k}_{m}"] for k in ("low", "high", "centre")}
        return mean_of(c.distributions[m], o, library=library, panel=panel, **bounds)

    def alpha(self, m: int, covariates: Tensor) -> Tensor | None:
        key = f"decoder.dispersion.{m}"
        if key not in self.w:
            return None
        raw = torch.nn.functional.softplus(covariates @ self.w[key])
        return raw + (raw.clamp(0, self.config.max_disp) - raw).detach()

    def pi(self, m: int) -> Tensor | None:
        key = f"decoder.inflation.{m}"
        return torch.sigmoid(self.w[key]).clamp(1e-3, 1 - 1e-3) if key in self.w else None

    @dataclasses.dataclass
    class Block:
        m: int
        group: int
        k: int  # position in the group
        own: slice  # columns of the modality
        in_group: slice
        embed: slice
        enc: int
        dec: int

    def blocks(self) -> Any:
        """Blocks in order; those of a modality with equal widths share the weights of one group."""
        c, group, k, start, at, embed = self.config, -1, 0, 0, 0, 0
        last: tuple[Any, ...] = ()
        previous = ""
        for b, size in enumerate(c.dim_block):
            name = c.block_names[b]
            kind = (name, c.dim_block_embed[b], c.dim_block_enc[b], c.dim_block_dec[b])
            at = at if name == previous else 0
            if kind != last:
                group, k, start = group + 1, 0, at
            yield self.Block(
                m=c.uni_block_names.index(name), group=group, k=k, own=slice(at, at + size),
                in_group=slice(at - start, at - start + size), embed=slice(embed, embed + kind[1]),
                enc=kind[2], dec=kind[3],
            )  # fmt: skip
            k, at, embed, last, previous = k + 1, at + size, embed + kind[1], kind, name

    @staticmethod
    def leaky(h: Tensor) -> Tensor:
        return torch.where(h > 0, h, SLOPE * h)

    def linear(self, name: str, h: Tensor) -> Tensor:
        return h @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def batch_norm(self, name: str, h: Tensor, training: bool) -> Tensor:
        if training:
            mean, var = h.mean(0), ((h - h.mean(0)) ** 2).mean(0)
        else:
            mean, var = self.w[f"{name}.running_mean"], self.w[f"{name}.running_var"]
        return (h - mean) / torch.sqrt(var + EPS) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def stack(self, name: str, h: Tensor, training: bool) -> Tensor:
        for k in range(len(self.config.dimensions)):
            h = self.leaky(self.linear(f"{name}.linear.{k}", h))
            if self.config.norm == "batch":
                h = self.batch_norm(f"{name}.norm.{k}", h, training)
            else:
                mean, var = h.mean(1, keepdim=True), h.var(1, correction=0, keepdim=True)
                h = (h - mean) / torch.sqrt(var + 1e-5) * self.w[f"{name}.norm.{k}.weight"]
                h = h + self.w[f"{name}.norm.{k}.bias"]
        return h

    def loss(
        self,
        minibatch: Minibatch,
        masked: list[Tensor],
        noise: Tensor | None,
        *,
        gamma: float,
        training: bool,
    ) -> dict[str, Tensor]:
        """Every term of the loss, as the specification writes it; drawn features stand for all."""
        c = self.config
        passes, _ = self.passes(minibatch, masked, noise, training=training)
        ll = torch.stack([torch.stack([lp.sum(1).mean() for lp in p.log_prob]) for p in passes])  # (P, M)
        ll = ll / torch.stack([chosen_of(minibatch, m).double().mean() for m in range(ll.shape[1])])
        beta = torch.tensor(self.beta, dtype=torch.float64)
        observed = -(1 - c.beta_unobs) * beta * ll[0]
        masked_term = (1 - c.beta_reverse) * ll[1]
        kl = (1 - c.beta_reverse) * kl_of(passes[1], passes[0])
        if c.beta_reverse > 0:
            masked_term = masked_term + c.beta_reverse * ll[2]
            kl = kl + c.beta_reverse * kl_of(passes[2], passes[0])
        masked_term = -c.beta_unobs * beta * masked_term
        discrepancy = torch.zeros((), dtype=torch.float64)
        if gamma:
            discrepancy = gamma * mmd(passes[0].mean, minibatch.group, unbiased=c.unbiased_mmd)
        total = observed.sum() + masked_term.sum() + c.beta_kl * kl + discrepancy
        terms = {"observed": observed, "masked": masked_term, "kl": c.beta_kl * kl, "mmd": discrepancy}
        return terms | {"total": total, "log_prob": ll}


def kl_of(first: Pass, second: Pass) -> Tensor:
    """KL(first || second) of diagonal Gaussians with the clips of the specification, mean over cells."""
    v0, v1 = first.log_var, second.log_var
    ratio = torch.exp(torch.clamp(v0 - v1, -6, 6))
    shift = (second.mean - first.mean) ** 2 / torch.exp(torch.clamp(v1, -6, 6))
    return 0.5 * (ratio + shift - 1 + v1 - v0).sum(1).mean()


def mmd(mean: Tensor, group: Tensor, *, unbiased: bool = False) -> Tensor:
    """Pair by pair of groups: the sum of the biased estimates, or the mean of the unbiased by n_a * n_b."""
    present = [g for g in group.unique().tolist() if g > 0 and int((group == g).sum()) > unbiased]

    def kernel(a: Tensor, b: Tensor, *, within: bool) -> Tensor:
        distance = ((a[:, None] - b[None]) ** 2).sum(-1)
        values = torch.stack([torch.exp(-distance / (2 * s)) for s in WIDTHS]).mean(0)
        if within and unbiased:
            return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))
        return values.mean()

    total, weights = mean.new_zeros(()), 0
    for i, a in enumerate(present):
        for b in present[i + 1 :]:
            first, second = mean[group == a], mean[group == b]
            weight = len(first) * len(second) if unbiased else 1
            apart = kernel(first, first, within=True) + kernel(second, second, within=True)
            total = total + weight * (apart - 2 * kernel(first, second, within=False))
            weights += weight
    return total / max(weights, 1) if unbiased else total
