"""What the engine is given: every target once, in its pass; gradients for the declared weights alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import random_mudata
from tests.nn.test_vae import mosaic_of, network

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import ModalityRows
from mosaicvi.nn.compiled_likelihood import Batch, batches_of
from mosaicvi.nn.masks import MaskSampler, ModalityMask, View, masked_views, observed_view

Target = tuple[int, int, int]  # pass, row of the modality, feature


def targets_of(batch: Batch, n_features: int) -> list[Target]:
    """Every target of a batch; features are those of the whole modality."""
    features = np.arange(n_features) if batch.given.features is None else batch.given.features
    out = []
    for k in range(len(batch.pick)):
        counts = np.ones(len(features), bool)
        if batch.wanted is not None and int(batch.wanted[1][k]) >= 0:
            counts = batch.wanted[0][batch.wanted[1][k]].numpy()
        out += [(int(batch.of_pass[k]), int(batch.pick[k]), int(f)) for f in features[counts]]
    return out


def wanted_of(views: list[View]) -> list[Target]:
    return [
        (p, int(i), int(f))
        for p, view in enumerate(views)
        for i, f in zip(*view.table[view.index].numpy().nonzero(), strict=True)
    ]


def draw_views(data: st.DataObject, rows: ModalityRows) -> list[View]:
    """What two passes must predict: what was measured, and what a mask hides of it."""
    n, d = len(rows.cells), rows.panels.shape[1]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    n_patterns = data.draw(st.integers(1, 4))
    patterns = torch.rand(n_patterns, d, generator=generator) < data.draw(st.sampled_from([0.0, 0.2, 0.9]))
    ends = torch.tensor([[False], [True]]).expand(2, d)
    code = torch.randint(0, n_patterns + 2, (n,), generator=generator)
    mask = ModalityMask(table=torch.cat([ends, patterns]), code=code)
    observed = observed_view(rows)
    return [observed, masked_views(observed, mask)[1]]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_target_is_in_one_batch(data: st.DataObject) -> None:
    mdata = random_mudata(data.draw(st.integers(0, 50)), n_cells=50, panels=data.draw(st.booleans()))
    m, softmax = data.draw(st.integers(0, 2)), data.draw(st.booleans())
    rows = MinibatchLoader(mosaic_of(mdata)).take(np.arange(50)).rows[m]
    views = draw_views(data, rows)
    batches = list(batches_of(rows, views, softmax=softmax))
    found = Counter(t for batch in batches for t in targets_of(batch, rows.panels.shape[1]))
    assert found == Counter(wanted_of(views))
    for batch in batches:
        assert len(batch.of_pass) == len(batch.pick) > 0
        assert not softmax or batch.columns is None


def test_a_shared_mask_of_few_features_is_a_smaller_batch() -> None:
    mosaic = mosaic_of(random_mudata(1, n_cells=60, n_genes=30, nan=False, panels=False))
    rows = MinibatchLoader(mosaic).take(np.arange(60)).rows[0]
    n, d = len(rows.cells), 30
    table = torch.zeros(3, d, dtype=torch.bool)
    table[1], table[2, [4, 9]] = True, True
    views = [View(table=table, index=torch.arange(n) % 3)]
    whole, few = batches_of(rows, views, softmax=False)
    assert whole.columns is None
    assert few.columns is not None
    assert few.columns.tolist() == [4, 9]
    assert few.given.panels.shape[1] == 2
    assert list(batches_of(rows, [], softmax=False)) == []
    (together,) = batches_of(rows, views, softmax=True)
    assert len(together.pick) == len(whole.pick) + len(few.pick)


def gradients(factors: list[float]) -> list[torch.Tensor]:
    """Of a sum of the log-likelihoods with so many times the declared weights, by pass."""
    mosaic = mosaic_of(random_mudata(3))
    net = network(mosaic, 1)
    minibatch = MinibatchLoader(mosaic).take(np.arange(24))
    masks = MaskSampler(net.config).draw(minibatch, torch.Generator().manual_seed(0))
    passes = net.passes(minibatch, masks)
    q = net.encode(minibatch, [p.seen for p in passes])
    h = net.shared_layers(q.mean, q, minibatch.covariates.repeat(2, 1), 2)
    weight = torch.tensor([[0.5, 1.0, 2.0], [0.3, 0.0, 1.0]])
    log_prob = net._log_prob(minibatch, h, q, passes, weight)
    loss = -(log_prob * weight * torch.tensor(factors)[:, None]).sum()
    return list(torch.autograd.grad(loss, list(net.decoder.last)))


def test_gradients_are_for_the_declared_weights_up_to_a_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", "auto")  # autograd knows every weight
    once, twice = gradients([1.0, 1.0]), gradients([2.0, 2.0])
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(2 * a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="a loss with other weights"):
        gradients([1.0, 2.0])
