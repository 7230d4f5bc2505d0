"""The loss and gradient of a minibatch that several processes share are those of the whole minibatch."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import random_mudata
from tests.threads_as_ranks import by_ranks
from torch import Tensor

from mosaicvi.config import NetworkConfig
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.errors import MosaicWarning
from mosaicvi.fit.build import build_network
from mosaicvi.fit.step import shared, total_of
from mosaicvi.nn.losses import Losses
from mosaicvi.nn.masks import MaskSampler, ModalityMask
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.ranks.group import Group

SMALL: dict[str, Any] = {"dimensions": (7, 5), "dim_latent": 3, "dim_block_enc": 4, "dim_block_dec": 4}
NAMES = ("rna", "adt", "atac")


@pytest.fixture(autouse=True)
def by_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", "torch")


with warnings.catch_warnings():
    warnings.simplefilter("ignore", MosaicWarning)
    MOSAIC = register(random_mudata(5, n_cells=40), Setup(batch_key="batch"))
LOADER = MinibatchLoader(MOSAIC)


def network(**parameters: Any) -> MosaicVAE:
    return build_network(MOSAIC, NetworkConfig.for_mosaic(MOSAIC, **(SMALL | parameters)), seed=1, guess=True)


def whole(net: MosaicVAE, cells: np.ndarray, seed: int) -> tuple[tuple[ModalityMask, ...], Tensor]:
    """Masks and noise of a whole minibatch."""
    generator = torch.Generator().manual_seed(seed)
    masks = MaskSampler(net.config).draw(LOADER.take(cells), generator)
    return masks, torch.randn(net.n_passes(), len(cells), 3, generator=generator)


def found(
    net: MosaicVAE, cells: np.ndarray, seed: int, gamma: float, group: Group | None
) -> tuple[Losses, dict[str, Tensor]]:
    """Loss of a minibatch, its gradients and the statistics of the norms, by one process or by several."""
    masks, noise = whole(net, cells, seed)
    own, share = shared(cells, group)
    if share is not None:
        at = slice(share.first, share.first + max(share.n, 1)) if share.n else slice(0, 1)
        of_cells = LOADER.take(cells).rows
        inside = [(r.cells >= at.start) & (r.cells < at.stop) for r in of_cells]
        masks = tuple(dataclasses.replace(m, code=m.code[i]) for m, i in zip(masks, inside, strict=True))
        noise = noise[:, at]
    net.train()
    losses = net(LOADER.take(own), masks, gamma=gamma, noise=noise.flatten(0, 1), share=share)
    losses.total.backward()
    if group is not None:
        group.add_gradients(list(net.parameters()))
        losses = total_of(losses, group)
    grads = {f"d {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return losses, grads | dict(net.named_buffers())


def assert_shared_as_whole(
    cells: np.ndarray, size: int, gamma: float, seed: int = 0, **parameters: Any
) -> None:
    losses, of_whole = found(network(**parameters), cells, seed, gamma, None)
    for part, of_part in by_ranks(
        size, lambda group: found(network(**parameters), cells, seed, gamma, group)
    ):
        for name, value in losses.by_name(NAMES).items():
            torch.testing.assert_close(part.by_name(NAMES)[name], value, rtol=1e-4, atol=1e-5, msg=name)
        assert of_part.keys() == of_whole.keys()  # no gradient where no process has one
        for name, value in of_whole.items():
            torch.testing.assert_close(of_part[name], value, rtol=2e-3, atol=2e-5, msg=name)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {"preset": "published"},
    "three passes": {"norm": "batch", "beta_reverse": 0.3, "unbiased_mmd": False},
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_unequal_shares(preset: str, gamma: float) -> None:
    assert_shared_as_whole(np.arange(11), 2, gamma, **PRESETS[preset])


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 3), st.sets(st.integers(0, 39), min_size=4, max_size=20), st.integers(0, 99))
def test_any_cells_among_any_number_of_ranks(size: int, cells: set[int], seed: int) -> None:
    assert_shared_as_whole(np.array(sorted(cells)), size, 0.5, seed)


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_without_a_modality(name: str) -> None:
    has = MOSAIC.modalities[NAMES.index(name)].row_of_cell >= 0
    cells = np.concatenate([np.flatnonzero(~has)[:4], np.flatnonzero(has)[:4]])
    assert_shared_as_whole(cells, 2, 1.0)


def test_a_rank_without_cells() -> None:
    assert_shared_as_whole(np.array([0, 1]), 3, 1.0)
    first, second, third = (shared(np.array([4, 5]), Group(rank=r, size=3)) for r in range(3))
    assert [s[1].n for s in (first, second, third) if s[1] is not None] == [0, 1, 1]
    assert [s[0].tolist() for s in (first, second, third)] == [[4], [4], [5]]


def test_by_the_compiled_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", "auto")
    assert_shared_as_whole(np.arange(11), 2, 1.0)
