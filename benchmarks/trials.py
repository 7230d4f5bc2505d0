"""Runs of ours, of the baselines and of peers on one task, each as records."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import scib, variants
from benchmarks.common import say
from benchmarks.models import at_defaults
from benchmarks.mosaics import Task
from benchmarks.peers import Peer, PeerRuns, can_do
from benchmarks.quality_tables import TO
from benchmarks.records import By, Part, Record
from benchmarks.scoring import (
    IMPUTED,
    LOWER_IS_BETTER,
    TRANSFORM,
    Question,
    Scores,
    answer,
    by_script,
    from_folder,
    kind_of,
    latent_scores,
    questions,
)
from mosaicvi import MosaicVI
from mosaicvi.baselines import simple_imputation


class Trial:
    """All runs on one task.

    Parameters
    ----------
    task
        The mosaic and its truth.
    options
        Of the benchmark.
    """

    def __init__(self, task: Task, options: argparse.Namespace) -> None:
        self.task, self.options = task, options
        self.questions: list[Question] = questions(task)
        # modality → rival → its scores, which ours are to reach
        self.rivals: dict[str, dict[str, Scores]] = {q.modality: {} for q in self.questions}

    def baselines(self) -> Iterator[Record]:
        """Nearest cells and ridge regression, which need no seed."""
        transforms = {name: TRANSFORM[kind_of(name, truth.X)] for name, truth in self.task.truth.items()}
        for question in self.questions:
            began = time.perf_counter()
            found = simple_imputation(
                self.task.mosaic,
                modality=question.modality,
                indices=question.hidden.cells,
                transforms=transforms,
            )
            seconds = (time.perf_counter() - began) / len(found)
            for method, frame in found.items():
                values = frame.reindex(columns=question.features).to_numpy(np.float32)
                scores = question.on_its_scale(values)
                self.rivals[question.modality][method] = scores
                yield from self._records(
                    "imputed", question.modality, "baseline", method, 0, scores | {"seconds": seconds}
                )

    def peer(self, peer: Peer, runs: PeerRuns) -> Iterator[Record]:
        """One run of a peer, if it can do such a mosaic."""
        reason = can_do(peer.key, self.task.mosaic, self.task.folder, self.task.name)
        if reason:
            say(f"{self.task.name}: no {peer.name}, {reason}")
            return
        found: list[tuple[Scores, dict[str, Scores]]] = []
        info = runs.once(
            peer,
            self.task.folder,
            self.task.name,
            read=lambda folder: found.append(from_folder(folder, self.task, self.questions)),
        )
        if info is None:
            return
        latent, imputed = found[0]
        seconds = float(info["train_s"])
        yield from self._records("latent", "", "peer", peer.name, 0, latent | {"seconds": seconds})
        for modality, scores in imputed.items():
            self.rivals[modality][peer.name] = scores
            yield from self._records("imputed", modality, "peer", peer.name, 0, scores | {"seconds": seconds})

    def ours(self, variant: str, parameters: variants.Parameters, seed: int) -> Iterator[Record]:
        """One training of ours, and with --time-to-quality shorter ones until all rivals are reached."""
        options = self.options
        if parameters or options.epochs or options.batch_size:
            model, seconds = trained(self.task.mosaic, parameters, seed, options)
        else:
            model, seconds = at_defaults(self.task.name, self.task.mosaic, seed, options.models)
        latent, imputed = self._scores(model)
        method = variants.MEANING.get(variant, variant)
        yield from self._records("latent", "", "ours", method, seed, latent | {"seconds": seconds})
        reached = (
            self._reached(parameters, seed, len(model.history), seconds, imputed)
            if self.options.time_to_quality
            else {modality: {} for modality in imputed}
        )
        for modality, scores in imputed.items():
            more = scores | {"seconds": seconds} | reached[modality]
            yield from self._records("imputed", modality, "ours", method, seed, more)
        say(f"{self.task.name}, {variant}, seed {seed}: {seconds:.0f} s, {_brief(latent, imputed)}")

    def _scores(self, model: MosaicVI) -> tuple[Scores, dict[str, Scores]]:
        if self.options.scorer is not None:
            latent, imputed = by_script(self.options.scorer.resolve(), model, self.task, self.questions)
        else:
            embedding = np.asarray(model.get_latent_representation())
            latent = latent_scores(embedding, self.task.label, self.task.group)
            if self.options.metrics == "scib":
                latent |= scib.scores(embedding, self.task.label, self.task.group)
            imputed = self._imputed(model)
        return latent, imputed

    def _imputed(self, model: MosaicVI) -> dict[str, Scores]:
        out = {}
        for question in self.questions:
            values, is_log = answer(model, question)
            as_asked = is_log and question.kind == "rna"  # expected values on the scale compared
            out[question.modality] = (
                question.on_its_scale(values) if as_asked else question.of_counts(values, is_log=is_log)
            )
        return out

    def _reached(
        self,
        parameters: variants.Parameters,
        seed: int,
        epochs: int,
        seconds: float,
        at_the_end: dict[str, Scores],
    ) -> dict[str, Scores]:
        """Seconds of the shortest training that reaches each rival, by modality."""
        open_ = {(m, rival) for m, them in self.rivals.items() for rival in them}
        out = {m: {TO + rival: float("nan") for rival in them} for m, them in self.rivals.items()}
        n = 2
        while open_ and n < epochs:
            model, taken = trained(self.task.mosaic, parameters, seed, self.options, epochs=n)
            open_ -= self._note(out, open_, self._imputed(model), taken)
            n *= 2
        self._note(out, open_, at_the_end, seconds)
        return out

    def _note(
        self, out: dict[str, Scores], open_: set[tuple[str, str]], found: dict[str, Scores], seconds: float
    ) -> set[tuple[str, str]]:
        done = {(m, r) for m, r in open_ if reaches(found[m], self.rivals[m][r])}
        for modality, rival in done:
            out[modality][TO + rival] = seconds
        return done

    def _records(
        self, part: Part, modality: str, by: By, method: str, seed: int, scores: Scores
    ) -> Iterator[Record]:
        for score, value in scores.items():
            yield Record(
                part=part,
                task=self.task.name,
                modality=modality,
                by=by,
                method=method,
                seed=seed,
                score=score,
                value=value,
            )


def reaches(ours: Scores, theirs: Scores) -> bool:
    """Whether each of our correlations, or areas, is at least theirs."""
    judged = [score for score in IMPUTED if score not in LOWER_IS_BETTER and score in theirs]
    return all(ours.get(score, -1.0) >= theirs[score] for score in judged)


def trained(
    mosaic: Any,
    parameters: variants.Parameters,
    seed: int,
    options: argparse.Namespace,
    *,
    epochs: int | None = None,
) -> tuple[MosaicVI, float]:
    """A trained model, and how many seconds building and training it took."""
    began = time.perf_counter()
    mosaic, rest = variants.for_mosaic(parameters, mosaic)
    model = MosaicVI(mosaic, seed=seed, **rest)
    model.train(
        epochs or options.epochs,
        batch_size=options.batch_size,
        seed=seed,
        accelerator="cpu",
        progress=False,
    )
    return model, time.perf_counter() - began


def _brief(latent: Scores, imputed: dict[str, Scores]) -> str:
    parts = [f"{k} {latent[k]:.3f}" for k in ("mix", "ari", "transfer") if k in latent]
    for modality, scores in imputed.items():
        parts += [f"{modality} {k} {scores[k]:.3f}" for k in ("r", "auc_peak") if k in scores]
    return ", ".join(parts)
