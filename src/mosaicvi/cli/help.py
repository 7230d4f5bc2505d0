"""How `--help` is printed: plain text of 80 columns, in which examples stay as they are written."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help keeps indented paragraphs as they are."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description."""
        write_description(self.help, formatter)


class Commands(TyperGroup):
    """The same of all commands together."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description."""
        write_description(self.help, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write what each command does, in its whole first paragraph."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, _first(command.help)) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first(text: str | None) -> str:
    return inspect.cleandoc(text or "").split("\n\n")[0].replace("`", "").replace("\n", " ")


def write_description(text: str | None, formatter: Any) -> None:
    """Paragraphs filled to the width, and indented ones line by line."""
    with formatter.indentation():
        for paragraph in inspect.cleandoc(text or "").split("\n\n"):
            formatter.write_paragraph()
            if not paragraph.startswith("    "):
                formatter.write_text(paragraph.replace("`", ""))
                continue
            margin = " " * (formatter.current_indent + 2)
            room = formatter.width - len(margin)
            for line in textwrap.dedent(paragraph).splitlines():
                for piece in in_pieces(line, room):
                    formatter.write(f"{margin}{piece}\n")


def in_pieces(command: str, width: int) -> list[str]:
    """A command on one line, or on several that a shell takes for one, broken before options."""
    if len(command) <= width:
        return [command]
    first, *options = re.split(r" (?=-)", command)
    pieces = [first]
    for option in options:
        if len(f"{pieces[-1]} {option} \\") > width:
            pieces[-1] += " \\"
            pieces.append(f"    {option}")
        else:
            pieces[-1] += f" {option}"
    return pieces
