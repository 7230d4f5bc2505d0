from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from typer.main import get_command

from mosaicvi.cli.app import app
from mosaicvi.report import findings
from mosaicvi.report.heldout import MEAN, MODEL, NEIGHBOURS, Accuracy
from mosaicvi.report.integration import Metric, Mixing, mixing_of


def history(loss: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"train_loss": loss, "validation_loss": loss})


@pytest.mark.parametrize(
    ("loss", "usual", "title"),
    [
        ([], 100, "The model was not trained."),
        ([10.0, np.nan], 2, "The loss is not a number in some epochs."),
        (list(np.linspace(100, 50, 20)), 20, "The loss was still falling when training ended."),
        ([50.0] * 20, 50, "Training was short."),
        ([100.0, 60, *np.linspace(50, 60, 18)], 20, "The model may have learned its cells by heart."),
    ],
)
def test_training_that_is_not_done_is_named(loss: list[float], usual: int, title: str) -> None:
    table = history(loss) if loss else pd.DataFrame()
    assert [f.title for f in findings.training(table, usual)] == [title]


def test_cells_learned_by_heart_are_no_worry_where_the_best_weights_were_kept() -> None:
    table = history([100.0, 60, *np.linspace(50, 60, 18)])
    assert len(findings.training(table, 20)) == 1
    assert findings.training(table.assign(keeps_best=1.0), 20) == []


def test_settled_training_is_silent() -> None:
    assert findings.training(history([100.0, 60, *[50.0] * 18]), 20) == []


def test_training_that_ended_by_its_own_rule_has_settled() -> None:
    """The loss falls once more when the rate does, which is no sign of more to come."""
    table = history(list(np.linspace(100, 50, 20)))
    assert findings.training(table, 50, "settled") == []
    (finding,) = findings.training(table, 50, "most steps")
    assert finding.title == "Training ended at its limit of 12,000 steps at one learning rate."
    assert "mosaicvi train --max-epochs 40" in finding.text


def test_without_held_out_cells_no_number_would_not_help() -> None:
    table = history(list(np.linspace(100, 50, 20)))
    assert "or without a number" in findings.training(table, 20)[0].text
    assert "or without a number" not in findings.training(table[["train_loss"]], 20)[0].text


def test_a_batch_apart_is_named() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(600, 4)).astype(np.float32)
    batch = pd.Series(np.repeat(["a", "b", "c"], 200))
    assert findings.mixing("Batch", mixing_of(z, batch)) == []
    z[400:] += 50
    found = mixing_of(z, batch)
    assert [k.foreign for k in found][2] == 0
    assert found[0].expected == pytest.approx(1 - 199 / 599)
    (finding,) = findings.mixing("Batch", found)
    assert finding.title == "Batch c keeps to itself."
    assert "c's cells 0% are from elsewhere; if all were mixed it would be 67%" in finding.text
    (finding,) = findings.mixing(
        "Batch", [Mixing(kind=k, n_cells=99, foreign=0.1, expected=0.9) for k in "ab"]
    )
    assert finding.title == "2 of 2 batches keep to themselves: a, b."


def accuracy(per_feature: list[float], *, overall: float, mean: float, near: float, n: int = 400) -> Accuracy:
    return Accuracy(
        modality="adt",
        source="rna",
        whole=True,
        every_part=False,
        n_cells=n,
        n_features=len(per_feature),
        n_values=n * len(per_feature),
        features=tuple(f"p{j}" for j in range(len(per_feature))),
        measure="correlation",
        per_feature={MODEL: np.array(per_feature)},
        overall={MODEL: overall, MEAN: mean, NEIGHBOURS: near},
        explained={},
    )


def test_features_that_cannot_be_imputed_are_named_worst_first() -> None:
    (finding,) = findings.imputation(
        [accuracy([0.9, 0.05, 0.5, -0.2, np.nan], overall=0.8, mean=0.3, near=0.7)], []
    )
    assert finding.title == "2 of 5 features of adt cannot be imputed from rna."
    assert "p3, p1" in finding.text


def test_a_model_that_loses_is_told_so() -> None:
    (finding,) = findings.imputation([accuracy([0.9], overall=0.3, mean=0.3, near=0.7)], [])
    assert "no better than the feature's mean" in finding.title
    (finding,) = findings.imputation([accuracy([0.9], overall=0.5, mean=0.3, near=0.7)], [])
    assert "Averaging similar cells imputes adt from rna better than the model" in finding.title
    assert "longer training may help" in finding.text
    (settled,) = findings.imputation([accuracy([0.9], overall=0.5, mean=0.3, near=0.7)], [], may_go_on=False)
    assert settled.title == finding.title
    assert "longer training" not in settled.text
    assert findings.imputation([accuracy([0.9], overall=0.8, mean=0.3, near=0.7)], []) == []


def test_where_nothing_stands_out_only_what_was_looked_at_is_said() -> None:
    kinds = [Mixing(kind=k, n_cells=50, foreign=0.5, expected=0.5) for k in "ab"]
    test = accuracy([0.9], overall=0.8, mean=0.3, near=0.7)
    no_near = dataclasses.replace(test, overall={MODEL: 0.8, MEAN: 0.3})
    history = pd.DataFrame({"train_loss": [1.0]})
    assert findings.nothing(history, kinds, (), [test]) == (
        "Nothing stands out: batches mix, training has settled and imputed values beat simpler ways."
    )
    assert findings.nothing(history, (), (), [no_near]) == (
        "Nothing stands out: training has settled and imputed values beat the feature's mean."
    )
    assert findings.nothing(pd.DataFrame(), (), kinds, []) == "Nothing stands out: sets of modalities mix."
    assert findings.nothing(pd.DataFrame(), (), (), []) == "Nothing could be looked at."


def test_what_could_not_be_checked_is_a_note() -> None:
    (finding,) = findings.imputation([], ["atac"])
    assert finding.level == "note"
    assert "atac" in finding.title


def test_modalities_that_disagree_are_named() -> None:
    metrics = [
        Metric(name=f"FOSCTTM of rna and {m}", value=v, best=0, meaning="")
        for m, v in (("adt", 0.45), ("atac", 0.1))
    ]
    (finding,) = findings.pairs(metrics)
    assert finding.title == "rna and adt do not agree on where a cell belongs."


def test_commands_that_help_are_named_and_have_these_options() -> None:
    falling = pd.DataFrame({"validation_loss": np.linspace(10, 5, 10)})
    rising = pd.DataFrame({"validation_loss": [*np.linspace(10, 5, 10), *np.linspace(5, 9, 20)]})
    said = [
        *findings.training(pd.DataFrame(), 5),
        *findings.training(pd.DataFrame({"train_loss": [np.nan]}), 5),
        *findings.training(falling, 5),
        *findings.training(pd.DataFrame({"train_loss": np.ones(3)}), 5),
        *findings.training(rising, 5),
    ]
    assert len(said) == 5
    options = {o for p in get_command(app).commands["train"].params for o in p.opts}  # type: ignore[attr-defined]
    for finding in said:
        assert "mosaicvi train" in finding.text
        assert set(re.findall(r"--[a-z-]+", finding.text)) <= options
    assert "--max-epochs 20" in said[2].text


@pytest.mark.parametrize(("held_out", "said"), [(True, "held-out"), (False, "known"), (None, "known")])
def test_what_to_believe_rests_on_cells_that_were_held_out_or_not(held_out: bool | None, said: str) -> None:
    table = pd.DataFrame(
        {
            "modality": "adt",
            "feature": ["CD3", "CD4", "CD80"],
            "view": "rna",
            "score": [0.9, 0.3, -0.1],
            "measure": "correlation",
            "believe": ["yes", "partly", "no"],
            "test_cells": 86,
            "held_out": held_out,
            "lacking": 600,
        }
    )
    (finding,) = findings.trust(table, of="reference ")
    assert finding.title == "Of 3 features of adt that 600 cells lack, 1 are imputed well from rna."
    assert finding.text == (
        "To believe: yes: CD3; with care: CD4; not: CD80 (correlation with hidden values of 86 "
        f"{said} reference cells within their batches)."
    )
