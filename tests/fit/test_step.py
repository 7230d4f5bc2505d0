"""A step on a device: the host asks for no number and for no count of them, so that it never waits."""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from tests.builders import random_mudata
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mosaicvi import MosaicVI, device
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.errors import MosaicWarning
from mosaicvi.fit import step
from mosaicvi.fit.session import begin
from mosaicvi.fit.state import FitConfig
from mosaicvi.nn.masks import MaskSampler

SMALL: dict[str, Any] = {"dimensions": 8, "dim_latent": 3, "dim_block_dec": 4}
# what their results hold, or how much of it there is, is known on the device alone
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "bincount", "is_nonzero")


class NothingWaits(TorchDispatchMode):
    """Refuses operations for whose result the host would have to wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        given = dict(kwargs or {})
        of_bools = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            at is not None and at.dtype == torch.bool for at in args[1]
        )
        of_lengths = name == "repeat_interleave" and given.get("output_size") is None
        if any(name.startswith(w) for w in WAITS) or of_bools or of_lengths:
            raise AssertionError(f"the host waits: {name}")
        return func(*args, **given)


def _refuse(*args: Any) -> NoReturn:
    raise AssertionError("the host looks at a tensor")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("widths", [4, (4, 4, 3, 2)])
@pytest.mark.parametrize("panels", [True, False])
@pytest.mark.parametrize("likelihood", ["NB", "ZINB", "Poisson", "Bernoulli", "Gaussian"])
def test_the_host_never_waits(
    monkeypatch: pytest.MonkeyPatch, likelihood: str, panels: bool, norm: str, widths: Any, precision: Any
) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", "torch")
    monkeypatch.setattr(device, "would_wait", lambda tensor: True)
    monkeypatch.setattr(step, "would_wait", lambda tensor: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(
            random_mudata(4, n_cells=50, panels=panels, nan=panels),
            batch_key="batch",
            likelihoods={"rna": likelihood, "adt": "NB", "atac": "Poisson"},
        )
    net = MosaicVI(mosaic, norm=norm, dim_block_enc=widths, **SMALL).net
    config = FitConfig(max_epochs=2, batch_size=20, precision=precision)
    state = begin(net, mosaic, config, earlier=None, saved=None)
    loader, sampler = MinibatchLoader(mosaic), MaskSampler(net.config)
    before = [p.detach().clone() for p in net.parameters()]

    def one(first: int) -> None:
        step.update(state, loader, sampler, np.arange(first, first + 20), 1.0, config, 3, ("",) * 3)
        state.steps_done += 1

    one(0)  # AdamW's moments come into being
    with monkeypatch.context() as patch:
        for name in ("numpy", "tolist", "__array__", "__bool__", "__float__", "__int__", "__index__"):
            patch.setattr(Tensor, name, _refuse)
        with NothingWaits():
            one(20)
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
