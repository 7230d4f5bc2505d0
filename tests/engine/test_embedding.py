"""The mask's embedding: compiled and by its definition, and both as the dense product."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import random_mudata
from tests.oracles import spread
from torch import Tensor

from mosaicvi.config import NetworkConfig
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import Minibatch
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.engine import embedding as engine
from mosaicvi.engine.embedding import ALL, NONE, can_embed, embed, sets_of
from mosaicvi.errors import MosaicWarning
from mosaicvi.nn.compiled import hidden_of
from mosaicvi.nn.encoder import MaskEmbedding
from mosaicvi.nn.masks import MaskSampler, View, masked_views, observed_view


def build(seed: int) -> tuple[Minibatch, list[list[View]], MaskEmbedding]:
    """A minibatch, what three passes see of it, and an embedding with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = register(random_mudata(seed), Setup(batch_key="batch"))
    config = NetworkConfig.for_mosaic(mosaic, p_feat=0.3)
    minibatch = MinibatchLoader(mosaic).take(np.arange(mosaic.n_cells))
    generator = torch.Generator().manual_seed(seed)
    masks = MaskSampler(config).draw(minibatch, generator)
    observed = [observed_view(r) for r in minibatch.rows]
    visible, masked = zip(*(masked_views(o, m) for o, m in zip(observed, masks, strict=True)), strict=True)
    embedding = MaskEmbedding(config, generator)
    with torch.no_grad():
        embedding.bias.copy_(torch.randn(embedding.bias.shape, generator=generator))
    return minibatch, [observed, list(visible), list(masked)], embedding


def found(
    embedding: MaskEmbedding, minibatch: Minibatch, views: list[list[View]], *, is_compiled: bool
) -> list[Tensor]:
    """The embedding and gradients of its weights."""
    if is_compiled:
        hidden = [
            hidden_of(minibatch.n_cells, r, [v[m] for v in views]) for m, r in enumerate(minibatch.rows)
        ]
        assert can_embed(hidden)
        out = embed(hidden, embedding.bias, list(embedding.weight))
    else:
        out = embedding(minibatch, views)
    weight = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return [out, *torch.autograd.grad((out * weight).sum(), list(embedding.parameters()))]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**4), all_sets=st.sampled_from([0, 10]), is_compiled=st.booleans())
def test_the_embedding_is_that_of_the_dense_mask(seed: int, all_sets: int, is_compiled: bool) -> None:
    minibatch, views, embedding = build(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "ALL_SETS", all_sets)
        patch.setattr(engine, "FEW", 62)
        ours = found(embedding, minibatch, views, is_compiled=is_compiled)
    hidden = [
        [1 - spread(v.table[v.index], r, minibatch.n_cells).double() for v in of_pass]
        for r, of_pass in zip(minibatch.rows, zip(*views, strict=True), strict=True)
    ]
    total = embedding.bias.double()
    for of_modality, weight in zip(hidden, embedding.weight, strict=True):
        total = total + torch.cat(of_modality) @ weight.double()
    expected = torch.tanh(total)
    weight = torch.linspace(-1, 1, expected.numel()).view(expected.shape)
    grads = torch.autograd.grad((expected * weight).sum(), list(embedding.parameters()))
    for a, b in zip(ours, [expected.float(), *grads], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**4))
def test_distinct_masks_hide_some_features_but_not_all(seed: int) -> None:
    minibatch, views, _ = build(seed)
    for m, rows in enumerate(minibatch.rows):
        hidden = hidden_of(minibatch.n_cells, rows, [v[m] for v in views])
        share = hidden.table.mean(1)
        assert ((share > 0) & (share < 1)).all()
        dense = np.concatenate([np.zeros_like(rows.panels[:1]), np.ones_like(rows.panels[:1]), hidden.table])
        assert (NONE, ALL) == (0, 1)
        of_pass = hidden.of.reshape(len(views), -1)
        for p, view in enumerate(v[m] for v in views):
            expected = 1 - spread(view.table[view.index], rows, minibatch.n_cells).numpy()
            np.testing.assert_array_equal(dense[of_pass[p]], expected)


@pytest.mark.parametrize("n_masks", [0, 1, 10, 11, 40, 60])
def test_features_are_alike_if_the_same_masks_hide_them(n_masks: int) -> None:
    table = np.random.default_rng(n_masks).random((n_masks, 30)) < 0.3
    sets = sets_of(table)
    np.testing.assert_array_equal(sets.members[2:, sets.of], table)
    assert not sets.members[NONE].any()
    assert sets.members[ALL].all()
