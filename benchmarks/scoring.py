"""Scores of a latent space and of imputed values, the same for all methods.

Imputed values are compared with what was hidden on log-normalised RNA, on centred log ratios of proteins, on
whether a peak is open, and on values as they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from benchmarks.common import last_line, read_json
from benchmarks.mosaics import NEIGHBOURS, UNKNOWN, Bools, Hidden, Task, hidden
from mosaicvi import MosaicVI, metrics
from mosaicvi.data.transforms import Transform

Floats = npt.NDArray[Any]
Kind = Literal["rna", "adt", "peaks", "value"]
Scores = dict[str, float]

LATENT = ("mix", "mix_within", "ari", "nmi", "knn_label", "transfer", "asw_label")
IMPUTED = ("r", "rho", "r_all", "rmse", "auc_peak", "auc_cell", "auc")
LOWER_IS_BETTER = frozenset({"rmse", "pcr"})
TRANSFORM: dict[Kind, Transform] = {
    "rna": "log1p_cp10k",
    "adt": "clr",
    "peaks": "binarize",
    "value": "none",
}
SEEN_IN = 10  # hidden cells that a feature must have, and be above zero in, to be scored
# every fifth peak; cells; up to how many entries all of them are ranked, and how many are drawn else
AUC_PEAKS, AUC_CELLS, AUC_ALL, AUC_DRAWN = 5, 500, 20_000_000, 4_000_000


def latent_scores(latent: Floats, label: npt.NDArray[Any], group: npt.NDArray[Any]) -> Scores:
    """Scores of an embedding of all cells."""
    out = {"mix": metrics.neighbor_mixing(latent, group, NEIGHBOURS)}
    known = set(label.tolist()) - set(UNKNOWN)
    if known:
        out["mix_within"] = metrics.neighbor_mixing_within(latent, label, group, NEIGHBOURS, ignore=UNKNOWN)
        clusters = metrics.kmeans_ari_nmi(latent, label, ignore=UNKNOWN)
        out |= {
            "ari": clusters.ari,
            "nmi": clusters.nmi,
            "knn_label": metrics.neighbor_label_agreement(latent, label, NEIGHBOURS, ignore=UNKNOWN),
            "transfer": metrics.label_transfer(latent, label, group, NEIGHBOURS, ignore=UNKNOWN),
        }
    if len(known) > 1:
        out["asw_label"] = metrics.silhouette(latent, label, max_cells=None, ignore=UNKNOWN)
    return {name: value for name, value in out.items() if np.isfinite(value)}


# --- imputed values -------------------------------------------------------------------------------


def kind_of(name: str, truth: Any) -> Kind:
    """What values are: proteins and peaks by the modality's name, real numbers by what they are, else RNA."""
    if name.startswith("adt"):
        return "adt"
    if not sp.issparse(truth) and (np.isnan(truth).any() or (truth != np.round(truth)).any()):
        return "value"
    return "peaks" if name.startswith(("atac", "h3k")) else "rna"


def on_scale(kind: Kind, values: Floats, measured: Bools) -> Floats:
    """Counts (or values) on the scale compared; sizes are those of the entries that were ever measured."""
    x = np.where(measured, values, 0)
    if kind == "rna":
        return np.asarray(np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1e-12) * 1e4))
    if kind == "adt":
        n_seen = np.maximum(measured.sum(1, keepdims=True), 1)
        mean_log = np.where(measured, np.log1p(x), 0).sum(1, keepdims=True) / n_seen
        return np.asarray(np.log1p(x / np.exp(mean_log)))
    return np.asarray(x > 0, np.float32) if kind == "peaks" else values


def imputation_scores(kind: Kind, truth: Floats, guess: Floats, entries: Bools) -> Scores:
    """Scores of imputed values against hidden ones, both on the scale compared.

    Parameters
    ----------
    truth, guess
        Cells × features.
    entries
        Which of them were hidden; the others are not compared.
    """
    out = {"entries": float(entries.sum())}
    return out | (_peak_scores if kind == "peaks" else _value_scores)(kind, truth, guess, entries)


def _value_scores(kind: Kind, truth: Floats, guess: Floats, entries: Bools) -> Scores:
    known = np.where(entries, truth, np.nan) if not entries.all() else truth
    enough = entries.sum(0) >= SEEN_IN
    if kind != "value":
        enough &= ((truth > 0) & entries).sum(0) >= SEEN_IN
    low, high = (
        f(np.where(entries, truth, sign), axis=0) for f, sign in ((np.min, np.inf), (np.max, -np.inf))
    )
    scored = enough & (low < high)
    out = {
        "r_all": metrics.correlation_overall(guess, known),
        "rmse": metrics.root_mean_square_error(guess, known),
    }
    if scored.any():
        for name, method in (("r", "pearson"), ("rho", "spearman")):
            found = metrics.correlation_per_feature(guess[:, scored], known[:, scored], method)  # type: ignore[arg-type]
            out[name] = float(np.nan_to_num(found).mean())  # a constant guess follows nothing
    return out


def _peak_scores(kind: Kind, truth: Floats, guess: Floats, entries: Bools) -> Scores:
    is_open = truth > 0
    peaks = np.flatnonzero((is_open & entries).sum(0) >= SEEN_IN)[::AUC_PEAKS]
    n = len(is_open)
    cells = np.random.default_rng(0).choice(n, min(AUC_CELLS, n), False)
    known = np.where(entries, is_open, np.nan) if not entries.all() else is_open.astype(np.float32)
    by_peak = (
        metrics.auroc_per_feature(guess[:, peaks], known[:, peaks]) if len(peaks) else np.array([np.nan])
    )
    by_cell = metrics.auroc_per_feature(guess[cells].T, known[cells].T)
    rng = np.random.default_rng(0)
    if entries.size < AUC_ALL:
        overall = metrics.auroc_overall(guess, known)
    else:
        row, column = rng.integers(0, n, AUC_DRAWN), rng.integers(0, entries.shape[1], AUC_DRAWN)
        overall = metrics.auroc_overall(guess[row, column][:, None], known[row, column][:, None])
    out = {"auc_peak": _mean(by_peak), "auc_cell": _mean(by_cell), "auc": overall}
    return {name: value for name, value in out.items() if np.isfinite(value)}


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


class Question:
    """What is asked of every method about one modality, and how an answer is scored.

    Parameters
    ----------
    task, modality
        With hidden entries.
    """

    def __init__(self, task: Task, modality: str) -> None:
        truth = task.truth[modality]
        self.modality, self.features = modality, truth.var_names
        self.hidden: Hidden = hidden(task, modality)
        self.kind = kind_of(modality, truth.X)
        x = truth.X[self.hidden.rows]
        values = x.toarray() if sp.issparse(x) else np.asarray(x)
        self.measured = ~np.isnan(values)
        self.truth = on_scale(self.kind, values, self.measured)

    def of_counts(self, values: Floats, *, is_log: bool = False) -> Scores:
        """Scores of counts, of log(1 + counts per 10,000), of probabilities or of values."""
        if self.kind in ("rna", "adt"):
            values = np.maximum(values, 0)
            values = on_scale(self.kind, np.expm1(values) if is_log else values, self.measured)
        return imputation_scores(self.kind, self.truth, values, self.hidden.entries)

    def on_its_scale(self, values: Floats) -> Scores:
        """Scores of values that are on the scale compared already."""
        filled = np.where(self.hidden.entries, values, 0)
        return imputation_scores(self.kind, self.truth, filled, self.hidden.entries)


def questions(task: Task) -> list[Question]:
    """A question for each modality that has hidden entries."""
    found = [Question(task, modality) for modality in task.truth]
    return [question for question in found if len(question.hidden.rows)]


def answer(model: MosaicVI, question: Question) -> tuple[Floats, bool]:
    """Our imputed values of the hidden cells, and whether they are logarithms."""
    more: dict[str, Any] = {"scale": "log1p_cp10k"} if question.kind == "rna" else {}
    frame = model.get_imputed_values(modality=question.modality, indices=question.hidden.cells, **more)
    is_log = bool(more) or model.imputed_scale(question.modality).kind == "log1p_cp10k"
    return frame.reindex(columns=question.features, fill_value=0).to_numpy(np.float32), is_log


def from_folder(run: Path, task: Task, asked: list[Question]) -> tuple[Scores, dict[str, Scores]]:
    """Scores of the latent, and by modality, of what a peer's script left in its folder."""
    is_log = read_json(run / "time.json").get("scale") == "log"
    cells = (run / "cells.txt").read_text().split("\n")
    at = task.names.get_indexer(pd.Index([c.strip() for c in cells if c.strip()]))
    latent = latent_scores(np.load(run / "latent.npy"), task.label[at], task.group[at])
    imputed = {}
    for question in asked:
        path = run / f"imputed.{question.modality}.npy"
        if path.exists():
            names = path.with_suffix(".cells.txt").read_text().split()
            row = task.names[question.hidden.cells].map({name: i for i, name in enumerate(names)})
            values = np.asarray(np.load(path, mmap_mode="r")[row.to_numpy(np.int64)], np.float32)
            imputed[question.modality] = question.of_counts(values, is_log=is_log)
    return latent, imputed


# --- by another script ----------------------------------------------------------------------------

SCRIPT_NAMES = {
    "pearson_feature": "r",
    "spearman_feature": "rho",
    "pearson_all": "r_all",
    "n": "entries",
}


def by_script(
    script: Path, model: MosaicVI, task: Task, asked: list[Question]
) -> tuple[Scores, dict[str, Scores]]:
    """The same scores by a script of the peers' kind, from files that are removed again."""
    with tempfile.TemporaryDirectory(prefix="mosaicvi-score-") as folder:
        run = Path(folder)
        np.save(run / "latent.npy", model.get_latent_representation())
        (run / "cells.txt").write_text("\n".join(map(str, task.names)))
        for question in asked:
            values, is_log = answer(model, question)
            np.save(
                run / f"imputed.{question.modality}.npy",
                np.expm1(np.maximum(values, 0)) if is_log else values,
            )
            names = task.names[question.hidden.cells]
            (run / f"imputed.{question.modality}.cells.txt").write_text("\n".join(map(str, names)))
        (run / "time.json").write_text(json.dumps({"scale": "count"}))
        args = [sys.executable, str(script), str(task.folder.resolve()), task.name, str(run)]
        done = subprocess.run(args, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script}: {last_line(done.stderr)}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    imputed: dict[str, Scores] = {}
    for key, value in found.items():
        modality, dot, score = key.rpartition(".")
        if dot:
            imputed.setdefault(modality, {})[SCRIPT_NAMES.get(score, score)] = float(value)
    return {k: found[k] for k in LATENT if k in found}, imputed
