"""mosaicvi.data.register.covariates: which column is taken for one of batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mosaicvi.data.register import register
from mosaicvi.data.register.covariates import likely_batch, named_conditions
from mosaicvi.data.registry import Registry, Setup
from mosaicvi.errors import InputError


def test_a_combined_mosaic_is_batched_by_its_datasets() -> None:
    cells = [f"c{i}" for i in range(8)]
    obs = pd.DataFrame({"sample": list("aabbaabb"), "dataset": ["x"] * 4 + ["y"] * 4}, index=cells)
    data = AnnData(np.ones((8, 2), np.float32), obs=obs)
    assert likely_batch(data) == "sample"
    for key in ("dataset", "dataset_panel"):
        data.uns["mosaicvi"] = {"panel_key": key}
        assert likely_batch(data) == "dataset"


def conditioned() -> AnnData:
    obs = pd.DataFrame(
        {"assay": [*list("babab"), None], "day": [1.0, 2, np.nan, 2, 1, 1]}, index=list("uvwxyz")
    )
    return AnnData(np.arange(1.0, 13).reshape(6, 2).astype(np.float32), obs=obs)


def test_columns_of_conditions_are_groups_each_alone() -> None:
    group, names = named_conditions(conditioned(), ["assay", "day"], needed=True)
    assert names == ("assay: a", "assay: b", "day: 1", "day: 2")
    assert group.tolist() == [[2, 3], [1, 4], [2, 0], [1, 4], [2, 3], [0, 3]]
    one = register(conditioned(), Setup(condition_keys=("assay",)))
    assert one.group.tolist() == [[2], [1], [2], [1], [2], [0]]
    assert one.group_names == ("assay: a", "assay: b")
    assert register(conditioned(), Setup()).group.tolist() == [1] * 6


def test_cells_that_a_model_is_asked_about_need_no_conditions() -> None:
    data = conditioned()
    mosaic = register(data, Setup(condition_keys=("assay", "day")))
    registry = Registry.from_dict(mosaic.registry.to_dict())
    assert registry.setup == mosaic.registry.setup
    del data.obs["day"]
    again = register(data, registry.setup, registry=registry)
    assert again.group[:, 0].tolist() == mosaic.group[:, 0].tolist()
    assert not again.group[:, 1].any()
    with pytest.raises(InputError, match="condition_keys: no obs column 'day'; there are 'assay'"):
        register(data, Setup(condition_keys=("assay", "day")))
    with pytest.raises(InputError, match="condition_keys: 'assay' is named more than once"):
        Setup(condition_keys=("assay", "assay"))
