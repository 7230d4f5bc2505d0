"""The sparse engine against a dense network with autograd: the loss, every term and every gradient."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mudata import MuData
from tests.builders import random_mudata
from tests.oracles import DenseVAE, measured_of, spread
from torch import Tensor

from mosaicvi import device
from mosaicvi.config import NetworkConfig
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import Minibatch
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.data.sampling import drawn_features
from mosaicvi.errors import MosaicWarning
from mosaicvi.fit.build import build_network
from mosaicvi.nn.masks import MaskSampler, ModalityMask
from mosaicvi.nn.vae import MosaicVAE


@pytest.fixture(params=["torch", "compiled"], autouse=True, scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything by the definition and by the compiled engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAICVI_ENGINE", request.param if request.param == "torch" else "auto")
        yield


SMALL: dict[str, Any] = {"dimensions": (7, 5), "dim_latent": 3, "dim_block_embed": 2, "dim_block_enc": 4}
SMALL["dim_block_dec"] = 4


def mosaic_of(mdata: MuData, **setup: Any) -> Mosaic:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return register(mdata, Setup(batch_key="batch", **setup))


def network(mosaic: Mosaic, seed: int, **parameters: Any) -> MosaicVAE:
    """A network whose every weight is random, also those that begin at zero or one."""
    config = NetworkConfig.for_mosaic(mosaic, **(SMALL | parameters))
    net = build_network(mosaic, config, seed=seed, guess=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
        for name, buffer in net.named_buffers():
            if "running_mean" in name:
                buffer.normal_(generator=generator)
            if "running_var" in name:
                buffer.uniform_(0.5, 2, generator=generator)
    return net


def dense_masks(masks: tuple[ModalityMask, ...], minibatch: Minibatch) -> list[Tensor]:
    return [
        spread(k.table[k.code], rows, minibatch.n_cells)
        for k, rows in zip(masks, minibatch.rows, strict=True)
    ]


def compare(
    mosaic: Mosaic, net: MosaicVAE, *, seed: int, gamma: float = 0.0, cells: np.ndarray | None = None,
    masks: tuple[ModalityMask, ...] | None = None, training: bool = True, rtol: float = 2e-4,
    features: list[np.ndarray | None] | None = None, half: bool = False,
) -> None:  # fmt: skip
    """Loss, terms and gradients of the engine, maybe in `half` the precision, are the dense network's."""
    generator = torch.Generator().manual_seed(seed)
    every = np.arange(mosaic.n_cells)
    minibatch = MinibatchLoader(mosaic).take(every if cells is None else cells, features)
    masks = masks or MaskSampler(net.config).draw(minibatch, generator)
    noise = torch.randn(net.n_passes() * minibatch.n_cells, net.config.dim_latent, generator=generator)
    oracle = DenseVAE(net.config, net.state_dict(), net.beta_modal.tolist())
    expected = oracle.loss(minibatch, dense_masks(masks, minibatch), noise, gamma=gamma, training=training)
    expected["total"].backward()
    net.train(training).zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = net(minibatch, masks, gamma=gamma, noise=noise)
    losses.total.backward()
    for key, value in expected.items():
        of_all = {"total": losses.total.detach(), "log_prob": losses.log_prob} | losses.terms
        actual = of_all[key].double()
        torch.testing.assert_close(
            actual,
            value.detach(),
            rtol=rtol,
            atol=rtol * float(value.detach().abs().max()) + 1e-6,
            msg=lambda text, key=key: f"{key}: {text}",
        )
    largest = max(
        float(p.grad.abs().max()) for p in oracle.w.values() if p.requires_grad and p.grad is not None
    )
    for name, parameter in net.named_parameters():
        want = oracle.w[name].grad
        want = torch.zeros_like(oracle.w[name]) if want is None else want
        assert parameter.grad is not None, f"{name} has no gradient"
        scale = max(float(want.abs().max()), (1e-1 if half else 1e-3) * largest)
        error = float((parameter.grad.double() - want).abs().max())
        assert error <= 40 * rtol * scale, f"{name}: off by {error:.2g}, of {scale:.2g}"


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_loss_and_gradients_are_those_of_the_dense_network(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 10**6))
    fractions = data.draw(st.booleans())
    mdata = random_mudata(
        seed, panels=data.draw(st.booleans()), nan=data.draw(st.booleans()), fractions=fractions
    )
    counts = st.sampled_from(["NB", "ZINB", "Poisson"])
    likelihoods = {
        "rna": data.draw(counts),
        "atac": data.draw(st.sampled_from(["Bernoulli", "Poisson", "NB"])),
    }
    likelihoods["adt"] = "Gaussian" if fractions else data.draw(counts)
    mosaic = mosaic_of(mdata, likelihoods=likelihoods)
    aware = tuple(
        m.likelihood in ("NB", "ZINB", "Poisson") and data.draw(st.booleans()) for m in mosaic.modalities
    )
    net = network(
        mosaic,
        seed,
        library_aware=aware,
        beta_reverse=data.draw(st.sampled_from([0.0, 0.3])),
        beta_modal=(0.5, 2.0, 1.0),
        norm=data.draw(st.sampled_from(["layer", "batch"])),
        encode_covariates=data.draw(st.booleans()),
        decode_mask=data.draw(st.booleans()),
        unbiased_mmd=data.draw(st.booleans()),
        skip_conn=data.draw(st.booleans()),
        p_feat=data.draw(st.sampled_from([0.0, 0.2, 0.9])),
    )
    # a batch norm of two cells returns their order, whose gradient float32 cannot hold
    fewest = 6 if net.config.norm == "batch" else 2
    cells = np.array(data.draw(st.lists(st.integers(0, 23), min_size=fewest, max_size=24, unique=True)))
    # with random running statistics a batch norm makes outputs whose exponential float64 cannot hold
    training = net.config.norm == "batch" or data.draw(st.booleans())
    features = None
    if data.draw(st.booleans()):
        chosen = [data.draw(st.sets(st.integers(0, m.n_features - 1), min_size=1)) for m in mosaic.modalities]
        features = [None if len(c) < 2 else np.array(sorted(c)) for c in chosen]
    compare(
        mosaic, net, seed=seed, gamma=data.draw(st.sampled_from([0.0, 0.5])), cells=cells, training=training,
        features=features,
    )  # fmt: skip


@pytest.mark.parametrize("likelihood", ["NB", "ZINB", "Poisson", "Bernoulli", "Gaussian"])
def test_likelihoods_of_some_features(likelihood: str) -> None:
    mdata = random_mudata(13, n_cells=60, n_genes=40)
    mosaic = mosaic_of(mdata, likelihoods={"rna": likelihood, "atac": "Bernoulli"})
    orders = [np.arange(m.n_features) for m in mosaic.modalities]
    for seed in range(3):
        features = drawn_features(orders, [0.4, 1.0, 0.5], [seed])
        for aware in {False, likelihood in ("NB", "ZINB", "Poisson")}:
            net = network(mosaic, seed, library_aware=(aware, True, False), beta_reverse=0.2)
            compare(mosaic, net, seed=seed, features=features)


@pytest.mark.parametrize("likelihood", ["NB", "ZINB", "Poisson", "Bernoulli", "Gaussian"])
def test_on_a_device_the_engine_is_the_same(likelihood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done where a look at a number is a wait, done here."""
    mdata = random_mudata(14, n_cells=40, n_genes=20)
    mosaic = mosaic_of(mdata, likelihoods={"rna": likelihood, "adt": "NB", "atac": "Poisson"})
    monkeypatch.setattr(device, "would_wait", lambda tensor: True)
    orders = [np.arange(m.n_features) for m in mosaic.modalities]
    for seed, features in enumerate([None, drawn_features(orders, [0.5, 1.0, 0.5], [3])]):
        for norm, skip in (("layer", False), ("batch", True)):
            aware = likelihood in ("NB", "ZINB", "Poisson")
            net = network(
                mosaic,
                seed,
                library_aware=(aware, seed == 0, True),
                beta_reverse=0.2,
                norm=norm,
                skip_conn=skip,
            )
            compare(mosaic, net, seed=seed, features=features, gamma=0.1)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("fractions", [False, True])
@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("skip_conn", [False, True])
def test_half_the_precision_is_near(
    apart: bool, fractions: bool, norm: str, skip_conn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products in bfloat16, which has 8 bits: likelihoods and the KL term stay in float32."""
    mosaic = mosaic_of(random_mudata(16, n_cells=40, fractions=fractions), likelihoods={"rna": "ZINB"})
    if apart:
        monkeypatch.setattr(device, "would_wait", lambda tensor: True)
    net = network(mosaic, 1, norm=norm, skip_conn=skip_conn, library_aware=False)
    # a norm over 40 cells makes its gradient of small differences
    compare(mosaic, net, seed=1, rtol=1e-2 if norm == "layer" else 3e-2, half=True)


@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("likelihood", ["NB", "ZINB", "Poisson", "Bernoulli", "Gaussian"])
@pytest.mark.parametrize("panels", [True, False])
def test_each_likelihood(likelihood: str, aware: bool, panels: bool) -> None:
    if aware and likelihood in ("Bernoulli", "Gaussian"):
        pytest.skip("has no library")
    mdata = random_mudata(12, n_cells=40, panels=panels, n_genes=11)
    mosaic = mosaic_of(mdata, likelihoods={"rna": likelihood, "adt": likelihood, "atac": "Bernoulli"})
    net = network(mosaic, 1, library_aware=(aware, aware, False), beta_reverse=0.25)
    compare(mosaic, net, seed=3, gamma=0.2)


@pytest.mark.parametrize("modality", ["rna", "adt", "atac"])
@pytest.mark.parametrize("panels", [True, False])
def test_one_modality(modality: str, panels: bool) -> None:
    mdata = random_mudata(5, n_cells=30, modalities=(modality,), panels=panels)
    mosaic = mosaic_of(mdata)
    compare(mosaic, network(mosaic, 2, p_modal=None or ()), seed=1)


def test_widths_of_zero_have_no_sub_network() -> None:
    mosaic = mosaic_of(random_mudata(6, fractions=True), likelihoods={"atac": "Bernoulli"})
    for enc, dec in [(0, 4), (4, 0), (0, 0), ((0, 4, 3, 3), (3, 0, 4, 0)), ((4, 4, 3, 2), (2, 2, 3, 4))]:
        net = network(mosaic, 2, dim_block_enc=enc, dim_block_dec=dec, encode_covariates=True)
        compare(mosaic, net, seed=2)


def test_many_rows_and_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from mosaicvi.engine import decoder

    mdata = random_mudata(9, n_cells=150, n_genes=70)
    mosaic = mosaic_of(mdata, likelihoods={"atac": "Poisson"})
    for entries in (1, 64, 500):
        monkeypatch.setattr(decoder, "TILE", entries)
        for aware in (True, False):
            compare(mosaic, network(mosaic, 4, library_aware=aware), seed=4)


@pytest.mark.parametrize("threads", [2, 3])
def test_workers_share_the_rows_and_lose_none(threads: int) -> None:
    mosaic = mosaic_of(random_mudata(3, n_cells=300, n_genes=40), likelihoods={"atac": "Poisson"})
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for aware in (True, False):
            compare(mosaic, network(mosaic, 4, library_aware=aware), seed=4)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_shared_masks_and_masks_of_each_cell() -> None:
    mosaic = mosaic_of(random_mudata(10, n_cells=60, n_genes=40, nan=False, panels=False))
    minibatch = MinibatchLoader(mosaic).take(np.arange(60))
    net = network(mosaic, 3)
    rng = torch.Generator().manual_seed(0)
    sizes = net.config.dim_input_arr
    for share in (0.1, 0.9):
        own = tuple(
            ModalityMask.of(torch.rand(len(r.cells), d, generator=rng) < share)
            for r, d in zip(minibatch.rows, sizes, strict=True)
        )
        compare(mosaic, net, seed=0, masks=own)
        table = [
            torch.cat([torch.zeros(1, d), torch.ones(1, d), (torch.rand(2, d, generator=rng) < share)])
            for d in sizes
        ]
        shared = tuple(
            ModalityMask(table=t.bool(), code=torch.randint(0, 4, (len(r.cells),), generator=rng))
            for t, r in zip(table, minibatch.rows, strict=True)
        )
        compare(mosaic, net, seed=0, masks=shared)


def _everything(minibatch: Minibatch, sizes: tuple[int, ...], hidden: bool) -> tuple[ModalityMask, ...]:
    return tuple(
        ModalityMask.of(torch.full((len(r.cells), d), hidden))
        for r, d in zip(minibatch.rows, sizes, strict=True)
    )


@pytest.mark.parametrize("hidden", [True, False])
def test_nothing_or_everything_is_masked(hidden: bool) -> None:
    mosaic = mosaic_of(random_mudata(2))
    minibatch = MinibatchLoader(mosaic).take(np.arange(24))
    net = network(mosaic, 5, beta_reverse=0.5)
    compare(mosaic, net, seed=1, masks=_everything(minibatch, net.config.dim_input_arr, hidden))


def test_a_modality_without_targets_has_zero_gradients_not_none() -> None:
    mdata = random_mudata(3, fractions=True)
    mosaic = mosaic_of(mdata)
    for name in ("rna", "adt", "atac"):
        without = np.flatnonzero(mosaic.modality(name).row_of_cell < 0)
        minibatch = MinibatchLoader(mosaic).take(without)
        net = network(mosaic, 1)
        m = net.config.uni_block_names.index(name)
        compare(mosaic, net, seed=2, cells=without)
        assert len(minibatch.rows[m].cells) == 0
        for i in net.decoder.of_modality(m):
            for parameter in (net.decoder.last[i],):
                assert parameter.grad is not None
                assert not parameter.grad.any()


def test_one_cell_alone() -> None:
    mosaic = mosaic_of(random_mudata(4))
    net = network(mosaic, 1, beta_reverse=0.3)
    compare(mosaic, net, seed=2, cells=np.array([1]), gamma=0.5)
    compare(mosaic, net, seed=2, cells=np.array([1]), training=False)


@pytest.mark.parametrize("reverse", [0.0, 0.3])
def test_masks_of_each_cell_alone(reverse: float) -> None:
    mosaic = mosaic_of(random_mudata(5, n_genes=12))
    net = network(mosaic, 1, preset="published", beta_reverse=reverse)
    assert net.config.mask_by_cell
    compare(mosaic, net, seed=2, gamma=0.5)
    compare(mosaic, net, seed=3, training=False)


def test_losses_but_the_total_carry_no_gradient() -> None:
    mosaic = mosaic_of(random_mudata(4))
    net = network(mosaic, 1)
    minibatch = MinibatchLoader(mosaic).take(np.arange(24))
    masks = MaskSampler(net.config).draw(minibatch, torch.Generator().manual_seed(0))
    losses = net(minibatch, masks, gamma=0.1, noise=None)
    assert losses.total.requires_grad
    assert not any(term.requires_grad for term in [losses.log_prob, *losses.terms.values()])


def test_without_gradients_the_loss_is_the_same() -> None:
    mosaic = mosaic_of(random_mudata(4))
    net = network(mosaic, 1).eval()
    minibatch = MinibatchLoader(mosaic).take(np.arange(24))
    masks = MaskSampler(net.config).draw(minibatch, torch.Generator().manual_seed(0))
    with_gradients = net(minibatch, masks, gamma=0.1, noise=None)
    with torch.no_grad():
        without = net(minibatch, masks, gamma=0.1, noise=None)
    torch.testing.assert_close(without.total, with_gradients.total.detach())
    torch.testing.assert_close(without.log_prob, with_gradients.log_prob)


def test_encoding_and_imputing_are_those_of_the_dense_network() -> None:
    for seed, aware in ((1, True), (2, False)):
        mosaic = mosaic_of(
            random_mudata(seed, fractions=True), likelihoods={"rna": "ZINB", "atac": "Poisson"}
        )
        net = network(mosaic, seed, library_aware=(aware, False, aware)).eval()
        minibatch = MinibatchLoader(mosaic).take(np.arange(24))
        seen = [measured_of(minibatch, m) for m in range(3)]
        oracle = DenseVAE(net.config, net.state_dict(), net.beta_modal.tolist())
        expected = oracle.run(minibatch, seen, seen, None, training=False)
        from mosaicvi.nn.masks import observed_view

        with torch.no_grad():
            views = [[observed_view(r) for r in minibatch.rows]]
            q = net.encode(minibatch, views)
            torch.testing.assert_close(q.mean.double(), expected.mean.detach(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(q.log_var.double(), expected.log_var.detach(), rtol=1e-4, atol=1e-5)
            for m, rows in enumerate(minibatch.rows):
                library = panel = None
                if net.config.library_aware[m]:
                    library = spread(rows.library[:, None], rows, 24)
                    panel = seen[m]
                mean = net.imputed_mean(m, q.mean, q, minibatch.covariates, library=library, panel=panel)
                pi = oracle.pi(m)
                want = expected.likelihood_mean[m] * (1 - pi if pi is not None else 1)
                at = seen[m]
                torch.testing.assert_close(mean[at].double(), want.detach()[at], rtol=1e-4, atol=1e-5)
