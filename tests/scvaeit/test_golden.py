"""The published implementation's numbers, out of its own interface (tests/golden/README.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.nn.test_golden import CASES, close, fill, read

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.nn.masks import ModalityMask
from mosaicvi.scvaeit import VAEIT


def covariates_of(case: str, batches: np.ndarray) -> dict[str, Any]:
    """What gives these columns again: categories of one-hot columns, numbers as they are."""
    if case == "trimodal":
        return {"batches_cate": np.c_[batches[:, :3].argmax(1), batches[:, 3:].argmax(1)]}
    cate = {"batches_cate": batches[:, :2].argmax(1)}
    return cate | {"batches_cont": batches[:, 2]} if case == "peptide" else cate


def with_a_constant(z: dict[str, np.ndarray], spec: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights for covariates with a constant before them, which they ignore."""
    w = {k.removeprefix("weights/"): v for k, v in z.items() if k.startswith("weights/")}
    n = len(spec["dim_block"])
    embed = np.broadcast_to(spec["dim_block_embed"], n)
    at = {"decoder.dense.0.kernel": spec["dim_latent"] + int(embed.sum())}
    for b, (size, width) in enumerate(zip(spec["dim_block"], embed, strict=True)):
        at[f"encoder.block.{b}.kernel"] = size + int(width)
        at[f"decoder.block.{b}.dispersion.kernel"] = 0
    return {k: torch.from_numpy(np.insert(v, at[k], 0, axis=0) if k in at else v) for k, v in w.items()}


def model_of(case: str) -> tuple[VAEIT, dict[str, np.ndarray]]:
    spec, z = read(case)
    bounds = {k: z[k] for k in ("mean_vals", "min_vals", "max_vals")}
    conditions = {"conditions": z["conditions"]} if spec["gamma"] else {}
    model = VAEIT(spec | bounds, z["data"], z["base_mask"], **covariates_of(case, z["batches"]), **conditions)
    with torch.no_grad():
        fill(model.vae, with_a_constant(z, spec))
    return model, z


@pytest.mark.filterwarnings("ignore:The model is not trained")
@pytest.mark.parametrize("case", CASES)
def test_latent_and_imputation(case: str) -> None:
    model, z = model_of(case)
    close(model.get_latent_z(), z["expected/eval.z"])
    with torch.no_grad():  # the numbers are those at the mean of the latent
        model.vae.encoder.log_var.weight.zero_()
        model.vae.encoder.log_var.bias.fill_(-80)
    close(model.get_denoised_data(L=2), z["expected/eval.recon"])
    close(model.get_denoised_data(return_mean=False, L=2)[:, 1], z["expected/eval.recon"])


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("case", CASES)
def test_every_term_of_the_loss(case: str, mode: str) -> None:
    model, z = model_of(case)
    net = model.vae.train(mode == "train")
    minibatch = MinibatchLoader(model.model.mosaic, device=torch.device("cpu")).take(
        np.arange(len(z["data"]))
    )
    parts = np.split(z["mask"] == 1, np.cumsum(model.config.dim_input_arr)[:-1], axis=1)
    masks = tuple(
        ModalityMask.of(torch.from_numpy(part[rows.cells.numpy()].copy()))
        for part, rows in zip(parts, minibatch.rows, strict=True)
    )
    losses = net(minibatch, masks, gamma=net.config.gamma(0), noise=None)
    terms = [losses.terms[name].reshape(-1) for name in ("observed", "masked", "kl", "mmd")]
    close(torch.cat(terms), z[f"expected/{mode}.losses"])
