"""Groups are aligned where they hold cells of a kind, and left alone where they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from mosaicvi import MosaicVI
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.errors import ModelFileError
from mosaicvi.infer.alignment import Alignment, aligning_steps, read_alignment
from mosaicvi.infer.readout.views import Shown

WIDTH = 6
VIEWS = [Shown.make({"rna": np.ones(3, bool)}), Shown.make({"adt": np.ones(2, bool)})]


def types_of(which: list[int], n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of some of five types that lie well apart, with their types."""
    rng = np.random.default_rng(seed)
    centres = 8 * np.random.default_rng(0).standard_normal((5, WIDTH))
    label = rng.choice(which, n)
    return centres[label] + rng.standard_normal((n, WIDTH)), label


def alignment_of(parts: list[np.ndarray]) -> Alignment:
    return Alignment(groups=tuple((i, VIEWS[0]) for i in range(len(parts))), steps=aligning_steps(parts))


def aligned(parts: list[np.ndarray]) -> list[np.ndarray]:
    found = alignment_of(parts)
    return [
        found(part, np.ones_like(part), np.full(len(part), i), np.zeros(len(part), int), VIEWS)[0]
        for i, part in enumerate(parts)
    ]


def mixing(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the other group among the 15 nearest cells; a half where two equal groups are mixed."""
    both, group = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    near = NearestNeighbors(n_neighbors=16).fit(both).kneighbors(both, return_distance=False)[:, 1:]
    return float((group[near] != group[:, None]).mean())


def test_a_shift_and_a_stretch_between_groups_go() -> None:
    a, of_a = types_of([0, 1, 2, 3, 4], 800, 1)
    b, of_b = types_of([0, 1, 2, 3, 4], 800, 2)
    centre = np.stack([b[of_b == t].mean(0) for t in range(5)])[of_b]
    b = centre + (b - centre) * np.linspace(0.3, 1.5, WIDTH) + 0.8
    x, y = aligned([a, b])
    assert mixing(a, b) < 0.25
    assert mixing(x, y) > 0.4
    spread = [
        np.mean([part[label == t].std(0) for t in range(5)], 0) for part, label in ((x, of_a), (y, of_b))
    ]
    np.testing.assert_allclose(spread[1] / spread[0], 1.0, atol=0.5)  # 0.3 to 1.5 before


def test_types_that_a_group_lacks_are_not_mixed_with_others() -> None:
    a, of_a = types_of([0, 1, 2], 600, 1)
    b, of_b = types_of([2, 3, 4], 600, 2)
    x, y = aligned([a, b + 0.5])
    both, label = np.concatenate([x, y]), np.concatenate([of_a, of_b])
    near = NearestNeighbors(n_neighbors=16).fit(both).kneighbors(both, return_distance=False)[:, 1:]
    assert (label[near] == label[:, None]).mean() > 0.98


@pytest.mark.parametrize("only", [1, 4])
def test_a_group_of_one_type_stays_with_its_kind_or_alone(only: int) -> None:
    a, of_a = types_of([0, 1, 2, 3], 600, 1)
    b, of_b = types_of([only], 200, 2)
    x, y = aligned([a, b + 0.3])
    both, label = np.concatenate([x, y]), np.concatenate([of_a, of_b])
    near = NearestNeighbors(n_neighbors=16).fit(both).kneighbors(both, return_distance=False)[:, 1:]
    assert (label[near] == label[:, None]).mean() > 0.98


def test_groups_without_anything_in_common_stay_to_the_digit() -> None:
    a, _ = types_of([0, 1], 400, 1)
    b, _ = types_of([3, 4], 400, 2)
    for before, after in zip([a, b], aligned([a, b]), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 60))
def test_a_cell_is_moved_by_itself_alone(seed: int, n: int) -> None:
    a, _ = types_of([0, 1, 2], 200, 1)
    found = alignment_of([a, types_of([0, 1, 2], 200, 2)[0] + 0.4])
    rng = np.random.default_rng(seed)
    cells, batch = rng.standard_normal((n, WIDTH)) * 5, rng.integers(0, 2, n)
    code, var = np.zeros(n, int), np.ones((n, WIDTH))
    whole, _ = found(cells, var, batch, code, VIEWS)
    for i in range(n):
        one, _ = found(cells[i : i + 1], var[i : i + 1], batch[i : i + 1], code[i : i + 1], VIEWS)
        np.testing.assert_allclose(one[0], whole[i], rtol=1e-10, atol=1e-10)


def test_an_unknown_batch_moves_as_the_mean_of_those_that_show_the_same() -> None:
    found = alignment_of([types_of([0, 1], 300, 1)[0], types_of([0, 1], 300, 2)[0] + 0.5])
    cells, var, code = types_of([0, 1], 50, 3)[0], np.ones((50, WIDTH)), np.zeros(50, int)
    known = [found(cells, var, np.full(50, b), code, VIEWS) for b in (0, 1)]
    mean, spread = found(cells, var, np.full(50, 7), code, VIEWS)
    np.testing.assert_allclose(mean, (known[0][0] + known[1][0]) / 2)
    np.testing.assert_allclose(spread, (known[0][1] + known[1][1]) / 2)
    other, _ = found(cells, var, np.zeros(50, int), code + 1, VIEWS)  # no group shows this
    np.testing.assert_array_equal(other, cells)


def test_a_saved_model_aligns_the_same_and_the_published_one_does_not(tmp_path: Path) -> None:
    mdata = simulated_mosaic(500, n_genes=60, n_proteins=10, n_peaks=60, n_types=3).mdata
    MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mdata, dim_latent=4).train(2, progress=False)
    alignment = model.alignment()
    assert alignment is not None
    assert alignment.groups
    z = np.asarray(model.get_latent_representation())
    assert np.abs(z - np.asarray(model.get_latent_representation(aligned=False))).max() > 1e-3
    model.save(tmp_path / "model")
    again = MosaicVI.load(tmp_path / "model", mdata)
    np.testing.assert_array_equal(np.asarray(again.get_latent_representation()), z)
    saved = alignment.to_dict()
    saved["steps"][0]["stretch"] = saved["steps"][0]["stretch"][:, :-1]
    with pytest.raises(ModelFileError, match="alignment does not fit"):
        read_alignment(saved, model.config, tmp_path)
    published = MosaicVI(mdata, preset="published", dim_latent=4).train(1, progress=False)
    assert published.alignment() is None
