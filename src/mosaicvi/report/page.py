"""One page that shows what a model did: a single HTML file that asks nothing of the network."""

from __future__ import annotations

import datetime
import importlib
import json
import platform
import shlex
import sys
import warnings
from collections.abc import Collection, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi._version import __version__
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register import register
from mosaicvi.errors import InputError, MosaicWarning
from mosaicvi.fit.usual import fewest_epochs
from mosaicvi.infer.labels import UNLABELED, has_label
from mosaicvi.report import findings, payload
from mosaicvi.report.charts import accuracy_view, tests_in_words, training_charts
from mosaicvi.report.heldout import N_NEIGHBOURS, Accuracy, hide_entries, hide_modality
from mosaicvi.report.integration import Metric, Mixing, integration, mixing_of, pairing, sample
from mosaicvi.report.svg import bar, mosaic_chart
from mosaicvi.store.files import atomic_path, check_output
from mosaicvi.view.cells import column, pattern_of, representation
from mosaicvi.view.mosaic_plot import layout_of
from mosaicvi.view.palette import MISSING, OKABE_ITO, SEQUENTIAL
from mosaicvi.view.umap import layout, why_not

if TYPE_CHECKING:
    from mosaicvi.model import MosaicVI

TEMPLATES = Path(__file__).parent / "templates"
SECTIONS = (
    ("findings", "What to watch"),
    ("cells", "Cells"),
    ("mosaic", "Mosaic and model"),
    ("integration", "Integration"),
    ("imputation", "Imputation"),
    ("training", "Training"),
    ("made", "How this was made"),
)
PACKAGES = ("torch", "numpy", "scipy", "pandas", "anndata", "mudata", "scikit-learn", "umap-learn")


def write_report(
    model: MosaicVI,
    mdata: MuData | AnnData,
    output: Path,
    *,
    features: Sequence[str] | None = None,
    label_key: str | None = None,
    unlabeled: str | Collection[str] = UNLABELED,
    overwrite: bool = False,
    command: str | None = None,
    seed: int = 0,
) -> Path:
    """Write what the model did to one HTML file, to be read in a browser, mailed or printed.

    It holds a summary of the mosaic and the model, the cells in two dimensions (to zoom, and to colour by any
    column of ``obs`` or imputed feature), integration metrics, the accuracy of imputation on hidden values,
    training curves, warnings in plain words, and how it was made.

    Parameters
    ----------
    model
        A trained model.
    mdata
        The cells to show; it is not changed. Coordinates are taken from ``obsm["X_umap"]`` if there are any,
        unless ``obsm["X_mosaicvi"]`` is another model's.
    output
        The file to be.
    features
        Features whose imputed values can be shown; the most variable ones where None.
    label_key
        Column of ``obs`` with cell types, to be scored.
    unlabeled
        Value, or values, of that column that are no cell type; missing ones are none either. Such cells are
        left out of these scores.
    overwrite
        Replace a file that is there.
    command
        The command that made it; that of this process where None.
    seed
        Decides the layout, which cells are scored and what is hidden.

    Returns
    -------
    The path of the file.

    Raises
    ------
    InputError
        The file exists or cannot be written, the data do not fit the model, a feature or column is not there,
        or Jinja2 is not installed.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite)
    jinja = environment()
    labels = None if label_key is None else _labels(column(mdata, label_key), unlabeled)
    mosaic = _mosaic_of(model, mdata)
    chosen = payload.choose_features(model, mosaic, features, seed=seed)
    z, values = payload.answers(model, mosaic, chosen)
    xy, how = _coordinates(mdata, z, seed)
    batch, pattern = _groups(mosaic)
    context = _summary(model, mosaic, how) | _scores(model, mosaic, z, batch, pattern, labels, seed)
    first = ({} if mosaic.registry.setup.batch_key is None else {str(batch.name): batch}) | {
        "modalities": pattern
    }
    context |= _picture(model, mosaic, mdata, xy, first, chosen, values, limited=features is None)
    context |= {
        "command": command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions_used(seed),
        "css": asset("report.css"),
        "js": asset("scatter.js"),
        "sections": SECTIONS,
        "labels": None if labels is None else _labels_in_words(labels),
    }
    page = jinja.get_template("report.html.j2").render(context)
    with atomic_path(output, overwrite=overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output


def environment() -> Any:
    """Jinja2 with our templates; `InputError` where it is not installed."""
    try:
        jinja2 = importlib.import_module("jinja2")
    except ImportError:
        raise InputError("the report needs Jinja2: pip install 'mosaicvi[report]'") from None
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


def _labels(values: pd.Series, unlabeled: str | Collection[str]) -> pd.Series:
    """The labels, missing where a cell has none."""
    return values.astype(object).where(has_label(values, unlabeled), None)


def _labels_in_words(labels: pd.Series) -> str:
    """Which cells the labels are scored on."""
    n = int(labels.notna().sum())
    if n == len(labels):
        return f"Labels are those of {labels.name}, which every cell has."
    return (
        f"Labels are those of {labels.name}, which {n:,} of {len(labels):,} cells have; "
        f"the {len(labels) - n:,} without one are left out of these scores."
    )


def _mosaic_of(model: MosaicVI, mdata: MuData | AnnData) -> Mosaic:
    """The data as the model reads them; its own are not read twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return register(mdata, model.registry.setup, registry=model.registry)


def _coordinates(mdata: MuData | AnnData, z: NDArray[np.float32], seed: int) -> tuple[NDArray[Any], str]:
    """Places of the cells, and what they mean."""
    own = mdata.obsm.get("X_mosaicvi")
    stale = own is not None and (own.shape != z.shape or not np.allclose(own, z, rtol=1e-3, atol=1e-3))
    if "X_umap" in mdata.obsm and not stale:  # no picture of another model's latent space
        given = representation(mdata, "X_umap", remedy="remove it")
        return given[:, :2], "Cells lie where obsm['X_umap'] puts them."
    xy, method = layout(z, seed=seed)
    if method == "UMAP":
        return (
            xy,
            "UMAP of the latent space: cells that lie together are alike, distances of groups mean little.",
        )
    return xy, f"Two principal components of the latent space, as {why_not(len(z))}."


def _groups(mosaic: Mosaic) -> tuple[pd.Series, pd.Series]:
    """Batch and set of measured modalities of each cell."""
    key = mosaic.registry.setup.batch_key
    names = np.asarray(mosaic.batches, object)
    has = np.stack([m.row_of_cell >= 0 for m in mosaic.modalities], axis=1)
    pattern = pattern_of(has, [m.name for m in mosaic.modalities], mosaic.names())
    return pd.Series(names[mosaic.batch], index=mosaic.names(), name=key or "batch"), pattern


def _summary(model: MosaicVI, mosaic: Mosaic, how: str) -> dict[str, Any]:
    rows = layout_of(mosaic)
    n_batches, n_modalities = len(rows.batches), len(mosaic.modalities)
    epochs = len(model.history)
    lead = (
        f"{mosaic.n_cells:,} cells from {n_batches:,} batch{'es' if n_batches > 1 else ''}, "
        f"{n_modalities} modalit{'ies' if n_modalities > 1 else 'y'}; "
        + (
            f"integrated in {model.config.dim_latent} dimensions after {epochs} epochs."
            if epochs
            else "not trained."
        )
    )
    modalities = [
        {
            "name": m.name,
            "cells": f"{m.n_cells:,}",
            "features": f"{m.n_features:,}",
            "likelihood": m.likelihood,
            "transform": m.transform,
            "scale": str(model.imputed_scale(m.name)),
        }
        for m in mosaic.modalities
    ]
    config = model.config
    weights = sum(p.numel() for p in model.net.parameters())
    facts = [
        ("weights", f"{weights:,}"),
        ("hidden layers", " → ".join(str(d) for d in config.dimensions)),
        ("latent dimensions", str(config.dim_latent)),
        ("epochs", str(epochs)),
        ("weight of KL", f"{config.beta_kl:g}"),
        ("corrected for", ", ".join(mosaic.registry.categories) or "nothing"),
    ]
    return {
        "title": " + ".join(m.name for m in mosaic.modalities) + f" mosaic of {mosaic.n_cells:,} cells",
        "lead": lead,
        "layout_words": how,
        "mosaic_svg": mosaic_chart(rows),
        "modalities": modalities,
        "model_facts": facts,
        "n_cells": f"{mosaic.n_cells:,}",
    }


def _scores(
    model: MosaicVI,
    mosaic: Mosaic,
    z: NDArray[np.float32],
    batch: pd.Series,
    pattern: pd.Series,
    labels: pd.Series | None,
    seed: int,
) -> dict[str, Any]:
    """Metrics, accuracy and training, and what to say about them."""
    at = sample(mosaic.n_cells, seed)
    some = [s.iloc[at] for s in (batch, pattern)]
    numbers = integration(z[at], some[0], some[1], None if labels is None else labels.iloc[at], seed=seed)
    paired = pairing(model, mosaic, seed=seed)
    by_batch, by_pattern = (mixing_of(z[at], s) for s in some)
    tests, untestable = _tests(model, mosaic, seed)
    history = model.history
    words = [
        *findings.training(
            history,
            fewest_epochs(mosaic.n_cells, sum(m.n_features for m in mosaic.modalities)),
            model.training_end,
        ),
        *findings.mixing("Batch", by_batch),
        *findings.mixing("Set of modalities", by_pattern),
        *findings.pairs(paired),
        *findings.trust(model.imputation_accuracy(mosaic, seed=seed)),
        *findings.imputation(tests, untestable, may_go_on=model.training_end != "settled"),
    ]
    return {
        "findings": words,
        "nothing": findings.nothing(history, by_batch, by_pattern, tests),
        "metrics": [_metric_row(m) for m in [*numbers, *paired]],
        "metric_cells": f"{len(at):,}",
        "mixing": [
            {"title": "Mixing of each batch", "head": "batch", "rows": [_mixing_row(k) for k in by_batch]},
            {
                "title": "Mixing of each set of modalities",
                "head": "modalities",
                "rows": [_mixing_row(k) for k in by_pattern],
            },
        ],
        "tests": [accuracy_view(t) for t in tests],
        "tests_words": tests_in_words(tests, N_NEIGHBOURS),
        "charts": training_charts(history) if len(history) else [],
    }


def _tests(model: MosaicVI, mosaic: Mosaic, seed: int) -> tuple[list[Accuracy], list[str]]:
    tests, untestable = [], []
    for m in mosaic.modalities:
        whole = hide_modality(model, mosaic, m.name, seed=seed)
        if whole is None and len(mosaic.modalities) > 1:
            untestable.append(m.name)
        tests += [t for t in (whole, hide_entries(model, mosaic, m.name, seed=seed)) if t is not None]
    return sorted(tests, key=lambda t: not t.whole), untestable


def _metric_row(m: Metric) -> dict[str, Any]:
    share = m.value if m.best else 1 - 2 * m.value
    return {
        "name": m.name,
        "value": m.value,
        "best": m.best,
        "meaning": m.meaning,
        "bar": bar(share, OKABE_ITO[0]),
    }


def _mixing_row(k: Mixing) -> dict[str, Any]:
    color = OKABE_ITO[5] if k.ratio < findings.APART else OKABE_ITO[0]
    return {
        "kind": k.kind,
        "n_cells": k.n_cells,
        "foreign": k.foreign,
        "expected": k.expected,
        "ratio": k.ratio,
        "bar": bar(k.ratio, color),
    }


def _picture(
    model: MosaicVI,
    mosaic: Mosaic,
    mdata: MuData | AnnData,
    xy: NDArray[Any],
    first: dict[str, pd.Series],
    chosen: Sequence[payload.ShownFeatures],
    values: Sequence[NDArray[np.float32]],
    *,
    limited: bool,
) -> dict[str, Any]:
    """The cells, their columns and imputed features, as JSON that cannot end its own script element."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    order = payload.spatial_order(xy)
    data: dict[str, Any] = {
        "n": mosaic.n_cells,
        "levels": payload.LEVELS,
        "missing": MISSING,
        "ramp": [to_hex(c) for c in colormaps[SEQUENTIAL](np.linspace(0, 1, payload.LEVELS))],
        "scales": {m.name: str(model.imputed_scale(m.name)) for m in mosaic.modalities},
        "places": payload.coordinates(xy[order]),
        "cells": payload.cell_names(mosaic.names(), order),
        "columns": payload.columns(mdata, order, first),
    }
    left = payload.BUDGET - len(json.dumps(data)) if limited else sys.maxsize
    data["features"], dropped = payload.imputed_features(model, chosen, values, order, left)
    return {
        "payload": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "n_features": f"{len(data['features']):,}",
        "example": data["features"][0]["name"] if data["features"] else "a gene",
        "dropped": dropped,
    }


def versions_used(seed: int) -> list[tuple[str, str]]:
    """When the page was made, by which seed and which versions."""
    out = [
        ("made", datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")),
        ("seed", str(seed)),
        ("mosaicvi", __version__),
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
    ]
    for name in PACKAGES:
        try:
            out.append((name, version(name)))
        except PackageNotFoundError:
            out.append((name, "not installed"))
    return out


def asset(name: str) -> str:
    """A file that goes into a page whole."""
    return (TEMPLATES / name).read_text(encoding="utf-8")
