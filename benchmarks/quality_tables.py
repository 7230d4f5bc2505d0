"""Tables of quality from the records of all runs: the latent, imputed values, and what was won and lost."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.common import Table
from benchmarks.records import Cell, Record
from benchmarks.scib import SCIB
from benchmarks.scoring import IMPUTED, LATENT, LOWER_IS_BETTER

TO = "s_to_"  # begins the name of a score: seconds until a rival's quality was reached
MARKS = "✓ at least as good as every other method on that task, ✗ not."
LATENT_NOTE = f"""\
Mean over seeds ± standard deviation. mix: mixing of groups among 15 neighbours; mix within: the same, each
cell against the groups of its own type; ari, nmi: of k-means with the labels; knn label: share of a cell's
neighbours with its label; transfer: labels from the other groups; asw: silhouette of labels; seconds: to the
end of training. {MARKS}"""
SCIB_NOTE = """\
By scib-metrics: ilisi, kbet (within labels): mixing; clisi, graph conn(ectivity), isolated (labels): labels;
pcr: share of the latent's variance that groups explain, the less the better."""
IMPUTED_NOTE = f"""\
Over hidden values. r: correlation over cells, mean over features; rho: of ranks; r all: over all entries;
rmse: root mean square error, the less the better; auc: of hidden accessibility by peak, by cell, over all.
nearest cells, ridge: mosaicvi.baselines. {MARKS}"""
TO_NOTE = """\
s to: seconds of the shortest training (2, 4, 8, … epochs, or to its end) of which every correlation or area
is at least that of the other method; – if there is none, for any seed."""
WON_NOTE = """\
won: columns of the tables above in which ours is at least as good as every other method. gain: sum of the
correlations or areas over that of the better baseline in each; the last row: mean over the rows."""
PEPTIDE_NOTE = """\
Over entries that were measured and held out. RMSE in log intensity; r: correlation of what is left when each
peptide's mean is taken away."""
NAMES = {"nearest": "nearest cells", "ridge": "ridge"}

Groups = dict[tuple[str, str], dict[str, dict[str, list[float]]]]


def tables(records: Sequence[Record], effort: str) -> list[Table]:
    """All tables of which there are records."""
    found = [
        _scores(records, "latent", f"Latent space, {effort}", (*LATENT, *SCIB), effort),
        _scores(records, "imputed", f"Imputed values, {effort}", IMPUTED, effort),
        _won(records),
        _peptides(records, effort),
    ]
    return [table for table in found if table.rows]


def _grouped(records: Iterable[Record], part: str) -> Groups:
    """(task, modality) → method → score → values over seeds, in the order of the records."""
    out: Groups = {}
    for one in records:
        if one.part == part:
            of = out.setdefault((one.task, one.modality), {}).setdefault(one.method, {})
            of.setdefault(one.score, []).append(one.value)
    return out


def _by(records: Iterable[Record]) -> dict[str, str]:
    return {one.method: one.by for one in records}


def cells(
    found: dict[str, dict[str, list[float]]], by: dict[str, str], scores: Sequence[str]
) -> dict[str, Any]:
    """Method → score → cell; ours are marked against the best of the others."""
    out: dict[str, dict[str, Cell]] = {}
    for method, of in found.items():
        out[method] = {}
        for score in scores:
            if score not in of:
                continue
            rivals = [
                statistics.fmean(them[score])
                for name, them in found.items()
                if by[name] != "ours" and score in them
            ]
            cell, sign = Cell(values=tuple(of[score])), -1 if score in LOWER_IS_BETTER else 1
            if by[method] == "ours" and rivals:
                cell = Cell(values=cell.values, won=all(sign * cell.mean >= sign * them for them in rivals))
            out[method][score] = cell
    return out


def _scores(records: Sequence[Record], part: str, title: str, scores: Sequence[str], effort: str) -> Table:
    by, groups = _by(records), _grouped(records, part)
    reached = list(dict.fromkeys(r.score for r in records if r.part == part and r.score.startswith(TO)))
    head = ["task", "method"] if part == "latent" else ["task", "modality", "entries", "method"]
    notes = [LATENT_NOTE] if part == "latent" else [IMPUTED_NOTE]
    notes += [SCIB_NOTE] if any(r.score in SCIB for r in records) and part == "latent" else []
    notes += [TO_NOTE] if reached else []
    table = Table(
        name=part, title=title, columns=(*head, *scores, "seconds", *reached), note="\n".join(notes)
    )
    for (task, modality), found in groups.items():
        for method, marked in cells(found, by, scores).items():
            of = found[method]
            row: dict[str, Any] = {"task": task, "method": NAMES.get(method, method), **marked}
            if part == "imputed":
                row |= {"modality": modality, "entries": int(of["entries"][0])}
            row |= {name: statistics.fmean(of[name]) for name in ("seconds", *reached) if name in of}
            table.add(**row)
    table.columns = [c for c in table.columns if any(c in row for row in table.rows)]
    return table


def _won(records: Sequence[Record]) -> Table:
    """How many columns ours win in each task and modality, and by how much."""
    table = Table(
        name="won",
        title="Won and lost",
        columns=("method", "task", "of", "won", "lost", "lost_columns", "gain_%"),
        note=WON_NOTE,
    )
    by = _by(records)
    for ours in [method for method, who in by.items() if who == "ours"]:
        rows: list[dict[str, Any]] = []
        for part, scores in (("latent", (*LATENT, *SCIB)), ("imputed", IMPUTED)):
            for (task, modality), found in _grouped(records, part).items():
                marked = cells(found, by, scores).get(ours, {})
                judged = {score: cell.won for score, cell in marked.items() if cell.won is not None}
                if judged:
                    lost = [score.replace("_", " ") for score, won in judged.items() if not won]
                    row: dict[str, Any] = {"task": task, "of": modality or "latent"}
                    row["won"] = len(judged) - len(lost)
                    row |= {"lost": len(lost), "lost_columns": ", ".join(lost)}
                    rows.append(row | {"gain_%": gain(found, by, ours) if part == "imputed" else None})
        for row in rows:
            table.add(method=ours, **row)
        if rows:
            gains = [row["gain_%"] for row in rows if row["gain_%"] is not None]
            total = {what: sum(row[what] for row in rows) for what in ("won", "lost")}
            mean = statistics.fmean(gains) if gains else None
            table.add(method=ours, task="all", of="", lost_columns="", **total, **{"gain_%": mean})
    return table


def gain(found: dict[str, dict[str, list[float]]], by: dict[str, str], ours: str) -> float | None:
    """Per cent by which the sum of our correlations or areas exceeds that of the better baseline in each."""
    mine = better = 0.0
    for score, values in found[ours].items():
        them = [statistics.fmean(of[score]) for m, of in found.items() if by[m] == "baseline" and score in of]
        if score in IMPUTED and score not in LOWER_IS_BETTER and them:
            mine, better = mine + statistics.fmean(values), better + max(them)
    return 100 * (mine / better - 1) if better > 0 else None


def _peptides(records: Sequence[Record], effort: str) -> Table:
    columns = ("missing_%", "method", "rmse", "r", "entries", "seconds")
    title = f"Simulated peptides, {effort}"
    table = Table(name="peptides", title=title, columns=columns, note=PEPTIDE_NOTE)
    for (task, _), found in _grouped(records, "peptides").items():
        for method, of in found.items():
            row: dict[str, Any] = {score: Cell(values=tuple(of[score])) for score in ("rmse", "r")}
            row["entries"] = int(of["entries"][0])
            row |= {"seconds": statistics.fmean(of["seconds"])} if "seconds" in of else {}
            table.add(**{"missing_%": float(task)}, method=method, **row)
    return table
