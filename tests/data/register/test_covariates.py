"""mosaicvi.data.register.covariates: which column is taken for one of batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from mosaicvi.data.register.covariates import likely_batch


def test_a_combined_mosaic_is_batched_by_its_datasets() -> None:
    cells = [f"c{i}" for i in range(8)]
    obs = pd.DataFrame({"sample": list("aabbaabb"), "dataset": ["x"] * 4 + ["y"] * 4}, index=cells)
    data = AnnData(np.ones((8, 2), np.float32), obs=obs)
    assert likely_batch(data) == "sample"
    for key in ("dataset", "dataset_panel"):
        data.uns["mosaicvi"] = {"panel_key": key}
        assert likely_batch(data) == "dataset"
