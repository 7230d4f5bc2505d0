"""Settings of the documentation: ``sphinx-build -W -b html docs docs/_build/html``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent / "src")]

from mosaicvi import __version__  # noqa: E402

project = "mosaicvi"
author = "The mosaicvi developers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_executed"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False

copybutton_prompt_text = "$ "

html_math_renderer = "mathml"  # read by browsers as it is: nothing is fetched
html_theme = "sphinx_book_theme"
html_title = f"mosaicvi {release}"
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],
}


def _formula(writer: Any, node: Any, display: str) -> None:
    """Write a formula as MathML."""
    formula = convert(node.astext(), display=display)
    writer.body.append(f'<div style="margin: 1em 0">{formula}</div>' if display == "block" else formula)
    raise nodes.SkipNode


def inline_formula(writer: Any, node: Any) -> None:
    """A formula in a line."""
    _formula(writer, node, "inline")


def block_formula(writer: Any, node: Any) -> None:
    """A formula by itself."""
    _formula(writer, node, "block")


def write_references(app: Any, docname: str, source: list[str]) -> None:
    """Put what is written from the source where its page asks for it: commands, messages."""
    if docname == "command-line":
        from command_line import reference

        source[0] = source[0].replace("<!-- commands -->", reference())
    if docname == "input-errors":
        from messages import listing

        source[0] = source[0].replace("<!-- messages -->", listing())


def run_notebooks(app: Any) -> None:
    """Run the notebooks, before any page asks for their pictures."""
    from notebooks import execute_all

    app.notebooks = execute_all()


def write_notebook(app: Any, docname: str, source: list[str]) -> None:
    """Put what a notebook printed and drew into its page."""
    source[0] = app.notebooks.get(docname, source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", run_notebooks)
    app.connect("source-read", write_notebook)
    app.add_html_math_renderer("mathml", (inline_formula, None), (block_formula, None))
    app.connect("source-read", write_references)
