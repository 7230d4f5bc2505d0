"""The reference of the command line, written from the commands themselves."""

from __future__ import annotations

import enum
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from mosaicvi.cli.app import app

WORDS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def commands() -> dict[str, Any]:
    """Commands by name, in the order of ``mosaicvi --help``."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def reference() -> str:
    """Markdown with a section for each command."""
    group: Any = typer.main.get_command(app)
    parts = [_help(group.help), "```console\n$ mosaicvi [OPTIONS] COMMAND [ARGS]...\n```", _general()]
    for name, command in commands().items():
        parts += [f"(command-{name})=", f"## mosaicvi {name}", _help(command.help), *_command(name, command)]
    return "\n\n".join(parts) + "\n"


def _general() -> str:
    rows = [
        ("`--version`", "Print the version and exit."),
        ("`--help`, `-h`", "Show the help, of each command as well."),
    ]
    return _table(("option", "meaning"), rows)


def _command(name: str, command: Any) -> Iterator[str]:
    kinds = _annotations(name)
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    options = [p for p in command.params if p.opts[0].startswith("-") and not getattr(p, "hidden", False)]
    usage = " ".join(["mosaicvi", name, *(_metavar(p, kinds) for p in arguments), "[OPTIONS]"])
    yield f"```console\n$ {usage}\n```"
    if arguments:
        yield _table(("argument", "meaning"), [(f"`{_metavar(p, kinds)}`", _text(p.help)) for p in arguments])
    yield _table(("option", "meaning"), [_option(p, kinds) for p in options])


def _option(p: Any, kinds: dict[str, Any]) -> tuple[str, str]:
    value = "" if p.is_flag else f" {_metavar(p, kinds)}"
    names = ", ".join(f"`{o}{value}`" for o in p.opts[:1]) + "".join(f", `{o}`" for o in p.opts[1:])
    says = _text(p.help)
    if p.required:
        says += " **Required.**"
    elif p.default is not None and p.default != [] and not p.is_flag and "[default:" not in says:
        default = p.default.value if isinstance(p.default, enum.Enum) else p.default
        says += f" [default: {default}]"
    return names, re.sub(r"\[default: ([^\]]+)\]", r"*Default: \1.*", says)


def _annotations(name: str) -> dict[str, Any]:
    """Type of each parameter, from the command's own signature."""
    functions = {c.name: c.callback for c in app.registered_commands}
    hints = typing.get_type_hints(functions[name])
    return {key: _plain(hint) for key, hint in hints.items()}


def _plain(hint: Any) -> Any:
    """The type within list[...] and ... | None."""
    inner = [a for a in typing.get_args(hint) if a is not type(None)]
    return _plain(inner[0]) if inner else hint


def _metavar(p: Any, kinds: dict[str, Any]) -> str:
    if p.metavar:
        return str(p.metavar)
    kind = kinds[p.name]
    if inspect.isclass(kind) and issubclass(kind, enum.Enum):
        return "|".join(str(member.value) for member in kind)
    return WORDS.get(kind, str(p.name).upper())


def _help(text: str | None) -> str:
    """A command's description, its examples as code."""
    paragraphs = textwrap.dedent(text or "").strip().split("\n\n")
    out = []
    for paragraph in paragraphs:
        plain = textwrap.dedent(paragraph)
        if paragraph.startswith("    ") or plain.startswith("mosaicvi "):
            language = "console" if plain.startswith("mosaicvi ") else "toml"
            shown = re.sub(r"^", "$ ", plain, flags=re.MULTILINE) if language == "console" else plain
            out.append(f"```{language}\n{shown}\n```")
        else:
            out.append(_code(paragraph))
    return "\n\n".join(out)


def _text(text: str | None) -> str:
    return _code(" ".join((text or "").split())).replace("|", r"\|")


def _code(text: str) -> str:
    """Names such as ``obsm["X_mosaicvi"]`` as code, where they are not yet."""
    return re.sub(r"(?<!`)\b(\w+\[\"\w+\"\])(?!`)", r"`\1`", text)


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    cells = [head, ("---", "---"), *((a.replace("|", r"\|"), b) for a, b in rows)]
    return "\n".join(f"| {a} | {b} |" for a, b in cells)
