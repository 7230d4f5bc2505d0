"""What a user sees while training: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mosaicvi.errors import InputError
from mosaicvi.fit.loop import Report
from mosaicvi.fit.state import FitConfig, FitState

LINE_EVERY = 10.0  # seconds between plain lines
EVERY_EPOCH_UP_TO = 50  # epochs of a run, to have a line for each
FIRST = "the first step; after an installation it compiles for half a minute"
LEGEND = (
    "each line: the log-likelihood of a cell's values, which rises, by modality; validation, the loss on "
    "held-out cells, which falls; and speed"
)
IN_TERMINAL: ContextVar[bool] = ContextVar("IN_TERMINAL", default=False)
"""Whether a command trains, which itself says how to go on."""


class Listener(Protocol):
    """What follows a training run."""

    def say(self, text: str) -> None:
        """Something is worth a line."""

    def begin(self, state: FitState) -> None:
        """Training begins at `state`."""

    def report(self, report: Report) -> None:
        """A step or an epoch ended."""

    def end(self, state: FitState, message: str) -> None:
        """Training ended."""


class _Meter:
    """Cells per second over the last steps but the first, which may compile, and the losses in words."""

    def __init__(self, config: FitConfig, names: tuple[str, ...]) -> None:
        self.config, self.names = config, names
        self.cells, self.since, self.rate = 0, math.inf, 0.0
        self.validation = ""

    def add(self, report: Report) -> None:
        if self.since == math.inf:
            self.since = time.monotonic()
        else:
            self.cells += report.n_cells
        spent = time.monotonic() - self.since
        if spent > 1:
            self.rate = self.cells / spent
            self.cells, self.since = 0, time.monotonic()
        if report.row and "validation_loss" in report.row:
            self.validation = f" · validation {report.row['validation_loss']:.2f}"

    def words(self, report: Report) -> str:
        losses = " · ".join(f"{n} {v:.1f}" for n, v in zip(self.names, report.log_prob, strict=False))
        rate = f" · {self.rate:,.0f} cells/s" if self.rate else ""
        return f"{losses}{self.validation}{rate}"


class _Bar:
    def __init__(self, config: FitConfig, names: tuple[str, ...]) -> None:
        self.meter = _Meter(config, names)
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("epoch {task.fields[where]}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
            console=self.console,
            transient=False,
        )
        self.of = config.max_epochs

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def begin(self, state: FitState) -> None:
        where = _where(state.epoch, self.of)
        self.task = self.bar.add_task("train", total=self.of, where=where, words=FIRST)
        self.bar.update(self.task, completed=float(state.epoch))
        self.bar.start()
        self.say(LEGEND)

    def report(self, report: Report) -> None:
        self.meter.add(report)
        if report.row is not None:
            _announce(report, self.meter.names, self.bar.console.print)
            return
        at = report.epoch + report.step / report.n_steps
        where, words = _where(report.epoch + 1, report.last_epoch), self.meter.words(report)
        self.bar.update(self.task, completed=at, total=report.last_epoch, where=where, words=words)

    def end(self, state: FitState, message: str) -> None:
        self.bar.stop()
        self.say(message)


class _Lines:
    def __init__(self, config: FitConfig, names: tuple[str, ...]) -> None:
        self.meter = _Meter(config, names)
        self.last, self.of = time.monotonic(), config.max_epochs
        self.each = False  # whether each epoch has a line

    def begin(self, state: FitState) -> None:
        self.each = self.of is not None and self.of - state.epoch <= EVERY_EPOCH_UP_TO
        end = "until the held-out loss stops falling" if self.of is None else f"to {self.of}"
        self.say(f"training from epoch {state.epoch + 1} {end}: {FIRST}")
        self.say(LEGEND)

    def report(self, report: Report) -> None:
        self.meter.add(report)
        if report.row is not None:
            _announce(report, self.meter.names, self.say)
            if self.each:
                self.last = time.monotonic()
                self.say(f"epoch {report.epoch}/{self.of} · {_log_likelihoods(report.row, self.meter.names)}")
        elif time.monotonic() - self.last >= LINE_EVERY:
            self.last = time.monotonic()
            self.say(f"epoch {_where(report.epoch + 1, report.last_epoch)} · {self.meter.words(report)}")

    def end(self, state: FitState, message: str) -> None:
        self.say(message)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _where(epoch: int, last: int | None) -> str:
    return f"{epoch}" if last is None else f"{epoch}/{last}"


class _Silent:
    def say(self, text: str) -> None:
        """Say nothing."""

    def begin(self, state: FitState) -> None:
        """Say nothing."""

    def report(self, report: Report) -> None:
        """Say nothing."""

    def end(self, state: FitState, message: str) -> None:
        """Say nothing, unless training did not end by itself."""
        if state.stopped_by is not None:
            print(message, file=sys.stderr, flush=True)


class _TensorBoard:
    """Scalars of each epoch for TensorBoard, beside another listener."""

    def __init__(self, inner: Listener, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("log_dir: TensorBoard is not installed; pip install 'mosaicvi[log]'.") from None
        self.inner = inner
        self.writer: Any = SummaryWriter(str(folder))

    def say(self, text: str) -> None:
        self.inner.say(text)

    def begin(self, state: FitState) -> None:
        self.inner.begin(state)

    def report(self, report: Report) -> None:
        self.inner.report(report)
        for key, value in (report.row or {}).items():
            self.writer.add_scalar(key, value, report.epoch)

    def end(self, state: FitState, message: str) -> None:
        self.writer.close()
        self.inner.end(state, message)


def _announce(report: Report, names: tuple[str, ...], say: Any) -> None:
    """Say once how the modalities were balanced, and why the learning rate falls."""
    if report.row and report.row.get("balanced") == 1.0:
        weights = ", ".join(f"{n} {report.row[f'beta_{n}']:.3f}" for n in names)
        say(f"Weights of the modalities (beta_modal), balanced over the first epochs: {weights}")
    if report.news is not None:
        say(report.news)


def _log_likelihoods(row: Mapping[str, float], names: tuple[str, ...]) -> str:
    """The mean log-likelihood of each modality over an epoch, and the loss on held-out cells."""
    losses = [
        f"{name} {row[f'train_log_prob_{name}']:.1f}" for name in names if f"train_log_prob_{name}" in row
    ]
    validation = f"validation {row['validation_loss']:.2f}" if "validation_loss" in row else None
    return " · ".join(losses if validation is None else [*losses, validation])


@contextlib.contextmanager
def listener(
    config: FitConfig, names: tuple[str, ...], *, progress: bool | None, log_dir: Path | None
) -> Iterator[Listener]:
    """The listener that suits where we run.

    Parameters
    ----------
    config
        How training goes.
    names
        Names of the modalities.
    progress
        None: a bar on a terminal, else lines; True: the same; False: silence.
    log_dir
        Where TensorBoard scalars go, if anywhere.
    """
    chosen: Listener
    if progress is False:
        chosen = _Silent()
    else:
        chosen = _Bar(config, names) if sys.stderr.isatty() else _Lines(config, names)
    if log_dir is not None:
        chosen = _TensorBoard(chosen, log_dir)
    try:
        yield chosen
    finally:
        if isinstance(chosen, _Bar):
            chosen.bar.stop()
