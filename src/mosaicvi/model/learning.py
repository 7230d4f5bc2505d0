"""What is shown while a trained model learns what its answers need, which can take minutes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_SAY: ContextVar[Callable[[str], None] | None] = ContextVar("say", default=None)


@contextmanager
def shown_learning(progress: bool | None) -> Iterator[None]:
    """Show what is being learnt, and for how long.

    Parameters
    ----------
    progress
        True: a line on a terminal that goes away, lines elsewhere; None: that on a terminal, nothing
        elsewhere; False: nothing.
    """
    is_terminal = sys.stderr.isatty()
    if progress is False or (progress is None and not is_terminal):
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_terminal, transient=True) as bar:
        task = None

        def say(what: str) -> None:
            nonlocal task
            if not is_terminal:
                print(what, file=sys.stderr, flush=True)
                return
            if task is not None:
                bar.remove_task(task)
            task = bar.add_task(what, total=None)

        token = _SAY.set(say)
        try:
            yield
        finally:
            _SAY.reset(token)


def learning(what: str) -> None:
    """Say what is learnt from now on, where that is to be shown."""
    say = _SAY.get()
    if say is not None:
        say(f"learning {what}")
