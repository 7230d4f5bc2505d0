"""mosaicvi.pl.modality_mixing: who has whom for a neighbour, against chance."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from mudata import MuData

from mosaicvi import pl
from mosaicvi.datasets import simulated_mosaic
from mosaicvi.view.cells import column
from mosaicvi.view.mixing import mixing_ratios


def test_mixing_ratios_are_one_by_chance_and_zero_apart() -> None:
    rng = np.random.default_rng(0)
    label = pd.Series(rng.choice(["x", "y"], 3000, p=[0.8, 0.2]))
    together = rng.normal(size=(3000, 3))
    assert np.allclose(mixing_ratios(together, label), 1, atol=0.08)
    apart = together + np.where(label == "x", 100, 0)[:, None]
    ratio = mixing_ratios(apart, label)
    share = label.value_counts(normalize=True)
    assert np.allclose(np.diag(ratio), 1 / share.sort_index(), rtol=2e-3)
    assert ratio.loc["x", "y"] == ratio.loc["y", "x"] == 0


def test_modality_mixing_writes_the_ratios() -> None:
    data = MuData(dict(simulated_mosaic(60, n_genes=40, n_proteins=10, n_peaks=60).mdata.mod))
    data.obsm["X_mosaicvi"] = np.random.default_rng(1).normal(size=(data.n_obs, 4))
    ax = pl.modality_mixing(data)
    ratio = mixing_ratios(data.obsm["X_mosaicvi"], column(data, "modalities"))
    assert [t.get_text() for t in ax.texts] == [f"{v:.2g}" for v in ratio.to_numpy().ravel()]
    plt.close(ax.figure)
