"""The report's charts and tables of training and imputation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mosaicvi.report.heldout import MEAN, METHODS, MODEL, NEIGHBOURS, Accuracy
from mosaicvi.report.svg import Line, line_chart
from mosaicvi.view.curves import balance, modalities_in, robust_limits
from mosaicvi.view.palette import INK, OKABE_ITO, modality_colors

NAMES = {MODEL: "mosaicvi", NEIGHBOURS: "similar cells", MEAN: "feature's mean"}
COLORS = {MODEL: OKABE_ITO[0], NEIGHBOURS: OKABE_ITO[5], MEAN: "#8A8A8A"}
LISTED = 10


def training_charts(history: pd.DataFrame) -> list[str]:
    """The loss, its regularising terms, the balance, and the terms of each modality."""
    x = np.arange(1, len(history) + 1, dtype=np.float64)
    names = modalities_in(history)
    colors = modality_colors(names)
    regularising = {"kl": OKABE_ITO[3], "mmd": OKABE_ITO[5]}
    out = [
        _terms(history, x, "Loss", {"loss": INK}),
        _terms(history, x, "Regularising terms", regularising),
    ]
    shares = [Line(name=n, y=s, color=colors[n]) for n, s in zip(names, balance(history, names), strict=True)]
    out.append(line_chart("Share of each modality in the loss", shares, x=x, xlabel="epoch", limits=(0, 1)))
    for name in names:
        out.append(
            _terms(
                history,
                x,
                f"{name}: terms of the loss",
                {f"observed_{name}": colors[name], f"masked_{name}": INK},
            )
        )
    for name in names:
        out.append(_terms(history, x, f"{name}: log-likelihood per cell", {f"log_prob_{name}": colors[name]}))
    return [c for c in out if c]


def _terms(history: pd.DataFrame, x: Any, title: str, terms: dict[str, str]) -> str:
    lines, keys = [], []
    for term, color in terms.items():
        for split in ("train", "validation"):
            key = f"{split}_{term}"
            if key in history and history[key].fillna(0).any():
                word = term.split("_")[0] if not term.startswith("log_prob") else "log-likelihood"
                y = history[key].to_numpy(np.float64)
                lines.append(Line(name=f"{word}, {split}", y=y, color=color, dashed=split != "train"))
                keys.append(key)
    return line_chart(
        title, lines, x=x, xlabel="epoch", limits=robust_limits(history[keys]) if keys else None
    )


SEEN = {
    True: "held out of training",
    False: "most of them trained on, as too few were held out",
    None: "perhaps trained on",
}


def accuracy_view(test: Accuracy) -> dict[str, Any]:
    """One test as rows of a table, a chart, and its best and worst features."""
    score = test.per_feature[MODEL]
    known = np.flatnonzero(~np.isnan(score))
    ranked = known[np.argsort(-score[known], kind="stable")]
    named = [(test.features[j], _two(score[j])) for j in ranked]
    rows = [
        {
            "method": NAMES[m],
            "overall": _two(test.overall[m]),
            "median": _two(test.median(m)),
            "explained": _percent(test.explained.get(m, float("nan"))),
        }
        for m in METHODS
        if m in test.overall
    ]
    hidden = f"{test.modality}, whole" if test.whole else f"{test.modality}, single entries"
    return {
        "hidden": f"{hidden} ({test.measure})",
        "modality": test.modality,
        "measure": test.measure,
        "source": test.source,
        "whole": test.whole,
        "size": _size(test),
        "seen": SEEN[test.held_out],
        "rows": rows,
        "chart": _ranked_chart(test, hidden),
        "best": named[:LISTED],
        "worst": named[LISTED:][-LISTED:][::-1],
    }


def tests_in_words(tests: Sequence[Accuracy], k: int) -> str:
    """What was hidden in these tests, and what the model is compared with, of `k` similar cells."""
    cases = (
        (any(t.whole for t in tests), "a whole modality of some cells"),
        (any(not (t.whole or t.every_part) for t in tests), "a random fifth of a modality's entries"),
        (
            any(t.every_part for t in tests),
            "where entries are missing, every measured one of some cells, a random fifth at a time (what is "
            "missing because it is low may be imputed worse)",
        ),
    )
    hidden = "; ".join(words for is_so, words in cases if is_so)
    near = f", and the average of the {k} most similar cells"
    near = near if any(NEIGHBOURS in t.overall for t in tests) else ""
    return (
        f"Measured values were hidden from the model, imputed, and compared with the truth: {hidden}. For "
        f"comparison the feature's mean{near}. Features that too few of these cells measured are left out. "
        "Where enough cells were held out of training, these are asked about; the model may know others, and "
        "new cells then fare a little worse."
    )


def _size(test: Accuracy) -> str:
    """How many cells, features and values were scored, and of how many features."""
    few = f" of {test.n_features:,}" if len(test.features) < test.n_features else ""
    return f"{test.n_cells:,} × {len(test.features):,}{few}, {test.n_values:,} values"


def _ranked_chart(test: Accuracy, hidden: str) -> str:
    """Score of the features from the best to the worst, each method in its own order."""
    share = np.linspace(0, 1, 101)
    lines = []
    for method in (MODEL, NEIGHBOURS):
        score = test.per_feature.get(method)
        known = np.empty(0) if score is None else np.sort(score[~np.isnan(score)])[::-1]
        if len(known):
            y = np.interp(share * (len(known) - 1), np.arange(len(known)), known)
            lines.append(Line(name=NAMES[method], y=y, color=COLORS[method], dashed=method != MODEL))
    if not lines:
        return ""
    lines.append(Line(name="by chance", y=np.full(101, test.chance), color=COLORS[MEAN], dashed=True))
    low = min(test.chance, min(float(line.y.min()) for line in lines))
    title = f"{hidden}: {test.measure} of each feature"
    return line_chart(
        title, lines, x=100 * share, xlabel="% of the features, best first", limits=(low, 1), whole_x=False
    )


def _two(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.0f} %"
