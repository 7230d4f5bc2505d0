"""Run the tutorial, and put the pictures it draws and the text it prints into the page.

    python docs/make_pictures.py

Every Python block of ``tutorial.md`` runs in order. The picture right after a block is written from the
block's last line; the ``text`` fence right after it is replaced by what it printed.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pages import blocks, run
from PIL import Image

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "tutorial.md"
DPI, COLORS = 90, 128


def write(picture: Any, path: Path) -> None:
    """Write an Axes' figure or a Figure as a small PNG."""
    figure = picture.figure if isinstance(picture, Axes) else picture
    if not isinstance(figure, Figure):
        raise TypeError(
            f"{path.name}: the block before it ends in {type(picture).__name__}, not in a picture"
        )
    memory = io.BytesIO()
    figure.savefig(memory, dpi=DPI, bbox_inches="tight", facecolor="white")
    Image.open(memory).convert("RGB").quantize(COLORS).save(path, optimize=True)


def main() -> None:
    """Run the page and write what came of it."""
    text = PAGE.read_text(encoding="utf-8")
    lines = text.splitlines()
    names: dict[str, Any] = {}
    printed: list[tuple[tuple[int, int], str]] = []
    os.chdir(tempfile.mkdtemp())
    for block in blocks(text):
        start = time.monotonic()
        value, said = run(block, names, PAGE)
        sys.stderr.write(f"line {block.line}: {time.monotonic() - start:.1f} s\n")
        if block.picture is not None:
            write(value, DOCS / block.picture)
        if block.output is not None:
            printed.append((block.output, said or ("" if value is None else repr(value))))
    for (first, after), said in reversed(printed):
        lines[first:after] = said.rstrip().splitlines()
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
