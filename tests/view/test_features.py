"""mosaicvi.view.features: a feature by its name, as scanpy and muon look for it, and who measured it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from mosaicvi import InputError
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.view.cells import column
from mosaicvi.view.features import feature


def part(cells: str, features: list[str], *, first: float = 0.0) -> AnnData:
    """Cells a letter each, whose values count up from the first."""
    x = first + np.arange(len(cells) * len(features), dtype=np.float32).reshape(len(cells), -1)
    obs = pd.DataFrame({"depth": np.arange(len(cells)) + first}, index=list(cells))
    return AnnData(sp.csr_matrix(x), obs=obs, var=pd.DataFrame(index=features))


@pytest.fixture
def mdata() -> MuData:
    """RNA of the cells a to d, of which c and d were of a panel without CD3; proteins of d and e."""
    rna, adt = part("abcd", ["CD3", "chr1:100-200"]), part("de", ["CD3", "CD4"], first=50)
    rna.varm["measured"] = pd.DataFrame({"one": [True, True], "two": [False, True]}, index=rna.var_names)
    with mudata_as_it_is():
        both = MuData({"rna": rna, "adt": adt})
        both.obs = pd.DataFrame({"batch": ["one", "one", "two", "two", "two"]}, index=list("abcde"))
    return both


def values(data: Any, key: str, **how: Any) -> list[float]:
    found = feature(data, key, **how)
    assert found is not None
    assert list(found.index) == list(data.obs_names)
    return found.fillna(-1).tolist()


def test_where_it_was_not_measured_it_is_missing(mdata: MuData) -> None:
    assert values(mdata, "chr1:100-200") == [1, 3, 5, 7, -1]
    assert values(mdata, "rna:chr1:100-200") == [1, 3, 5, 7, -1]
    assert values(mdata, "rna:CD3") == [0, 2, -1, -1, -1]
    assert values(mdata, "adt:CD3") == [-1, -1, -1, 50, 52]
    assert values(mdata, "CD4") == [-1, -1, -1, 51, 53]
    assert feature(mdata, "CD8") is None
    assert feature(mdata, "rna:CD4") is None
    with pytest.raises(InputError, match="'CD3' is a feature of 'rna' and 'adt'; name one, such as 'rna:"):
        feature(mdata, "CD3")
    del mdata.obs["batch"]
    with pytest.raises(InputError, match=r"rna: varm\['measured'\] has 2 panels, and nothing says"):
        feature(mdata, "rna:CD3")


def test_a_column_of_one_modality(mdata: MuData) -> None:
    assert column(mdata, "adt:depth").fillna(-1).tolist() == [-1, -1, -1, 50, 51]
    assert column(mdata, "rna:depth").fillna(-1).tolist() == [0, 1, 2, 3, -1]
    with pytest.raises(InputError, match="no obs column 'adt:width'"):
        column(mdata, "adt:width")


def test_layers_and_raw() -> None:
    adata = part("ab", ["CD3", "CD4"])
    adata.layers["twice"] = 2 * adata.X
    assert values(adata, "CD4") == [1, 3]
    assert values(adata, "CD4", layer="twice") == [2, 6]
    with pytest.raises(InputError, match=r"use_raw: \.raw of the data has no 'CD4'; leave use_raw out"):
        feature(adata, "CD4", use_raw=True)
    adata.raw = part("ab", ["CD8", "CD3"], first=7)
    assert values(adata, "CD3") == values(adata, "CD3", use_raw=True)
    assert values(adata, "CD3") == [8, 10]
    assert values(adata, "CD3", use_raw=False) == [0, 2]
    assert values(adata, "CD3", layer="twice") == [0, 4]
    assert values(adata, "CD4") == [1, 3]
    assert values(adata, "CD8") == [7, 9]
    with pytest.raises(InputError, match=r"use_raw: layer=\.\.\. says where"):
        feature(adata, "CD3", use_raw=True, layer="twice")
    with pytest.raises(InputError, match=r"'CD8' is in \.raw of the data alone; leave use_raw and layer out"):
        feature(adata, "CD8", use_raw=False)


def test_a_name_of_two_features_is_refused() -> None:
    twice = part("ab", ["CD3", "CD3"])
    with pytest.raises(InputError, match="'CD3' occurs 2 times in var_names of the data; make them unique"):
        feature(twice, "CD3")
