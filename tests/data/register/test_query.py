"""Data with other features than the model's: what they lack is not measured, others are left out."""

from __future__ import annotations

import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

import mosaicvi
from mosaicvi import InputError, MosaicVI, MosaicWarning
from mosaicvi.cli.say import for_terminal

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


def test_a_part_of_a_mosaic_may_have_no_cell_of_a_modality(model: MosaicVI) -> None:
    rna = counts(6, [f"g{i}" for i in range(9)])
    with mudata.set_options(pull_on_update=False):
        alone, part = MuData({"rna": rna}), MuData({"rna": rna, "adt": counts(6, ["p0", "p1", "p2"])[:0]})
    alone.obs["batch"] = part.obs["batch"] = rna.obs["batch"]
    latent = model.get_latent_representation(alone)
    assert np.array_equal(model.get_latent_representation(part), latent)
    prepared = MosaicVI.prepare_query(part, model)
    assert list(prepared.mod) == ["rna"]
    assert np.array_equal(model.get_latent_representation(prepared), latent)
    with pytest.raises(InputError, match="Modality 'rna' has no cells; leave it out"):
        model.get_latent_representation(rna[:0])


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
    with pytest.warns(MosaicWarning) as said:
        MosaicVI.prepare_query(counts(5, ["g1", "g2", "new"]), model)
    assert [str(w.message) for w in said] == [
        "rna: 2 of 9 features; the others are taken as not measured",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MosaicVI.prepare_query(counts(5, [f"g{i}" for i in range(9)]), model)


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


@pytest.mark.parametrize("kind", ["mudata", "anndata"])
def test_a_modality_by_another_name_is_said_to_be_left_out(model: MosaicVI, kind: str) -> None:
    rna, proteins = counts(8, [f"g{i}" for i in range(9)]), counts(8, ["p0", "p1", "p2"])
    data: AnnData | MuData
    if kind == "mudata":
        with mudata.set_options(pull_on_update=False):
            data = MuData({"rna": rna, "protein": proteins})
        data.obs["batch"] = "a"
    else:
        data = rna.copy()
        data.var["feature_types"] = "rna"
        types = pd.Series("Multiplexing Capture", ["p0", "p1", "p2"])  # a name that is not the model's
        beside = proteins.copy()
        beside.var["feature_types"] = types
        data = anndata.concat([data, beside], axis=1, merge="first")
        data.obs["batch"] = "a"
    before = "mdata = mosaicvi.to_mudata(data); " if kind == "anndata" else ""
    name = next(n for n in mosaicvi.to_mudata(data).mod if n != "rna")
    said = (
        f"{name}: the model has no such modality and leaves it out; its features are those of 'adt': "
        f"rename it, {before}mdata.mod['adt'] = mdata.mod.pop({name!r})."
    )
    for ask in (lambda: MosaicVI.prepare_query(data, model), lambda: model.get_latent_representation(data)):
        with pytest.warns(MosaicWarning) as told:
            ask()
        assert [str(one.message) for one in told].count(said) == 1
    mdata = mosaicvi.to_mudata(data)
    mdata.mod["adt"] = mdata.mod.pop(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MosaicWarning)
        made = MosaicVI.prepare_query(mdata, model)
        both = model.get_latent_representation(mdata)
    assert np.array_equal(made["adt"].X.toarray(), proteins.X.toarray())
    with mudata.set_options(pull_on_update=False):
        by_hand = MuData({"rna": rna, "adt": proteins})
    by_hand.obs["batch"] = "a"
    np.testing.assert_array_equal(both, model.get_latent_representation(by_hand))
    assert for_terminal(said).endswith(
        f"rename it, mosaicvi combine ... --rename {name}=adt --output renamed.h5mu, and give what that "
        "writes."
    )


def test_growing_by_a_modality_that_is_known_by_another_name_is_said(model: MosaicVI) -> None:
    with mudata.set_options(pull_on_update=False):
        data = MuData(
            {"rna": counts(8, [f"g{i}" for i in range(9)]), "protein": counts(8, ["p0", "p1", "new"])}
        )
    data.obs["batch"] = "c"
    with pytest.warns(MosaicWarning, match=r"^protein: .*as a new one; its features are those of 'adt': ren"):
        MosaicVI.load_query_data(data, model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*as a new one", category=MosaicWarning)
        grown = MosaicVI.load_query_data(data, model, modalities=["protein"])
    assert list(grown.registry.features) == ["rna", "adt", "protein"]
    with pytest.raises(InputError, match=r"no new modality 'rna' in the data; the model knows it"):
        MosaicVI.load_query_data(data, model, modalities=["rna"])


def test_a_matrix_of_obsm_is_read_as_in_training() -> None:
    data = counts(40, [f"g{i}" for i in range(9)])
    values = counts(40, ["p0", "p1", "p2"]).X.toarray()
    data.obsm["protein_expression"] = pd.DataFrame(values, data.obs_names, ["p0", "p1", "p2"])
    mosaic = MosaicVI.setup_mudata(
        mosaicvi.to_mudata(data, from_obsm={"protein": "protein_expression"}), batch_key="batch"
    )
    model = MosaicVI(mosaic, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MosaicWarning)
        made = MosaicVI.prepare_query(data, model)
    assert list(made.mod) == ["rna", "protein"]
    assert np.array_equal(made["protein"].X.toarray(), values)
