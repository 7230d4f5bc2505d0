"""The checkpoints of one training run: the last two and the best, each whole."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from mosaicvi.errors import InputError, ModelFileError, warn
from mosaicvi.store.files import explain_full_disk, find_directory, recover_directory, remove_directory, shown
from mosaicvi.store.format import Bundle, load_bundle, load_document, save_bundle
from mosaicvi.store.lock import hold
from mosaicvi.store.state import flatten, unflatten
from mosaicvi.store.strict_json import JSON

__all__ = ["CheckpointStore", "flatten", "unflatten"]

_NAME = re.compile(r"step-(\d{8,18})|\.step-(\d{8,18})\.mosaicvi-old")
_N_LAST = 2
LOCK = ".mosaicvi-training"
_TRIES, _PAUSE = 3, 0.01  # readings, and seconds between them, before a checkpoint counts as damaged


class CheckpointStore:
    """A folder of checkpoints, each a bundle ``step-00001234``.

    A kill at any moment leaves every checkpoint that was there before, or the new one, whole. One
    process writes to a store at a time; any number may read.

    Parameters
    ----------
    folder
        Made by the first `save`; the one around it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._damaged: set[int] = set()

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that are there, whole or not, in order."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{shown(self.folder)} is no folder of checkpoints: {error.strerror}") from error
        return sorted({int(match[1] or match[2]) for name in names if (match := _NAME.fullmatch(name))})

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step is."""
        return self.folder / f"step-{step:08d}"

    def save(
        self,
        tensors: Mapping[str, torch.Tensor],
        document: Mapping[str, JSON],
        *,
        step: int,
        is_best: bool,
    ) -> Path:
        """Write a checkpoint, then remove all but the last two and the best.

        Parameters
        ----------
        tensors, document
            As `flatten` returns them.
        step
            Counts up through the run; a checkpoint of the same step is replaced.
        is_best
            Whether this is the best one so far.

        Returns
        -------
        Where it is.

        Raises
        ------
        InputError
            The disk is full, the folder cannot be written, or it holds a later checkpoint of
            another run. All that was there is still there.
        """
        with explain_full_disk(self.folder):
            self._make_folder()
            for other in self.steps():
                recover_directory(self.path(other))
                if other in self._damaged:
                    self._set_aside(other)
                elif other > step:
                    self._make_way(step, other)
            state: dict[str, JSON] = {"step": step, "is_best": is_best, "state": dict(document)}
            save_bundle(self.path(step), tensors, state, kind="checkpoint", overwrite=True)
            self._prune()
        return self.path(step)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other trainings out of the folder for as long as this one runs.

        Raises
        ------
        InputError
            Another process trains into it now.
        """
        with explain_full_disk(self.folder):
            self._make_folder()
        with hold(self.folder / LOCK) as holder:
            if holder is not None:
                raise InputError(
                    f"{shown(self.folder)}: {holder} trains into it now; wait until it ends, "
                    "or name another folder"
                )
            yield

    def latest(self) -> Bundle | None:
        """Load the newest whole checkpoint, with the document that was saved; None if there is none.

        Warns
        -----
        MosaicWarning
            For each newer one that is damaged.
        """
        return self._newest(best=False)

    def best(self) -> Bundle | None:
        """Load the newest whole checkpoint that was the best when it was saved, like `latest`."""
        return self._newest(best=True)

    def clear(self) -> None:
        """Remove all checkpoints, the newest last."""
        for step in self.steps():
            remove_directory(self.path(step))

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            folder, around = shown(self.folder), shown(self.folder.parent)
            raise InputError(f"{folder}: the folder {around} does not exist; create it first") from error
        except FileExistsError as error:
            raise InputError(f"{shown(self.folder)} is a file; name a folder for the checkpoints") from error
        except PermissionError as error:
            raise InputError(f"{shown(self.folder)} cannot be created: {error.strerror}") from error

    def _newest(self, *, best: bool) -> Bundle | None:
        passed_over: set[int] = set()
        failures: Counter[int] = Counter()
        while steps := [step for step in self.steps() if step not in passed_over]:
            step = steps[-1]
            passed_over.add(step)
            before = _identity(self.path(step))
            try:
                if best and not self._is_best(step):
                    continue
                return self._load(step)
            except ModelFileError as error:
                # A training run in another process may just have removed it, or put another in its place.
                now = _identity(self.path(step))
                if now != before:
                    passed_over.discard(step)
                    continue
                failures[step] += 1
                if failures[step] < _TRIES:  # another in its place may look the same
                    passed_over.discard(step)
                    time.sleep(_PAUSE)
                elif now is not None:
                    self._damaged.add(step)
                    message = f"the checkpoint of step {step} cannot be used and is passed over: {error}"
                    warn(message)
        return None

    def _load(self, step: int) -> Bundle:
        bundle = load_bundle(self.path(step), kind="checkpoint")
        state = bundle.document.get("state")
        if not isinstance(state, dict):
            raise ModelFileError(f"{shown(self.path(step))}: holds no state of a training run")
        return replace(bundle, document=state)

    def _is_best(self, step: int) -> bool:
        return load_document(self.path(step), kind="checkpoint").get("is_best") is True

    def _prune(self) -> None:
        steps = self.steps()
        best: int | None = None
        for step in reversed(steps):
            try:
                if best is None and self._is_best(step):
                    best = step
            except ModelFileError:
                self._set_aside(step)
        for step in self.steps()[:-_N_LAST]:
            if step != best:
                remove_directory(self.path(step))

    def _make_way(self, step: int, later: int) -> None:
        """Make way for `step` if a later checkpoint is damaged; refuse if it is whole."""
        try:
            self._load(later)
        except ModelFileError:
            self._set_aside(later)
            return
        raise InputError(
            f"{shown(self.folder)} holds a checkpoint of step {later}, later than step {step}; "
            "resume from it, or choose another folder"
        )

    def _set_aside(self, step: int) -> None:
        """Keep a damaged checkpoint under a name that is never picked up."""
        self._damaged.discard(step)
        source = find_directory(self.path(step))
        number = 0
        while os.path.lexists(target := self.folder / f"damaged-{number}-step-{step:08d}"):
            number += 1
        os.rename(source, target)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a checkpoint from another that takes its place; None if there is none."""
    try:
        there = os.lstat(find_directory(path))
    except OSError:
        return None
    return there.st_ino, there.st_mtime_ns
