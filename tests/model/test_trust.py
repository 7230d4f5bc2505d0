"""Which features and cells a trained model says can be trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData

from mosaicvi import InputError, MosaicVI, MosaicWarning
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.infer.kept_accuracy import KeptAccuracy
from mosaicvi.infer.output import ImputedModality, with_accuracy
from mosaicvi.likelihoods import Parameters


@pytest.fixture(scope="module")
def mdata() -> MuData:
    return simulated_mosaic(900, n_genes=60, n_proteins=12, n_peaks=80, n_chromosomes=2, n_types=4).mdata


@pytest.fixture(scope="module")
def model(mdata: MuData) -> MosaicVI:
    MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mdata, dimensions=24, dim_latent=6, dim_block_enc=12, dim_block_dec=12)
    model.train(40, batch_size=200, progress=False)
    model._reads_out = False
    return model


def test_accuracy_is_that_of_hidden_values(model: MosaicVI, mdata: MuData) -> None:
    found = model.imputation_accuracy(modality="adt")
    is_rna = found["view"].str.startswith("rna") & ~found["view"].str.contains("+", regex=False)
    lacking = found[is_rna & (found["lacking"] > 0)]
    of_rna = lacking[lacking["view"] == lacking["view"].iloc[0]].set_index("feature")
    assert (of_rna["measure"] == "correlation").all()
    assert of_rna["score"].median() > 0.2
    # by hand: the proteins of cells with RNA, hidden
    asked = model.mosaic.modality("adt").row_of_cell >= 0
    asked &= model.mosaic.modality("rna").row_of_cell >= 0
    guess = model.get_imputed_values(modality="adt", modalities=["rna"], indices=asked, library=100)
    cells = mdata.obs_names[asked]
    adt = mdata["adt"][cells]
    total = np.asarray(adt.X.sum(1)).reshape(-1, 1)
    truth = np.log1p(adt.X.toarray() / total * np.asarray(mdata["adt"].X.sum(1)).mean())
    right = [
        np.corrcoef(np.log1p(guess[name]), truth[:, adt.var_names.get_loc(name)])[0, 1]
        for name in of_rna.index
    ]
    # which shows all genes, and so a little more than the view of cells with another panel
    np.testing.assert_allclose(np.median(right), of_rna["score"].median(), atol=0.15)


def test_features_that_panels_lack_come_first(model: MosaicVI) -> None:
    found = model.imputation_accuracy(modality=["adt", "rna"])
    lacks = (found["panel"] & (found["lacking"] > 0)).to_numpy()
    assert lacks.any()
    assert lacks[: lacks.sum()].all()
    panel = found[lacks & (found["modality"] == "adt")]
    # batch D has part of the proteins: the others are what is scored
    measured = model.mosaic.modality("adt").panels
    names = np.asarray(model.mosaic.modality("adt").features.names)
    assert set(panel["feature"]) <= set(names[~measured.all(0)])
    assert found["believe"].isin(["yes", "partly", "no"]).all()
    pd.testing.assert_frame_equal(found, model.imputation_accuracy(modality=["adt", "rna"]))
    with pytest.raises(InputError, match="No modality 'x'"):
        model.imputation_accuracy(modality="x")


def test_a_saved_model_remembers_what_it_measured(model: MosaicVI, mdata: MuData, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    alone = MosaicVI.load(tmp_path / "m")
    pd.testing.assert_frame_equal(alone.imputation_accuracy(), model.imputation_accuracy(), atol=1e-6)
    query = mdata["rna"][mdata["rna"].obs_names[:30], mdata["rna"].var_names[::-1]].copy()
    del query.varm["measured"]  # as if it were of a batch of its own
    query.var_names = [f"{name}-x" if j == 0 else name for j, name in enumerate(query.var_names)]
    prepared = MosaicVI.prepare_query(query, alone)
    with pytest.warns(MosaicWarning, match="no obs column 'batch'"):
        asked = alone.registered(prepared)
    with pytest.warns(MosaicWarning, match="no obs column 'batch'"):
        again = model.registered(prepared)
    remembered = alone.imputation_accuracy(query=asked, modality=["adt", "atac"])
    fresh = model.imputation_accuracy(query=again, modality=["adt", "atac"])
    assert set(remembered["modality"]) == {"adt", "atac"}
    assert (remembered["lacking"] == 30).all()
    both = remembered.merge(fresh, on=["modality", "feature"])  # from all genes, and from all but one
    assert len(both) > 50
    assert np.corrcoef(both["score_x"], both["score_y"])[0, 1] > 0.9
    with pytest.raises(InputError, match="No modality 'x'"):
        alone.imputation_accuracy(modality="x")
    alone._accuracy = None  # as an older version saved it
    with pytest.raises(InputError, match="opened without data"):
        alone.imputation_accuracy(query=asked)


def test_what_speaks_for_several_views_is_told_once(model: MosaicVI, mdata: MuData) -> None:
    alone = model.without_data()
    query = mdata["rna"][mdata["rna"].obs_names[:60]].copy()
    panels = np.ones((query.n_vars, 2), bool)
    panels[:3, 0] = panels[5:9, 1] = False
    query.varm["measured"] = pd.DataFrame(panels, index=query.var_names, columns=["u", "v"])
    query.obs["batch"] = np.repeat(["u", "v"], 30)
    x = query.X.toarray()
    x[:30, :3] = x[30:, 5:9] = 0
    query.X = x
    prepared = MosaicVI.prepare_query(query, alone)
    with pytest.warns(MosaicWarning, match="'u', 'v', which the model has not seen"):
        asked = alone.registered(prepared)
    table = alone.imputation_accuracy(query=asked)
    assert not table.duplicated(["modality", "feature", "view"]).any()
    adt = table[table["modality"] == "adt"]
    assert len(adt)
    assert (adt.groupby("feature")["lacking"].sum() == 60).all()
    genes = table[table["modality"] == "rna"]
    assert (genes["lacking"] == 30).all()
    assert set(genes["feature"]) <= set(query.var_names[~panels.all(1)])
    part = ImputedModality(
        name="adt",
        cells=query.obs_names,
        measured=np.zeros(60, bool),
        var=pd.DataFrame(index=adt["feature"].unique()),
        scale=alone.imputed_scale("adt"),
        batch="u",
        values=(),
    )
    assert (with_accuracy(part, table, asked.modality("adt")).var["believe"] != "unknown").all()


def test_without_its_data_a_model_says_what_it_grew_from_told(model: MosaicVI) -> None:
    base, grown = model.without_data(), model.without_data()
    grown._base = base
    pd.testing.assert_frame_equal(grown.imputation_accuracy(), base.imputation_accuracy())
    grown._accuracy = KeptAccuracy(parts=())
    pd.testing.assert_frame_equal(grown.imputation_accuracy(), base.imputation_accuracy())


def test_a_log_likelihood_is_that_of_the_family(model: MosaicVI, mdata: MuData) -> None:
    cells = np.flatnonzero(mdata.obs["group"] == "rna+adt")[:5]
    found = model.cell_fit(indices=cells)
    mosaic, loader = model._data(None)
    minibatch = loader.take(cells)
    from mosaicvi.nn.masks import observed_view

    q = model.net.encode(minibatch, [[observed_view(r) for r in minibatch.rows]])
    total = np.zeros(5)
    for m, name in enumerate(("rna", "adt")):
        data = mosaic.modality(name)
        row = data.row_of_cell[cells]
        panel = torch.from_numpy(data.panels[data.panel_of_row[row]])
        library = torch.from_numpy(data.library[row][:, None])
        p = model.net.parameters_of(m, q.mean, q, minibatch.covariates, library=library, panel=panel)
        x = torch.from_numpy(data.x[row].toarray())
        log_p = model.net.decoder.families[m].log_prob(
            x, Parameters(location=p.location, dispersion=p.dispersion, inflation=p.inflation)
        )
        mine = (log_p * panel).sum(1).detach().numpy()
        total += mine
        np.testing.assert_allclose(found[f"per_feature_{name}"], mine / panel.sum(1).numpy(), rtol=1e-4)
    np.testing.assert_allclose(found["log_likelihood"], total, rtol=1e-4)
    assert found["per_feature_atac"].isna().all()


def test_shuffled_cells_are_unlike(model: MosaicVI, mdata: MuData) -> None:
    usual = model.cell_fit()
    assert usual.index.equals(mdata.obs_names)
    assert usual["unlike"].mean() < 0.05
    broken = mdata.copy()
    rng = np.random.default_rng(0)
    x = broken["rna"].X.toarray()
    inside = broken["rna"].varm["measured"]
    strange = np.arange(len(x)) % 4 == 0
    for i in np.flatnonzero(strange):
        panel = inside[mdata.obs.loc[broken["rna"].obs_names[i], "batch"]].to_numpy()
        x[i, panel] = rng.permutation(x[i, panel])
    broken.mod["rna"].X = type(broken["rna"].X)(x)
    found = model.cell_fit(broken).loc[broken["rna"].obs_names]
    assert found["rank_rna"][strange].median() < 0.15
    assert found["unlike"][strange].mean() > 3 * max(found["unlike"][~strange].mean(), 0.005)
    few = model.cell_fit(broken, indices=[4, 9], batch_size=1)
    pd.testing.assert_frame_equal(few, model.cell_fit(broken).iloc[[4, 9]], rtol=1e-4)
