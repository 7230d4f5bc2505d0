"""Labels of cells whose own are hidden: how many are right, whether the probabilities hold, who is unseen.

Of each task with labels those of one group of cells are hidden at a time (a batch and what it measured), of
one without several groups those of a random half. Then each type in turn is taken from the labelled cells,
and its cells must lie farther from the reference than others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import common, models, mosaics
from benchmarks.common import Table

COLUMNS = ("task", "hidden", "cells", "right", "right_of_15", "error", "error_of_15", "AUC", "found", "false")
Place = Callable[[Any, Any, Any], tuple[Any, Any]]
FEWEST_ASKED, FEWEST_OF_A_TYPE = 20, 10


def main() -> None:
    parser = common.parser(__doc__, "labels")
    parser.add_argument("--data", type=Path, default=common.DATA, metavar="DIR", help="folder of mosaics")
    parser.add_argument("--task", action="append", metavar="NAME", help="of the folder [all with labels]")
    parser.add_argument("--epochs", type=int, help="of each training [the library's own; 2 with --quick]")
    models.add_models(parser)
    options = parser.parse_args()
    common.begin(options)
    note = (
        "Cells whose labels were hidden, and were of a type that others show. right: share of labels; "
        "right of 15: by majority among the 15 nearest in the latent; error: expected calibration error in "
        "ten bins; AUC: cells of a type that was taken away against others, by distance, mean over types and "
        "groups; found, false: share of both called none of these."
    )
    rows = [dict(zip(COLUMNS, row, strict=True)) for n, c in cases(options) for row in measure(n, c, options)]
    table = Table(name="labels", title="Labels", columns=COLUMNS, rows=rows, note=note)
    common.show("labels", [table], options)


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Registered mosaics with the labels and groups of their cells."""
    from mosaicvi import MosaicVI, datasets

    if not options.task or "simulated" in options.task:
        mdata = datasets.simulated_mosaic(300 if options.quick else 3000).mdata
        mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
        obs = mdata.obs.astype(str)
        yield "simulated", (mosaic, obs.cell_type.to_numpy(), (obs.batch + ":" + obs.group).to_numpy())
    if options.quick or not options.data.exists():
        return
    for name in mosaics.find(options.data, [t for t in options.task or [] if t != "simulated"]):
        if options.task and name not in options.task:
            continue
        task = mosaics.read_task(options.data, name)
        if (~np.isin(task.label.astype(str), mosaics.UNKNOWN)).any():
            yield name, (task.mosaic, task.label.astype(str), task.group.astype(str))


def measure(name: str, case: Any, options: argparse.Namespace) -> list[tuple[Any, ...]]:
    """Rows of a task: each hidden group, and all together."""
    from mosaicvi import MosaicVI

    mosaic, label, group = case
    if epochs := options.epochs or (2 if options.quick else None):
        model = MosaicVI(mosaic).train(epochs, accelerator="cpu", progress=False)
    else:
        model, _ = models.at_defaults(name, mosaic, 0, options.models)
    known = ~np.isin(label, mosaics.UNKNOWN)
    place = remembered(model)
    rows, votes, aucs = [], [], []
    for hidden, asked in hidings(group, known):
        rest = known & ~asked
        asked &= np.isin(label, label[rest])
        if asked.sum() < FEWEST_ASKED or rest.sum() < FEWEST_ASKED:
            continue
        found = scored(model, place, label, rest, asked)
        far = unseen(model, place, label, rest, asked)
        votes.append(found)
        aucs.append(far)
        rows.append((name, hidden, int(asked.sum()), *summary(*found), *np.nanmean(far, 0)))
    if len(rows) > 1:
        every = [np.concatenate(part) for part in zip(*votes, strict=True)]
        rows.append((name, "all", len(every[0]), *summary(*every), *np.nanmean(np.concatenate(aucs), 0)))
    return rows


def hidings(group: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> Iterator[tuple[str, Any]]:
    """Whose labels are hidden: each group, and a random half."""
    for name in np.unique(group[known]) if len(np.unique(group[known])) > 1 else ():
        yield str(name), known & (group == name)
    yield "a random half", known & (np.random.default_rng(0).random(len(known)) < 0.5)


def remembered(model: Any) -> Place:
    """Where cells lie in the latent, each encoded once for each set of features that may be seen."""
    from mosaicvi.infer.hidden import showing

    known: dict[Any, Any] = {}

    def place(mosaic: Any, cells: Any, view: Any) -> tuple[Any, Any]:
        there, *parts = known.setdefault(
            view, (np.zeros(mosaic.n_cells, bool), *np.zeros((2, mosaic.n_cells, model.config.dim_latent)))
        )
        missing = np.unique(cells[~there[cells]])
        if len(missing):
            less = mosaic.some(missing) if view is None else showing(mosaic, missing, view.features)
            found = model.get_latent_representation(less, return_dist=True)
            for part, new in zip(parts, found, strict=True):
                part[missing] = new
            there[missing] = True
        return parts[0][cells], parts[1][cells]

    return place


def labelled(model: Any, place: Place, label: Any, rest: Any, asked: Any) -> tuple[Any, Any]:
    """Names of the labels, and what is said of the asked cells."""
    from mosaicvi.infer.labels import predict_labels

    names, found = np.unique(label[rest], return_inverse=True)
    code = np.full(len(label), -1)
    code[rest] = found
    return names, predict_labels(place, model.mosaic, code, model.mosaic, np.flatnonzero(asked), seed=0)


def scored(model: Any, place: Place, label: Any, rest: Any, asked: Any) -> tuple[Any, Any, Any, Any]:
    """Probability and whether it is right, of ours and of 15 nearest neighbours."""
    from sklearn.neighbors import KNeighborsClassifier

    names, said = labelled(model, place, label, rest, asked)
    z, _ = place(model.mosaic, np.arange(model.mosaic.n_cells), None)
    nearest = KNeighborsClassifier(mosaics.NEIGHBOURS).fit(z[rest], label[rest])
    p = nearest.predict_proba(z[asked])
    return (
        said.probability.max(1),
        names[said.probability.argmax(1)] == label[asked],
        p.max(1),
        nearest.classes_[p.argmax(1)] == label[asked],
    )


def unseen(model: Any, place: Place, label: Any, rest: Any, asked: Any) -> npt.NDArray[np.float64]:
    """AUC, found and false for each type that is taken from the labelled cells."""
    from sklearn.metrics import roc_auc_score

    out = [(np.nan, np.nan, np.nan)]
    for kind in np.unique(label[asked]):
        stranger, less = label[asked] == kind, rest & (label != kind)
        enough = min(stranger.sum(), (~stranger).sum()) >= FEWEST_OF_A_TYPE
        if enough and len(np.unique(label[less])) > 1:
            _, said = labelled(model, place, label, less, asked)
            auc = roc_auc_score(stranger, said.distance)
            out.append((auc, said.is_far[stranger].mean(), said.is_far[~stranger].mean()))
    return np.array(out)


def summary(p: Any, ok: Any, p15: Any, ok15: Any) -> tuple[float, float, float, float]:
    """Share right and calibration error, of ours and of 15 neighbours."""
    return ok.mean(), ok15.mean(), calibration_error(p, ok), calibration_error(p15, ok15)


def calibration_error(p: npt.NDArray[Any], ok: npt.NDArray[Any], bins: int = 10) -> float:
    """Mean distance between what is said and what is so, over bins weighted by their cells."""
    place = np.minimum((p * bins).astype(int), bins - 1)
    parts = [place == b for b in range(bins)]
    return float(sum(at.mean() * abs(p[at].mean() - ok[at].mean()) for at in parts if at.any()))


if __name__ == "__main__":
    main()
