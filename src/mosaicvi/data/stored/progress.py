"""A bar on a terminal while stored values are read once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_BAR: ContextVar[Progress | None] = ContextVar("bar", default=None)


@contextmanager
def shown_reading() -> Iterator[None]:
    """Show a bar for each matrix that is read from beginning to end, if stderr is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        token = _BAR.set(bar)
        try:
            yield
        finally:
            _BAR.reset(token)


@contextmanager
def of_rows(name: str, n_rows: int) -> Iterator[Callable[[int], None]]:
    """The bar of one matrix, advanced by a number of rows."""
    bar = _BAR.get() or Progress(disable=True)
    task = bar.add_task(f"reading {name}", total=n_rows)
    yield lambda n: bar.advance(task, n)
    bar.remove_task(task)
