"""What is shown when a feature is hidden, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from mudata import MuData

from mosaicvi import MosaicVI, combine
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.infer import accuracy
from mosaicvi.infer.accuracy import FeatureAccuracy, _within_batches
from mosaicvi.infer.hidden import showing


def test_a_mosaic_of_what_is_shown_has_the_values_shown_and_nothing_else() -> None:
    mdata = simulated_mosaic(200, n_genes=30, n_proteins=8, n_peaks=40, n_chromosomes=2).mdata
    mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
    rna = mosaic.modality("rna")
    cells = np.flatnonzero((rna.row_of_cell >= 0) & (mosaic.modality("adt").row_of_cell >= 0))[::3]
    mask = np.arange(30) % 2 == 0
    less = showing(mosaic, cells, {"rna": mask & rna.panels[0]})
    assert less.cells.equals(mosaic.cells[cells])
    assert (less.modality("adt").row_of_cell == -1).all()
    found = less.modality("rna")
    of_cells = found.panels[found.panel_of_row]
    np.testing.assert_array_equal(of_cells, np.broadcast_to(mask & rna.panels[0], of_cells.shape))
    x = rna.x[rna.row_of_cell[cells]].toarray() * (mask & rna.panels[0])
    np.testing.assert_array_equal(found.x.toarray(), x)
    np.testing.assert_allclose(found.library, x.sum(1))
    np.testing.assert_array_equal(less.batch, mosaic.batch[cells])


def test_correlations_are_those_within_batches() -> None:
    rng = np.random.default_rng(0)
    batch = np.repeat([0, 1], 50)
    truth = rng.normal(size=(100, 3)) + 5 * batch[:, None]
    guess = np.c_[truth[:, 0] - 9 * batch, 5.0 * batch, -truth[:, 2]]
    truth[::7, 0] = np.nan
    np.testing.assert_allclose(_within_batches(guess, truth, batch), [1, 0, -1], atol=1e-12)
    one = batch == 0
    both = truth[:, 1] + rng.normal(size=100)
    alone = _within_batches(both[one, None], truth[one, 1:2], batch[one])
    assert alone[0] == pytest.approx(np.corrcoef(both[one], truth[one, 1])[0, 1])


def test_what_is_believed() -> None:
    def said(score: float, n: int, measure: str = "correlation") -> str:
        one = np.array([0])
        found = FeatureAccuracy(
            modality="adt", view="rna", shown=None, partial=False, lacking=3, features=one,
            score=np.array([score]), measure=measure, n_cells=np.array([n]), held_out=True,
        )  # fmt: skip
        return str(found.believe()[0])

    assert said(0.6, 100) == "yes"
    assert said(0.3, 100) == "partly"
    assert said(0.3, 25) == "no"  # within chance for so few cells
    assert said(0.1, 100) == "no"
    assert said(0.8, 100, "AUROC") == "yes"
    assert said(0.6, 400, "AUROC") == "partly"
    assert said(0.51, 400, "AUROC") == "no"


@pytest.fixture(scope="module")
def tables() -> MuData:
    """Two tables of 60 and 50 cells that share 8 of 12 features, with a tenth of their entries missing."""
    rng = np.random.default_rng(0)
    x = rng.normal(20, 1, (110, 12)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    names = np.array([f"p{j}" for j in range(12)])
    parts = {}
    for name, cells, features in (("a", slice(60), slice(10)), ("b", slice(60, 110), slice(2, 12))):
        parts[name] = AnnData(x[cells, features])
        parts[name].var_names = names[features]
    return combine(parts, modality="prot")


@pytest.mark.filterwarnings("ignore")
def test_measured_entries_stand_for_missing_ones(tables: MuData, monkeypatch: pytest.MonkeyPatch) -> None:
    MosaicVI.setup_mudata(tables, batch_key="dataset")
    model = MosaicVI(tables, dimensions=8, dim_latent=2, dim_block_enc=4, dim_block_dec=4)
    prot = model.mosaic.modality("prot")
    seen = prot.measured(prot.row_of_cell)
    hidden: list[np.ndarray] = []

    def truth_of_hidden(net: object, less: Mosaic, loader: object, name: str, *how: object) -> np.ndarray:
        left = less.modality(name)
        here = prot.row_of_cell[model.mosaic.cells.get_indexer(less.cells)]
        hidden.append(seen[here] & ~left.measured(left.row_of_cell))
        return np.where(hidden[-1], prot.x[here], 0.0)

    monkeypatch.setattr(accuracy, "_imputed", truth_of_hidden)
    found = model.imputation_accuracy()
    entries = found[found["view"] == "other entries of prot"].set_index("feature")
    parts = hidden[-accuracy.PARTS :]
    np.testing.assert_array_equal(sum(part.astype(int) for part in parts), seen.astype(int))
    np.testing.assert_allclose(entries["score"], 1)
    assert (entries["believe"] == "yes").all()
    names = np.asarray(prot.features.names)
    in_panel = prot.panels[prot.panel_of_row][prot.row_of_cell]
    enough = seen.sum(0) >= accuracy.FEWEST_CELLS
    assert set(entries.index) == set(names[enough])
    assert entries["test_cells"].reindex(names[enough]).tolist() == seen.sum(0)[enough].tolist()
    assert entries["lacking"].reindex(names[enough]).tolist() == (in_panel & ~seen).sum(0)[enough].tolist()
    # what the panel of a table lacks is asked of the other one, from what both measured
    panels = found[(found["view"] == "prot (10 of 12)") & found["panel"]]
    assert set(panels["feature"]) == {"p0", "p1", "p10", "p11"} & set(names[enough])
    assert sorted(set(panels["lacking"])) == [50, 60]
