"""Architectural surgery by scvi-tools, run by the Python that has it: ``surgery.py FOLDER EPOCHS SEED``.

FOLDER has ``rest.h5mu``, on which totalVI (scVI where no proteins were measured) is trained, and
``query.h5mu``, by which it grows as in the tutorials of scvi-tools: new weights of the query's batches alone,
without decay.
Left there are ``latent.csv`` of all cells that have RNA, ``imputed.csv`` of the query's proteins, and
``time.json``. Batches are those of the data, parted by what was measured, as totalVI learns of each what it
lacks. Nothing of the project is imported here.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import anndata
import mudata
import numpy as np
import pandas as pd
import scvi

PROTEINS = "protein"
DRAWS = 5  # of the latent, over which imputed values are averaged


def main() -> None:
    folder, epochs, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    warnings.filterwarnings("ignore")
    scvi.settings.seed = seed
    rest, query = (mudata.read_h5mu(folder / f"{name}.h5mu") for name in ("rest", "query"))
    names = [f"{m} {f}" for m in rest.mod if m != "rna" for f in rest.mod[m].var_names]
    before, after = (_together(data, names) for data in (rest, query))
    made: Any = scvi.model.TOTALVI if names else scvi.model.SCVI
    protein = {"protein_expression_obsm_key": PROTEINS} if names else {}
    deep = {} if names else {"encode_covariates": True, "dropout_rate": 0.2, "n_layers": 2}
    made.setup_anndata(before, batch_key="batch", **protein)
    model = made(before, use_layer_norm="both", use_batch_norm="none", **deep)
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    began = time.process_time()
    grown = made.load_query_data(after, model, **({"freeze_expression": True} if names else {}))
    grown.train(
        max_epochs=epochs, accelerator="cpu", plan_kwargs={"weight_decay": 0.0}, enable_progress_bar=False
    )
    seconds = time.process_time() - began
    latent = [
        pd.DataFrame(m.get_latent_representation(d), d.obs_names)
        for m, d in ((grown, after), (model, before))
    ]
    pd.concat(latent).to_csv(folder / "latent.csv")
    if names:
        _imputed(grown, before, after, names).to_csv(folder / "imputed.csv")
    said = {"method": made.__name__, "version": scvi.__version__, "seconds": seconds}
    (folder / "time.json").write_text(json.dumps(said))


def _together(data: Any, names: list[str]) -> anndata.AnnData:
    """The cells with RNA, their proteins beside it, 0 where they are not measured."""
    out = data.mod["rna"].copy()
    of_cell = data.obs.loc[out.obs_names]
    out.obs = pd.DataFrame({"batch": of_cell["batch"].astype(str) + ":" + of_cell["group"].astype(str)})
    table = pd.DataFrame(0.0, out.obs_names, names)
    for m in data.mod:
        part = data.mod[m]
        both = out.obs_names.intersection(part.obs_names)
        of_part = part[both].to_df().rename(columns=lambda f, m=m: f"{m} {f}")
        shared = of_part.columns.intersection(names)
        table.loc[both, shared] = of_part[shared]
    if names:
        out.obsm[PROTEINS] = table
    return out


def _imputed(model: Any, before: anndata.AnnData, after: anndata.AnnData, names: list[str]) -> pd.DataFrame:
    """Proteins of the query's cells, each as in the batches that measured it."""
    both = pd.concat([before.obsm[PROTEINS], after.obsm[PROTEINS]])
    there = (both > 0).groupby(pd.concat([before.obs["batch"], after.obs["batch"]])).any()
    out = pd.DataFrame(np.nan, after.obs_names, names)
    for has, of in there.T.groupby(list(there.index)).groups.items():
        measured = list(there.index[np.atleast_1d(has)])
        _, found = model.get_normalized_expression(
            after, n_samples=DRAWS, transform_batch=measured, return_numpy=True
        )
        out[list(of)] = found[:, out.columns.get_indexer(of)]
    return out


if __name__ == "__main__":
    main()
