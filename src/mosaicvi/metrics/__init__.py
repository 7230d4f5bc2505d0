"""How good an embedding or an imputation is: arrays in, numbers out."""

from __future__ import annotations

from mosaicvi.metrics.embedding import (
    ClusterScores,
    Neighbors,
    foscttm,
    ilisi,
    kmeans_ari_nmi,
    label_transfer,
    leiden_ari_nmi,
    lisi,
    neighbor_label_agreement,
    neighbor_mixing,
    neighbor_mixing_within,
    neighbors,
    silhouette,
)
from mosaicvi.metrics.imputation import (
    auroc_overall,
    auroc_per_feature,
    correlation_overall,
    correlation_per_feature,
    interval_coverage,
    root_mean_square_error,
)

__all__ = [
    "ClusterScores",
    "Neighbors",
    "auroc_overall",
    "auroc_per_feature",
    "correlation_overall",
    "correlation_per_feature",
    "foscttm",
    "ilisi",
    "interval_coverage",
    "kmeans_ari_nmi",
    "label_transfer",
    "leiden_ari_nmi",
    "lisi",
    "neighbor_label_agreement",
    "neighbor_mixing",
    "neighbor_mixing_within",
    "neighbors",
    "root_mean_square_error",
    "silhouette",
]
