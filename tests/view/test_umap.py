from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from mosaicvi import tl
from mosaicvi.errors import InputError, MosaicWarning
from mosaicvi.metrics import neighbors
from mosaicvi.view import umap as module


def three_groups() -> AnnData:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(90, 6)) + 20 * np.repeat(np.eye(6)[:3], 30, axis=0)
    return AnnData(np.zeros((90, 1)), obsm={"X_mosaicvi": z})


def without_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, *args: Any) -> Any:
        if name == "umap":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(module.importlib, "import_module", missing)


@pytest.mark.slow
def test_umap_keeps_groups_together_and_repeats_itself() -> None:
    pytest.importorskip("umap")
    data = three_groups()
    tl.umap(data)
    xy = data.obsm["X_umap"]
    middle = xy.reshape(3, 30, 2).mean(1)
    near = ((xy[:, None] - middle[None]) ** 2).sum(2).argmin(1)
    assert (near == np.repeat([0, 1, 2], 30)).all()
    assert data.uns["X_umap"]["method"] == "UMAP"
    again = three_groups()
    tl.umap(again)
    assert np.array_equal(again.obsm["X_umap"], xy)


def test_without_umap_learn_principal_components_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    without_umap(monkeypatch)
    data = three_groups()
    with pytest.warns(MosaicWarning, match="pip install"):
        tl.umap(data)
    z = data.obsm["X_mosaicvi"] - data.obsm["X_mosaicvi"].mean(0)
    variance = np.linalg.svd(z)[1] ** 2
    assert np.allclose((data.obsm["X_umap"] ** 2).sum(0), variance[:2], rtol=1e-4)
    assert data.uns["X_umap"]["method"] == "PCA"


def test_names_of_scanpy_are_taken_or_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    without_umap(monkeypatch)
    data, theirs = three_groups(), three_groups()
    data.obsm["X_pca"] = theirs.obsm["X_pca"] = data.obsm["X_mosaicvi"][:, ::-1].copy()
    for one, name in ((data, "key"), (theirs, "use_rep")):
        with pytest.warns(MosaicWarning, match="two principal components"):
            tl.umap(one, **{name: "X_pca"})  # type: ignore[arg-type]
    np.testing.assert_array_equal(data.obsm["X_umap"], theirs.obsm["X_umap"])
    assert theirs.uns["X_umap"]["use_rep"] == "X_pca"
    for name, said in (("random_state", r"use seed=\.\.\.\."), ("mindist", "did you mean 'min_dist'")):
        with pytest.raises(InputError, match=f"umap: unknown argument '{name}'; {said}"):
            tl.umap(data, **{name: 0})
    with pytest.raises(InputError, match="n_neighbors: at least 2, not 1"):
        tl.umap(data, n_neighbors=1)


def test_a_missing_latent_is_named() -> None:
    with pytest.raises(InputError, match="no obsm 'X_mosaicvi'; store"):
        tl.umap(AnnData(np.zeros((9, 1))))


def test_very_few_cells_are_laid_out_too() -> None:
    data = AnnData(np.zeros((3, 1)), obsm={"X_mosaicvi": np.eye(3)})
    with pytest.warns(MosaicWarning, match="at least 5 cells"):
        tl.umap(data)
    assert np.isfinite(data.obsm["X_umap"]).all()


def test_neighbours_belong_together_as_in_umap_learn() -> None:
    z = np.array([[0, 0], [1, 0], [0, 2], [3, 3], [3, 5], [9, 1.0]])
    near = neighbors(z, 3)
    found = module.memberships(near.indices, near.distances, 4).toarray()
    above = [1, 1, 0.3060, 0, 0, 0.9077, 0.6517, 0.4291, 0.3853, 0.6656, 0.5709, 0, 1, 1, 0.6147]
    assert found[np.triu_indices(6, 1)] == pytest.approx(above, abs=1e-4)
    assert np.array_equal(found, found.T)


@pytest.mark.parametrize(
    ("n", "words"), [(4, "UMAP needs at least 5 cells"), (90, "umap-learn is not installed")]
)
def test_why_there_is_no_umap_is_said(n: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_umap(monkeypatch)
    data = three_groups()[:n].copy()
    with pytest.warns(MosaicWarning, match=words):
        tl.umap(data)
    assert data.uns["X_umap"]["method"] == "PCA"
