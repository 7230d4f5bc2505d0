"""What an imputation has to beat."""

from __future__ import annotations

from mosaicvi.baselines.arrays import knn_baseline, mean_baseline, nearest_baseline
from mosaicvi.baselines.impute import Method, simple_imputation

__all__ = ["Method", "knn_baseline", "mean_baseline", "nearest_baseline", "simple_imputation"]
