"""How well cells are served that join a model, beside training on everything.

Of each mosaic one whole batch is left out. The model of the rest answers for it as it is (zero-shot), after
it has grown by it, and after all its weights were trained on it with as many cells of the rest. Compared with
a model that was trained on all batches: labels carried from the other batches by the nearest cells in the
latent, the correlation of imputed with hidden values of the left-out batch and of the rest, and the seconds
of the processor that training took, and what is learnt after it to impute. Beside it, where the batch has
RNA, architectural surgery of totalVI.

Then a modality that no cell of a reference has: it is learnt from a few cells that have it beside one that
the reference knows, and imputed into the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
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
from benchmarks.models import add_models, at_defaults
from benchmarks.mosaics import NEIGHBOURS, UNKNOWN, Task, read_seen, task_of
from benchmarks.peers import NAMES, Peer, add_peers
from benchmarks.scoring import Question, questions
from mosaicvi import MosaicVI, MosaicWarning
from mosaicvi.data.read import mudata_as_it_is

LEFT_OUT = {"pbmc3": "pbmc5k", "reap": "PBMC3", "adt13": "hao_2020", "teaseq": "adt_only"}
WAYS = ("everything", "zero-shot", "grown", "unfrozen")
NEW_MODALITY = {"reap": "adt", "pbmc3": "adt"}  # that a reference never had, by task
PAIRED = 300  # cells from which it is learnt
TIMED_EPOCHS = 3
SURGERY, SURGERY_EPOCHS = Path(__file__).with_name("surgery.py"), 40


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
    """Of one way to serve the left-out batch: accuracy of labels; r by modality, there and in the rest."""

    transfer: float
    r: dict[str, float]
    r_of_rest: dict[str, float]
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
            "r_of_the_rest",
            "s",
            "of_time",
        ),
        note="Each modality's r is the mean over its features on the left-out batch's hidden values, or on "
        "those of the rest; `of` is the share of what training on everything reaches, and of the processor's "
        f"time that it takes: of training, measured over {TIMED_EPOCHS} epochs, and of the read-out.",
    )
    new = Table(
        name="new modality",
        title=f"A modality that the reference never had, learnt from {PAIRED} cells",
        columns=("task", "modality", "cells", "r", "r_of_everything", "of_everything", "s"),
        note="Mean r per feature on hidden values of cells whose reference had the other modalities alone; "
        "beside it that of a model trained on all that the mosaic shows.",
    )
    for name in options.task or list(LEFT_OUT):
        for row in _rows(name, options):
            table.add(**row)
            say(str(row))
        if name in NEW_MODALITY:
            new.add(**_new_modality(name, options))
            say(str(new.rows[-1]))
    common.show("mapping", [table, new], options)


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__, "mapping")
    parser.add_argument("--data", type=Path, default=common.DATA, metavar="DIR", help="folder of mosaics")
    parser.add_argument("--task", action="append", choices=tuple(LEFT_OUT), help="may be repeated [all]")
    add_models(parser)
    parser.add_argument("--ways", default=",".join(WAYS), help="[%(default)s]")
    add_peers(parser, epochs=SURGERY_EPOCHS, known=("scarches",))
    parser.add_argument("--seed", type=int, default=0, help="of training, and of the choice of cells [0]")
    return parser.parse_args()


def _rows(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    left = _leave_out(options.data, name, LEFT_OUT[name])
    best: Scores | None = None
    for how in [*filter(None, options.ways.split(",")), *options.peer]:
        if isinstance(how, Peer) and not all("rna" in part.mod for part in (left.rest, left.query)):
            say(f"{name}: skipped {how.name}, which needs RNA")
            continue
        found = _by_surgery(left, how, options) if isinstance(how, Peer) else _served(left, how, options)
        if found is None:
            continue
        best = best or found
        shared = [m for m in found.r if m in best.r]
        yield {
            "task": name,
            "left_out": LEFT_OUT[name],
            "how": how.name if isinstance(how, Peer) else how,
            "label_transfer": found.transfer,
            "of_everything": found.transfer / best.transfer,
            "imputation_r": ", ".join(f"{m} {r:.3f}" for m, r in found.r.items()) or "–",
            "of_all": ", ".join(f"{m} {found.r[m] / best.r[m]:.3f}" for m in shared) or "–",
            "r_of_the_rest": ", ".join(f"{m} {r:.3f}" for m, r in found.r_of_rest.items()) or "–",
            "s": found.seconds,
            "of_time": found.seconds / best.seconds if best.seconds else float("nan"),
        }


def _leave_out(folder: Path, name: str, batch: str) -> Left:
    seen, truth, obs, names = read_seen(folder, name)
    is_query = (obs.batch == batch).to_numpy()
    return Left(
        task=task_of(name, folder, seen, truth, obs, names),
        seen=seen,
        rest=of_cells(seen, ~is_query),
        query=of_cells(seen, is_query),
        is_query=is_query,
    )


def of_cells(mdata: MuData, which: npt.NDArray[np.bool_]) -> MuData:
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
            model = _trained(left.seen, left.task.name, options)
            return _scores(left, model, None, _seconds_of_training(left.seen, model))
        model = _trained(left.rest, f"{left.task.name}-without-{LEFT_OUT[left.task.name]}", options)
        if how == "zero-shot":
            return _scores(left, model, MosaicVI.prepare_query(left.query, model), 0.0)
        _complete(model)
        began = time.process_time()
        grown = MosaicVI.load_query_data(left.query, model, unfrozen=how == "unfrozen")
        grown.train(progress=False, accelerator="cpu").readout()
        return _scores(left, grown, left.query, time.process_time() - began)


def _complete(model: MosaicVI) -> None:
    """Have it learn all that a saved model has."""
    for learn in (model.readout, model.alignment, model.reference_cells, model.spreads, model.kept_accuracy):
        learn()


def _trained(data: MuData, name: str, options: argparse.Namespace) -> MosaicVI:
    """A model of the data at the defaults, read or trained."""
    mosaic = MosaicVI.setup_mudata(data, batch_key="batch")
    if options.quick:
        return MosaicVI(mosaic).train(2, progress=False, accelerator="cpu")
    return at_defaults(name, mosaic, options.seed, options.models)[0]


def _seconds_of_training(data: MuData, model: MosaicVI) -> float:
    """Of the processor, for as many epochs as the model was trained, and all that is learnt after them."""
    MosaicVI.setup_mudata(data, batch_key="batch")
    fresh = MosaicVI(data).train(1, progress=False, accelerator="cpu")  # which compiles
    began = time.process_time()
    fresh.train(TIMED_EPOCHS, progress=False, accelerator="cpu")
    trained = time.process_time()
    fresh.readout()
    fresh.alignment()
    return (trained - began) / TIMED_EPOCHS * len(model.history) + time.process_time() - trained


def _by_surgery(left: Left, peer: Peer, options: argparse.Namespace) -> Scores | None:
    """The same of scArches, in a process of its own; None if that failed."""
    epochs = 1 if options.quick else options.peer_epochs
    with tempfile.TemporaryDirectory(prefix="mosaicvi-surgery-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        with mudata_as_it_is():
            for part in ("rest", "query"):
                getattr(left, part).write_h5mu(folder / f"{part}.h5mu")
        say(f"{left.task.name}: {NAMES[peer.key]}, {epochs} epochs of the rest and {epochs} of the query")
        line = [peer.python, SURGERY, folder, epochs, options.seed]
        child = common.run(line, folder / "log", env=common.child_env(ours=False))
        if not child.ok:
            say(f"{left.task.name}: {peer.name} failed: {common.last_line(child.said)}")
            return None
        latent = pd.read_csv(folder / "latent.csv", index_col=0)
        values = folder / "imputed.csv"
        imputed = pd.read_csv(values, index_col=0) if values.exists() else pd.DataFrame()
        seconds = common.read_json(folder / "time.json")["seconds"]
    cells = left.task.mosaic.cells
    has = cells.isin(latent.index)
    found = {}
    for question in questions(left.task):
        rows = left.is_query[question.hidden.cells]
        columns = [f"{question.modality} {name}" for name in question.features]
        if rows.any() and imputed.columns.isin(columns).any():
            guess = imputed.reindex(cells[question.hidden.cells[rows]]).reindex(columns=columns, fill_value=0)
            found[question.modality] = _of_rows(question, rows).of_counts(guess.to_numpy(np.float32))["r"]
    z = latent.reindex(cells).to_numpy(np.float32)
    reference, asked = has & ~left.is_query, has & left.is_query
    return Scores(
        transfer=transfer(left.task.label, z, reference, asked), r=found, r_of_rest={}, seconds=seconds
    )


# --- a modality that is new ---------------------------------------------------------------------------


def _new_modality(name: str, options: argparse.Namespace) -> dict[str, Any]:
    modality = NEW_MODALITY[name]
    task = task_of(name, options.data, *read_seen(options.data, name))
    seen = read_seen(options.data, name)[0]
    question = next(q for q in questions(task) if q.modality == modality)
    with mudata_as_it_is(), warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        whole = _trained(seen, name, options)
        paired = seen[modality].obs_names.intersection(seen["rna"].obs_names)
        chosen = np.random.default_rng(options.seed).permutation(paired)[:PAIRED]
        without = _of_modalities(seen, ["rna"])
        query = of_cells(_of_modalities(seen, ["rna", modality]), seen.obs_names.isin(chosen))
        rest = of_cells(without, without.obs_names.isin(seen["rna"].obs_names.difference(chosen)))
        model = _trained(rest, f"{name}-rna-without-{PAIRED}", options)
        grown = MosaicVI.load_query_data(query, model)
        began = time.process_time()
        grown.train(progress=False, accelerator="cpu")
        seconds = time.process_time() - began
        asked = np.isin(task.mosaic.cells[question.hidden.cells], rest.obs_names)
        some, names = _of_rows(question, asked), list(task.mosaic.cells[question.hidden.cells[asked]])
        found = [
            some.of_counts(
                m.get_imputed_values(d, modality=modality, indices=names, modalities=["rna"])
                .reindex(columns=question.features, fill_value=0)
                .to_numpy(np.float32)
            )["r"]
            for m, d in ((grown, rest), (whole, None))
        ]
    return {
        "task": name,
        "modality": modality,
        "cells": len(chosen),
        "r": found[0],
        "r_of_everything": found[1],
        "of_everything": found[0] / found[1],
        "s": seconds,
    }


def _of_modalities(mdata: MuData, names: list[str]) -> MuData:
    there = [name for name in mdata.obs_names if any(name in mdata[m].obs_names for m in names)]
    out = MuData({name: mdata[name].copy() for name in names}, obs=pd.DataFrame(index=there))
    out.obs = mdata.obs.loc[there]
    return out


# --- scores -----------------------------------------------------------------------------------------


def _scores(left: Left, model: MosaicVI, query: MuData | None, seconds: float) -> Scores:
    """Scores of a model of everything, or of one that is asked about the query."""
    if query is None:
        latent = np.asarray(model.get_latent_representation())
    else:
        rest = MosaicVI.prepare_query(left.rest, model)
        latent = np.empty((len(left.is_query), model.config.dim_latent), np.float32)
        for data, which in ((rest, ~left.is_query), (query, left.is_query)):
            latent[which] = model.get_latent_representation(data)
    return Scores(
        transfer=transfer(left.task.label, latent, ~left.is_query, left.is_query),
        r=correlations(left, model, query, left.is_query),
        r_of_rest=correlations(left, model, None if query is None else rest, ~left.is_query),
        seconds=seconds,
    )


def transfer(
    label: npt.NDArray[Any],
    latent: npt.NDArray[np.float32],
    reference: npt.NDArray[np.bool_],
    asked: npt.NDArray[np.bool_],
) -> float:
    """Accuracy of labels carried from some cells to others; NaN where there are none."""
    known = ~np.isin(label, UNKNOWN)
    here, there = known & reference, known & asked
    if not here.any() or not there.any():
        return float("nan")
    carrier = KNeighborsClassifier(NEIGHBOURS).fit(latent[here], label[here])
    return float((carrier.predict(latent[there]) == label[there]).mean())


def correlations(
    left: Left, model: MosaicVI, data: MuData | None, which: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Mean r per feature of each modality on hidden values of some cells of the whole."""
    found = {}
    for question in questions(left.task):
        rows = which[question.hidden.cells]
        if question.modality not in model.config.uni_block_names or not rows.any():
            continue
        names = left.task.mosaic.cells[question.hidden.cells[rows]]
        more: dict[str, Any] = {"scale": "log1p_cp10k"} if question.kind == "rna" else {}
        frame = model.get_imputed_values(data, modality=question.modality, indices=list(names), **more)
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
