"""How well the cells of a batch that was left out of training are served, beside training on everything.

Of each mosaic one whole batch is left out. The model of the rest answers for it as it is (zero-shot), and
after it has grown by it. Compared with a model that was trained on all batches: labels carried from the other
batches by the nearest cells in the latent, the correlation of imputed with hidden values of the left-out
batch, and the seconds of the processor that training took.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from mudata import MuData
from sklearn.neighbors import KNeighborsClassifier

from benchmarks import common
from benchmarks.common import Table, say
from benchmarks.mosaics import NEIGHBOURS, UNKNOWN, Task, read_seen, task_of
from benchmarks.scoring import Question, questions
from mosaicvi import MosaicVI, MosaicWarning
from mosaicvi.data.read import mudata_as_it_is

LEFT_OUT = {"pbmc3": "pbmc5k", "reap": "PBMC3", "adt13": "hao_2020", "teaseq": "adt_only"}
WAYS = ("everything", "zero-shot", "grown")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Left:
    """A mosaic with one batch left out.

    Attributes
    ----------
    task, seen
        The whole, and what a method sees of it.
    rest, query
        The other batches, and the one that was left out.
    is_query
        Which cells of the whole are of that batch.
    """

    task: Task
    seen: MuData
    rest: MuData
    query: MuData
    is_query: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Of one way to serve the left-out batch: accuracy of labels, r of each modality, seconds of training."""

    transfer: float
    r: dict[str, float]
    seconds: float


def main() -> None:
    options = _options()
    common.begin(options)
    table = Table(
        name="mapping",
        title="A batch that was left out of training",
        columns=(
            "task",
            "left_out",
            "how",
            "label_transfer",
            "of_everything",
            "imputation_r",
            "of_all",
            "s",
            "of_time",
        ),
        note="Each modality's r is the mean over its features on the left-out batch's hidden values; `of` is "
        "the share of what training on everything reaches, and of the processor's time that it takes.",
    )
    for name in options.task or list(LEFT_OUT):
        for row in _rows(name, options):
            table.add(**row)
            say(str(row))
    common.show("mapping", [table], options)


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__, "mapping")
    parser.add_argument("--data", type=Path, default=common.DATA, metavar="DIR", help="folder of mosaics")
    parser.add_argument("--task", action="append", choices=tuple(LEFT_OUT), help="may be repeated [all]")
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="keep trained models there, and take those that are there"
    )
    parser.add_argument("--ways", default=",".join(WAYS), help="[%(default)s]")
    parser.add_argument("--epochs", type=int, help="of each training [the library's own; 2 with --quick]")
    options = parser.parse_args()
    if options.quick and options.epochs is None:
        options.epochs = 2
    return options


def _rows(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    left = _leave_out(options.data, name, LEFT_OUT[name])
    best: Scores | None = None
    for how in options.ways.split(","):
        found = _served(left, how, options)
        best = best or found
        shared = [m for m in found.r if m in best.r]
        yield {
            "task": name,
            "left_out": LEFT_OUT[name],
            "how": how,
            "label_transfer": found.transfer,
            "of_everything": found.transfer / best.transfer,
            "imputation_r": ", ".join(f"{m} {r:.3f}" for m, r in found.r.items()) or "–",
            "of_all": ", ".join(f"{m} {found.r[m] / best.r[m]:.3f}" for m in shared) or "–",
            "s": found.seconds,
            "of_time": found.seconds / best.seconds,
        }


def _leave_out(folder: Path, name: str, batch: str) -> Left:
    seen, truth, obs, names = read_seen(folder, name)
    is_query = (obs.batch == batch).to_numpy()
    return Left(
        task=task_of(name, folder, seen, truth, obs, names),
        seen=seen,
        rest=_of_cells(seen, ~is_query),
        query=_of_cells(seen, is_query),
        is_query=is_query,
    )


def _of_cells(mdata: MuData, which: npt.NDArray[np.bool_]) -> MuData:
    """Some cells, without modalities that none of them has."""
    with mudata_as_it_is():
        some = mdata[which].copy()
        mods = {name: a for name, a in some.mod.items() if a.n_obs}
        out = MuData(mods, obs=pd.DataFrame(index=some.obs_names))
        out.obs = some.obs
        out.uns.update(some.uns)
    return out


# --- ways to serve it -------------------------------------------------------------------------------


def _served(left: Left, how: str, options: argparse.Namespace) -> Scores:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        if how == "everything":
            model, seconds = _trained(left, left.seen, left.task.name, options)
            return _scores(left, model, None, seconds)
        model, _ = _trained(left, left.rest, f"{left.task.name}-{LEFT_OUT[left.task.name]}", options)
        if how == "zero-shot":
            return _scores(left, model, MosaicVI.prepare_query(left.query, model), 0.0)
        grown = MosaicVI.load_query_data(left.query, model)
        began = time.process_time()
        grown.train(options.epochs, progress=False, accelerator="cpu")
        return _scores(left, grown, left.query, time.process_time() - began)


def _trained(left: Left, data: MuData, name: str, options: argparse.Namespace) -> tuple[MosaicVI, float]:
    """A model of the data and the seconds that it took, or one that was kept."""
    MosaicVI.setup_mudata(data, batch_key="batch")
    if options.models is not None and (options.models / f"t.{name}.json").exists():
        said = json.loads((options.models / f"t.{name}.json").read_text())
        return MosaicVI.load(options.models / f"m.{name}", data), said["s"]
    began = time.process_time()
    model = MosaicVI(data).train(options.epochs, progress=False, accelerator="cpu")
    seconds = time.process_time() - began
    if options.models is not None:
        model.save(options.models / f"m.{name}", overwrite=True)
        (options.models / f"t.{name}.json").write_text(json.dumps({"s": seconds}))
    return model, seconds


# --- scores -----------------------------------------------------------------------------------------


def _scores(left: Left, model: MosaicVI, query: MuData | None, seconds: float) -> Scores:
    """Scores of a model of everything, or of one that is asked about the query."""
    if query is None:
        latent = model.get_latent_representation()
        reference, asked = latent[~left.is_query], latent[left.is_query]
    else:
        rest = (
            left.rest if model.mosaic.n_cells == left.rest.n_obs else MosaicVI.prepare_query(left.rest, model)
        )
        reference, asked = (np.asarray(model.get_latent_representation(d)) for d in (rest, query))
    return Scores(
        transfer=_transfer(left, reference, asked), r=_correlations(left, model, query), seconds=seconds
    )


def _transfer(left: Left, reference: npt.NDArray[Any], asked: npt.NDArray[Any]) -> float:
    """Accuracy of labels carried from the other batches to the left-out one; NaN where there are none."""
    label = left.task.label
    known = ~np.isin(label, UNKNOWN)
    here, there = known[~left.is_query], known[left.is_query]
    if not here.any() or not there.any():
        return float("nan")
    carrier = KNeighborsClassifier(NEIGHBOURS).fit(reference[here], label[~left.is_query][here])
    return float((carrier.predict(asked[there]) == label[left.is_query][there]).mean())


def _correlations(left: Left, model: MosaicVI, query: MuData | None) -> dict[str, float]:
    found = {}
    for question in questions(left.task):
        rows = left.is_query[question.hidden.cells]
        if question.modality not in model.config.uni_block_names or not rows.any():
            continue
        names = left.task.mosaic.cells[question.hidden.cells[rows]]
        more: dict[str, Any] = {"scale": "log1p_cp10k"} if question.kind == "rna" else {}
        frame = model.get_imputed_values(query, modality=question.modality, indices=list(names), **more)
        some = _of_rows(question, rows)
        values = frame.reindex(columns=question.features, fill_value=0).to_numpy(np.float32)
        found[question.modality] = some.of_counts(values, is_log=bool(more))["r"]
    return found


def _of_rows(question: Question, rows: npt.NDArray[np.bool_]) -> Question:
    """The same question about some of its cells."""
    some = Question.__new__(Question)
    some.__dict__.update(question.__dict__)
    hidden = question.hidden
    some.hidden = dataclasses.replace(
        hidden, rows=hidden.rows[rows], cells=hidden.cells[rows], entries=hidden.entries[rows]
    )
    some.measured, some.truth = question.measured[rows], question.truth[rows]
    return some


if __name__ == "__main__":
    main()
