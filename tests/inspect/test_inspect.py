from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from rich.console import Console
from scipy import sparse

from mosaicvi.data.combine import combine
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.errors import InputError
from mosaicvi.inspect.describe import describe, unconnected
from mosaicvi.inspect.picture import measured_spans, plot
from mosaicvi.inspect.summary import Bridge, Group, Overlap
from mosaicvi.inspect.tables import render


def part(x: object, cells: list[str], features: str) -> AnnData:
    x = np.array(x, np.float32)
    x = x if np.isnan(x).any() else sparse.csr_matrix(x)
    return AnnData(x, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=list(features)))


@pytest.fixture
def chain() -> MuData:
    """RNA only, RNA with ADT, ADT with ATAC, ATAC only: nothing pairs RNA and ATAC."""
    return combine(
        {
            "a": {"rna": part([[1, 0], [0, 0]], ["1", "2"], "AB")},
            "b": {"rna": part([[1, 4]], ["1"], "BC"), "adt": part([[5, 3]], ["1"], "PQ")},
            "c": {"adt": part([[2, 2]], ["1"], "PR"), "atac": part([[1, 0]], ["1"], "xy")},
            "d": {"atac": part([[0, 1]], ["1"], "xy")},
        }
    )


def test_counts_panels_and_bridges(chain: MuData) -> None:
    got = describe(chain, batch_key="dataset")
    assert got.n_cells == 5
    assert got.batches == ("a", "b", "c", "d")
    assert got.groups == (
        Group(batch="a", panel="a", modalities=("rna",), n_cells=2),
        Group(batch="b", panel="b", modalities=("rna", "adt"), n_cells=1),
        Group(batch="c", panel="c", modalities=("adt", "atac"), n_cells=1),
        Group(batch="d", panel="d", modalities=("atac",), n_cells=1),
    )
    assert (got.cells_in("a"), got.cells_in("a", "rna"), got.cells_in("a", "adt")) == (2, 2, 0)
    assert got.panels == {"rna": {"a": 2, "b": 2}, "adt": {"b": 2, "c": 2}, "atac": {"c": 2, "d": 2}}
    assert {o for o in got.overlaps if o.modality == "rna"} == {
        Overlap(modality="rna", panels=panels, n_features=1) for panels in (("a",), ("a", "b"), ("b",))
    }
    assert got.bridges == (
        Bridge(modalities=("rna", "adt"), n_cells=1, chain=()),
        Bridge(modalities=("rna", "atac"), n_cells=0, chain=("adt",)),
        Bridge(modalities=("adt", "atac"), n_cells=1, chain=()),
    )
    assert len(got.components) == 1
    assert got.warnings == ("a: cells with nothing but zeros in rna: 1",)


def test_sparsity_counts_measured_entries_only(chain: MuData) -> None:
    rna = describe(chain).modalities[0]
    assert (rna.n_cells, rna.n_features, rna.values) == (3, 3, "counts")
    assert rna.zeros == pytest.approx(3 / 6)
    assert rna.missing == 0


def test_missing_entries() -> None:
    x = [[1.5, np.nan, -2], [0, np.nan, np.nan]]
    got = describe(part(x, ["1", "2"], "ABC"))
    (only,) = got.modalities
    assert only.values == "real"
    assert only.missing == pytest.approx(3 / 6)
    assert only.zeros == pytest.approx(1 / 3)
    assert got.warnings[0] == "rna: features that nobody measured (1): B"
    assert got.libraries[0].quantiles == (-0.5, -0.375, -0.25, -0.125, 0.0)
    assert got.libraries[0].n_empty == 1


def test_parts_that_nothing_connects_are_named() -> None:
    mods = {"rna": part([[1], [1]], ["1", "2"], "A"), "adt": part([[1]], ["3"], "P")}
    with mudata_as_it_is():
        mdata = MuData(mods)
        mdata.obs["batch"] = ["x", "x", "y"]
    got = describe(mdata, batch_key="batch")
    assert got.components == (("x: rna",), ("y: adt",))
    assert unconnected(mdata, batch_key="batch") == [w for w in got.warnings if "connect" in w]
    assert got.warnings == (
        "The mosaic falls into 2 parts that share no feature and no cell; nothing connects them: "
        "(1) x: rna; (2) y: adt",
        "No cell and no chain of modalities connects rna and adt",
    )


def test_cells_of_one_batch_do_not_connect_modalities() -> None:
    mods = {"rna": part([[1]], ["1"], "A"), "adt": part([[1]], ["2"], "P")}
    with mudata_as_it_is():
        assert len(describe(MuData(mods)).components) == 2


def test_features_that_nobody_shares_after_missing_entries_connect_nothing() -> None:
    x = [[1, np.nan], [np.nan, 1]]
    adata = part(x, ["1", "2"], "AB")
    adata.obs["batch"] = ["p", "q"]
    assert len(describe(adata, batch_key="batch").components) == 2


def test_the_data_are_not_changed(chain: MuData) -> None:
    before = chain.copy()
    describe(chain, batch_key="dataset")
    pd.testing.assert_frame_equal(chain.obs, before.obs)
    for m in chain.mod:
        assert (chain[m].X != before[m].X).nnz == 0


def test_json(chain: MuData) -> None:
    got = json.loads(json.dumps(describe(chain, batch_key="dataset").to_dict()))
    assert got["bridges"][1] == {"modalities": ["rna", "atac"], "n_cells": 0, "chain": ["adt"]}
    assert got["panels"]["rna"] == {"a": 2, "b": 2}


def test_a_missing_batch_key_is_named(chain: MuData) -> None:
    with pytest.raises(InputError, match="obs has no column 'donor'; there are: dataset, original_name"):
        describe(chain, batch_key="donor")


def test_a_batch_of_each_cell_is_refused() -> None:
    cells = AnnData(np.ones((1001, 2), np.float32))
    cells.obs["barcode"] = [f"cell{i}" for i in range(1001)]
    with pytest.raises(InputError, match=r"obs\['barcode'\] has 1,001 different values, more than 1,000"):
        describe(cells, batch_key="barcode")


def many_panels() -> MuData:
    names = [f"a_rather_long_dataset_name_{i}" for i in range(14)]
    mods = {
        n: {"rna": part(np.ones((1, 3)), ["1"], f"A{chr(66 + i)}{chr(67 + i)}")} for i, n in enumerate(names)
    }
    return combine(mods)


@pytest.mark.parametrize("which", ["chain", "many"])
def test_tables_fit_80_columns(chain: MuData, which: str) -> None:
    out = io.StringIO()
    summary = describe(chain if which == "chain" else many_panels(), batch_key="dataset")
    render(summary, Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    if which == "chain":
        assert "only through adt" in text
        assert "● " in text
        assert "nothing but zeros" in text


def test_plot_has_a_part_for_each_modality_whose_panels_differ(chain: MuData) -> None:
    figure = plot(describe(chain, batch_key="dataset"))
    assert len(figure.axes) == 1 + 2 * 2  # of rna and atac; both panels of adt are the same
    bars = figure.axes[1].patches
    assert [bar.get_height() for bar in bars] == [1, 1, 1]
    figure.savefig(io.BytesIO(), format="png", dpi=40)


def test_plot_has_no_panels_where_all_measured_the_same() -> None:
    assert len(plot(describe(part([[1], [2]], ["1", "2"], "A"))).axes) == 1


def test_a_row_of_the_picture_is_as_wide_as_its_panel(chain: MuData) -> None:
    summary = describe(chain, batch_key="dataset")
    spans = {g.batch: measured_spans(summary, g, "rna") for g in summary.groups}
    # B is in both panels and comes first, then A and C, in an order that the panels do not say
    assert sorted([spans["a"], spans["b"]], key=len) == [
        [(0.0, pytest.approx(2 / 3))],
        [(0.0, pytest.approx(1 / 3)), (pytest.approx(2 / 3), pytest.approx(1 / 3))],
    ]
    assert spans["d"] == []
    with mudata_as_it_is():
        whole = describe(MuData({"rna": part([[1, 0]], ["1"], "AB")}))
    assert measured_spans(whole, whole.groups[0], "rna") == [(0.0, 1.0)]


def test_sums_of_intensities_fit_eighty_columns() -> None:
    x = np.full((3, 2), 4.8e9, np.float32)
    adata = AnnData(x, obs=pd.DataFrame(index=list("abc")), var=pd.DataFrame(index=list("AB")))
    out = io.StringIO()
    with mudata_as_it_is():
        mdata = MuData({"prot": adata})
    render(describe(mdata), Console(file=out, width=80))
    assert "9.6e9" in out.getvalue()
    assert "…" not in out.getvalue()
