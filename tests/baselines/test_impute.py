"""Simple imputation of a mosaic against the plain computation on dense tables, NaN where not measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV

from mosaicvi import MosaicVI, MosaicWarning
from mosaicvi.baselines import simple_imputation
from mosaicvi.baselines.predict import PENALTIES
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.errors import InputError

N, GENES, PROTEINS = 120, 30, 9


def tables(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of genes, counts of proteins, and the batch of each cell; all follow one state of the cell."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(N, 3))
    rna = rng.poisson(np.exp(0.5 * state @ rng.normal(size=(3, GENES)) + 1))
    adt = rng.poisson(np.exp(state @ rng.normal(size=(3, PROTEINS)) + 2))
    return rna.astype(np.float32), adt.astype(np.float32), np.repeat(["a", "b", "c"], N // 3)


def mudata(**parts: AnnData) -> MuData:
    with mudata_as_it_is():
        return MuData(parts)


def part(x: np.ndarray, cells: np.ndarray, batch: np.ndarray, stem: str) -> AnnData:
    obs = pd.DataFrame({"batch": batch}, index=[f"cell{i:03d}" for i in cells])
    var = pd.DataFrame(index=[f"{stem}{j}" for j in range(x.shape[1])])
    return AnnData(sp.csr_matrix(x) if np.isfinite(x).all() else x, obs=obs, var=var)


def registered(mdata: MuData, **setup: object):
    with mudata_as_it_is():
        mdata.obs["batch"] = pd.concat([a.obs["batch"] for a in mdata.mod.values()]).groupby(level=0).first()
    return MosaicVI.setup_mudata(mdata, batch_key="batch", **setup)


def log_normalised(x: np.ndarray) -> np.ndarray:
    return np.log1p(x / x.sum(1, keepdims=True) * 1e4)


def clr(x: np.ndarray) -> np.ndarray:
    """Centred log ratio over what each cell measured (NaN elsewhere)."""
    return np.log1p(x / np.exp(np.nanmean(np.log1p(x), 1, keepdims=True)))


def predicted(A: np.ndarray, B: np.ndarray, y: np.ndarray, method: str, k: int = 20) -> np.ndarray:
    if method == "ridge":
        return RidgeCV(PENALTIES).fit(A, y).predict(B)
    return np.array([y[np.argsort(((A - b) ** 2).sum(1))[:k]].mean(0) for b in B])


def one_feature_at_a_time(x: np.ndarray, batch: np.ndarray, method: str) -> np.ndarray:
    """Impute NaN from the features that a batch shares with the cells that measured the feature."""
    out = x.copy()
    for b in np.unique(batch):
        for j in range(x.shape[1]):
            asked = np.flatnonzero((batch == b) & np.isnan(x[:, j]))
            known = np.flatnonzero(~np.isnan(x[:, j]))
            if not len(asked):
                continue
            shared = ~np.isnan(x[asked]).all(0) & ~np.isnan(x[known]).all(0)
            rows = np.concatenate([known, asked])
            z, of = x[rows][:, shared], batch[rows]
            for g in np.unique(of):
                seen = ~np.isnan(z[of == g])
                z[of == g] -= np.where(seen, z[of == g], 0).sum(0) / np.maximum(seen.sum(0), 1)
            z = np.nan_to_num(z)
            out[asked, j] = predicted(z[: len(known)], z[len(known) :], x[known, j], method)
    return out


@pytest.mark.parametrize("method", ["nearest", "ridge"])
def test_a_modality_that_cells_lack_comes_from_the_other(method):
    rna, adt, batch = tables()
    has = np.arange(0, N, 2)
    order = np.random.default_rng(1).permutation(N)
    mosaic = registered(
        mudata(rna=part(rna[order], order, batch[order], "g"), adt=part(adt[has], has, batch[has], "p"))
    )
    got = simple_imputation(
        mosaic,
        modality="adt",
        methods=[method],
        transforms={"adt": "clr", "rna": "log1p_cp10k"},
        n_components=6,
    )
    assert list(got) == [method]
    assert got[method].attrs["scale"] == "clr"
    frame = got[method].loc[[f"cell{i:03d}" for i in range(N)]]
    assert list(frame.columns) == [f"p{j}" for j in range(PROTEINS)]
    z = PCA(6, svd_solver="full").fit_transform(log_normalised(rna))
    lacks = np.setdiff1d(np.arange(N), has)
    plain = (
        np.column_stack([predicted(z[has], z[lacks], y, method) for y in clr(adt[has]).T])
        if method == "ridge"
        else predicted(z[has], z[lacks], clr(adt[has]), method)
    )
    np.testing.assert_allclose(frame.to_numpy()[lacks], plain, atol=2e-5)
    np.testing.assert_allclose(frame.to_numpy()[has], clr(adt[has]), atol=1e-5)


@pytest.mark.parametrize("method", ["nearest", "ridge"])
def test_missing_entries_come_from_the_features_that_a_batch_shares(method):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(N, 3)) @ rng.normal(size=(3, PROTEINS)) + rng.normal(size=PROTEINS)).astype(
        np.float32
    )
    x[rng.random(x.shape) < 0.2] = np.nan
    batch = np.repeat(["a", "b", "c"], N // 3)
    x[batch == "b", 0] = np.nan
    adata = part(x, np.arange(N), batch, "p")
    mosaic = MosaicVI.setup_anndata(adata, modality="peptides", batch_key="batch")
    got = simple_imputation(mosaic, modality="peptides", methods=[method])[method]
    np.testing.assert_allclose(got, one_feature_at_a_time(x, batch, method), atol=2e-5)


@pytest.mark.parametrize("method", ["nearest", "ridge"])
def test_sizes_are_those_of_what_a_cell_measured_then_those_of_what_was_imputed(method):
    _, adt, batch = tables()
    seen = adt.copy()
    for b, hidden in (("a", [0, 1]), ("b", [2, 3]), ("c", [4])):
        seen[np.ix_(batch == b, hidden)] = np.nan
    mosaic = registered(mudata(adt=part(seen, np.arange(N), batch, "p")))
    counts = seen
    for _ in range(4):
        size = np.exp(np.nanmean(np.log1p(counts), 1, keepdims=True))
        guess = one_feature_at_a_time(np.log1p(seen / size), batch, method)
        counts = np.expm1(np.maximum(guess, 0)) * size
    got = simple_imputation(mosaic, modality="adt", methods=[method], transforms={"adt": "clr"})[method]
    np.testing.assert_allclose(got, clr(counts), atol=5e-4)


def test_what_a_panel_hides_changes_nothing():
    """Values outside a panel may stand in the matrix; they were not measured."""
    _, adt, batch = tables()
    answers = []
    for other in (0, 999):
        x = adt.copy()
        x[batch == "a", 0] = other
        data = part(x, np.arange(N), batch, "p")
        data.varm["measured"] = pd.DataFrame(True, index=data.var_names, columns=["a", "b", "c"])
        data.varm["measured"].loc["p0", "a"] = False
        if other:
            with pytest.warns(match="40 values stand where"):
                mosaic = registered(mudata(adt=data))
        else:
            mosaic = registered(mudata(adt=data))
        answers.append(simple_imputation(mosaic, modality="adt"))
    for method, frame in answers[0].items():
        pd.testing.assert_frame_equal(frame, answers[1][method])


def test_a_few_cells_get_the_answers_of_all():
    rna, adt, batch = tables()
    has = np.arange(60)
    mosaic = registered(
        mudata(rna=part(rna, np.arange(N), batch, "g"), adt=part(adt[has], has, batch[has], "p"))
    )
    whole = simple_imputation(mosaic, modality="adt")
    few = simple_imputation(mosaic, modality="adt", indices=[100, 3, 61])
    mask = np.isin(np.arange(N), [3, 61, 100])
    for method, frame in whole.items():
        np.testing.assert_allclose(few[method], frame.iloc[[100, 3, 61]], atol=1e-6)
        pd.testing.assert_index_equal(few[method].index, frame.index[[100, 3, 61]])
        masked = simple_imputation(mosaic, modality="adt", indices=mask)[method]
        np.testing.assert_allclose(masked, frame.iloc[[3, 61, 100]], atol=1e-6)


def test_what_nobody_can_teach_is_the_mean_and_what_nobody_measured_is_missing():
    rna, adt, batch = tables()
    x = adt.copy()
    x[5:, 0] = np.nan  # fewer than 20 cells measured it
    lone = part(rna[:10, :4], np.arange(N, N + 10), batch[:10], "g")  # cells that share no modality
    with pytest.warns(MosaicWarning, match="falls into 2 parts"):
        mosaic = registered(mudata(adt=part(x, np.arange(N), batch, "p"), rna=lone))
    for frame in simple_imputation(mosaic, modality="adt", transforms={"adt": "none"}).values():
        np.testing.assert_allclose(frame["p0"].to_numpy()[5:], adt[:5, 0].mean(), rtol=1e-6)
        np.testing.assert_allclose(frame.iloc[N:, 1:], np.tile(adt[:, 1:].mean(0), (10, 1)), rtol=1e-5)


def test_arguments_that_do_not_fit_are_named():
    rna, adt, batch = tables()
    mosaic = registered(
        mudata(rna=part(rna, np.arange(N), batch, "g"), adt=part(adt, np.arange(N), batch, "p"))
    )
    with pytest.raises(InputError, match="No modality 'prot'"):
        simple_imputation(mosaic, modality="prot")
    with pytest.raises(InputError, match=r"methods: \['mean'\]; give of nearest, ridge"):
        simple_imputation(mosaic, modality="adt", methods=["mean"])
    with pytest.raises(InputError, match="transforms: unknown 'log' for 'rna'"):
        simple_imputation(mosaic, modality="adt", transforms={"rna": "log"})
    with pytest.raises(InputError, match="n_neighbors is 0; give at least 1"):
        simple_imputation(mosaic, modality="adt", n_neighbors=0)
    with pytest.raises(InputError, match="indices: 2 booleans for 120 cells"):
        simple_imputation(mosaic, modality="adt", indices=[True, False])
    with pytest.raises(InputError, match="indices: give positions from 0 to 119"):
        simple_imputation(mosaic, modality="adt", indices=[120])
