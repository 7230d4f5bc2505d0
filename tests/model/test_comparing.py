"""Differential features of a trained model's cells: what is known to differ, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.simulated_groups import Groups, simulated

from mosaicvi import InputError, MosaicVI, MosaicWarning
from mosaicvi.infer.differential import measured

CALLED = "is_de_fdr_0.05"


@pytest.fixture(scope="module")
def groups() -> Groups:
    return simulated("never measured", n_cells=1000, seed=3)


@pytest.fixture(scope="module")
def model(groups: Groups) -> MosaicVI:
    MosaicVI.setup_mudata(groups.mdata, batch_key="batch")
    model = MosaicVI(groups.mdata, dimensions=24, dim_latent=6, dim_block_enc=16, dim_block_dec=16)
    return model.train(30, batch_size=200, progress=False)


def truth(groups: Groups, modality: str, one: int, other: int) -> pd.Series:
    means = groups.means[modality]
    return pd.Series(means[one] - means[other], index=groups.mdata[modality].var_names)


@pytest.mark.parametrize("modality", ["rna", "adt", "atac", "value"])
def test_what_differs_is_found_and_hardly_anything_else(
    model: MosaicVI, groups: Groups, modality: str
) -> None:
    table = model.differential_expression(
        modality=modality, groupby="cell_type", group1="type1", group2="type2", mode="vanilla"
    )
    true = truth(groups, modality, 0, 1)[table.index]
    assert set(table["evidence"]) == {"measured"}
    called = table[CALLED].to_numpy()
    differs = (true != 0).to_numpy()
    assert called.sum() > 3
    assert (called & ~differs).sum() <= max(2, 0.15 * called.sum())
    strong = (true.abs() > 1.5).to_numpy()
    assert called[strong].mean() > 0.6
    assert np.corrcoef(table["lfc_mean"][differs], true[differs])[0, 1] > 0.7
    # likeliest first, and the same in both directions of the columns
    assert table["proba_de"].is_monotonic_decreasing
    np.testing.assert_allclose(table["proba_de"] + table["proba_not_de"], 1)


def test_columns_are_what_they_say(model: MosaicVI, groups: Groups) -> None:
    table = model.differential_expression(modality="rna", groupby="cell_type", group1="type3")
    rna, obs = groups.mdata["rna"], groups.mdata.obs
    inside = (obs.loc[rna.obs_names, "cell_type"] == "type3").to_numpy()
    x = pd.DataFrame(rna.X.toarray(), columns=rna.var_names)[table.index]
    np.testing.assert_allclose(table["raw_mean1"], x[inside].mean(), rtol=1e-5)
    np.testing.assert_allclose(table["raw_mean2"], x[~inside].mean(), rtol=1e-5)
    np.testing.assert_allclose(table["non_zeros_proportion1"], (x[inside] > 0).mean(), rtol=1e-5)
    assert set(table["n_measured1"]) == {int(inside.sum())}
    assert set(table["comparison"]) == {"type3 vs Rest"}
    assert (table["group1"] == "type3").all()
    assert table.attrs["delta"] == 0.25
    assert table.attrs["modality"] == "rna"
    stricter = model.differential_expression(modality="rna", groupby="cell_type", group1="type3", delta=1.0)
    assert stricter[CALLED].sum() < table[CALLED].sum()


def test_groups_may_be_queries_of_obs(model: MosaicVI, groups: Groups) -> None:
    obs = groups.mdata.obs
    one = (obs["cell_type"] == "type1") & (obs["batch"] != "B")
    other = obs["cell_type"] == "type2"
    asked = [
        model.differential_expression(modality="adt", idx1=idx1, idx2=idx2)
        for idx1, idx2 in (
            ("cell_type == 'type1' and batch != 'B'", "cell_type == 'type2'"),
            (one.to_numpy(), other.to_numpy()),
        )
    ]
    pd.testing.assert_frame_equal(*asked)


def test_each_against_the_rest_and_pairs(model: MosaicVI) -> None:
    every = model.differential_expression(modality="adt", groupby="cell_type")
    assert list(dict.fromkeys(every["comparison"])) == [f"type{i} vs Rest" for i in (1, 2, 3, 4)]
    pairs = model.differential_expression(modality="adt", groupby="cell_type", group2="pairs")
    assert pairs["comparison"].nunique() == 6
    some = model.differential_expression(
        modality="adt", groupby="cell_type", group1=["type2", "type4"], group2="type1"
    )
    assert list(dict.fromkeys(some["comparison"])) == ["type2 vs type1", "type4 vs type1"]
    one = some[some["comparison"] == "type2 vs type1"]
    other = pairs[pairs["comparison"] == "type1 vs type2"].loc[one.index]
    np.testing.assert_allclose(one["lfc"], -other["lfc"], atol=1e-9)
    np.testing.assert_allclose(one["p_value"], other["p_value"], rtol=1e-6)


def test_halves_of_one_type_do_not_differ(model: MosaicVI, groups: Groups) -> None:
    cells = np.random.default_rng(0).permutation(np.flatnonzero(groups.mdata.obs["cell_type"] == "type1"))
    half = len(cells) // 2
    for modality in groups.means:
        table = model.differential_expression(
            modality=modality, idx1=cells[:half], idx2=cells[half:], mode="vanilla"
        )
        assert table[CALLED].mean() <= 0.05


def test_cells_that_never_measured_it_are_compared_by_imputed_values(model: MosaicVI, groups: Groups) -> None:
    obs = groups.mdata.obs
    one, other = (
        ((obs["batch"] == "X") & (obs["cell_type"] == kind)).to_numpy() for kind in ("type1", "type2")
    )
    table = model.differential_expression(modality="adt", idx1=one, idx2=other)
    assert set(table["evidence"]) == {"imputed"}
    assert table["raw_mean1"].isna().all()
    assert (table["n_measured1"] == 0).all()
    measured_too = model.differential_expression(
        modality="adt", groupby="cell_type", group1="type1", group2="type2"
    ).loc[table.index]
    # less certain than what was measured, and about the same
    assert table["lfc_se"].median() > measured_too["lfc_se"].median()
    assert np.corrcoef(table["lfc"], truth(groups, "adt", 0, 1)[table.index])[0, 1] > 0.4
    wrong = table[CALLED] & (truth(groups, "adt", 0, 1)[table.index].abs() <= 0.25)
    assert wrong.sum() <= 1


def test_answers_do_not_depend_on_how_they_are_computed(
    model: MosaicVI, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.differential_expression(modality="atac", groupby="cell_type", group1="type1")
    some = list(whole.index[[5, 80, 3]])
    few = model.differential_expression(modality="atac", groupby="cell_type", group1="type1", features=some)
    pd.testing.assert_frame_equal(whole.loc[few.index], few)
    monkeypatch.setattr(measured, "ROWS", 70)
    monkeypatch.setattr(measured, "MOST_SUMS", 400)
    parts = model.differential_expression(modality="atac", groupby="cell_type", group1="type1")
    pd.testing.assert_frame_equal(whole.sort_index(), parts.sort_index(), rtol=1e-6)


def test_without_batches_their_differences_count(model: MosaicVI, groups: Groups) -> None:
    """Type 1 of batch A against type 1 of batch B."""
    obs = groups.mdata.obs
    ones = (obs["cell_type"] == "type1").to_numpy()
    idx = {"idx1": ones & (obs["batch"] == "A").to_numpy(), "idx2": ones & (obs["batch"] == "B").to_numpy()}
    apart = model.differential_expression(modality="value", **idx, batch_correction=False, mode="vanilla")
    assert set(apart["evidence"]) == {"measured"}
    assert apart[CALLED].mean() > 0.2
    with pytest.warns(MosaicWarning, match="value: no batch has three cells of both group1 and group2"):
        kept = model.differential_expression(modality="value", **idx, mode="vanilla")
    assert set(kept["evidence"]) == {"imputed"}
    assert kept[CALLED].mean() < 0.05


def test_what_cannot_be_compared_is_said(model: MosaicVI, groups: Groups, tmp_path: Path) -> None:
    ask = model.differential_expression
    for call, message in (
        ({}, r"groupby: name a column of obs, or the cells of the groups with idx1 and idx2"),
        ({"groupby": "cell_type", "idx1": [0]}, r"groupby: name a column"),
        ({"groupby": "kind"}, r"groupby: obs has no column 'kind'"),
        ({"groupby": "cell_type", "group1": "B"}, r"group1: 'cell_type' has no group 'B'; it has 'type1'"),
        ({"groupby": "cell_type", "group2": "B"}, r"group2: 'cell_type' has no group 'B'"),
        ({"groupby": "cell_type", "group1": "type1", "group2": "rest"}, r"group2: leave it out;"),
        ({"groupby": "cell_type", "fdr": 0.01}, r"differential_expression: .* 'fdr'; use fdr_target="),
        ({"idx1": [0, 1], "idx2": [1, 2]}, r"idx2: 1 cells are in idx1 as well"),
        ({"idx1": []}, r"idx1: no cell"),
        ({"idx1": ["nobody"]}, r"idx1: no cell 'nobody'; give positions, booleans or obs_names"),
        ({"idx1": "cell_type = 'type1'"}, r"idx1: .* is no query of obs \(.*that are there: .*'cell_type'"),
        ({"idx1": [0], "idx2": "kind == 'B'"}, r"idx2: \"kind == 'B'\" is no query of obs \(name 'kind'"),
        ({"groupby": "cell_type", "mode": "x"}, r"mode: 'change' or 'vanilla', not 'x'"),
        ({"groupby": "cell_type", "mode": "vanilla", "delta": 1}, r"delta: 'vanilla' asks for any"),
        ({"groupby": "cell_type", "delta": -1}, r"delta: must be >= 0"),
        ({"groupby": "cell_type", "fdr_target": 1}, r"fdr_target: between 0 and 1"),
        ({"groupby": "cell_type", "features": ["x"]}, r"features: rna has no 'x'"),
    ):
        with pytest.raises(InputError, match=message):
            ask(modality="rna", **call)
    with pytest.raises(InputError, match="No modality 'x'"):
        ask(modality="x", groupby="cell_type")


def test_other_data_are_compared_by_their_own_column(model: MosaicVI, groups: Groups) -> None:
    again = groups.mdata.copy()
    again.obs["mine"] = again.obs["cell_type"].astype(str).replace({"type1": "a", "type2": "b"})
    one = model.differential_expression(again, modality="adt", groupby="mine", group1="a", group2="b")
    other = model.differential_expression(modality="adt", groupby="cell_type", group1="type1", group2="type2")
    names = ["comparison", "group1", "group2"]
    pd.testing.assert_frame_equal(one.drop(columns=names), other.drop(columns=names), check_flags=False)


def test_the_simulation_says_what_differs() -> None:
    """Of a feature without a difference, the types' means are the same but for chance."""
    made = simulated("one batch", n_cells=3000, seed=1)
    x = made.mdata["value"].to_df()
    kind = made.mdata.obs["cell_type"]
    found = x.groupby(kind.to_numpy()).mean()
    off = (found.loc["type1"] - found.loc["type2"]).to_numpy() / np.log(2)
    true = made.means["value"][0] - made.means["value"][1]
    np.testing.assert_allclose(off, true, atol=0.25)
    assert 0.1 < (true != 0).mean() < 0.3


def test_cells_without_a_group_are_left_out_unless_they_are_asked_for(
    model: MosaicVI, groups: Groups
) -> None:
    obs = groups.mdata.obs
    obs["some"] = obs["cell_type"].astype(str)
    unlabeled = np.arange(len(obs)) % 4 == 0
    obs.loc[unlabeled, "some"] = "unknown"
    try:
        table = model.differential_expression(modality="rna", groupby="some", mode="vanilla")
        assert "unknown" not in set(table["group1"])
        assert table.attrs["cells_without_a_group"] == unlabeled.sum()
        in_rna = obs.loc[groups.mdata["rna"].obs_names, "some"]
        of_one = table[table["group1"] == "type1"]
        assert (of_one["n_measured2"] == (~in_rna.isin(["type1", "unknown"])).sum()).all()
        asked = model.differential_expression(modality="rna", groupby="some", group1="unknown")
        assert (asked["n_measured1"] == (in_rna == "unknown").sum()).all()
        other = model.differential_expression(modality="rna", groupby="some", unlabeled=["type1", "unknown"])
        assert not {"type1", "unknown"} & set(other["group1"])
    finally:
        del obs["some"]
