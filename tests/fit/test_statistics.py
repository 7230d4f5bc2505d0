"""Statistics of batch norms for answers, against activations computed by hand."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from tests.builders import random_mudata

from mosaicvi import MosaicVI
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.fit.statistics import settle
from mosaicvi.nn.masks import observed_view

SMALL = {"dimensions": (6,), "dim_latent": 3, "dim_block_enc": 4, "dim_block_dec": 4, "dim_block_embed": 2}


def trained() -> tuple[MosaicVI, MinibatchLoader]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata = random_mudata(1, n_cells=40)
        MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mdata, preset="published", **SMALL)  # type: ignore[arg-type]
    return model.train(3, batch_size=10, progress=False), MinibatchLoader(model.mosaic)


def test_they_are_those_of_what_is_seen_in_answers() -> None:
    model, loader = trained()
    net = model.net
    before = {name: value.clone() for name, value in net.named_parameters()}
    mixed = net.encoder.hidden.norm[0].running_mean.clone()
    settle(net, model.mosaic, batch_size=40, seed=0)
    assert not net.training
    for name, value in net.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    minibatch = loader.take(np.arange(40))
    first, inputs = net.encoder.hidden.norm[0], []
    hook = net.encoder.hidden.linear[0].register_forward_hook(lambda *parts: inputs.append(parts[2]))
    with torch.no_grad():
        views = [[observed_view(rows) for rows in minibatch.rows]]
        net.encoder(minibatch, views, [net.bounds(m).centre for m in range(3)])
    hook.remove()
    h = torch.nn.functional.leaky_relu(inputs[0], 0.3)
    torch.testing.assert_close(first.running_mean, h.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.running_var, h.var(0, unbiased=False), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mixed, h.mean(0), rtol=1e-3)
    z = model.get_latent_representation()
    np.testing.assert_allclose(z.mean(0), net.encoder.mean_norm.bias.detach(), atol=1e-4)
    spread = net.encoder.mean_norm.weight.detach().abs()
    np.testing.assert_allclose(z.std(0), spread, rtol=2e-2)


def test_the_seed_decides_them() -> None:
    model, _ = trained()
    found = []
    for seed in (0, 0, 1):
        settle(model.net, model.mosaic, batch_size=12, seed=seed)
        found.append(torch.cat([b for b in model.net.statistics() if b.ndim]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert not torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0], found[2], rtol=0.2, atol=0.2)
