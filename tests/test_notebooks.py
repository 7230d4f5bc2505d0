"""docs/notebooks.py: what a page prints and draws stands where it was made, also in the notebook."""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = """# Title

First words.

```python
x = 2
print("x is", x)
```

Then

```python
x + 1
```

```python
import matplotlib.pyplot as plt

plt.subplots(figsize=(1, 1))[1]
```

The end.
"""


@pytest.fixture
def notebooks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("PIL")
    monkeypatch.syspath_prepend(str(DOCS))
    for name in ("notebooks", "make_pictures", "pages"):
        sys.modules.pop(name, None)
    import notebooks  # type: ignore[import-not-found]

    return notebooks  # type: ignore[no-any-return]


def test_a_page_is_run_and_kept_as_a_notebook(notebooks: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    page = tmp_path / "pages" / "small.md"
    page.write_text(PAGE)
    here = Path.cwd()
    text = notebooks.execute(page, tmp_path / "out")
    assert Path.cwd() == here
    assert "```\n\n```text\nx is 2\n```\n\nThen" in text
    assert "x + 1\n```\n\n```text\n3\n```\n" in text
    assert "[1]\n```\n\n![What the lines above draw](../out/small-1.png)\n\nThe end.\n" in text
    assert text.endswith("{download}`As a notebook for Jupyter <../out/small.ipynb>`\n")
    png = (tmp_path / "out" / "small-1.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    saved = json.loads((tmp_path / "out" / "small.ipynb").read_text())
    assert [cell["cell_type"] for cell in saved["cells"]] == [
        "markdown", "code", "markdown", "code", "code", "markdown",
    ]  # fmt: skip
    first, second, third = (cell for cell in saved["cells"] if cell["cell_type"] == "code")
    assert first["source"] == 'x = 2\nprint("x is", x)'
    assert first["outputs"][0]["text"] == "x is 2\n"
    assert second["outputs"][0]["text"] == "3"
    assert base64.b64decode(third["outputs"][0]["data"]["image/png"]) == png
    assert saved["cells"][0]["source"] == "# Title\n\nFirst words."


def test_every_page_is_in_the_gallery_and_its_pictures_are_made() -> None:
    gallery = (DOCS / "notebooks" / "index.md").read_text(encoding="utf-8")
    pages = {page.stem for page in (DOCS / "notebooks").glob("*.md")} - {"index"}
    assert set(re.findall(r"\[\]\(([\w-]+)\.md\)", gallery)) == pages
    toctree = gallery[gallery.index("{toctree}") :]
    assert {line for line in toctree.splitlines() if re.fullmatch(r"[\w-]+", line)} == pages
    assert {name for name in re.findall(r"_executed/([\w-]+)-\d\.png", gallery)} == pages
