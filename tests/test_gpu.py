"""Training and answers on a GPU, where there is one: the same as on the CPU, and nothing waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builders import random_mudata

from mosaicvi import MosaicVI
from mosaicvi.data import loader as loader_module
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import Minibatch
from mosaicvi.fit.session import begin
from mosaicvi.fit.state import FitConfig
from mosaicvi.fit.step import features_of, update
from mosaicvi.nn.masks import MaskSampler

SMALL: dict[str, Any] = {"dimensions": 16, "dim_latent": 4, "dim_block_enc": 8, "dim_block_dec": 8}
LIKELIHOODS: list[dict[str, str]] = [
    {},
    {"rna": "ZINB", "adt": "Gaussian", "atac": "Poisson"},
    {"rna": "Poisson", "adt": "NB"},
]
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore::mosaicvi.errors.MosaicWarning"),
]


DATA = random_mudata(3, n_cells=200, nan=False, panels=True)


def mosaic_of(**setup: Any) -> Any:
    return MosaicVI.setup_mudata(DATA, batch_key="batch", **setup)


def same(here: Minibatch, there: Minibatch) -> None:
    for name in ("index", "group", "covariates"):
        np.testing.assert_array_equal(getattr(here, name).cpu(), getattr(there, name).cpu(), err_msg=name)
    for a, b in zip(here.rows, there.rows, strict=True):
        for name in ("cells", "panel", "panels", "library", "scale"):
            np.testing.assert_array_equal(getattr(a, name).cpu(), getattr(b, name).cpu(), err_msg=name)
        if a.sparse is None:
            assert a.dense is not None
            assert b.dense is not None
            np.testing.assert_array_equal(a.dense.cpu(), b.dense.cpu())
        else:
            assert b.sparse is not None
            for name in ("cell", "col", "value", "indptr"):
                np.testing.assert_array_equal(getattr(a.sparse, name).cpu(), getattr(b.sparse, name).cpu())


@pytest.mark.parametrize("has_room", [True, False])
def test_minibatches_are_those_of_the_host(monkeypatch: pytest.MonkeyPatch, has_room: bool) -> None:
    mosaic = mosaic_of()
    if not has_room:
        monkeypatch.setattr(loader_module, "room_on", lambda device: 0.0)
    loader = MinibatchLoader(mosaic, device="cuda")
    assert loader.home.type == ("cuda" if has_room else "cpu")
    index = np.array([5, 3, 60, 5])
    found = loader.take(index)
    assert found.index.device.type == "cuda"
    same(MinibatchLoader(mosaic).take(index), found)


@pytest.mark.parametrize("likelihoods", LIKELIHOODS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("has_room", [True, False])
def test_a_step_never_waits(
    monkeypatch: pytest.MonkeyPatch, likelihoods: dict[str, str], precision: Any, has_room: bool
) -> None:
    if not has_room:
        monkeypatch.setattr(loader_module, "room_on", lambda device: 0.0)
    mosaic = mosaic_of(likelihoods=likelihoods)
    net = MosaicVI(mosaic, **SMALL).net.to("cuda")
    config = FitConfig(max_epochs=2, batch_size=30, precision=precision)
    state, loader = (
        begin(net, mosaic, config, earlier=None, saved=None),
        MinibatchLoader(mosaic, device="cuda"),
    )
    sampler, before = MaskSampler(net.config), [p.detach().clone() for p in net.parameters()]
    for step in range(5):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        try:
            update(state, loader, sampler, np.arange(step, step + 30), 1.0, config, 3, ("",) * 3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        state.steps_done += 1
    assert features_of(net, loader, (0,)) is not None
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("likelihoods", LIKELIHOODS)
def test_gradients_are_those_of_the_cpu(likelihoods: dict[str, str]) -> None:
    mosaic = mosaic_of(likelihoods=likelihoods)
    net = MosaicVI(mosaic, **SMALL).net
    found = {}
    for device in ("cpu", "cuda"):
        net.to(device)
        minibatch = MinibatchLoader(mosaic, device=device).take(np.arange(60))
        masks = MaskSampler(net.config).draw(
            MinibatchLoader(mosaic).take(np.arange(60)), torch.Generator().manual_seed(1)
        )
        moved = tuple(type(m)(table=m.table.to(device), code=m.code.to(device)) for m in masks)
        net.zero_grad()
        losses = net(minibatch, moved, gamma=2.0, noise=None)
        losses.total.backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
        found[device] = [losses.total.detach().cpu(), *(g.cpu() for g in grads)]
    for here, there in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(here, there, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_training_saving_and_going_on(tmp_path: Path, precision: Any) -> None:
    model = MosaicVI(mosaic_of(), **SMALL)
    again: dict[str, Any] = {"checkpoint_dir": tmp_path / "ckpt", "precision": precision, "progress": False}
    model.train(3, batch_size=30, **again)
    assert next(model.net.parameters()).device.type == "cuda"
    assert np.isfinite(model.history["validation_loss"]).all()
    model.save(tmp_path / "model")
    loaded = MosaicVI.load(tmp_path / "model", DATA)
    np.testing.assert_allclose(
        loaded.get_latent_representation(), model.get_latent_representation(), atol=1e-4
    )
    other = MosaicVI(model.mosaic, **SMALL).train(5, batch_size=30, resume=True, **again)
    assert len(other.history) == 5
    loaded.train(1, batch_size=30, accelerator="cpu", progress=False)


def test_training_ends_by_itself_on_data_that_stay_with_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "room_on", lambda device: 0.0)
    model = MosaicVI(mosaic_of(), **SMALL).train(batch_size=30, progress=False)
    assert model.history["validation_loss"].iloc[-1] < model.history["validation_loss"].iloc[0]


def test_data_on_disk(tmp_path: Path) -> None:
    random_mudata(5, n_cells=80, nan=False, panels=False).write(tmp_path / "data.h5mu")
    mosaic = MosaicVI.setup_mudata(tmp_path / "data.h5mu", batch_key="batch", in_memory=False)
    model = MosaicVI(mosaic, **SMALL).train(2, batch_size=20, buffer_memory=1e-6, progress=False)
    assert np.isfinite(model.get_latent_representation()).all()


def test_every_answer_is_that_of_the_cpu() -> None:
    model = MosaicVI(mosaic_of(), **SMALL).train(4, batch_size=50, progress=False)

    def answers() -> dict[str, np.ndarray]:
        bounds = model.get_imputed_intervals(modality="adt", level=0.9)
        compared = model.differential_expression(groupby="batch", modality="rna", seed=1)
        found = {
            "latent": model.get_latent_representation(),
            "adt": model.get_imputed_values(modality="adt"),
            "rna": model.get_imputed_values(modality="rna", transform_batch="mean"),
            "lower": bounds.lower,
            "upper": bounds.upper,
            "fit": model.cell_fit()["log_likelihood"],
            "drawn": model.posterior_predictive_sample(modality="atac", n_samples=50).mean(0),
            "effect": compared["lfc_mean"],
        }
        return {name: np.asarray(values, float) for name, values in found.items()}

    there = answers()
    model.net.to("cpu")
    for name, here in answers().items():
        rough = {"drawn": 0.5, "effect": 0.1}.get(name, 5e-3)  # the draws are others
        np.testing.assert_allclose(here, there[name], rtol=5e-3, atol=rough, err_msg=name)
