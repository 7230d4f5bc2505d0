from __future__ import annotations

import html
import importlib
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mudata
import numpy as np
import pytest
from mudata import MuData

from mosaicvi import MosaicVI
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.errors import InputError
from mosaicvi.report import page as module
from mosaicvi.report.page import write_report
from mosaicvi.report.svg import Line, line_chart, mosaic_chart
from mosaicvi.view.mosaic_plot import layout_of

pytest.importorskip("jinja2")


def made(n_cells: int, epochs: int) -> tuple[MosaicVI, MuData]:
    mudata.set_options(pull_on_update=False)
    mdata = simulated_mosaic(n_cells, n_genes=60, n_proteins=12, n_peaks=80).mdata
    MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mdata)
    if epochs:
        model.train(epochs, progress=False)
    mdata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(mdata.n_obs, 2))
    return model, mdata


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[MosaicVI, MuData, str]:
    model, mdata = made(400, 2)
    mdata.obs["odd"] = np.where(np.arange(mdata.n_obs) % 2, "</script><b>", "fine & well")
    before = mdata.copy()
    path = write_report(
        model,
        mdata,
        tmp_path_factory.mktemp("r") / "report.html",
        label_key="cell_type",
        command="mosaicvi report <m>",
    )
    assert list(mdata.obs) == list(before.obs)
    assert set(mdata.obsm) == set(before.obsm)
    return model, mdata, path.read_text("utf-8")


def payload_of(page: str) -> dict[str, Any]:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert text
    found: dict[str, Any] = json.loads(text[1])
    return found


def test_the_page_asks_nothing_of_the_network(written: tuple[MosaicVI, MuData, str]) -> None:
    page = written[2]
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", page)
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|WebSocket|importScripts|@import)\b", page)


def test_it_holds_cells_columns_and_features(written: tuple[MosaicVI, MuData, str]) -> None:
    model, mdata, page = written
    data = payload_of(page)
    assert data["n"] == mdata.n_obs
    names = [c["name"] for c in data["columns"]]
    assert names[:2] == ["batch", "modalities"]
    assert {"cell_type", "odd"} <= set(names)
    assert {f["modality"] for f in data["features"]} == {"rna", "adt", "atac"}
    assert len(data["features"]) == 152
    assert data["scales"]["rna"] == str(model.imputed_scale("rna"))


def test_names_cannot_end_the_script(written: tuple[MosaicVI, MuData, str]) -> None:
    page = written[2]
    assert page.count("</script>") == 2
    odd = next(c for c in payload_of(page)["columns"] if c["name"] == "odd")
    assert "</script><b>" in odd["names"]
    assert "mosaicvi report &lt;m&gt;" in page


def test_every_section_and_number_is_there(written: tuple[MosaicVI, MuData, str]) -> None:
    _, mdata, page = written
    for id_, _ in module.SECTIONS:
        assert f'<h2 id="{id_}">' in page
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for words in (
        "Mixing of batches",
        "Silhouette of labels",
        "FOSCTTM of rna and adt",
        "The loss was still falling when training ended.",
        "similar cells",
        "rna, single entries",
        f"{mdata.n_obs:,} cells",
        "torch",
    ):
        assert words in text, words


def test_charts_are_whole_and_named(written: tuple[MosaicVI, MuData, str]) -> None:
    charts = re.findall(r"<svg.*?</svg>", written[2], re.S)
    assert len(charts) > 20
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.get("aria-hidden") == "true" or (root.get("role") == "img" and root.get("aria-label"))
        assert "nan" not in chart.replace("aria", "")


def test_an_untrained_model_and_a_few_cells_make_a_page(tmp_path: Path) -> None:
    model, mdata = made(50, 0)
    page = write_report(model, mdata, tmp_path / "r.html").read_text("utf-8")
    assert "The model was not trained." in page


def test_one_modality_makes_a_page(tmp_path: Path) -> None:
    adata = simulated_mosaic(150, n_genes=30, n_proteins=6, n_peaks=30).mdata.mod["rna"].copy()
    del adata.varm["measured"]
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    MosaicVI.setup_anndata(adata)
    page = write_report(MosaicVI(adata), adata, tmp_path / "r.html", features=["gene0001"]).read_text("utf-8")
    assert [f["name"] for f in payload_of(page)["features"]] == ["gene0001"]
    assert "there is nothing to bring together" in page


def test_cells_without_a_label_are_counted_and_not_scored(
    written: tuple[MosaicVI, MuData, str], tmp_path: Path
) -> None:
    model, mdata, whole = written
    assert "Labels are those of cell_type, which every cell has." in whole
    labels = mdata.obs["cell_type"].astype(object)
    labels.iloc[:100], labels.iloc[100:110] = "none yet", None
    mdata.obs["some"] = labels
    page = write_report(model, mdata, tmp_path / "r.html", label_key="some", unlabeled="none yet").read_text()
    del mdata.obs["some"]
    n = mdata.n_obs
    said = f"which {n - 110} of {n} cells have; the 110 without one are left out of these scores"
    assert said in page


def test_the_command_that_made_it_names_no_folder(
    written: tuple[MosaicVI, MuData, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, mdata, _ = written
    monkeypatch.setattr("sys.argv", ["/home/me/scripts/make.py", "a b"])
    page = write_report(model, mdata, tmp_path / "r.html").read_text("utf-8")
    assert html.escape("make.py 'a b'", quote=True) in page.replace("&#39;", "&#x27;")
    assert "/home/me" not in page
    assert "mosaicvi report --label-key COLUMN" in page


def test_what_is_wrong_is_said_before_the_work(
    written: tuple[MosaicVI, MuData, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, mdata, _ = written
    there = tmp_path / "r.html"
    there.write_text("mine")
    with pytest.raises(InputError, match="exists; pass overwrite=True or choose"):
        write_report(model, mdata, there)
    with pytest.raises(InputError, match="no obs column 'celltype'"):
        write_report(model, mdata, tmp_path / "n.html", label_key="celltype")
    with pytest.raises(InputError, match="no modality has 'CD3'"):
        write_report(model, mdata, tmp_path / "n.html", features=["CD3"])

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(module.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'mosaicvi\[report\]'"):
        write_report(model, mdata, tmp_path / "n.html")
    monkeypatch.undo()
    assert there.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html"]
    importlib.import_module("jinja2")


def test_a_line_is_drawn_where_its_values_are() -> None:
    line = Line(name="loss", y=np.array([0.0, 10.0, np.nan, 5.0]), color="#123456")
    chart = line_chart("Loss <1>", [line], x=np.arange(1.0, 5.0), xlabel="epoch", limits=(0, 10))
    root = ElementTree.fromstring(chart)
    path = next(
        p for p in root.iter("path") if p.get("stroke") == "#123456" and p.get("stroke-width") == "1.8"
    )
    assert path.get("d") == "M46.0 170.0L140.7 10.0M330.0 90.0"
    assert root.find("svg").get("aria-label") == "Loss <1>: loss ends at 5"  # type: ignore[union-attr]
    assert (
        line_chart("x", [Line(name="a", y=np.array([np.nan]), color="#000")], x=np.ones(1), xlabel="") == ""
    )


def test_the_mosaic_is_drawn_in_proportion() -> None:
    model, _ = made(100, 0)
    layout = layout_of(model.mosaic)
    root = ElementTree.fromstring(mosaic_chart(layout))
    rects = [r for r in root.iter("rect") if r.get("stroke") == "#fff"]
    area = sum(float(r.get("width", 0)) * float(r.get("height", 0)) for r in rects)
    wanted = sum(
        138
        * np.array(layout.segments[m])[there].sum()
        / sum(layout.segments[m])
        * 20
        * row.n_cells
        / layout.cells_in(row.batch)
        for row in layout.rows
        for m, there in row.measured.items()
    )
    assert area == pytest.approx(wanted, rel=0.01)
