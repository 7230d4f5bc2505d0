"""The R of docs/from-r.md, run where there is R with reticulate; else what R sends, by Python's side."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mudata import read_h5mu

from mosaicvi import MosaicVI
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.scvaeit import VAEIT

PAGE = Path(__file__).parents[1] / "docs" / "from-r.md"
SAVE = """
mdata$write_h5mu("mosaic.h5mu")
write.csv(z, "z.csv")
write.csv(proteins, "proteins.csv")
writeLines(format(loss, digits = 17), "loss.txt")
write.csv(data, "data.csv"); write.csv(masks, "masks.csv")
write.csv(imputed, "imputed.csv"); write.csv(apply(samples, c(1, 3), mean), "samples.csv")
stopifnot(identical(dim(samples), c(80L, 3L, 30L)), all(blend[!hidden] == data[!hidden]), error > 0)
stopifnot(length(hist[["train"]][["total"]]) == 2, is.data.frame(proteins), is.matrix(z))
"""


def run_r(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "page.R").write_text(code)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "RETICULATE_PYTHON": sys.executable,
    }  # fmt: skip
    return subprocess.run(
        ["Rscript", "page.R"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def table(path: Path) -> np.ndarray:
    return pd.read_csv(path, index_col=0).to_numpy()


@pytest.mark.slow
def test_the_r_of_the_page_runs_and_finds_what_python_finds(tmp_path: Path) -> None:
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed: apt install r-base-core r-cran-reticulate")
    probe = run_r('reticulate::import("numpy")$array(c(1, 2))', tmp_path)
    if probe.returncode:
        pytest.skip(f"reticulate cannot use this Python: {probe.stderr.strip()}")
    blocks = re.findall(r"^```r\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    done = run_r("\n".join(blocks) + SAVE, tmp_path)
    if "Required version of NumPy not available" in done.stderr:
        pytest.skip("this reticulate cannot use NumPy 2")
    assert done.returncode == 0, done.stderr
    with mudata_as_it_is():
        mdata = read_h5mu(tmp_path / "mosaic.h5mu")
    assert (mdata["rna"].shape, mdata["adt"].shape) == ((80, 30), (40, 6))
    MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mdata, dim_latent=5).train(2, batch_size=20, progress=False)
    losses = [float(line) for line in (tmp_path / "loss.txt").read_text().split()]
    np.testing.assert_allclose(losses, model.history["train_loss"], rtol=1e-6)
    np.testing.assert_allclose(
        table(tmp_path / "z.csv"), model.get_latent_representation(), rtol=1e-4, atol=1e-5
    )
    proteins = model.get_imputed_values(modality="adt", features=["protein1", "protein3"])
    np.testing.assert_allclose(table(tmp_path / "proteins.csv"), proteins, rtol=1e-4)
    config = {"dimensions": 16, "dim_latent": 4, "dim_block_enc": 32, "dim_block_dec": 32, "dist_block": "NB",
              "dim_block_embed": 16, "beta_unobs": 0.9, "p_feat": 0.5}  # fmt: skip
    data, masks = table(tmp_path / "data.csv"), table(tmp_path / "masks.csv")
    theirs = VAEIT(config, data, masks, None, np.tile(["a", "b"], 40))
    theirs.train(num_epoch=2, num_repeat=2, batch_size=40)
    np.testing.assert_allclose(table(tmp_path / "imputed.csv"), theirs.get_denoised_data(L=10), rtol=1e-3)
    samples = theirs.get_denoised_data(return_mean=False, L=3).mean(1)
    np.testing.assert_allclose(table(tmp_path / "samples.csv"), samples, rtol=1e-3)


def test_numbers_texts_and_nothing_as_r_sends_them() -> None:
    """Doubles for whole numbers, a text for a vector of one, None for NULL, dicts for named lists."""
    from mosaicvi.datasets import simulated_mosaic

    mdata = simulated_mosaic(90, n_genes=30, n_proteins=5, n_peaks=40).mdata
    MosaicVI.setup_mudata(mdata, batch_key="batch", layers=None, likelihoods={"rna": "NB"})
    small = {"dim_block_enc": 4.0, "dim_block_dec": 4.0, "dimensions": np.array([8.0, 4.0])}
    model = MosaicVI(mdata, n_latent=5.0, seed=0.0, beta_modal=None, **small)
    model.train(max_epochs=2.0, batch_size=30.0, patience=None, seed=1.0, progress=False)  # type: ignore[arg-type]
    assert len(model.history) == 2
    assert (model.config.dim_latent, model.config.dimensions) == (5, (8, 4))
    z = model.get_latent_representation(modalities="rna", batch_size=100.0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(z, model.get_latent_representation(modalities=["rna"]))
    names = list(model.imputed_features("adt")[:1])
    one = model.get_imputed_values(
        modality="adt",
        features=names[0],
        indices=np.array([0.0, 3.0]),
        n_samples=2.0,
        seed=0.0,  # type: ignore[arg-type]
    )
    direct = model.get_imputed_values(modality="adt", features=names, indices=[0, 3], n_samples=2)
    pd.testing.assert_frame_equal(one, direct)
