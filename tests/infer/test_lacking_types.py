"""Batches that lack types of cells, down to a batch of one: alignment of a trained model costs no label."""

from __future__ import annotations

import numpy as np
import pytest

from mosaicvi import MosaicVI, metrics
from mosaicvi.datasets import simulated_mosaic

TYPES = ("type01", "type02", "type03", "type04")
# by batch, the types that it keeps; all of them where it is not named
LACKING = {
    "half of the types": {"A": TYPES[:2], "C": TYPES[2:]},
    "a batch of one type": {"D": TYPES[:1], "C": TYPES[3:]},
}


def loss_of_labels(keeps: dict[str, tuple[str, ...]], seed: int) -> np.ndarray:
    """By how much the share of neighbours with a cell's label falls, and labels from other groups do."""
    whole = simulated_mosaic(
        1600, n_genes=150, n_proteins=20, n_peaks=120, n_types=4, panel_overlap=1.0, seed=seed
    ).mdata
    obs = whole.obs.astype(str)
    kept = [label in keeps.get(batch, TYPES) for batch, label in zip(obs.batch, obs.cell_type, strict=True)]
    mosaic = MosaicVI.setup_mudata(whole[np.array(kept)].copy(), batch_key="batch")
    obs = obs.loc[mosaic.cells]
    label, group = obs.cell_type.to_numpy(), (obs.batch + obs.group).to_numpy()
    model = MosaicVI(mosaic, dim_latent=8, dimensions=[32]).train(40, batch_size=128, progress=False)
    before, after = (
        np.array([metrics.neighbor_label_agreement(z, label), metrics.label_transfer(z, label, group)])
        for z in (model.get_latent_representation(aligned=aligned) for aligned in (False, True))
    )
    return before - after


@pytest.mark.slow
@pytest.mark.parametrize("keeps", LACKING.values(), ids=LACKING)
def test_labels_are_kept_where_batches_lack_types(keeps: dict[str, tuple[str, ...]]) -> None:
    """In the mean of three simulated mosaics."""
    lost = np.mean([loss_of_labels(keeps, seed) for seed in (2, 3, 4)], 0)
    np.testing.assert_array_less(lost, 0.02)
