"""mosaicvi.data.register.covariates: which column is taken for one of batches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mosaicvi.data.register import covariates, register
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


@pytest.mark.parametrize("together", [5, 1000])
def test_groups_are_those_of_batch_and_modalities(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covariates, "TOGETHER", together)
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 3, 40)
    mods = [SimpleNamespace(name=name, row_of_cell=rng.integers(-1, 2, 40)) for name in ("rna", "adt")]
    group, names = covariates.condition_groups(mods, batch, ["x", "y", "z"])
    said = [
        f"{'xyz'[b]}: " + "+".join(m.name for m in mods if m.row_of_cell[i] >= 0) for i, b in enumerate(batch)
    ]
    assert [names[g - 1] for g in group] == said
    assert len(set(names)) == len(names) == len(set(said))
    code = [(b, *(m.row_of_cell[i] >= 0 for m in mods)) for i, b in enumerate(batch)]
    assert [said[code.index(c)] for c in sorted(set(code))] == list(names)


def test_categories_are_named_and_sorted_as_labels() -> None:
    column = pd.Series([10, 2, 2, 1, 10], name="batch")
    code, known = covariates._categorical(column, "batch")
    assert known == ("1", "10", "2")
    assert code.tolist() == [1, 2, 2, 0, 1]
    code, known = covariates._categorical(pd.Series([1.0, "1", b"1", 2.0], dtype=object), "batch")
    assert (code.tolist(), known) == ([0, 0, 0, 1], ("1", "2"))


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
