"""The mask sampler draws what the specification says."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import random_mudata
from tests.oracles import measured_of, spread
from torch import Tensor

from mosaicvi.config import NetworkConfig
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import Minibatch
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.errors import MosaicWarning
from mosaicvi.nn.masks import (
    BESIDE_WHOLE,
    N_PATTERNS,
    MaskSampler,
    ModalityMask,
    View,
    blind_view,
    masked_views,
    observed_view,
)


def build(seed: int, n_cells: int = 24, **kinds: Any) -> tuple[Minibatch, NetworkConfig]:
    parameters = {k: kinds.pop(k) for k in ("p_feat", "p_modal", "preset") if k in kinds}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = register(random_mudata(seed, n_cells=n_cells, **kinds), Setup(batch_key="batch"))
    return MinibatchLoader(mosaic).take(np.arange(n_cells)), NetworkConfig.for_mosaic(mosaic, **parameters)


def dense(minibatch: Minibatch, masks: tuple[ModalityMask, ...]) -> list[Tensor]:
    """Which entries each mask hides, (B, D_m)."""
    return [spread(k.table[k.code], r, minibatch.n_cells) for k, r in zip(masks, minibatch.rows, strict=True)]


def entries(view: View) -> Tensor:
    return view.table[view.index]


def draws(minibatch: Minibatch, config: NetworkConfig, n: int, seed: int = 0) -> list[list[Tensor]]:
    generator, sampler = torch.Generator().manual_seed(seed), MaskSampler(config)
    return [dense(minibatch, sampler.draw(minibatch, generator)) for _ in range(n)]


def frequency_is(successes: float, n: int, p: float) -> None:
    """Fail for what would happen less than once in ten thousand tests."""
    assert scipy.stats.binomtest(round(successes), n, p).pvalue > 1e-4, f"{successes / n:.4f}, not {p}"


def test_half_of_the_cells_have_single_features_masked_each_with_p_feat() -> None:
    minibatch, config = build(0, n_cells=200, n_genes=40, nan=False, panels=False, p_feat=0.3)
    rna = minibatch.rows[0].cells
    n_any = n_hidden = n_some = 0
    for masks in draws(minibatch, config, 60):
        hidden = masks[0][rna]
        single = hidden[~hidden.all(1)]  # not masked whole
        n_any += int(single.any(1).sum())
        n_some += len(single)
        n_hidden += int(single[single.any(1)].sum())
    # cells of a minibatch share patterns: the count of cells is exact, that of entries is wider
    frequency_is(n_any, n_some, 0.5 * (1 - 0.7**40))
    assert n_hidden / n_any / 40 == pytest.approx(0.3, abs=0.02)


def test_each_pattern_has_a_probability_of_its_own() -> None:
    minibatch, config = build(0, n_cells=60, n_genes=400, nan=False, panels=False)
    assert config.p_feat == "uniform"
    generator, sampler = torch.Generator().manual_seed(0), MaskSampler(config)
    tables = [sampler.draw(minibatch, generator)[0].table[2:].double().mean(1) for _ in range(400)]
    share = torch.stack(tables)  # of the features that each pattern hides, (400, 2 N_PATTERNS)
    for pattern in share[:, :N_PATTERNS].T:  # even from 0 to 1, and entries come to that share
        assert scipy.stats.kstest(pattern.numpy(), "uniform").pvalue > 1e-4
    apart = (share[:, 0] - share[:, 1]).abs().numpy()
    np.testing.assert_allclose(apart, 0.5, atol=5 * np.sqrt(2 * 0.25 / 400))
    np.testing.assert_allclose(share[:, N_PATTERNS:], BESIDE_WHOLE, atol=5 * np.sqrt(0.2 * 0.8 / 400))


def test_cells_that_lose_a_modality_lose_few_of_the_other_features() -> None:
    minibatch, config = build(0, n_cells=60, n_genes=400, nan=False, panels=False)
    has = torch.stack([measured_of(minibatch, m).any(1) for m in range(3)], 1).sum(1)
    rna = minibatch.rows[0].cells
    several, alone = rna[has[rna] > 1], rna[has[rna] == 1]
    assert len(several)
    assert len(alone)
    shares = [hidden[0].double().mean(1) for hidden in draws(minibatch, config, 300)]
    for cells, most in ((several, 0.35), (alone, 1.0)):
        share = torch.cat([row[cells] for row in shares])
        share = share[(share > 0) & (share < 1)]
        assert most - 0.2 < share.max() < most


def test_patterns_are_independent_between_features_and_draws() -> None:
    minibatch, config = build(0, n_cells=30, n_genes=8, nan=False, panels=False, p_feat=0.5)
    rna = minibatch.rows[0].cells
    rows = torch.cat([m[0][rna] for m in draws(minibatch, config, 2000)])
    rows = rows[rows.any(1) & ~rows.all(1)].numpy().astype(float)
    off = np.corrcoef(rows.T) - np.eye(8)
    assert abs(off).max() < 5 / np.sqrt(2000 * N_PATTERNS)  # each pattern counts once, whoever has it


@pytest.mark.parametrize("p_modal", [(1 / 3, 1 / 3, 1 / 3), (0.7, 0.2, 0.1), (0.0, 0.0, 1.0)])
def test_one_modality_is_drawn_and_masked_whole_if_the_cell_has_another(p_modal: tuple[float, ...]) -> None:
    minibatch, config = build(1, n_cells=120, nan=False, panels=False, p_modal=p_modal, p_feat=0.0)
    has = torch.stack([measured_of(minibatch, m).any(1) for m in range(3)], 1)
    several = has.sum(1) > 1
    n, whole = 0, torch.zeros(3)
    for masks in draws(minibatch, config, 120):
        lost = torch.stack([m.all(1) for m in masks], 1)
        assert (lost.sum(1) <= 1).all()
        assert not lost[~several].any()
        assert not (lost & ~has).any()
        whole += lost[has.all(1)].sum(0)
        n += int(has.all(1).sum())
    for m in range(3):
        frequency_is(float(whole[m]), n, p_modal[m])


def test_a_cell_that_lacks_the_drawn_modality_keeps_all() -> None:
    minibatch, config = build(1, n_cells=120, nan=False, panels=False, p_feat=0.0)
    has = torch.stack([measured_of(minibatch, m).any(1) for m in range(3)], 1)
    two = has[:, 0] & has[:, 1] & ~has[:, 2]
    n = lost = 0
    for masks in draws(minibatch, config, 150):
        lost += int((masks[0].all(1) | masks[1].all(1))[two].sum())
        n += int(two.sum())
    frequency_is(lost, n, 2 / 3)


@pytest.mark.parametrize("nan", [False, True])
def test_with_one_modality_what_another_cell_lacks_is_masked(nan: bool) -> None:
    modality = "adt" if nan else "rna"
    minibatch, config = build(4, n_cells=60, modalities=(modality,), nan=nan, panels=not nan, p_feat=0.0)
    measured = measured_of(minibatch, 0)
    patterns, code = measured.unique(dim=0, return_inverse=True)
    assert len(patterns) > 1
    share = torch.bincount(code) / len(code)
    counts = torch.zeros(len(patterns), len(patterns))
    for masks in draws(minibatch, config, 200):
        lent = ~masks[0]
        equal = (lent[:, None] == patterns[None]).all(2)
        assert equal.any(1).all(), "a mask is no cell's pattern"
        counts += torch.zeros_like(counts).index_add_(0, code, equal.float())
    drawn = counts.sum(0) / counts.sum()
    assert abs(drawn - share).max() < 0.02


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), nan=st.booleans(), panels=st.booleans(), fractions=st.booleans(),
    p_feat=st.sampled_from([0.0, 0.2, 1.0]),
)  # fmt: skip
def test_visible_and_masked_divide_what_was_measured(
    seed: int, nan: bool, panels: bool, fractions: bool, p_feat: float
) -> None:
    minibatch, config = build(seed, nan=nan, panels=panels, fractions=fractions, p_feat=p_feat)
    masks = MaskSampler(config).draw(minibatch, torch.Generator().manual_seed(seed))
    for m, (mask, rows, hidden) in enumerate(
        zip(masks, minibatch.rows, dense(minibatch, masks), strict=True)
    ):
        measured = measured_of(minibatch, m)[rows.cells]
        observed = observed_view(rows)
        assert torch.equal(entries(observed), measured)
        assert not observed.full or bool(measured.all())
        visible, masked = (entries(v) for v in masked_views(observed, mask))
        assert torch.equal(masked, measured & hidden[rows.cells])
        assert torch.equal(visible, measured & ~hidden[rows.cells])
        assert not entries(blind_view(rows)).any()
        assert len(mask.table) <= max(
            2 + N_PATTERNS * len(rows.panels) + len(rows.cells), len(rows.cells) + 2
        )


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_probabilities_of_nought_and_one_are_exact(p: float) -> None:
    minibatch, config = build(0, n_cells=60, nan=False, panels=False, p_feat=p, p_modal=(1.0, 0.0, 0.0))
    some = 0
    for masks in draws(minibatch, config, 30):
        hidden = masks[1][minibatch.rows[1].cells]
        assert torch.equal(hidden.any(1), hidden.all(1))
        some += int(hidden.any())
    assert some == (30 if p else 0)


def test_the_generator_alone_decides() -> None:
    minibatch, config = build(3)
    first = draws(minibatch, config, 3, seed=5)
    torch.manual_seed(1)
    for a, b in zip(first, draws(minibatch, config, 3, seed=5), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert any(
        not torch.equal(x, y)
        for a, b in zip(first, draws(minibatch, config, 3, seed=6), strict=True)
        for x, y in zip(a, b, strict=True)
    )


def test_a_mask_given_entry_by_entry() -> None:
    hidden = torch.tensor([[True, False, True], [False, False, False]])
    mask = ModalityMask.of(hidden)
    assert torch.equal(mask.table[mask.code], hidden)
    assert not mask.table[0].any()
    assert mask.table[1].all()


# --- as published: the features of each cell are drawn for it alone --------------------------------------


def test_published_features_of_each_cell_are_drawn_for_it_alone() -> None:
    minibatch, config = build(
        0, n_cells=80, nan=False, panels=False, n_genes=30, preset="published", p_feat=0.3
    )
    rna = minibatch.rows[0].cells
    n = len(rna)
    n_any = n_some = n_hidden = n_equal = n_pairs = 0
    for masks in draws(minibatch, config, 80):
        single = masks[0][rna]
        single = single[~single.all(1)]  # not masked whole
        some = single[single.any(1)]
        n_some, n_any = n_some + len(single), n_any + len(some)
        n_hidden += int(some.sum())
        a, b = some[0::2], some[1::2]
        n_equal += int((a[: len(b)] == b).sum())
        n_pairs += len(b) * some.shape[1]
        assert len(some.unique(dim=0)) > 0.95 * len(some), f"{n} cells share patterns"
    frequency_is(n_any, n_some, 0.5 * (1 - 0.7**30))
    frequency_is(n_hidden, n_any * 30, 0.3)  # every entry is a draw of its own
    frequency_is(n_equal, n_pairs, 0.3**2 + 0.7**2)  # cells know nothing of each other


@pytest.mark.parametrize("nan", [False, True])
def test_published_with_one_modality_what_another_cell_lacks_is_masked_too(nan: bool) -> None:
    modality = "adt" if nan else "rna"
    said: dict[str, Any] = {"modalities": (modality,), "nan": nan, "panels": not nan, "preset": "published"}
    minibatch, none = build(4, n_cells=60, p_feat=0.0, **said)
    patterns = measured_of(minibatch, 0).unique(dim=0)
    for (mask,) in draws(minibatch, none, 20):
        assert (~mask[:, None] == patterns[None]).all(2).any(1).all(), "a mask is no cell's pattern"
    minibatch, config = build(4, n_cells=60, p_feat=0.5, **said)
    everywhere = patterns.all(0)
    shares = [float(mask[:, everywhere].float().mean()) for (mask,) in draws(minibatch, config, 200)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.02)  # half of the cells, half of the features


def test_two_patterns_a_minibatch_unless_published() -> None:
    for preset, shared in (("default", True), ("published", False)):
        minibatch, config = build(0, n_cells=80, nan=False, panels=False, n_genes=30, preset=preset)
        assert config.mask_by_cell is not shared
        masks = MaskSampler(config).draw(minibatch, torch.Generator().manual_seed(0))
        assert (len(masks[0].table) == 2 + 2 * N_PATTERNS) is shared
