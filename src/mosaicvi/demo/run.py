"""The demo from simulation to pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mudata import MuData
from rich.console import Console

from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.data.simulate import SimulatedMosaic, simulated_mosaic
from mosaicvi.demo.picture import draw
from mosaicvi.demo.scores import DemoScores, render, score
from mosaicvi.errors import InputError
from mosaicvi.model import MosaicVI
from mosaicvi.store.files import atomic_path, check_output, shown
from mosaicvi.store.format import check_bundle_output
from mosaicvi.view.umap import layout

# The defaults are for many thousand cells. These few need more steps, and a narrower space that is pulled
# together more and towards zero less.
SIZES = {"n_genes": 600, "n_proteins": 40, "n_peaks": 1500, "n_types": 7}
NETWORK: dict[str, Any] = {"dim_latent": 16, "gamma": 5.0, "beta_kl": 1.0}
BATCH_SIZE, EPOCHS = 128, 70
FILES = ("demo.png", "mosaic.h5mu", "truth.h5mu", "report.html")
MODEL = "model"


def run_demo(
    output: str | Path = "mosaicvi_demo",
    *,
    max_epochs: int | None = None,
    seed: int = 0,
    n_cells: int = 2000,
    overwrite: bool = False,
    quiet: bool = False,
) -> int | None:
    """Simulate, train, score, draw and write everything into a folder.

    Parameters
    ----------
    output
        Folder for demo.png, mosaic.h5mu, truth.h5mu, the model and, where Jinja2 is installed, report.html.
    max_epochs
        Passes over the data; about a minute's worth on two CPU cores where None.
    seed
        Decides the data and the model.
    n_cells
        Cells to simulate.
    overwrite
        Replace the results of an earlier run.
    quiet
        Print nothing but the tables.

    Returns
    -------
    The signal that stopped training, if one did; nothing was written then.

    Raises
    ------
    InputError
        The folder holds results already, or cannot be written.
    """
    folder = Path(output)
    _check(folder, overwrite=overwrite)
    say = Console(stderr=True, quiet=quiet, highlight=False)
    data = simulated_mosaic(n_cells, **SIZES, seed=seed)
    say.print(f"Simulated {n_cells:,} cells in 5 batches that measured different things, and the truth.")
    mosaic = MosaicVI.setup_mudata(data.mdata, batch_key="batch")
    model = MosaicVI(mosaic, seed=seed, **NETWORK)
    model.train(max_epochs or EPOCHS, batch_size=BATCH_SIZE, seed=seed, progress=False if quiet else None)
    stopped = None if model._state is None else model._state.stopped_by
    if stopped is not None:
        return stopped
    scores = score(model, data)
    render(scores, Console())
    _write(folder, model, data, scores, overwrite=overwrite, say=say)
    return None


def _check(folder: Path, *, overwrite: bool) -> None:
    """See that everything can be written before an hour is spent on it."""
    if folder.is_dir():
        for name in FILES:
            check_output(folder / name, overwrite=overwrite)
        check_bundle_output(folder / MODEL, overwrite=overwrite)
        return
    check_output(folder, overwrite=False)


def _write(
    folder: Path, model: MosaicVI, data: SimulatedMosaic, scores: DemoScores, *, overwrite: bool, say: Console
) -> None:
    folder.mkdir(exist_ok=True)
    mdata = data.mdata
    latent = np.asarray(model.get_latent_representation())
    say.print("Laying the cells out in two dimensions.")
    xy, method = layout(latent)
    if method != "UMAP":
        say.print(
            "umap-learn is not installed, so these are two principal components: pip install 'mosaicvi[plot]'"
        )
    mdata.obsm["X_mosaicvi"], mdata.obsm["X_umap"] = latent, xy
    _write_h5mu(mdata, folder / "mosaic.h5mu", overwrite=overwrite)
    _write_h5mu(data.truth, folder / "truth.h5mu", overwrite=overwrite)
    model.save(folder / MODEL, overwrite=overwrite)
    with atomic_path(folder / "demo.png", overwrite=overwrite) as temporary:
        draw(model, data, scores, xy, method).savefig(temporary, dpi=120)
    report = _report(model, mdata, folder / "report.html", overwrite=overwrite)
    say.print(f"Look at {shown(folder / 'demo.png')}", style="bold")
    if report is not None:
        say.print(f"and at {shown(report)}", style="bold")
    _next(folder, say)


def _write_h5mu(mdata: MuData, path: Path, *, overwrite: bool) -> None:
    with atomic_path(path, overwrite=overwrite) as temporary, mudata_as_it_is():
        mdata.write_h5mu(temporary)


def _report(model: MosaicVI, mdata: MuData, path: Path, *, overwrite: bool) -> Path | None:
    """The report, if what it needs is installed."""
    try:
        from mosaicvi.report.page import write_report

        return write_report(
            model, mdata, path, label_key="cell_type", overwrite=overwrite, command="mosaicvi demo"
        )
    except (ImportError, InputError):
        return None


NOTEBOOKS = {
    "integrate-files": "files that measured different things, in one latent space",
    "impute-with-intervals": "proteins of cells that measured none, and between what they lie",
    "map-a-query": "new cells in the space of a model",
    "differential-expression": "genes and proteins that tell a cell type from the others",
    "train-from-disk": "files that are larger than the memory",
    "come-from-scvaeit": "scripts of the published package",
}


def _next(folder: Path, say: Console) -> None:
    data, model = shown(folder / "mosaic.h5mu"), shown(folder / MODEL)
    say.print("Next, on the same data or on yours:", style="bold")
    for line in (
        f"mosaicvi inspect {data} --batch-key batch",
        f"mosaicvi embed {model} {data} --output embedded.h5mu",
        f"mosaicvi impute {model} {data} --output imputed.h5mu",
        "mosaicvi train YOURS.h5mu --batch-key batch --output model",
    ):
        say.print(f"  {line}", soft_wrap=True)
    say.print("The same in Python, a notebook for each capability: docs/notebooks/index.md, such as")
    for name, what in NOTEBOOKS.items():
        say.print(f"  docs/notebooks/{name}.md: {what}", soft_wrap=True)
