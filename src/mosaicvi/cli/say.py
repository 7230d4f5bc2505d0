"""What commands say: results on stdout, all else on stderr."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

# Remedies are written for Python; the terminal has other names for the same things.
_IN_TERMINAL = (
    (re.compile(r"layers=\{'([^']+)': \.\.\.\}"), r"--layer \1=..."),
    (re.compile(r"layers=\{'([^']+)': '([^']+)'\}"), r"--layer \1=\2"),
    (re.compile(r"MosaicVI\.prepare_query\(data, model\)"), "--allow-missing"),
    (re.compile(r"likelihoods=\{'([^']+)': '([^']+)'\}"), r"--likelihood \1=\2"),
    (re.compile(r"modalities=\['([^']+)'\]"), r"--modality \1"),
    (re.compile(r"panel_key=\.{3,4}"), "--panel-key ..."),
    (re.compile(r"batch_key=\.{3,4}"), "--batch-key ..."),
    (re.compile(r"batch_size=(\d+)"), r"--batch-size \1"),
    (re.compile(r"batch_key='([^']+)'"), r"--batch-key \1"),
    (re.compile(r"checkpoint_dir=\.{3,4}"), "--checkpoint ..."),
    (re.compile(r"; mdata = mdata\[[^;]*$"), "."),
    (re.compile(r"--overwrite \(overwrite=True\)"), "--overwrite"),
    (re.compile(r"join='(\w+)'"), r"--join \1"),
)


def for_terminal(message: str) -> str:
    """One line, with the options of the command line in place of Python's arguments."""
    line = " ".join(message.split())
    for pattern, option in _IN_TERMINAL:
        line = pattern.sub(option, line)
    return line


def error(message: str) -> None:
    """Print one problem as one line."""
    _line("error: ", "bold red", message)


def warning(message: str) -> None:
    """Print one warning as one line."""
    _line("warning: ", "bold yellow", message)


def note(message: str, *, quiet: bool = False) -> None:
    """Print a line about the work, unless it should be quiet."""
    if not quiet:
        Console(stderr=True).print(Text(message), soft_wrap=True)


def _line(start: str, style: str, message: str) -> None:
    Console(stderr=True).print(Text.assemble((start, style), for_terminal(message)), soft_wrap=True)


def next_steps(commands: Iterable[str], *, quiet: bool = False) -> None:
    """Print what one may run next."""
    if quiet:
        return
    console = Console(stderr=True)
    console.print(Text("Next:", style="bold"))
    for command in commands:
        console.print(Text(f"  {command}"), soft_wrap=True)


@contextmanager
def progress(description: str, total: int, *, quiet: bool) -> Iterator[tuple[Progress, TaskID]]:
    """A bar on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
        yield bar, bar.add_task(description, total=total)
