"""Pages of docs/notebooks, run when the site is built: what they print and draw, and the same for Jupyter."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from make_pictures import write
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from pages import Block, blocks, run

DOCS = Path(__file__).resolve().parent
OUTPUT = DOCS / "_executed"


def execute(page: Path, output: Path = OUTPUT) -> str:
    """Run a page.

    Parameters
    ----------
    page
        A page with blocks of Python.
    output
        Folder of the pictures and the notebook, beside the folder of the page.

    Returns
    -------
    The page, with what each block printed and drew after it, and the notebook to download at its end.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    text: list[str] = []
    cells: list[dict[str, Any]] = []
    names: dict[str, Any] = {}
    done = pictures = 0
    output.mkdir(exist_ok=True)
    with in_folder(tempfile.mkdtemp()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for block in blocks("\n".join(lines)):
            first, end = block.line - 1, block.line - 1 + len(block.code.splitlines()) + 1
            value, said = run(block, names, page)
            picture = None
            if isinstance(value, Artist):
                pictures += 1
                picture = output / f"{page.stem}-{pictures}.png"
                write(value, picture)
                plt.close("all")
            elif value is not None:
                said += repr(value)
            text += lines[done:end] + shown(said, picture, page)
            cells += [markdown(lines[done : first - 1]), code(block, said, picture)]
            done = end
    cells.append(markdown(lines[done:]))
    notebook = {
        "cells": [c for c in cells if c["source"]],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    (output / f"{page.stem}.ipynb").write_text(json.dumps(notebook, indent=1), encoding="utf-8")
    link = f"{{download}}`As a notebook for Jupyter <../{output.name}/{page.stem}.ipynb>`"
    return "\n".join([*text, *lines[done:], "", link, ""])


def shown(said: str, picture: Path | None, page: Path) -> list[str]:
    """What came of a block, in Markdown."""
    found = ["", "```text", *said.rstrip().splitlines(), "```"] if said.strip() else []
    if picture is not None:
        found += ["", f"![What the lines above draw](../{picture.parent.name}/{picture.name})"]
    return found


def markdown(lines: list[str]) -> dict[str, Any]:
    """A cell of text."""
    source = "\n".join(lines).strip()
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code(block: Block, said: str, picture: Path | None) -> dict[str, Any]:
    """A cell of code with what came of it."""
    outputs: list[dict[str, Any]] = []
    if said.strip():
        outputs.append({"output_type": "stream", "name": "stdout", "text": said})
    if picture is not None:
        data = {"image/png": base64.b64encode(picture.read_bytes()).decode()}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    return {
        "cell_type": "code", "execution_count": None, "metadata": {}, "outputs": outputs,
        "source": block.code.rstrip("\n"),
    }  # fmt: skip


@contextlib.contextmanager
def in_folder(folder: str) -> Any:
    """Work in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def execute_all() -> dict[str, str]:
    """Text of every page by its name in the documentation, such as ``notebooks/map-a-query``."""
    pages = sorted(page for page in (DOCS / "notebooks").glob("*.md") if page.stem != "index")
    return {f"notebooks/{page.stem}": execute(page) for page in pages}
