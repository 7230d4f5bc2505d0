"""Metrics that readers of papers know, by scib-metrics (Luecken et al., Nature Methods 2022)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.mosaics import UNKNOWN
from mosaicvi import metrics

Scores = dict[str, float]
SCIB = ("ilisi", "clisi", "graph_conn", "kbet", "isolated", "pcr")
NEIGHBOURS, KBET_NEIGHBOURS, GRAPH_NEIGHBOURS = 90, 50, 15  # as its own pipeline has them


def missing() -> str:
    """What keeps scib-metrics from being imported; empty if nothing does."""
    try:
        importlib.import_module("scib_metrics")
    except ImportError as error:
        return f"needs pip install scib-metrics ({error})"
    return ""


def scores(latent: npt.NDArray[Any], label: npt.NDArray[Any], group: npt.NDArray[Any]) -> Scores:
    """Scores of an embedding: those of groups over all cells, those of labels over cells of known label.

    iLISI, cLISI, graph connectivity, kBET within labels, isolated labels; PCR is the share of the embedding's
    variance that groups explain, the less the better: a mosaic has no matrix of all cells to compare with.
    """
    scib = importlib.import_module("scib_metrics")
    scib.settings.verbosity = 40
    group_n = np.unique(group, return_inverse=True)[1]
    known = ~np.isin(label.astype(str), UNKNOWN)
    label_k = np.unique(label[known].astype(str), return_inverse=True)[1]
    out: Scores = {}
    if group_n.max() > 0:
        out["ilisi"] = scib.ilisi_knn(_neighbours(scib, latent, NEIGHBOURS), group_n)
        pcr = importlib.import_module("scib_metrics.utils").principal_component_regression
        out["pcr"] = pcr(np.asarray(latent, np.float32), group_n.astype(str), categorical=True)
    if known.any() and label_k.max() > 0:
        near = _neighbours(scib, latent[known], NEIGHBOURS)
        out["clisi"] = scib.clisi_knn(near, label_k)
        out["graph_conn"] = scib.graph_connectivity(near.subset_neighbors(n=GRAPH_NEIGHBOURS), label_k)
        if group_n.max() > 0:
            close = near.subset_neighbors(n=KBET_NEIGHBOURS)
            out["kbet"] = scib.kbet_per_label(close, group_n[known], label_k)
            out["isolated"] = scib.isolated_labels(
                np.asarray(latent[known], np.float32), label_k, group_n[known]
            )
    return {name: float(value) for name, value in out.items() if np.isfinite(value)}


def _neighbours(scib: Any, latent: npt.NDArray[Any], k: int) -> Any:
    """Each cell and its nearest others, in the form that scib-metrics reads."""
    n = len(latent)
    found = metrics.neighbors(latent, min(k, n) - 1)
    return scib.nearest_neighbors.NeighborsResults(
        indices=np.column_stack([np.arange(n), found.indices]),
        distances=np.column_stack([np.zeros(n), found.distances]),
    )
