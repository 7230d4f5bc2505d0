"""What is raised is one line for each problem, whatever names are in it."""

from __future__ import annotations

import pytest

from mosaicvi.cli.say import for_terminal
from mosaicvi.errors import InputError, nearest, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is, \u00e9", "as it is, \u00e9"),
        ("cell '\x1b[2Jc1'", "cell '\\x1b[2Jc1'"),
        ("two\nlines\u2028three", "two\\nlines\\u2028three"),
    ],
)
def test_nothing_that_a_terminal_would_act_on(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert InputError([text, "other"]).problems == [shown, "other"]
    assert str(InputError(text)) == shown
    assert for_terminal(text).isprintable()


def test_an_unknown_name_is_answered_with_the_nearest_or_with_all() -> None:
    known = (name for name in ("palette", "title"))
    assert nearest("palete", known) == "did you mean 'palette'?"
    assert nearest("xyz", ["palette", "title"]) == "known are palette, title."
