"""What the published method says of its network and parameters, as docs/published.md goes through it."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builders import random_mudata
from torch import Tensor

from mosaicvi import MosaicVI
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import Minibatch
from mosaicvi.nn.losses import Losses
from mosaicvi.nn.masks import MaskSampler, ModalityMask, observed_view

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
WIDTHS: dict[str, Any] = {
    "dim_block_embed": (4, 3, 1, 2), "dim_block_enc": (8, 6, 3, 3), "dim_block_dec": (8, 6, 3, 3),
    "dimensions": (10, 7), "dim_latent": 5,
}  # fmt: skip


def model_of(*, preset: Any = "published", whole: bool = False, **parameters: Any) -> MosaicVI:
    """6 genes, 4 proteins, 7 peaks of 2 chromosomes, as the published method has them in blocks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata = random_mudata(3, nan=not whole, panels=False)
        MosaicVI.setup_mudata(mdata, batch_key="batch")
        return MosaicVI(mdata, preset=preset, **(WIDTHS | parameters))


def step(model: MosaicVI) -> tuple[Minibatch, tuple[ModalityMask, ...]]:
    minibatch = MinibatchLoader(model.mosaic).take(np.arange(model.mosaic.n_cells))
    return minibatch, MaskSampler(model.config).draw(minibatch, torch.Generator().manual_seed(0))


def losses_of(model: MosaicVI) -> Losses:
    minibatch, masks = step(model)
    losses: Losses = model.net(minibatch, masks, gamma=0.0, noise=None)
    return losses


def test_features_are_in_two_levels_of_blocks() -> None:
    config = model_of().config
    assert config.dim_input_arr == (6, 4, 7)
    assert len(config.uni_block_names) == len(config.dim_input_arr)
    assert config.dim_block == (6, 4, 3, 4)
    for name in ("dist_block", "dim_block_embed", "dim_block_enc", "dim_block_dec", "block_names"):
        assert len(getattr(config, name)) == len(config.dim_block)
    assert config.block_names == ("rna", "adt", "atac", "atac")


def test_features_are_rearranged_by_block_and_given_back_in_their_order() -> None:
    model = model_of()
    atac = model.mosaic.modality("atac").features
    assert [name.split(":")[0] for name in atac.names] == ["chr2"] * 3 + ["chr1"] * 4
    assert list(model.imputed_features("atac")) == [atac.names[i] for i in np.argsort(atac.order)]


def test_counts_are_nb_and_peaks_bernoulli_but_poisson_by_default() -> None:
    assert model_of().config.dist_block == ("NB", "NB", "Bernoulli", "Bernoulli")
    assert model_of(preset="default").config.dist_block == ("NB", "NB", "Poisson", "Poisson")


def test_the_mask_of_each_block_is_embedded_in_its_own_width() -> None:
    model = model_of()
    minibatch, _ = step(model)
    views = [[observed_view(rows) for rows in minibatch.rows]]
    embedded = model.net.encode(minibatch, views).embedding
    assert embedded.shape == (24, sum(WIDTHS["dim_block_embed"]))
    assert bool((embedded.abs() <= 1).all())
    for group in model.net.encoder.groups:
        assert group.embed == WIDTHS["dim_block_embed"][model.net.encoder.groups.index(group)]


def blocks_of(model: MosaicVI, minibatch: Minibatch) -> list[Tensor]:
    with torch.no_grad():
        return model.net.encode(minibatch, [[observed_view(rows) for rows in minibatch.rows]]).blocks


def test_the_encoder_sees_each_block_through_its_own_sub_network() -> None:
    model = model_of(skip_conn=True)  # which keeps what the sub-networks say
    minibatch, _ = step(model)
    before = blocks_of(model, minibatch)
    assert [part.shape[1] for part in before] == list(WIDTHS["dim_block_enc"])
    proteins = minibatch.rows[1].sparse
    assert proteins is not None
    proteins.value.add_(1)
    after = blocks_of(model, minibatch)
    assert [bool((a != b).any()) for a, b in zip(before, after, strict=True)] == [False, True, False, False]


def test_a_sub_network_takes_features_and_the_embedding_of_the_mask() -> None:
    layers = model_of().net.encoder.block
    for layer, size, embed, width in zip(
        layers, (6, 4, 3, 4), WIDTHS["dim_block_embed"], WIDTHS["dim_block_enc"], strict=True
    ):
        assert tuple(layer.value.shape) == (size, width)
        assert tuple(layer.embed.shape) == (1, embed, width)


def test_outputs_of_blocks_are_concatenated_and_the_middle_mirrors_itself() -> None:
    net = model_of().net
    widths = [(layer.in_features, layer.out_features) for layer in net.encoder.hidden.linear]
    assert widths == [(sum(WIDTHS["dim_block_enc"]), 10), (10, 7)]
    assert (net.encoder.mean.in_features, net.encoder.mean.out_features) == (7, 5)
    assert [layer.out_features for layer in net.decoder.hidden.linear] == [7, 10]
    n_out = sum(layer.out_features for layer in net.decoder.inner)
    assert n_out == sum(WIDTHS["dim_block_dec"])


def test_the_decoder_predicts_each_block_from_its_own_width() -> None:
    decoder = model_of().net.decoder
    last = [tuple(part.shape) for part in decoder.last]
    assert last == [
        (width + 1, size) for width, size in zip(WIDTHS["dim_block_dec"], (6, 4, 3, 4), strict=True)
    ]


def test_sub_networks_take_less_than_one_layer_over_all_features() -> None:
    def size(**parameters: Any) -> int:
        return sum(p.numel() for p in model_of(**parameters).net.encoder.block.parameters())

    of_chromosomes = size(dim_block_enc=(8, 6, 3, 3))
    model = model_of(dim_block_enc=(8, 6, 6, 6))
    whole = sum(layer.value.numel() for layer in model.net.encoder.block[2:])
    assert whole == 7 * 6  # as one block of width 6; two of width 3 need half of it
    assert of_chromosomes < size(dim_block_enc=(8, 6, 6, 6))


@pytest.mark.parametrize(
    ("name", "published", "ours"),
    [
        ("beta_unobs", 0.5, 0.5), ("beta_reverse", 0, 0), ("beta_kl", 2, 1), ("skip_conn", False, False),
        ("p_feat", 0.2, "uniform"), ("p_modal", (1 / 3,) * 3, (1 / 3,) * 3),
        ("beta_modal", (1.0,) * 3, (1.0,) * 3),
    ],
)  # fmt: skip
def test_defaults(name: str, published: Any, ours: Any) -> None:
    assert getattr(model_of().config, name) == published
    assert getattr(model_of(preset="default").config, name) == ours


def test_beta_unobs_weighs_what_is_masked_against_what_is_seen() -> None:
    low, high = losses_of(model_of(beta_unobs=0.2)), losses_of(model_of(beta_unobs=0.8))
    torch.testing.assert_close(low.terms["observed"], 4 * high.terms["observed"])
    torch.testing.assert_close(4 * low.terms["masked"], high.terms["masked"])
    torch.testing.assert_close(low.terms["observed"], -0.8 * low.log_prob[0])


def test_beta_reverse_weighs_the_prediction_of_the_seen_from_the_masked() -> None:
    none, all_of_it = losses_of(model_of(beta_reverse=0.0)), losses_of(model_of(beta_reverse=0.25))
    assert len(none.log_prob) == 2
    _, forward, reverse = all_of_it.log_prob
    torch.testing.assert_close(none.log_prob[1], forward)
    torch.testing.assert_close(all_of_it.terms["masked"], -0.5 * (0.75 * forward + 0.25 * reverse))


def test_beta_kl_weighs_the_divergence() -> None:
    one, three = losses_of(model_of(beta_kl=1.0)), losses_of(model_of(beta_kl=3.0))
    assert one.terms["kl"] > 0
    torch.testing.assert_close(3 * one.terms["kl"], three.terms["kl"])


def test_beta_modal_weighs_each_modality() -> None:
    plain, weighed = losses_of(model_of()), losses_of(model_of(beta_modal=(0.14, 0.85, 0.01)))
    for name in ("observed", "masked"):
        torch.testing.assert_close(plain.terms[name] * torch.tensor([0.14, 0.85, 0.01]), weighed.terms[name])


def test_a_skip_connection_adds_the_encoders_block_to_the_decoders() -> None:
    model = model_of(skip_conn=True)
    minibatch, _ = step(model)
    with torch.no_grad():
        q = model.net.encode(minibatch, [[observed_view(rows) for rows in minibatch.rows]])
        h = model.net.shared_layers(q.mean, q, minibatch.covariates, 1)
        with_skip = model.net.decoder.output(model.net.head(0), h, q.blocks)
        without = model.net.decoder.output(model.net.head(0), h, [torch.zeros_like(b) for b in q.blocks])
        torch.testing.assert_close(with_skip, without + q.blocks[0] @ model.net.decoder.last[0][:-1])
    assert not model_of().net.config.skip_conn


def test_likelihoods_of_modalities_are_printed_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of().train(1, batch_size=12, progress=True)
    assert {"train_log_prob_rna", "train_log_prob_adt", "train_log_prob_atac"} <= set(model.history)
    said = capsys.readouterr().err
    last = model.history.iloc[-1]
    for name in ("rna", "adt", "atac"):
        assert f"{name} {last[f'train_log_prob_{name}']:.1f}" in said


# --- the page -----------------------------------------------------------------------------------


def test_every_test_that_the_page_names_is_there_and_the_page_names_all_of_these() -> None:
    named = re.findall(r"`(test[\w/]*)(?:\.py::(\w+))?`", PAGE)
    mine = {
        node.name for node in ast.parse(Path(__file__).read_text()).body if isinstance(node, ast.FunctionDef)
    }
    here = {name for name, inner in named if not inner}
    for path, name in ((p, n) for p, n in named if n):
        tree = ast.parse((ROOT / f"{path}.py").read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
            f"{path}: {name}"
        )
    tests = {name for name in mine if name.startswith("test_")}
    assert here <= tests, here - tests
    assert tests - here == {"test_every_test_that_the_page_names_is_there_and_the_page_names_all_of_these"}
