"""What can be wrong with a user's input, or run out: one line that names the thing and the remedy."""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = os.path.join(os.path.dirname(__file__), "")


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message names the offending thing and the remedy. The command line prints it without a
    traceback and exits with code 2.

    Parameters
    ----------
    problems
        One message, or all that were found, printed one per line; what cannot be printed in them, such as a
        name with control characters, is escaped.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        every = [problems] if isinstance(problems, str) else list(problems)
        self.problems: list[str] = [printable(problem) for problem in every]
        super().__init__("\n".join(self.problems))


class ModelFileError(InputError):
    """A saved model or checkpoint is truncated, altered, foreign, too new or does not fit."""


class NonFiniteLossError(FloatingPointError):
    """Training met a loss that is not a number; the weights are those before the step.

    Parameters
    ----------
    message
        What happened.
    modality
        Whose loss it was, or None for a term of all.
    cells
        Positions of the minibatch's cells.
    """

    def __init__(self, message: str, *, modality: str | None = None, cells: Sequence[int] = ()) -> None:
        self.modality, self.cells = modality, list(cells)
        super().__init__(message)


FEWER_FEATURES = (
    "use fewer features, such as the most variable ones, or fewer cells, and keep counts in sparse matrices"
)

FEWER_CELLS = "ask for fewer cells at a time; the answers of a cell do not depend on others"


class OutOfMemoryError(MemoryError):
    """Memory ran out; one line that says in what work, and what helps."""


@contextmanager
def memory_for(work: str, remedy: str) -> Iterator[None]:
    """Name the work in which memory runs out, and a remedy, instead of the library that noticed it.

    Parameters
    ----------
    work
        What is done, such as ``"training"``.
    remedy
        What helps, in the imperative.

    Raises
    ------
    OutOfMemoryError
        In place of what numpy (`MemoryError`) or torch (a `RuntimeError` that says so) raise.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search(r"(?i)out of memory|allocate", str(error)):
            raise
        tried = re.search(r"(?i)(?:tried to|unable to) allocate [\d.,]+ ?\w+", str(error))
        detail = f" ({tried[0][0].lower()}{tried[0][1:]})" if tried else ""
        raise OutOfMemoryError(f"Memory ran out in {work}{detail}; {remedy}.") from error


class LostRankError(RuntimeError):
    """Another process of a training ended; the weights are those after the last step that all finished."""


class MosaicWarning(UserWarning):
    """Something that the user may have meant, or may not."""


_wording: ContextVar[Callable[[str], str]] = ContextVar("_wording", default=str)


def wording(words: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Change the words of a function's warnings and `InputError`, where things have other names.

    Parameters
    ----------
    words
        What to say in place of each pattern, as in `re.sub`.
    """

    def by(text: str) -> str:
        for pattern, said in words.items():
            text = re.sub(pattern, said, text)
        return text

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            before = _wording.set(by)
            try:
                return function(*args, **kwargs)
            except InputError as error:
                raise type(error)([by(problem) for problem in error.problems]) from None
            finally:
                _wording.reset(before)

        return called

    return decorated


def warn(text: str) -> None:
    """Give a `MosaicWarning` at the user's line: the one from which this package was called."""
    frame = sys._getframe()
    user = frame.f_back or frame
    while frame.f_back is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            user = frame.f_back
        frame = frame.f_back
    registry = user.f_globals.setdefault("__warningregistry__", {})
    text = _wording.get()(text)
    warnings.warn_explicit(text, MosaicWarning, user.f_code.co_filename, user.f_lineno, registry=registry)


def printable(text: str) -> str:
    """A text on one line, without characters that a terminal would act on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(names: Iterable[object], *, most: int = 4) -> str:
    """The first names in quotes, and how many more there are."""
    every = [str(name) for name in names]
    rest = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(map(repr, every[:most])) + rest


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the nearest that is, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}."
