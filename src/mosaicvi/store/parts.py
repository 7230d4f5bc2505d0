"""What reads a part of a saved model, checked before it is used, has in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mosaicvi.errors import ModelFileError


@contextmanager
def fitting_the_network(folder: Path, said: str) -> Iterator[None]:
    """Whatever is wrong with a part while it is read is a `ModelFileError`.

    Parameters
    ----------
    folder
        Of the model.
    said
        The part and its verb, such as ``"its read-out does not fit"``.

    Raises
    ------
    ModelFileError
        The part is damaged or of another network.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{folder}: {said} the network ({reason}).") from None


def need(holds: bool) -> None:
    """Raise `ValueError` for arrays or names that do not go together."""
    if not holds:
        raise ValueError("sizes or names differ")
