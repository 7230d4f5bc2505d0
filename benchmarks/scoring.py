"""Scores of a trained model on a mosaic whose hidden values are known, the same for all methods.

Latent: `mix` of groups among neighbours, `ari`/`nmi` of k-means, share of neighbours with a cell's label,
label `transfer` between groups, silhouette. Imputed values of the hidden cells: correlations on
log-normalised RNA and CLR proteins over features seen in 10 or more hidden cells; areas under the ROC curve
of accessibility.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from benchmarks.common import last_line
from mosaicvi import Mosaic, MosaicVI, datasets, metrics

Floats = npt.NDArray[Any]
SEEN_IN = 10  # hidden cells in which a feature must be above zero to be scored
AUC_PEAKS, AUC_CELLS, AUC_ENTRIES = 5, 500, 2_000_000  # every fifth peak; cells; entries drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A mosaic, its truth, and what each cell is.

    Attributes
    ----------
    truth
        Each modality with the cells that were hidden as well, on counts.
    label, group
        Of each cell; "unknown" labels are not scored.
    folder
        Where the files lie, if they are files.
    """

    name: str
    mosaic: Mosaic
    truth: MuData
    label: Floats
    group: Floats
    folder: Path | None = None


def real_task(folder: Path, name: str) -> Task:
    """A task from its two files."""
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        seen = mudata.read_h5mu(folder / f"{name}.h5mu")
        truth = mudata.read_h5mu(folder / f"{name}.truth.h5mu")
        mosaic = MosaicVI.setup_mudata(seen, batch_key="batch")
    obs = seen.obs.loc[mosaic.cells].astype(str)
    group = obs.group if name == "mop" else obs.batch + ":" + obs.group
    return Task(
        name=name,
        mosaic=mosaic,
        truth=truth,
        label=obs.celltype.to_numpy(object),
        group=group.to_numpy(object),
        folder=folder,
    )


def simulated_task(*, quick: bool) -> Task:
    """The package's own simulated mosaic."""
    small = {"n_cells": 200, "n_genes": 60, "n_proteins": 8, "n_peaks": 80, "n_types": 4}
    made = datasets.simulated_mosaic(**(small if quick else {"n_cells": 3000}))
    mosaic = MosaicVI.setup_mudata(made.mdata, batch_key="batch")
    obs = made.mdata.obs.loc[mosaic.cells].astype(str)
    return Task(
        name="simulated",
        mosaic=mosaic,
        truth=made.truth,
        label=obs.cell_type.to_numpy(object),
        group=(obs.batch + ":" + obs.group).to_numpy(object),
    )


# --- scores ---------------------------------------------------------------------------------------


def scores(model: MosaicVI, task: Task) -> dict[str, float]:
    """All scores of a trained model."""
    out = latent_scores(np.asarray(model.get_latent_representation()), task)
    for data in task.mosaic.modalities:
        hidden = hidden_cells(task, data.name)
        if data.name in task.truth.mod and len(hidden):
            counts = task.truth.mod[data.name][hidden]
            out |= imputation_scores(data.name, imputed_counts(model, data.name, hidden, counts), counts.X)
    return out


def latent_scores(latent: Floats, task: Task) -> dict[str, float]:
    """Scores of an embedding."""
    out = {"mix": metrics.neighbor_mixing(latent, task.group)}
    known = set(task.label.tolist()) - {"unknown", "nan"}
    if len(known) > 1:
        hidden = ("unknown", "nan")
        clusters = metrics.kmeans_ari_nmi(latent, task.label, ignore=hidden)
        out |= {
            "ari": clusters.ari,
            "nmi": clusters.nmi,
            "knn_label": metrics.neighbor_label_agreement(latent, task.label, ignore=hidden),
            "transfer": metrics.label_transfer(latent, task.label, task.group, ignore=hidden),
            "asw_label": metrics.silhouette(latent, task.label, max_cells=None, ignore=hidden),
        }
    return out


def hidden_cells(task: Task, modality: str) -> Any:
    """Cells that the truth has in a modality and the mosaic has not."""
    data = task.mosaic.modality(modality)
    seen = task.mosaic.cells[data.row_of_cell >= 0]
    return task.truth.mod[modality].obs_names.difference(seen)


def imputed_counts(model: MosaicVI, modality: str, cells: Any, like: AnnData) -> Floats:
    """Imputed values of some cells as counts (or probabilities), columns as in `like`."""
    frame = model.get_imputed_values(modality=modality, indices=model.mosaic.cells.get_indexer(cells))
    values = frame[like.var_names].to_numpy(np.float32)
    is_log = model.imputed_scale(modality).kind == "log1p_cp10k"
    return np.asarray(np.expm1(np.maximum(values, 0)) if is_log else values)


def imputation_scores(name: str, imputed: Floats, counts: Any) -> dict[str, float]:
    """Scores of imputed values against the hidden counts."""
    if name == "atac":
        return _accessibility_scores(imputed, sp.csr_matrix(counts))
    normalise = clr if name == "adt" else log_normalised
    dense = sp.csr_matrix(counts).toarray()
    scored = (dense > 0).sum(0) >= SEEN_IN
    if not scored.any():
        return {}
    truth, guess = normalise(dense)[:, scored], normalise(np.maximum(imputed, 0))[:, scored]
    return {
        f"{name}_r": _mean(metrics.correlation_per_feature(guess, truth)),
        f"{name}_rho": _mean(metrics.correlation_per_feature(guess, truth, method="spearman")),
        f"{name}_r_all": metrics.correlation_overall(guess, truth),
    }


def _accessibility_scores(imputed: Floats, counts: sp.csr_matrix) -> dict[str, float]:
    open_nd = counts > 0
    peaks = np.flatnonzero(np.asarray(open_nd.sum(0)).ravel() >= SEEN_IN)[::AUC_PEAKS]
    rows = np.random.default_rng(0).choice(len(imputed), min(AUC_CELLS, len(imputed)), False)
    by_cell = metrics.auroc_per_feature(imputed[rows].T, open_nd[rows].T.astype(np.float32))
    out = {
        "auc_cell": _mean(by_cell),
        "auc": metrics.auroc_overall(imputed, open_nd.astype(np.float32), max_entries=AUC_ENTRIES),
    }
    if len(peaks):
        chosen = open_nd[:, peaks].astype(np.float32)
        out["auc_peak"] = _mean(metrics.auroc_per_feature(imputed[:, peaks], chosen))
    return out


def log_normalised(counts: Floats) -> Floats:
    """log(1 + counts per 10,000 of the cell)."""
    return np.asarray(np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4))


def clr(counts: Floats) -> Floats:
    """Counts over their geometric mean in the cell, on a log scale."""
    return np.asarray(np.log1p(counts / np.exp(np.log1p(counts).mean(1, keepdims=True))))


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


# --- by another script ----------------------------------------------------------------------------

SCRIPT_NAMES = {
    "rna.pearson_feature": "rna_r",
    "rna.spearman_feature": "rna_rho",
    "rna.pearson_all": "rna_r_all",
    "adt.pearson_feature": "adt_r",
    "adt.spearman_feature": "adt_rho",
    "adt.pearson_all": "adt_r_all",
    "atac.auc_peak": "auc_peak",
    "atac.auc_cell": "auc_cell",
    "atac.auc": "auc",
}


def script_scores(script: Path, model: MosaicVI, task: Task) -> dict[str, float]:
    """The same scores by a script of the peers' kind, from files that are removed again."""
    if task.folder is None:
        raise ValueError(f"{task.name} has no files for {script}")
    with tempfile.TemporaryDirectory(prefix="mosaicvi-score-") as folder:
        run = Path(folder)
        np.save(run / "latent.npy", model.get_latent_representation())
        (run / "cells.txt").write_text("\n".join(map(str, task.mosaic.cells)))
        for data in task.mosaic.modalities:
            hidden = hidden_cells(task, data.name)
            if len(hidden):
                values = imputed_counts(model, data.name, hidden, task.truth.mod[data.name])
                np.save(run / f"imputed.{data.name}.npy", values)
                (run / f"imputed.{data.name}.cells.txt").write_text("\n".join(map(str, hidden)))
        (run / "time.json").write_text(json.dumps({"scale": "count"}))
        args = [sys.executable, str(script), str(task.folder), task.name, str(run)]
        done = subprocess.run(args, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script}: {last_line(done.stderr)}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {SCRIPT_NAMES.get(k, k): v for k, v in found.items() if isinstance(v, float)}
