"""What is shown when a feature is hidden, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from mosaicvi import MosaicVI
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.infer.accuracy import FeatureAccuracy, _within_batches, showing


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
            modality="adt", view="rna", partial=False, lacking=3, features=one, score=np.array([score]),
            measure=measure, n_cells=np.array([n]), held_out=True,
        )  # fmt: skip
        return str(found.believe()[0])

    assert said(0.6, 100) == "yes"
    assert said(0.3, 100) == "partly"
    assert said(0.3, 25) == "no"  # within chance for so few cells
    assert said(0.1, 100) == "no"
    assert said(0.8, 100, "AUROC") == "yes"
    assert said(0.6, 400, "AUROC") == "partly"
    assert said(0.51, 400, "AUROC") == "no"
