"""The Python of a page: its blocks, what they print, and the pictures that follow them."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

PICTURE = re.compile(r"!\[[^\]]*\]\((images/[\w.-]+\.png)\)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """One ``python`` fence.

    Attributes
    ----------
    line
        Line of the page on which the code begins, from 1.
    code
        The code.
    output
        First line of the ``text`` fence right after it, and the one after its last; None if there is none.
    picture
        Path of the picture right after it, relative to the page; None if there is none.
    """

    line: int
    code: str
    output: tuple[int, int] | None
    picture: str | None


def blocks(text: str) -> list[Block]:
    """Python blocks of a Markdown page, in order."""
    lines = text.splitlines()
    found = []
    at = 0
    while at < len(lines):
        if lines[at].strip() != "```python":
            at += 1
            continue
        end = _fence_end(lines, at + 1)
        after = _next_line(lines, end + 1)
        output = None
        if after < len(lines) and lines[after].strip() == "```text":
            output = (after + 1, _fence_end(lines, after + 1))
            after = _next_line(lines, output[1] + 1)
        shown = PICTURE.match(lines[after]) if after < len(lines) else None
        code = "\n".join(lines[at + 1 : end]) + "\n"
        picture = shown.group(1) if shown else None
        found.append(Block(line=at + 2, code=code, output=output, picture=picture))
        at = end + 1
    return found


def _fence_end(lines: list[str], at: int) -> int:
    while lines[at].strip() != "```":
        at += 1
    return at


def _next_line(lines: list[str], at: int) -> int:
    """The next line that is not empty."""
    while at < len(lines) and not lines[at].strip():
        at += 1
    return at


def run(block: Block, names: dict[str, Any], page: Path) -> tuple[Any, str]:
    """Run a block as a notebook would.

    Parameters
    ----------
    block
        What to run.
    names
        Variables that it reads and sets.
    page
        Where it is from, for tracebacks.

    Returns
    -------
    The value of its last line, if that is an expression, and what it printed.
    """
    tree = ast.parse("\n" * (block.line - 1) + block.code, str(page))
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, str(page), "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), str(page), "eval"), names)
    return value, printed.getvalue()
