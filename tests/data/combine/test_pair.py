from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from mosaicvi.data.combine import combine
from mosaicvi.errors import InputError, MosaicWarning

RNG = np.random.default_rng(0)
BARCODES = ["".join(RNG.choice(list("ACGT"), 16)) for _ in range(30)]


def table(features: str, cells: list[str] = BARCODES, **obs: object) -> AnnData:
    x = sparse.csr_matrix(RNG.poisson(2, (len(cells), len(features))).astype(np.float32))
    return AnnData(x, obs=pd.DataFrame(obs, index=cells), var=pd.DataFrame(index=list(features)))


def test_the_same_cells_in_two_inputs_are_noticed() -> None:
    rna, adt = table("ABC"), table("xy", BARCODES[5:])
    with pytest.warns(MosaicWarning, match=re.escape("rna and adt have 25 cells of the same names")):
        assert combine({"rna": rna, "adt": adt}).n_obs == 55
    with pytest.warns(MosaicWarning, match="a and b have 30 cells of the same names"):
        combine({"a": rna, "b": table("ABC")})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        combine({"rna": rna, "adt": adt}, pair=False)


def test_paired_inputs_become_one_set_of_cells() -> None:
    rna, adt = table("ABC", donor=["p"] * 30), table("xy", BARCODES[5:], donor=["p"] * 25)
    mdata = combine({"other": table("AB", ["c1", "c2"]), "rna": rna, "adt": adt}, pair=True)
    assert mdata.n_obs == 32
    assert {name: a.n_obs for name, a in mdata.mod.items()} == {"rna": 32, "adt": 25}
    assert set(mdata.obs["dataset"]) == {"other", "rna+adt"}
    cell = BARCODES[7]
    np.testing.assert_array_equal(mdata["adt"][cell].X.toarray(), adt[BARCODES[7]].X.toarray())
    np.testing.assert_array_equal(mdata["rna"][cell, list("ABC")].X.toarray(), rna[BARCODES[7]].X.toarray())


@pytest.mark.parametrize(
    ("write", "around"),
    [
        (lambda code: f"{code}-1", "without '-1'"),
        (lambda code: f"GSM1_{code}", "without 'GSM1_'"),
        (lambda code: f"s#{code}.1", "without 's#.1'"),
    ],
)
def test_the_same_cells_are_noticed_where_their_names_are_written_differently(
    write: Callable[[str], str], around: str
) -> None:
    rna, adt = table("ABC", [write(code) for code in BARCODES]), table("xy", BARCODES[5:])
    with pytest.warns(MosaicWarning, match=re.escape(f"rna and adt: 25 names of cells agree {around} (")):
        assert combine({"rna": rna, "adt": adt}).n_obs == 55
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        combine({"rna": rna, "adt": adt}, pair=False)
    before = list(adt.obs_names)
    with pytest.warns(MosaicWarning, match="and are taken as the same cells; they are called as in rna"):
        mdata = combine({"rna": rna, "adt": adt}, pair=True)
    assert list(adt.obs_names) == before
    assert list(mdata.obs_names) == list(rna.obs_names)
    cell = write(BARCODES[7])
    np.testing.assert_array_equal(mdata["adt"][cell].X.toarray(), adt[BARCODES[7]].X.toarray())
    np.testing.assert_array_equal(mdata["rna"][cell, list("ABC")].X.toarray(), rna[cell].X.toarray())


def test_names_that_are_alike_in_inputs_of_one_modality_say_nothing() -> None:
    channels = [f"channel_{name}" for name in BARCODES]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert combine({"one": table("ABC"), "two": table("ABC", channels)}).n_obs == 60


def test_barcodes_of_several_runs_in_one_input_are_not_taken_apart() -> None:
    both = table("ABC", [f"{code}-{i}" for code in BARCODES for i in (1, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        combine({"rna": both, "adt": table("xy")})


def test_few_barcodes_that_agree_say_nothing() -> None:
    other = ["".join(RNG.choice(list("ACGT"), 16)) for _ in range(190)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        combine(
            {
                "a": table("ABC", [f"a_{code}" for code in [*BARCODES[:12], *other[:90]]]),
                "b": table("AB", [f"b_{code}" for code in [*BARCODES[:12], *other[90:]]]),
            }
        )
        combine({"a": table("ABC", ["x1-1", "x2-1"]), "b": table("AB", ["x1", "x2"])})


def test_a_pair_can_be_named() -> None:
    rna, adt = table("ABC"), table("xy")
    other = [f"{code}-2" for code in BARCODES]
    mdata = combine(
        {"r1": rna, "a1": adt, "alone": table("ABC", ["c1", "c2"]), "r2": table("AB", other)},
        modality={"a1": "adt"},
        pair={"GSM1": ["r1", "a1"]},
    )
    assert list(mdata.obs["dataset"].cat.categories) == ["GSM1", "alone", "r2"]
    assert list(mdata["adt"].obs_names) == list(mdata.obs_names[mdata.obs["dataset"] == "GSM1"])
    with pytest.raises(InputError, match="no two inputs have cells of the same names"):
        combine({"r1": rna, "a1": table("xy", ["c1", "c2"])}, pair={"GSM1": ["r1", "a1"]})
    with pytest.raises(InputError, match="dataset of pair"):
        combine({"r1": rna, "a1": adt}, pair={"GSM1": ["r1", "adt"]})
    with pytest.raises(InputError, match="in two of them"):
        combine({"r1": rna, "a1": adt}, pair={"GSM1": ["r1", "r1"]})


def test_running_numbers_of_one_modality_say_nothing() -> None:
    names = [f"cell{i}" for i in range(30)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        combine({"a": table("ABC", names), "b": table("ABC", names)})
    with pytest.warns(MosaicWarning, match="30 cells of the same names"):
        combine({"a": {"rna": table("ABC", names)}, "b": {"adt": table("xy", names)}})


def test_two_of_one_modality_cannot_be_paired() -> None:
    with pytest.raises(InputError, match=r"both hold 'rna'.*modality=\{'b': 'adt'\}"):
        combine({"a": table("ABC"), "b": table("xy")}, pair=True)
    paired = combine({"a": table("ABC"), "b": table("xy")}, pair=True, modality={"b": "adt"})
    assert paired.n_obs == 30


def test_a_word_of_the_name_says_what_a_table_holds() -> None:
    rna, adt = table("ABC"), table("xy")
    with pytest.warns(
        MosaicWarning, match=r"GSM1_ADT-umi: read as the modality 'adt'.*modality=\{'GSM1_ADT-umi'"
    ):
        mdata = combine({"GSM1_rna": rna, "GSM1_ADT-umi": adt}, pair=True)
    assert {name: a.n_vars for name, a in mdata.mod.items()} == {"rna": 3, "adt": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = combine({"GSM1_ADT-umi": adt}, modality={"GSM1_ADT-umi": "proteins"})
        assert list(said.mod) == ["proteins"]
        for name in ("rna_and_adt", "protein_coding", "bradt", "gex_raw"):
            assert list(combine({name: rna}).mod) == ["rna"]
