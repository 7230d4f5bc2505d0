"""The published implementation's numbers, given its weights (tests/golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import Minibatch, ModalityRows, SparseRows
from mosaicvi.likelihoods.base import Bounds
from mosaicvi.nn.masks import ModalityMask
from mosaicvi.nn.vae import Losses, MosaicVAE

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ["trimodal", "peptide", "poisson"]


def read(case: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    spec = json.loads((GOLDEN / f"{case}.json").read_text())
    with np.load(GOLDEN / f"{case}.npz") as z:
        return spec, {k: z[k] for k in z.files}


def config_of(spec: dict[str, Any]) -> NetworkConfig:
    n = len(spec["dim_block"])
    embed = spec["dim_block_embed"]
    spec = spec | {"dim_block_embed": [embed] * n if isinstance(embed, int) else embed}
    ours = {"norm": "batch", "encode_covariates": True, "decode_mask": True, "unbiased_mmd": False}
    return NetworkConfig.from_dict(spec | ours)


def minibatch_of(config: NetworkConfig, z: dict[str, np.ndarray]) -> Minibatch:
    rows, at = [], 0
    n = len(z["data"])
    for m, size in enumerate(config.dim_input_arr):
        measured = z["base_mask"][:, at : at + size] != -1
        x = np.where(measured, z["data"][:, at : at + size], 0).astype(np.float32)
        blocks = [
            d
            for d, b in zip(config.dim_block, config.block_names, strict=True)
            if b == config.uni_block_names[m]
        ]
        block = np.repeat(np.arange(len(blocks)), blocks)
        i, j = np.nonzero(x)
        order = np.lexsort((j, block[j] * n + i))
        i, j = i[order], j[order]
        row = block[j] * n + i
        sparse = SparseRows(
            cell=torch.from_numpy(i),
            col=torch.from_numpy(j),
            value=torch.from_numpy(x[i, j]),
            indptr=torch.from_numpy(np.searchsorted(row, np.arange(len(blocks) * n + 1))),
        )
        gaussian = config.distributions[m] == "Gaussian"
        rows.append(
            ModalityRows(
                cells=torch.arange(n),
                panel=torch.zeros(n, dtype=torch.int64),
                panels=torch.ones(1, size, dtype=torch.bool),
                all_measured=True,
                transform="none",
                library=torch.ones(n),
                scale=torch.ones(n),
                sparse=None if gaussian else sparse,
                dense=torch.from_numpy(x) if gaussian else None,
                entry_measured=torch.from_numpy(measured),
            )
        )
        at += size
    return Minibatch(
        index=torch.arange(n),
        rows=tuple(rows),
        targets=tuple(rows),
        covariate_table=torch.from_numpy(z["batches"].astype(np.float32)),
        covariate_code=torch.arange(n),
        group=torch.from_numpy(z["conditions"].ravel().astype(np.int64)),
    )


def masks_of(config: NetworkConfig, z: dict[str, np.ndarray]) -> tuple[ModalityMask, ...]:
    parts = np.split(z["mask"] == 1, np.cumsum(config.dim_input_arr)[:-1], axis=1)
    return tuple(ModalityMask.of(torch.from_numpy(p.copy())) for p in parts)


def network(spec: dict[str, Any], config: NetworkConfig, z: dict[str, np.ndarray]) -> MosaicVAE:
    cuts = np.cumsum(config.dim_input_arr)[:-1]
    vals = [np.split(z[k].astype(np.float32), cuts) for k in ("mean_vals", "min_vals", "max_vals")]
    bounds = [
        Bounds(**{k: torch.from_numpy(v[m]) for k, v in zip(("centre", "low", "high"), vals, strict=True)})
        for m in range(len(config.dim_input_arr))
    ]
    n_cov = z["batches"].shape[1]
    net = MosaicVAE(config, n_cov, bounds, torch.Generator().manual_seed(0))
    w = {k.removeprefix("weights/"): torch.from_numpy(v) for k, v in z.items() if k.startswith("weights/")}
    with torch.no_grad():
        fill(net, w)
    return net


def fill(net: MosaicVAE, w: dict[str, torch.Tensor]) -> None:
    config, enc, dec = net.config, net.encoder, net.decoder
    for p, part in zip(
        enc.embedding.weight, torch.split(w["embed.kernel"], config.dim_input_arr), strict=True
    ):
        p.copy_(part)
    enc.embedding.bias.copy_(w["embed.bias"])

    def dense(layer: torch.nn.Linear, name: str) -> None:
        layer.weight.copy_(w[f"{name}.kernel"].T)
        layer.bias.copy_(w[f"{name}.bias"])

    def norm(layer: Any, name: str) -> None:
        layer.weight.copy_(w[f"{name}.gamma"])
        layer.bias.copy_(w[f"{name}.beta"])
        layer.running_mean.copy_(w[f"{name}.moving_mean"])
        layer.running_var.copy_(w[f"{name}.moving_variance"])

    for side, module in (("encoder", enc.hidden), ("decoder", dec.hidden)):
        for k in range(len(config.dimensions)):
            dense(module.linear[k], f"{side}.dense.{k}")
            norm(module.norm[k], f"{side}.norm.{k}")
    dense(enc.mean, "encoder.latent_mean")
    norm(enc.mean_norm, "encoder.latent_mean_norm")
    dense(enc.log_var, "encoder.latent_log_var")
    b = 0
    for i, g in enumerate(enc.groups):
        for k, (lo, hi) in enumerate(g.spans):
            kernel, span = w[f"encoder.block.{b}.kernel"], slice(lo - g.lo, hi - g.lo)
            x, e, c = torch.split(kernel, [hi - lo, g.embed, net.n_covariates])
            enc.block[i].value[span] = x
            enc.block[i].embed[k] = e
            enc.block[i].covariate[:, k * g.enc : (k + 1) * g.enc] = c
            inner = slice(k * g.dec, (k + 1) * g.dec)
            dec.inner[i].weight[inner] = w[f"decoder.block.{b}.hidden.kernel"].T
            dec.inner[i].bias[inner] = w[f"decoder.block.{b}.hidden.bias"]
            dec.last[i][:-1, span] = w[f"decoder.block.{b}.out.kernel"]
            dec.last[i][-1, span] = w[f"decoder.block.{b}.out.bias"]
            if f"decoder.block.{b}.dispersion.kernel" in w and str(g.modality) in dec.dispersion:
                dec.dispersion[str(g.modality)][:, lo:hi] = w[f"decoder.block.{b}.dispersion.kernel"]
            b += 1


def close(actual: torch.Tensor | np.ndarray, expected: np.ndarray) -> None:
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("case", CASES)
def test_every_pass_and_every_loss_term(case: str, mode: str) -> None:
    spec, z = read(case)
    config = config_of(spec)
    net = network(spec, config, z).train(mode == "train")
    minibatch, masks = minibatch_of(config, z), masks_of(config, z)
    losses: Losses = net(minibatch, masks, gamma=spec.get("gamma", 0.0), noise=None)
    q = net.encode(minibatch, [p.seen for p in net.passes(minibatch, masks)])
    n = minibatch.n_cells
    names = ["obs", "masked", "reverse"][: net.n_passes()]
    for p, name in enumerate(names):
        close(q.mean[p * n : (p + 1) * n], z[f"expected/{mode}.{name}.z_mean"])
        close(q.log_var[p * n : (p + 1) * n], z[f"expected/{mode}.{name}.z_log_var"])
        blocks = z[f"expected/{mode}.{name}.log_prob"]
        per_modality = [
            sum(v for v, b in zip(blocks, config.block_names, strict=True) if b == m)
            for m in config.uni_block_names
        ]
        close(losses.log_prob[p], np.array(per_modality, np.float32))
    terms = torch.cat([losses.terms[name].reshape(-1) for name in ("observed", "masked", "kl", "mmd")])
    close(terms, z[f"expected/{mode}.losses"])
    close(losses.total, z[f"expected/{mode}.losses"].sum())


@pytest.mark.parametrize("case", CASES)
def test_latent_and_imputation(case: str) -> None:
    spec, z = read(case)
    config = config_of(spec)
    net = network(spec, config, z).eval()
    minibatch, masks = minibatch_of(config, z), masks_of(config, z)
    with torch.no_grad():
        observed = net.passes(minibatch, masks)[0].seen
        q = net.encode(minibatch, [observed])
        close(q.mean, z["expected/eval.z"])
        parts = [
            net.imputed_mean(m, q.mean, q, minibatch.covariates, library=None)
            for m in range(len(minibatch.rows))
        ]
    close(torch.cat(parts, 1), z["expected/eval.recon"])
