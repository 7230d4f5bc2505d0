from __future__ import annotations

import inspect
import re
import textwrap
import typing
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from mosaicvi.cli import run
from mosaicvi.cli.app import app
from mosaicvi.cli.help import in_pieces

COMMANDS = getattr(get_command(app), "commands", {})


def shown(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The help as a terminal of 80 columns shows it."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*command.split(), "--help"]) == 0
    return capsys.readouterr().out


def examples(text: str) -> list[str]:
    """Indented lines of a docstring."""
    blocks = [p for p in inspect.cleandoc(text).split("\n\n") if p.startswith("    ")]
    return [line for block in blocks for line in textwrap.dedent(block).splitlines()]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_examples_stand_on_lines_of_their_own(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = shown(command, monkeypatch, capsys)
    assert all(len(line) <= 80 for line in page.splitlines())
    of = COMMANDS[command] if command else get_command(app)
    written = examples(of.help or "")
    assert written
    lines = re.sub(r" \\\n +", " ", page).splitlines()
    for example in written:
        assert f"    {example}" in lines, example


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_and_no_choice_is_cut(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = shown(command, monkeypatch, capsys)
    assert "…" not in page
    for p in COMMANDS[command].params:
        for option in (*p.opts, *p.secondary_opts):
            if option.startswith("-"):
                assert re.search(
                    rf"^  [^ ].*?{re.escape(option)}(?![\w-])|^  {option}\b", page, re.MULTILINE
                ), option
        if p.metavar:
            assert p.metavar in page
    callback = next(c.callback for c in app.registered_commands if c.name == command)
    for hint in typing.get_type_hints(callback).values():
        for kind in (hint, *typing.get_args(hint)):
            if isinstance(kind, type) and issubclass(kind, Enum):
                assert "|".join(str(one.value) for one in kind) in page


def test_every_command_is_described_in_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = " ".join(shown("", monkeypatch, capsys).split())
    for command in COMMANDS.values():
        first = inspect.cleandoc(command.help).split("\n\n")[0].replace("`", "")
        assert " ".join(first.split()) in page


@given(
    options=st.lists(st.sampled_from(["--a b", "--output x.h5mu", "-q", "--long " + "y" * 20]), max_size=9),
    width=st.integers(40, 90),
)
def test_pieces_of_a_command_are_the_command(options: list[str], width: int) -> None:
    command = " ".join(["mosaicvi impute", *options])
    pieces = in_pieces(command, width)
    assert all(len(piece) <= width for piece in pieces)
    assert all(piece.endswith(" \\") for piece in pieces[:-1])
    assert " ".join(piece.removesuffix(" \\").strip() for piece in pieces) == command
