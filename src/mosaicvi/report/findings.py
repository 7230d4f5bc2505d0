"""What a user should know before trusting the pictures, in plain words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from mosaicvi.fit.ending import MOST_STEPS
from mosaicvi.report.heldout import MEAN, MODEL, NEIGHBOURS, Accuracy
from mosaicvi.report.integration import FEWEST_OF_A_KIND, Metric, Mixing

APART = 0.4
"""A kind whose cells have less than this share of the foreign neighbours that chance gives lies apart."""
QUOTED = 6
PLURALS = {"Batch": "batches", "Set of modalities": "sets of modalities"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One warning or note: what was seen, and what it may mean."""

    level: Literal["warning", "note"]
    title: str
    text: str


def training(
    history: pd.DataFrame, fewest_epochs: int, end: Literal["settled", "most steps"] | None = None
) -> list[Finding]:
    """Whether the model was trained enough, and not too much.

    Parameters
    ----------
    history
        One row an epoch.
    fewest_epochs
        Below which training was short.
    end
        `MosaicVI.training_end`: what training itself found of the loss, which is then the answer.
    """
    n = len(history)
    if n == 0:
        return [
            _warn(
                "The model was not trained.",
                "All numbers below are those of random weights. Train it first: mosaicvi train.",
            )
        ]
    key = "validation_loss" if "validation_loss" in history else "train_loss"
    loss = history[key].to_numpy(np.float64)
    word = key.split("_")[0]
    if not np.isfinite(loss).all():
        return [
            _warn(
                "The loss is not a number in some epochs.",
                "Do not use this model; train again with a lower rate: mosaicvi train --lr.",
            )
        ]
    out = []
    # first epochs fall steeply, so the fall is compared with the size of the loss
    back = max(1, n // 5)
    smooth = pd.Series(loss).rolling(min(3, n), min_periods=1).mean().to_numpy()
    fall = (smooth[-1 - back] - smooth[-1]) / max(abs(smooth[-1]), 1e-12) if n > back else np.inf
    if end == "most steps":
        out.append(
            _warn(
                f"Training ended at its limit of {MOST_STEPS:,} steps at one learning rate.",
                "The loss on held-out cells had not stopped falling by then. Train for longer: "
                f"mosaicvi train --max-epochs {2 * n}.",
            )
        )
    elif end is None and fall > 0.005:
        seen = (
            f"it fell by {fall:.1%} over the last {back} of {n} epochs"
            if np.isfinite(fall)
            else "there is one epoch"
        )
        without = ", or without a number, until it has settled" if word == "validation" else ""
        out.append(
            _warn(
                "The loss was still falling when training ended.",
                f"The {word} loss had not settled: {seen}. Train for longer before you judge the rest: "
                f"mosaicvi train --max-epochs {2 * n}{without}.",
            )
        )
    elif end is None and n < fewest_epochs:
        out.append(
            _warn(
                "Training was short.",
                f"{n} epochs, where at least {fewest_epochs} are usual for so many cells. A flat loss does "
                "not mean that it is done: the learning rate always falls towards zero in the last epochs. "
                f"mosaicvi train --max-epochs {fewest_epochs} is enough to tell.",
            )
        )
    best = int(np.argmin(loss))
    kept_best = "keeps_best" in history and history["keeps_best"].iloc[-1] == 1
    if (
        not kept_best
        and word == "validation"
        and best < n - max(3, n // 5)
        and loss[-1] > loss[best] + 0.01 * abs(loss[best])
    ):
        out.append(
            _warn(
                "The model may have learned its cells by heart.",
                f"The validation loss was lowest in epoch {best + 1} and rose by "
                f"{(loss[-1] - loss[best]) / abs(loss[best]):.1%} since. Train with "
                "mosaicvi train --early-stopping, or without a number of epochs.",
            )
        )
    return out


def mixing(what: Literal["Batch", "Set of modalities"], kinds: Sequence[Mixing]) -> list[Finding]:
    """Kinds of cells that keep to themselves."""
    apart = [k for k in kinds if k.n_cells >= FEWEST_OF_A_KIND and k.ratio < APART]
    if not apart:
        return []
    apart.sort(key=lambda k: k.ratio)
    worst = apart[0]
    names = _listed([k.kind for k in apart])
    lead = (
        f"{what} {names} keeps to itself."
        if len(apart) == 1
        else f"{len(apart)} of {len(kinds)} {PLURALS[what]} keep to themselves: {names}."
    )
    why = (
        "Either their cells are of other kinds (other tissue, other cell types), or a technical difference "
        "is left in the latent space, which mosaicvi train --gamma 20, or more, takes away. "
        "Colour the picture by both to tell."
        if what == "Batch"
        else "Cells are placed by what was measured rather than by what they are. Longer training, "
        "mosaicvi train --gamma 20, or more cells that measured both may help."
    )
    return [
        _warn(
            lead,
            f"Of the nearest neighbours of {worst.kind}'s cells {worst.foreign:.0%} are from elsewhere; "
            f"if all were mixed it would be {worst.expected:.0%}. {why}",
        )
    ]


def nothing(
    history: pd.DataFrame,
    by_batch: Sequence[Mixing],
    by_pattern: Sequence[Mixing],
    tests: Sequence[Accuracy],
) -> str:
    """What to say where there is no finding: what was looked at, and is as it should be."""
    seen = [
        words
        for words, kinds in (("batches mix", by_batch), ("sets of modalities mix", by_pattern))
        if any(k.n_cells >= FEWEST_OF_A_KIND for k in kinds)
    ]
    if len(history):
        seen.append("training has settled")
    if tests:
        simple = "simpler ways" if all(NEIGHBOURS in t.overall for t in tests) else "the feature's mean"
        seen.append(f"imputed values beat {simple}")
    listed = " and ".join([", ".join(seen[:-1]), seen[-1]] if len(seen) > 1 else seen)
    return f"Nothing stands out: {listed}." if listed else "Nothing could be looked at."


def pairs(found: Sequence[Metric]) -> list[Finding]:
    """Modalities that put the same cell at different places."""
    return [
        _warn(
            f"{m.name.removeprefix('FOSCTTM of ')} do not agree on where a cell belongs.",
            f"FOSCTTM is {m.value:.2f}, where 0.5 is chance: do not trust translations of single cells.",
        )
        for m in found
        if m.value > 0.35
    ]


def imputation(
    tests: Sequence[Accuracy], untestable: Sequence[str], *, may_go_on: bool = True
) -> list[Finding]:
    """Features that cannot be imputed, and tests in which simpler ways do better; one finding a test.

    Parameters
    ----------
    tests, untestable
        What was hidden and imputed, and modalities of which that could not be done.
    may_go_on
        Whether longer training may help.
    """
    out = [f for t in tests if (f := _of_test(t, may_go_on)) is not None]
    for name in untestable:
        out.append(
            Finding(
                level="note",
                title=f"Imputing {name} from other modalities could not be checked.",
                text=f"Too few cells measured {name} together with anything else.",
            )
        )
    return out


def _of_test(t: Accuracy, may_go_on: bool) -> Finding | None:
    what = f"{t.modality} from {t.source}" if t.whole else f"single values of {t.modality}"
    mine, mean, knn = t.overall[MODEL], t.overall[MEAN], t.overall.get(NEIGHBOURS, float("nan"))
    numbers = f"Overall {t.measure}: {mine:.2f}"
    if mine <= mean + 0.005:
        return _warn(
            f"Imputing {what} does no better than the feature's mean.",
            f"{numbers}, with the mean {mean:.2f}. Such imputed values say nothing about single cells.",
        )
    if knn > mine + 0.02:
        longer = "; longer training may help: mosaicvi train without --max-epochs" if may_go_on else ""
        return _warn(
            f"Averaging similar cells imputes {what} better than the model.",
            f"{numbers}, with the average {knn:.2f}. The model has not learned all that is in the data"
            f"{longer}.",
        )
    lost = unpredictable(t) if t.whole else []
    if not lost:
        return None
    return _warn(
        f"{len(lost):,} of {len(t.features):,} features of {t.modality} cannot be imputed from {t.source}.",
        f"Their imputed values do not tell which cell has more ({t.measure} within chance): {_listed(lost)}.",
    )


def trust(table: pd.DataFrame, *, of: str = "") -> list[Finding]:
    """Which features to believe where cells lack them, by what is measured of these cells.

    Parameters
    ----------
    table
        Of `MosaicVI.imputation_accuracy`.
    of
        Whose cells were the test, if others than those that lack the features: such as ``"reference "``.
    """
    lacking = table[table["lacking"] > 0]
    out = []
    for (name, view), rows in lacking.groupby(["modality", "view"], sort=False):
        said = {
            word: [str(f) for f in rows.loc[rows["believe"] == word].sort_values("score")["feature"]]
            for word in ("yes", "partly", "no")
        }
        text = "; ".join(
            f"{lead}: {_listed(features[::-1] if lead != 'not' else features)}"
            for lead, features in (
                ("yes", said["yes"]), ("with care", said["partly"]), ("not", said["no"])
            )
            if features
        )  # fmt: skip
        n, what = rows["lacking"], str(rows["measure"].iloc[0])
        who = f"{n.iloc[0]:,}" if (n == n.iloc[0]).all() else f"{n.min():,} to {n.max():,}"
        low = _warn if len(said["no"]) > len(rows) / 2 else _note
        was_held_out = rows["held_out"].iloc[0]  # or None
        unseen = "held-out" if pd.notna(was_held_out) and bool(was_held_out) else "known"
        out.append(
            low(
                f"Of {len(rows):,} features of {name} that {who} cells lack, {len(said['yes']):,} are "
                f"imputed well from {view}.",
                f"To believe: {text} ({what} with hidden values of {int(rows['test_cells'].max()):,} "
                f"{unseen} {of}cells within their batches).",
            )
        )
    return out


def unpredictable(test: Accuracy) -> list[str]:
    """Features whose score cannot be told from chance (one-sided 5 %), the worst first."""
    score = test.per_feature[MODEL]
    # standard errors under chance: 1/√n of a correlation; of an AUROC, at least 1/√(12 n/2)
    noise = 1 / np.sqrt(max(test.n_cells, 1) * (1 if test.measure == "correlation" else 3))
    low = np.flatnonzero(score < test.chance + 1.64 * noise)
    return [test.features[j] for j in low[np.argsort(score[low], kind="stable")]]


def _warn(title: str, text: str) -> Finding:
    return Finding(level="warning", title=title, text=text)


def _note(title: str, text: str) -> Finding:
    return Finding(level="note", title=title, text=text)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:QUOTED])
    return shown + (f" and {len(names) - QUOTED:,} more" if len(names) > QUOTED else "")
