from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from mosaicvi import MosaicVI, combine
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.sampling import split
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.infer.hidden import without_entries
from mosaicvi.report import heldout
from mosaicvi.report.heldout import MEAN, MODEL, NEIGHBOURS, hide_entries, hide_modality
from mosaicvi.report.page import write_report


@pytest.fixture(scope="module")
def model() -> MosaicVI:
    made = simulated_mosaic(400, n_genes=60, n_proteins=12, n_peaks=80)
    MosaicVI.setup_mudata(made.mdata, batch_key="batch")
    return MosaicVI(made.mdata).train(2, progress=False)


def counts_of(mosaic: Mosaic, name: str, cells: np.ndarray, features: tuple[str, ...]) -> np.ndarray:
    m = mosaic.modality(name)
    columns = [m.features.names.index(f) for f in features]
    return np.asarray(sp.csr_matrix(m.x)[m.row_of_cell[cells]][:, columns].toarray(), np.float64)


def test_the_model_is_scored_on_what_it_could_not_see(
    model: MosaicVI, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def spy(model_: MosaicVI, mosaic: Mosaic, m, cells, chosen, scale, modalities):  # type: ignore[no-untyped-def]
        asked.update(cells=cells, modalities=modalities)
        return real(model_, mosaic, m, cells, chosen, scale, modalities)

    real = heldout._of_model
    monkeypatch.setattr(heldout, "_of_model", spy)
    test = hide_modality(model, model.mosaic, "rna")
    assert test is not None
    assert sorted(asked["modalities"]) == ["adt", "atac"]
    assert (model.mosaic.modality("rna").row_of_cell[asked["cells"]] >= 0).all()
    library = model.registry.median_library["rna"]
    own = model.mosaic.modality("rna").library[model.mosaic.modality("rna").row_of_cell[asked["cells"]]]
    truth = np.log1p(counts_of(model.mosaic, "rna", asked["cells"], test.features) / own[:, None] * library)
    guess = model.get_imputed_values(
        modality="rna", indices=asked["cells"], modalities=["adt", "atac"], library=library
    )
    wanted = np.corrcoef(np.log1p(guess[list(test.features)].to_numpy()).ravel(), truth.ravel())[0, 1]
    assert test.overall[MODEL] == pytest.approx(wanted, abs=1e-5)


def test_a_perfect_guess_scores_one_and_the_mean_explains_nothing(
    model: MosaicVI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def truth(model_: MosaicVI, mosaic: Mosaic, m, cells, chosen, scale, modalities):  # type: ignore[no-untyped-def]
        source = model.mosaic.modality(m.name)
        at = model.mosaic.cells.get_indexer(mosaic.cells[cells])
        return np.nan_to_num(heldout._comparable(source, at, chosen, scale))

    monkeypatch.setattr(heldout, "_of_model", truth)
    for test in (hide_modality(model, model.mosaic, "adt"), hide_entries(model, model.mosaic, "atac")):
        assert test is not None
        assert test.overall[MODEL] == pytest.approx(1)
        assert test.median(MODEL) == pytest.approx(1)
        assert test.explained[MODEL] == pytest.approx(1)
        assert test.explained[MEAN] == 0
        assert set(test.overall) == {MODEL, NEIGHBOURS, MEAN}
    assert test.measure == "AUROC"
    assert test.median(MEAN) == 0.5


def test_hidden_entries_are_gone_and_nothing_else_is(model: MosaicVI) -> None:
    mosaic = model.mosaic
    m = mosaic.modality("rna")
    cells = np.flatnonzero(m.row_of_cell >= 0)[::7]
    hidden = np.random.default_rng(0).random((len(cells), m.n_features)) < 0.3
    part = without_entries(mosaic, m, cells, hidden)
    left = part.modality("rna")
    before = sp.csr_matrix(m.x)[m.row_of_cell[cells]].toarray()
    assert np.array_equal(left.x.toarray(), np.where(hidden, 0, before))
    assert left.entry_measured is not None
    assert not left.entry_measured[hidden].any()
    assert np.array_equal(
        left.entry_measured[~hidden], m.panels[m.panel_of_row[m.row_of_cell[cells]]][~hidden]
    )
    assert left.library == pytest.approx(np.where(hidden, 0, before).sum(1))
    assert m.transform == "clr"
    mean_log1p = np.log1p(np.where(hidden, 0, before)).sum(1) / left.entry_measured.sum(1)
    assert left.scale == pytest.approx(np.exp(-mean_log1p), rel=1e-5)
    assert np.array_equal(m.x.toarray(), sp.csr_matrix(model.mosaic.modality("rna").x).toarray())
    other = part.modality("adt")
    assert np.array_equal(other.row_of_cell, mosaic.modality("adt").row_of_cell[cells])


def test_hiding_all_but_nothing_changes_the_answer(model: MosaicVI) -> None:
    m = model.mosaic.modality("adt")
    cells = np.flatnonzero(m.row_of_cell >= 0)[:20]
    same = without_entries(model.mosaic, m, cells, np.zeros((20, m.n_features), bool))
    parts = dict(modality="rna", batch_size=64)
    with_all = np.concatenate([v for _, v in model.iter_imputed_values(indices=cells, **parts)])
    with_part = np.concatenate([v for _, v in model.iter_imputed_values(same, **parts)])
    assert np.allclose(with_all, with_part, atol=1e-4)


def test_what_cannot_be_tested_is_none() -> None:
    made = simulated_mosaic(120, n_genes=30, n_proteins=6, n_peaks=30)
    adata = made.mdata.mod["rna"].copy()
    del adata.varm["measured"]
    MosaicVI.setup_anndata(adata)
    alone = MosaicVI(adata)
    assert hide_modality(alone, alone.mosaic, "rna") is None
    assert hide_entries(alone, alone.mosaic, "rna") is not None


def test_cells_that_were_held_out_are_asked_about_also_after_loading(tmp_path: Path) -> None:
    made = simulated_mosaic(600, n_genes=60, n_proteins=12, n_peaks=80)
    MosaicVI.setup_mudata(made.mdata, batch_key="batch")
    model = MosaicVI(made.mdata)
    assert model.held_out() is None
    model.train(1, train_size=0.6, seed=3, progress=False)
    unseen = model.held_out()
    assert unseen is not None
    assert np.array_equal(np.flatnonzero(unseen), split(600, 0.6, 3)[1])
    test = hide_entries(model, model.mosaic, "rna")
    assert test is not None
    assert test.held_out is True
    model.save(tmp_path / "model")
    loaded = MosaicVI.load(tmp_path / "model", made.mdata)
    assert np.array_equal(loaded.held_out(), unseen)
    again = hide_entries(loaded, loaded.mosaic, "rna")
    assert again is not None
    assert (again.held_out, again.overall) == (True, test.overall)
    assert MosaicVI.load(tmp_path / "model", made.mdata[:300].copy()).held_out() is None
    loaded.train(1, seed=4, progress=False)
    both = loaded.held_out()
    assert both is not None
    assert np.array_equal(both, unseen & np.isin(np.arange(600), split(600, 0.9, 4)[1]))
    few = hide_entries(loaded, loaded.mosaic, "rna")
    assert few is not None
    assert few.held_out is False


def test_asked_and_taught_cells_are_apart() -> None:
    unseen = np.arange(300) % 3 == 0
    asked, rest, apart = heldout._split_cells(np.arange(300), unseen, np.random.default_rng(0))
    assert apart is True
    assert unseen[asked].all()
    assert not unseen[rest].any()
    assert (len(asked), len(rest)) == (100, 200)


@pytest.fixture(scope="module")
def tables() -> tuple[MosaicVI, MuData]:
    """Logarithms of intensities of two tables: other panels, and entries missing where they are low."""
    rng = np.random.default_rng(0)
    shown = rng.normal(size=(130, 2)) @ rng.normal(size=(2, 30)) + rng.normal(0, 0.3, (130, 30))
    x = 24 + rng.normal(0, 2, 30) + shown
    x[rng.random(x.shape) < 1 / (1 + np.exp(x - 22))] = np.nan
    names = np.array([f"p{j}" for j in range(30)])
    parts = {}
    for name, cells, features in (("a", slice(70), slice(20)), ("b", slice(70, 130), slice(10, 30))):
        values = x[cells, features].astype(np.float32)
        parts[name] = AnnData(values[:, ~np.isnan(values).all(0)])
        parts[name].var_names = names[features][~np.isnan(values).all(0)]
    mdata = combine(parts, modality="prot")
    MosaicVI.setup_mudata(mdata, batch_key="dataset")
    return MosaicVI(mdata).train(2, progress=False), mdata


def test_where_entries_are_missing_every_measured_one_is_hidden_once(
    tables: tuple[MosaicVI, MuData], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = tables
    hidden = []
    real = heldout.without_entries

    def spy(mosaic: Mosaic, m, cells, part):  # type: ignore[no-untyped-def]
        hidden.append((cells, part))
        return real(mosaic, m, cells, part)

    monkeypatch.setattr(heldout, "without_entries", spy)
    m = model.mosaic.modality("prot")
    test = hide_entries(model, model.mosaic, "prot")
    assert test is not None
    assert np.array_equal(sum(part.astype(int) for _, part in hidden), np.ones_like(hidden[0][1], int))
    columns = [m.features.names.index(f) for f in test.features]
    measured = m.entry_measured[m.row_of_cell[hidden[0][0]]]
    assert test.n_values == measured[:, columns].sum()
    assert (measured[:, columns].sum(0) >= heldout.FEWEST_MEASURED).all()
    assert (test.every_part, test.n_features) == (True, m.n_features)
    assert len(columns) > 10
    assert set(test.overall) == {MODEL, NEIGHBOURS, MEAN}
    assert test.overall[NEIGHBOURS] > test.overall[MEAN]
    assert test.explained[MEAN] == 0


def test_a_report_says_what_was_scored_of_tables(tables: tuple[MosaicVI, MuData], tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    model, mdata = tables
    text = write_report(model, mdata, tmp_path / "r.html").read_text("utf-8")
    assert "every measured one of some cells" in text
    assert "a whole modality of some cells" not in text
    test = hide_entries(model, model.mosaic, "prot")
    assert test is not None
    assert f"{test.n_cells} × {len(test.features)} of {test.n_features}, {test.n_values:,} values" in text
