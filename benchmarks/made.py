"""Small simulated tasks, written as real ones lie in their folder: a mosaic, studies with panels, values."""

from __future__ import annotations

import warnings
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from benchmarks.peptides import peptide_table
from mosaicvi import datasets

HIDDEN = 2  # proteins of each study


def write_tasks(folder: Path, *, quick: bool) -> None:
    """Write three tasks: modalities, panels of studies, and entries that are missing."""
    small = {"n_cells": 240, "n_genes": 60, "n_proteins": 12, "n_peaks": 80, "n_types": 4}
    made = datasets.simulated_mosaic(**(small if quick else {"n_cells": 3000}))
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        for mdata, suffix in ((made.mdata, "h5mu"), (made.truth, "truth.h5mu")):
            mdata.obs["celltype"] = mdata.obs.pop("cell_type")
            mdata.write_h5mu(folder / f"modalities.{suffix}")
        _write_studies(folder, made.truth)
        _write_values(folder, samples=90 if quick else 600, peptides=24 if quick else 150)


def _write_studies(folder: Path, truth: MuData) -> None:
    """Each batch as a study that lacks proteins, others in each."""
    adt, rng = truth.mod["adt"], np.random.default_rng(0)
    obs = truth.obs[["batch", "celltype"]].astype(str)
    whole = AnnData(adt.X.toarray(), obs=obs, var=pd.DataFrame(index=adt.var_names))
    whole.write_h5ad(folder / "panels.truth.h5ad")
    order = rng.permutation(whole.n_vars)
    for i, batch in enumerate(sorted(set(obs.batch))):
        lacks = np.take(order, np.arange(HIDDEN * i, HIDDEN * (i + 1)), mode="wrap")
        here = whole[(obs.batch == batch).to_numpy(), np.setdiff1d(np.arange(whole.n_vars), lacks)]
        here.copy().write_h5ad(folder / f"panels.{batch}.h5ad")


def _write_values(folder: Path, *, samples: int, peptides: int) -> None:
    table = peptide_table(0.3, samples=samples, peptides=peptides)
    known = table.seen.copy()
    row, column, value = table.held_out
    known[row, column] = value
    names = [f"sample{i:04d}" for i in range(samples)]
    obs = pd.DataFrame(
        {"batch": np.resize(["a", "b"], samples), "group": "protein", "celltype": "unknown"}, names
    )
    for x, suffix in ((table.seen, "h5mu"), (known, "truth.h5mu")):
        var = pd.DataFrame(index=[f"peptide{j:04d}" for j in range(peptides)])
        part = AnnData(x.astype(np.float32), obs=pd.DataFrame(index=names), var=var)
        mdata = MuData({"protein": part})
        mdata.obs = obs
        mdata.write_h5mu(folder / f"values.{suffix}")
