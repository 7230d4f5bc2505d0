"""How a command starts and ends: one line for each problem, and an exit code that says why."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType

from typer import Typer
from typer.main import get_command

from mosaicvi.cli.say import OPTIONS, error, warning
from mosaicvi.errors import (
    FEWER_FEATURES,
    InputError,
    LostRankError,
    MosaicWarning,
    NonFiniteLossError,
    OutOfMemoryError,
)
from mosaicvi.ranks import place

BAD_INPUT, FAILED = 2, 1
HEARD = 1.0  # seconds within which a process that fails says why
SHARED = ("train", "embed", "impute", "label")  # commands that several processes do together


class Interrupted(BaseException):
    """SIGINT or SIGTERM outside of training; what was being written is cleaned up on the way out."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def main() -> None:
    """Run the command line of this process and exit."""
    code = run()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == BAD_INPUT:
        os._exit(code)  # HDF5 crashes in its own exit handler after it met a full disk
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        As on the command line, without the program's name; those of this process where None.

    Returns
    -------
    The exit code: 0; 2 for something the user gave; 1 if training met a loss that is not a number or
    memory ran out; 128 plus the number of a signal.
    """
    from mosaicvi.cli.app import app

    before = OPTIONS.set(OPTIONS.get())
    with _plain_warnings(), _silent_hdf5(), _signals_interrupt():
        try:
            given = sys.argv[1:] if arguments is None else arguments
            if not place().is_first and given[:1] and given[0] not in SHARED:
                return 0
            OPTIONS.set(_options(app, given))
            get_command(app)(args=None if arguments is None else list(arguments), prog_name="mosaicvi")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except LostRankError as problem:
            if _is_to_tell():
                error(str(problem))
            return FAILED
        except InputError as problem:
            return _failed(BAD_INPUT, *problem.problems)
        except NonFiniteLossError as problem:
            return _failed(FAILED, str(problem))
        except MemoryError as problem:
            text = f"Memory ran out ({problem or 'no details'}); {FEWER_FEATURES}"
            return _failed(FAILED, str(problem) if isinstance(problem, OutOfMemoryError) else text)
        except OSError as problem:
            where = f"{problem.filename}: " if problem.filename else ""
            return _failed(BAD_INPUT, f"{where}{problem.strerror or problem}")
        except Interrupted as stop:
            if not _is_one_of_several() or _is_to_tell():
                error("interrupted; outputs are as they were before")
            return 128 + stop.number
        finally:
            OPTIONS.reset(before)
    return 0


def _failed(code: int, *problems: str) -> int:
    """Say why, once where several processes fail of the same, and tell those that only miss this one."""
    if _is_one_of_several():
        from mosaicvi.ranks.meeting import fails

        fails()
    for line in problems:
        error(line)
    return code


def _is_one_of_several() -> bool:
    try:
        return place().size > 1
    except InputError:
        return False


def _is_to_tell() -> bool:
    """Whether to say that another process is gone: not where that one or the first said why."""
    from mosaicvi.ranks.meeting import fails

    time.sleep(HEARD if place().is_first else 2 * HEARD)
    return fails(because_of_another=True)


def _options(app: Typer, arguments: Sequence[str]) -> dict[str, frozenset[str]]:
    """Options of each command, those of the one that is run first, then of train, which has most."""
    commands = getattr(get_command(app), "commands", {})
    order = sorted(commands, key=lambda name: (name not in arguments[:1], name != "train", name))
    return {
        name: frozenset(o for p in commands[name].params for o in (*p.opts, *p.secondary_opts))
        for name in order
    }


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show our own warnings as single lines, once each, and those of other libraries not at all."""
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
        text = str(message)
        if issubclass(category, MosaicWarning) and text not in shown:
            shown.add(text)
            warning(text)

    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", MosaicWarning)
        warnings.showwarning = show
        yield


@contextmanager
def _silent_hdf5() -> Iterator[None]:
    """Keep h5py from printing what it cannot raise while it lets go of a file on a full disk."""
    hooks = sys.unraisablehook, sys.excepthook

    def unraisable(problem: sys.UnraisableHookArgs) -> None:
        if "h5py" not in f"{problem.object!r} {problem.err_msg}":
            hooks[0](problem)

    def printed(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
        if trace is None or "h5py" not in trace.tb_frame.f_code.co_filename:
            hooks[1](kind, problem, trace)

    sys.unraisablehook, sys.excepthook = unraisable, printed
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = hooks


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGINT and SIGTERM unwind the stack, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
