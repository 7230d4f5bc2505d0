"""Stop a long work between two of its steps when the user or the cluster asks for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal has asked to stop.

    Attributes
    ----------
    requested
        The signal, or None. The conventional exit code is 128 plus its number.
    ends_anyway
        Whether the process ends by itself now: what still asks for that is ignored from here on.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self.ends_anyway = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM instead of dying of it; the second one ends the process at once.

    Outside the main thread nothing is noted. A signal that the process ignores (as under ``nohup``)
    stays ignored. The previous handlers are back at the end. Under torchrun, which asks again by a signal
    of its own and ends the process after 30 seconds, no number of signals ends it at once.

    Examples
    --------
    >>> with stop_requests() as stop:
    ...     for step in range(3):
    ...         if stop.requested:
    ...             break
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        is_first, request.requested = request.requested is None, request.requested or signal.Signals(number)
        if is_first or "TORCHELASTIC_RUN_ID" in os.environ:
            return
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    installed = [number for number in _SIGNALS if previous[number] not in (signal.SIG_IGN, None)]
    try:
        for number in installed:
            signal.signal(number, handle)
        yield request
    finally:
        for number in installed:
            signal.signal(number, signal.SIG_IGN if request.ends_anyway else previous[number])
