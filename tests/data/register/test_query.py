"""Data with other features than the model's: what they lack is not measured, others are left out."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from mosaicvi import InputError, MosaicVI, MosaicWarning

SMALL = {"dim_latent": 4, "dimensions": [8], "dim_block_enc": 6, "dim_block_dec": 6, "dim_block_embed": 2}
rng = np.random.default_rng(0)


def counts(n: int, names: list[str], *, dense: bool = False) -> AnnData:
    x = (rng.poisson(1.5, (n, len(names))) + 1).astype(np.float32)
    cells = pd.Index([f"c{i}" for i in range(n)])
    return AnnData(
        x if dense else sp.csr_matrix(x),
        obs=pd.DataFrame({"batch": np.resize(["a", "b"], n)}, index=cells),
        var=pd.DataFrame(index=names),
    )


@pytest.fixture(scope="module")
def model() -> MosaicVI:
    with mudata.set_options(pull_on_update=False):
        data = MuData({"rna": counts(40, [f"g{i}" for i in range(9)]), "adt": counts(40, ["p0", "p1", "p2"])})
    data.obs["batch"] = data.mod["rna"].obs["batch"]
    mosaic = MosaicVI.setup_mudata(data, batch_key="batch")
    return MosaicVI(mosaic, **SMALL).train(2, progress=False)


@pytest.mark.parametrize("dense", [False, True])
def test_the_answer_is_that_of_the_same_data_with_what_they_lack_marked(model: MosaicVI, dense: bool) -> None:
    query = counts(11, ["g7", "new", "g2", "g3"], dense=dense)
    made = MosaicVI.prepare_query(query, model)
    assert list(made.var_names) == [f"g{i}" for i in range(9)]
    by_hand = np.zeros((11, 9), np.float32)
    x = query.X if dense else query.X.toarray()
    by_hand[:, [7, 2, 3]] = x[:, [0, 2, 3]]
    assert np.array_equal(made.X if dense else made.X.toarray(), by_hand)
    assert made.varm["measured"]["query"].tolist() == [i in (7, 2, 3) for i in range(9)]
    full = AnnData(by_hand, obs=query.obs.copy(), var=pd.DataFrame(index=[f"g{i}" for i in range(9)]))
    full.varm["measured"] = pd.DataFrame({"mine": made.varm["measured"]["query"]})
    latent = model.get_latent_representation(made)
    assert np.array_equal(latent, model.get_latent_representation(full))
    nothing_marked = full.copy()
    del nothing_marked.varm["measured"]
    assert not np.allclose(latent, model.get_latent_representation(nothing_marked))
    imputed = model.get_imputed_values(made, modality="adt")
    assert imputed.shape == (11, 3)
    assert np.isfinite(np.asarray(imputed)).all()
    assert query.shape == (11, 4)  # the user's own is as it was


def test_panels_covariates_and_cells_of_a_mudata_are_kept(model: MosaicVI) -> None:
    rna, adt = counts(6, ["g1", "g0", "x"]), counts(4, ["p1"])
    rna.X[::2, 1] = 0  # batch a did not measure it
    rna.varm["measured"] = pd.DataFrame(
        {"a": [True, False, True], "b": [True, True, True]}, index=rna.var_names
    )
    with mudata.set_options(pull_on_update=False):
        query = MuData({"adt": adt, "rna": rna, "other": counts(6, ["z"])})
    query.obs["batch"] = rna.obs["batch"].reindex(query.obs_names)
    made = MosaicVI.prepare_query(query, model)
    assert list(made.mod) == ["rna", "adt"]
    assert list(made.obs_names) == list(query.obs_names)
    assert made.obs["batch"].tolist() == query.obs["batch"].tolist()
    table = made.mod["rna"].varm["measured"]
    assert (table.loc["g1"].tolist(), table.loc["g0"].tolist()) == ([True, True], [False, True])
    assert not table.drop(index=["g0", "g1"]).to_numpy().any()
    assert model.get_latent_representation(made).shape == (6, 4)


def test_a_saved_model_will_do(model: MosaicVI, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder)
    query = counts(5, ["p2", "p0"])
    made = MosaicVI.prepare_query(query, folder)
    assert list(made.var_names) == ["p0", "p1", "p2"]
    assert np.isfinite(MosaicVI.load(folder, made).get_latent_representation()).all()


def test_names_of_another_kind_and_few_features_are_said(model: MosaicVI) -> None:
    with pytest.raises(
        InputError, match=r"rna: none of its features \(such as 'ENSG1'\) is one of the model's"
    ):
        MosaicVI.prepare_query(counts(5, ["ENSG1"]), model)
    with pytest.raises(InputError, match=r"var_names occur more than once"):
        MosaicVI.prepare_query(counts(5, ["g1", "g1"]), model)
    with pytest.warns(MosaicWarning, match=r"'rna': 1 of the 9 features"):
        MosaicVI.prepare_query(counts(5, ["g1"]), model)
    with pytest.raises(InputError, match=r"prepare_query"):
        model.get_latent_representation(counts(5, ["g1", "g2"]))


def test_proteins_beside_the_genes_are_taken_along(model: MosaicVI) -> None:
    query, adt = counts(7, ["g7", "g2"]), counts(7, ["p2", "p0"])
    both = MuData({"rna": query, "adt": adt}, obs=query.obs)
    wanted = MosaicVI.prepare_query(both, model)
    cite = query.copy()
    cite.obsm["protein_expression"] = pd.DataFrame(adt.X.toarray(), adt.obs_names, adt.var_names)
    with pytest.warns(MosaicWarning, match="its 2 proteins"):
        made = MosaicVI.prepare_query(cite, model)
    assert list(made.mod) == ["rna", "adt"]
    for a, b in zip(made.mod.values(), wanted.mod.values(), strict=True):
        assert np.array_equal(a.X.toarray(), b.X.toarray())
    answers = [model.get_latent_representation(q) for q in (made, wanted)]
    assert np.array_equal(*answers)
