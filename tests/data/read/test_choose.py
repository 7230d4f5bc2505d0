from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from mosaicvi.data.combine import combine
from mosaicvi.data.read import to_mudata
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.errors import InputError, MosaicWarning

X = np.array([[5, 0, 1], [0, 0, 2], [3, 4, 0], [0, 0, 0]], np.float32)


def counts(**obs: object) -> AnnData:
    var = pd.DataFrame(index=list("ABC"))
    return AnnData(sparse.csr_matrix(X), obs=pd.DataFrame(obs, index=list("wxyz")), var=var)


def test_cells_with_few_counts_are_left_out() -> None:
    assert list(to_mudata(counts(), min_counts={"rna": 3}).obs_names) == ["w", "y"]
    mdata = combine({"d": counts()}, min_counts={"rna": 3})
    assert list(mdata.obs["original_name"]) == ["w", "y"]


@pytest.mark.parametrize("dense", [False, True])
def test_fractional_counts_are_rounded_in_x_and_in_layers(dense: bool) -> None:
    adata = counts()
    noisy = X + np.where(X > 0, 0.2, 0).astype(np.float32)
    adata.layers["soup"] = noisy if dense else sparse.csr_matrix(noisy)
    got = to_mudata(adata, rounded=["rna"], layers={"rna": "soup"})["rna"].layers["soup"]
    np.testing.assert_array_equal(got if dense else got.toarray(), X)
    assert (adata.layers["soup"] != X).sum() > 0


def test_zeros_of_counts_by_batch() -> None:
    mdata = to_mudata(counts(batch=["p", "p", "q", "q"]), zeros_missing=["rna"], batch_key="batch")
    assert list(mdata["rna"].obs_names) == ["w", "x", "y"]
    measured = mdata["rna"].varm["measured"]
    assert measured["p"].tolist() == [True, False, True]
    assert measured["q"].tolist() == [True, True, False]


def test_zeros_of_fractions_are_missing_one_by_one() -> None:
    x = np.array([[20.5, 0], [0, 21.5], [19.5, 22.5]], np.float32)
    adata = AnnData(x, obs=pd.DataFrame(index=list("abc")), var=pd.DataFrame(index=list("AB")))
    mosaic = register(to_mudata(adata, modality="ms", zeros_missing=["ms"]), Setup())
    np.testing.assert_array_equal(mosaic.modality("ms").entry_measured, x != 0)


def test_zeros_that_all_were_measured_are_said_to_be() -> None:
    adata = counts()[:3].copy()
    with pytest.warns(MosaicWarning, match=r"zeros_missing=\['rna'\] changes nothing: of counts, only cells"):
        mdata = to_mudata(adata, zeros_missing=["rna"])
    assert mdata["rna"].n_obs == 3


def test_zeros_of_one_dataset_are_its_panel() -> None:
    other = counts()
    other.X = sparse.csr_matrix(np.ones_like(X))
    mdata = combine({"a": counts()[:2].copy(), "b": other}, zeros_missing=["rna"])
    mosaic = register(mdata, Setup(batch_key="dataset"))
    m = mosaic.modality("rna")
    names = list(m.features.names)
    in_a = m.panels[m.panel_of_row[0]]
    assert in_a[[names.index(name) for name in "ABC"]].tolist() == [True, False, True]
    both = combine({"a": counts()[:2].copy(), "b": counts()[:2].copy()}, zeros_missing=["rna"])
    assert both["rna"].varm["measured"].all(axis=None)  # nobody has B, so that nobody lacks it


def test_a_matrix_of_obsm_is_named_and_read() -> None:
    adata = counts()
    adata.obsm["protein_counts"] = np.arange(8).reshape(4, 2)
    adata.obsm["X_pca"] = np.ones((4, 2))
    with pytest.warns(
        MosaicWarning, match=r"obsm\['protein_counts'\].*from_obsm=\{'adt': 'protein_counts'\}"
    ):
        assert list(to_mudata(adata).mod) == ["rna"]
    adata.uns["protein_names"] = ["CD3", "CD4"]
    got = to_mudata(adata, from_obsm={"adt": "protein_counts"})
    assert list(got.mod) == ["rna", "adt"]
    assert list(got["adt"].var_names) == ["CD3", "CD4"]
    np.testing.assert_array_equal(got["adt"].X.toarray(), np.arange(8).reshape(4, 2))
    assert list(combine({"d": adata}, from_obsm={"adt": "protein_counts"}).mod) == ["rna", "adt"]


def test_counts_of_usual_names_in_obsm_are_a_modality() -> None:
    adata = counts()
    adata.X = sparse.csr_matrix(X + 1)
    adata.obsm["accessibility"] = pd.DataFrame({"chr1:1-9": [1, 0, 0, 2], "chr1:20-30": 1}, adata.obs_names)
    adata.obsm["peaks"] = np.full((4, 2), 0.5)
    words = (
        r"2 features.*'atac', as by from_obsm=\{'atac': 'accessibility'\}; "
        r"del data.*, or modalities=\['rna'\] of"
    )
    with pytest.warns(MosaicWarning, match=words):
        got = to_mudata(adata)
    assert list(got.mod) == ["rna", "atac"]
    assert list(got["atac"].var_names) == ["chr1:1-9", "chr1:20-30"]
    with pytest.warns(MosaicWarning, match=words):
        assert list(combine({"d": adata}).mod) == ["rna", "atac"]
    with pytest.warns(MosaicWarning, match=r"obsm\['accessibility'\] is not read"):
        register(adata, Setup(modalities=("rna",)))


@pytest.mark.parametrize("key", ["protein_expression", "protein_counts"])
def test_a_matrix_that_is_named_is_read_once(key: str) -> None:
    adata = counts()
    adata.obsm[key] = pd.DataFrame([[1, 0], [0, 0], [2, 3], [0, 1]], adata.obs_names, ["CD3", "CD4"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", MosaicWarning)
        got = to_mudata(adata, from_obsm={"protein": key})
    assert list(got.mod) == ["rna", "protein"]
    assert got["protein"].X.toarray().tolist() == [[1, 0], [0, 0], [2, 3], [0, 1]]


@pytest.mark.parametrize("key", ["protein_expression", "protein_counts"])
def test_what_is_said_of_a_matrix_in_obsm_can_be_done(key: str) -> None:
    adata = counts()
    adata.obsm[key] = pd.DataFrame([[1, 0], [0, 1], [2, 3], [0, 1]], adata.obs_names, ["CD3", "CD4"])
    with pytest.warns(MosaicWarning) as told:
        mdata = to_mudata(adata)
    said = str(told[0].message)
    assert f"del data.obsm[{key!r}] first, or modalities=['rna'] of setup_mudata, leaves them out" in said
    with pytest.warns(MosaicWarning, match="only zeros"):
        assert [m.name for m in register(mdata, Setup(modalities=("rna",))).modalities] == ["rna"]
    del adata.obsm[key]
    assert list(to_mudata(adata).mod) == ["rna"]


@pytest.mark.parametrize("layers", [{}, {"rna": "raw"}])
def test_raw_may_have_names_twice_that_x_has_not(layers: dict[str, str]) -> None:
    """As where ``.raw`` was kept before names were made unique."""
    whole = counts()[:3].copy()
    logs = whole[:, ["C", "A"]].copy()
    logs.X = sparse.csr_matrix(np.log1p(logs.X.toarray()))
    names = ["B" if name not in "AC" else name for name in whole.var_names]
    logs.raw = AnnData(whole.X, obs=whole.obs, var=pd.DataFrame(index=names))
    at = [names.index("C"), names.index("A")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        m = register(logs, Setup(modalities=("rna",), layers=layers)).modality("rna")
    np.testing.assert_array_equal(m.x.toarray(), X[:3, at])
    logs.raw = AnnData(whole.X, obs=whole.obs, var=pd.DataFrame(index=["A"] * whole.n_vars))
    with pytest.raises(InputError, match="raw of rna lacks features of X, or has them more than once: C, A"):
        register(logs, Setup(modalities=("rna",), layers={"rna": "raw"}))


def test_raw_is_a_layer_with_the_features_of_x() -> None:
    adata = counts()[:3].copy()
    adata.raw = adata.copy()
    adata = adata[:, ["C", "A"]].copy()
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray()))
    m = register(adata, Setup(modalities=("rna",), layers={"rna": "raw"})).modality("rna")
    np.testing.assert_array_equal(m.x.toarray(), X[:3, [2, 0]])
    np.testing.assert_array_equal(
        combine({"d": adata}, layers={"rna": "raw"})["rna"].X.toarray(), X[:3, [2, 0]]
    )
