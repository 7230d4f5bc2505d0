"""How well a simulated mosaic was recovered, next to what is simple to have.

Imputed values are compared in cells that did not measure the modality, with what the simulation expected
there: log(1 + expected counts per 10,000); where the model answers with probabilities, the probability of any
count at the median library. Correlations are over the cells of a batch, feature by feature, averaged; a
constant counts as 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from mudata import MuData
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from mosaicvi.baselines import knn_baseline, mean_baseline
from mosaicvi.data.simulate import SimulatedMosaic
from mosaicvi.metrics import (
    correlation_overall,
    correlation_per_feature,
    kmeans_ari_nmi,
    label_transfer,
    neighbor_label_agreement,
    neighbor_mixing,
)
from mosaicvi.model import MosaicVI

Floats = NDArray[np.floating]
METHODS = ("mosaicvi", "nearest cells", "mean")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number about the latent space, by chance, and from the true states of the cells."""

    name: str
    value: float
    chance: float
    truth: float


@dataclass(frozen=True, kw_only=True)
class DemoScores:
    """All scores.

    Attributes
    ----------
    latent
        Of the latent space.
    imputation
        Modality × method: ``per_feature`` and ``overall`` correlation, by ``(score, method)``; ``cells``.
    """

    latent: tuple[Score, ...]
    imputation: pd.DataFrame


def score(model: MosaicVI, data: SimulatedMosaic) -> DemoScores:
    """Score a model of a simulated mosaic.

    Parameters
    ----------
    model
        Trained on ``data.mdata``.
    data
        The mosaic and its truth.
    """
    latent = np.asarray(model.get_latent_representation())
    rows = {name: _imputation(model, data, name) for name in data.mdata.mod}
    return DemoScores(latent=_latent_scores(latent, data), imputation=pd.DataFrame(rows).T)


def _latent_scores(z_nk: Floats, data: SimulatedMosaic) -> tuple[Score, ...]:
    obs = data.mdata.obs
    types, patterns = obs["cell_type"].to_numpy(), obs["group"].to_numpy()
    shuffled = np.random.default_rng(0).permutation(len(z_nk))
    measures: dict[str, Callable[[Floats], float]] = {
        "neighbours of the same cell type": lambda z: neighbor_label_agreement(z, types),
        "cell types found by k-means (ARI)": lambda z: kmeans_ari_nmi(z, types).ari,
        "cell types carried between patterns": lambda z: label_transfer(z, types, patterns),
        "mixing of measurement patterns": lambda z: neighbor_mixing(z, patterns),
    }
    state = np.asarray(data.truth.obsm["state"])
    return tuple(
        Score(name=name, value=f(z_nk), chance=f(z_nk[shuffled]), truth=f(state))
        for name, f in measures.items()
    )


def _imputation(model: MosaicVI, data: SimulatedMosaic, name: str) -> dict[str | tuple[str, str], float]:
    mdata = data.mdata
    without = np.flatnonzero(~np.asarray(mdata.obs_names.isin(mdata[name].obs_names)))
    counts = model.imputed_scale(name).kind == "counts"
    truth = _expected(data.truth, name, counts)[without]
    imputed = model.get_imputed_values(modality=name, indices=without).to_numpy()
    measured = _measured(mdata, name, counts)
    mean = np.array(mean_baseline(measured, len(without)))
    near = _nearest(mdata, name, measured, mean, without)
    answers = dict(zip(METHODS, (_log_share(imputed) if counts else imputed, near, mean), strict=True))
    batch = mdata.obs["batch"].to_numpy()[without]
    row: dict[str | tuple[str, str], float] = {"cells": len(without)}
    for method, values in answers.items():
        row["per_feature", method] = _per_feature(values, truth, batch)
        row["overall", method] = correlation_overall(values, truth)
    return row


def _per_feature(values: Floats, truth: Floats, batch: NDArray[np.object_]) -> float:
    inside = [batch == b for b in np.unique(batch)]
    r = [np.nan_to_num(correlation_per_feature(values[n], truth[n])).mean() for n in inside]
    return float(np.average(r, weights=[n.sum() for n in inside]))


def _log_share(counts_nd: Floats) -> Floats:
    return np.asarray(np.log1p(counts_nd / counts_nd.sum(1, keepdims=True) * 1e4))


def _expected(truth: MuData, name: str, counts: bool) -> Floats:
    expected = np.asarray(truth[name].layers["expected"])
    if counts:
        return _log_share(expected)
    total = expected.sum(1, keepdims=True)
    return np.asarray(1 - np.exp(-expected / total * np.median(total)))


def _panel(mdata: MuData, name: str) -> NDArray[np.bool_]:
    """Which features each cell of a modality measured, n_m × d."""
    adata = mdata[name]
    batch = mdata.obs.loc[adata.obs_names, "batch"].astype(str)
    return np.asarray(adata.varm["measured"][batch.to_numpy()].to_numpy(bool).T)


def _measured(mdata: MuData, name: str, counts: bool) -> Floats:
    """What was measured, on the scale of the comparison; NaN elsewhere."""
    x_nd = mdata[name].X.toarray().astype(np.float64)
    x_nd = _log_share(np.maximum(x_nd, 0)) if counts else (x_nd > 0).astype(np.float64)
    return np.where(_panel(mdata, name), x_nd, np.nan)


def _nearest(mdata: MuData, name: str, measured: Floats, mean: Floats, without: NDArray[np.int64]) -> Floats:
    """The average of the nearest cells that have both, where there are any; else the mean of each feature."""
    out = mean.copy()
    target = mdata[name]
    wanted = mdata.obs_names[without]
    for shared, source in mdata.mod.items():
        train = source.obs_names.intersection(target.obs_names)
        if shared == name or len(train) == 0:
            continue
        panel = _panel(mdata, shared)
        t_rows = source.obs_names.get_indexer(train)
        values = measured[target.obs_names.get_indexer(train)]
        batches = mdata.obs.loc[source.obs_names, "batch"].to_numpy()
        for batch in np.unique(batches):
            q_rows = np.flatnonzero((batches == batch) & source.obs_names.isin(wanted))
            if not len(q_rows):
                continue
            common = panel[t_rows].all(0) & panel[q_rows].all(0)
            x = sp.csr_matrix(source.X[:, np.flatnonzero(common)])
            near = knn_baseline(x[t_rows], np.nan_to_num(values), x[q_rows], k=min(20, len(t_rows)))
            near[:, np.isnan(values).any(0)] = np.nan
            at = wanted.get_indexer(source.obs_names[q_rows])
            out[at] = np.where(np.isnan(near), out[at], near)
    return out


def render(scores: DemoScores, console: Console) -> None:
    """Print the scores as two tables."""
    table = _table("Do cells of a type lie together, whatever was measured of them?")
    for title in ("", "mosaicvi", "chance", "true states"):
        table.add_column(
            title, justify="right" if title else "left", style="bold" if title == "mosaicvi" else ""
        )
    for s in scores.latent:
        table.add_row(s.name, f"{s.value:.2f}", f"{s.chance:.2f}", f"{s.truth:.2f}")
    console.print(table)
    table = _table("Do imputed values follow the truth, where nothing was measured? (correlation)")
    for title in ("", "cells", *METHODS):
        table.add_column(
            title, justify="right" if title else "left", style="bold" if title == "mosaicvi" else ""
        )
    for kind, words in (("per_feature", "per feature"), ("overall", "overall")):
        for name, row in scores.imputation.iterrows():
            values = (f"{row[kind, method]:.2f}" for method in METHODS)
            table.add_row(f"{name}, {words}", f"{int(row['cells']):,}", *values)
    console.print(table)


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, min_width=len(title)
    )
