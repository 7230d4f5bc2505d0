"""The documentation: it builds, it is complete, and its Python runs."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mudata import MuData
from tests.builders import protein_tables

import mosaicvi
from mosaicvi import MosaicVI, NetworkConfig
from mosaicvi.data.read import mudata_as_it_is

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    DOCS / "quickstart.md",
    DOCS / "tutorial.md",
    DOCS / "parameters.md",
    DOCS / "from-scvaeit.md",
    DOCS / "from-others.md",
    DOCS / "proteomics.md",
]
BUILDERS = ("sphinx", "myst_parser", "sphinx_book_theme", "sphinx_copybutton")


def load(name: str) -> ModuleType:
    """A module of the folder docs."""
    spec = importlib.util.spec_from_file_location(f"mosaicvi_docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- the site -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    missing = [name for name in BUILDERS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'mosaicvi[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = (tmp_path / "html" / "command-line.html").read_text(encoding="utf-8")
    assert "mosaicvi impute" in built


# --- is everything there ------------------------------------------------------------------------


def sections(page: Path, level: int) -> dict[str, str]:
    parts = re.split(rf"^{'#' * level} `?([^`\n]+)`?$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


FIELDS = [f.name for f in dataclasses.fields(NetworkConfig)]


def test_every_parameter_has_a_section_and_no_section_lacks_one() -> None:
    assert sorted(sections(DOCS / "parameters.md", 3)) == sorted(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_a_parameter_says_its_default_first(name: str) -> None:
    first = sections(DOCS / "parameters.md", 3)[name].strip().split("\n\n")[0]
    assert first.startswith("Default: "), first


SAID = (
    "dimensions", "dim_latent", "beta_unobs", "beta_reverse", "beta_kl", "skip_conn", "p_feat",
    "mean_vals", "min_vals", "max_vals", "max_disp", "norm", "encode_covariates", "decode_mask",
    "unbiased_mmd", "mask_by_cell",
)  # fmt: skip


def test_the_defaults_on_the_page_are_those_of_the_network(mosaic: MuData) -> None:
    said = sections(DOCS / "parameters.md", 3)
    config = MosaicVI(MosaicVI.setup_mudata(mosaic, batch_key="batch")).config
    for name in SAID:
        stated = re.match(r"\s*Default: `([^`]+)`", said[name])
        assert stated is not None, name
        assert stated.group(1).strip('"') == str(getattr(config, name)), name
    stated = re.match(r"\s*Default: `([^`]+)` each", said["beta_modal"])
    assert stated is not None
    assert set(config.beta_modal) == {float(stated.group(1))}
    stated = re.match(r"\s*Default: `([^`]+)`", said["gamma"])
    assert stated is not None
    assert mosaicvi.Schedule.of(float(stated.group(1)))(7) == config.gamma(7) == config.gamma(0)


def test_every_command_and_every_option_is_in_the_reference() -> None:
    page = load("command_line")
    text = page.reference()
    parts = re.split(r"^## mosaicvi (\w+)$", text, flags=re.MULTILINE)
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    commands = page.commands()
    assert {"demo", "inspect", "combine", "train", "embed", "impute", "report"} <= set(commands)
    assert list(said) == list(commands)
    for name, command in commands.items():
        for parameter in command.params:
            shown = [o for o in parameter.opts if o.startswith("-")] or [parameter.metavar]
            assert all(f"`{o}" in said[name] for o in shown), f"{name} {parameter.name}"
            assert not parameter.help or parameter.help.split(".")[0].split("`")[0][:30] in said[name]


def test_every_public_name_is_in_the_api_reference() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    names = [n for n in mosaicvi.__all__ if n not in ("__version__", "datasets", "metrics", "pl", "tl")]
    for module in ("datasets", "metrics", "pl", "tl"):
        names += [f"{module}.{n}" for n in importlib.import_module(f"mosaicvi.{module}").__all__]
    missing = [n for n in names if not re.search(rf":: mosaicvi\.{re.escape(n)}$", text, re.MULTILINE)]
    assert not missing, f"not in docs/api: {', '.join(missing)}"


def test_every_picture_is_there_and_small() -> None:
    for page in DOCS.rglob("*.md"):
        for name in re.findall(r"!\[[^\]]*\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
            if "_executed" not in Path(name).parts:  # of a notebook that runs when the site is built
                assert (page.parent / name).stat().st_size < 200_000, f"{page.name}: {name}"


def test_the_citation_is_of_this_version_and_names_the_papers_of_the_page() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    said = dict(re.findall(r"^([\w-]+): *(.*)$", text, re.MULTILINE))
    assert said["version"] == mosaicvi.__version__
    assert {"cff-version", "message", "title", "authors", "references"} <= set(said)
    page = (DOCS / "published.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\[doi:([^\]]+)\]", page)) == set(re.findall(r"^ +doi: (\S+)$", text, re.M))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changes, re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == mosaicvi.__version__


# --- the Python of the pages --------------------------------------------------------------------


@pytest.fixture
def simulated() -> mosaicvi.datasets.SimulatedMosaic:
    return mosaicvi.datasets.simulated_mosaic(240, n_genes=60, n_proteins=8, n_peaks=80, n_types=3)


@pytest.fixture
def mosaic(simulated: mosaicvi.datasets.SimulatedMosaic) -> MuData:
    return simulated.mdata


@pytest.fixture
def small_world(
    simulated: mosaicvi.datasets.SimulatedMosaic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder to work in, with little data and little training."""
    import matplotlib.pyplot as plt

    train = MosaicVI.train

    def briefly(self: MosaicVI, max_epochs: int | None = None, **settings: Any) -> MosaicVI:
        return train(self, 2, **{**settings, "batch_size": 40, "progress": False})

    monkeypatch.setattr(MosaicVI, "train", briefly)
    monkeypatch.setattr(mosaicvi.datasets, "simulated_mosaic", lambda *args, **kwargs: simulated)
    monkeypatch.setattr("mosaicvi.view.umap.layout", lambda z, **kwargs: (z[:, :2], "UMAP"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    plt.close("all")


def write_files(text: str, mdata: MuData, folder: Path) -> None:
    """Write every file that a page reads."""
    if "proteinGroups.txt" in text:
        protein_tables(folder, 60, 24)
    for name in set(re.findall(r"\"([\w./-]+\.(?:h5mu|h5ad))\"", text)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with mudata_as_it_is():
            if path.suffix == ".h5mu":
                mdata.write_h5mu(path)
                continue
            rna = mdata["rna"].copy()
            rna.obs["batch"] = mdata.obs["batch"].reindex(rna.obs_names)
            rna.write_h5ad(path)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_python_of_a_page_runs(page: Path, small_world: Path, mosaic: MuData) -> None:
    pages = load("pages")
    text = page.read_text(encoding="utf-8")
    found = pages.blocks(text)
    if not found:
        pytest.skip(f"{page.name} has no Python")
    code = "".join(block.code for block in found)
    write_files(code, mosaic, small_world)
    registered = mosaic.copy()
    MosaicVI.setup_mudata(registered, batch_key="batch")
    names: dict[str, Any] = {"mosaicvi": mosaicvi, "mdata": registered}
    for block in found:
        value, _ = pages.run(block, names, page)
        if block.picture is not None:
            assert hasattr(value, "figure"), f"{page.name}:{block.line} does not end in a picture"


def test_every_message_about_input_is_in_its_page() -> None:
    messages = load("messages")
    page = (DOCS / "input-errors.md").read_text(encoding="utf-8")
    assert "<!-- messages -->" in page
    page = page.replace("<!-- messages -->", messages.listing())
    places = list(messages.raised())
    assert len(places) > 250
    for place in places:
        assert place.texts or place.is_passed_on, f"{place.file}:{place.line}: no text was found"
    for path in sorted((ROOT / "src").rglob("*.py")):
        for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
            if ast.unparse(call.func) in ("InputError", "ModelFileError"):
                in_table = {id(inner) for n in ast.walk(call) if calls_the_table(n) for inner in ast.walk(n)}
                for text in (n for n in ast.walk(call) if id(n) not in in_table):
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        words = " ".join(text.value.split())
                        assert len(words) < 20 or words in page, f"{path.name}:{call.lineno}: {words}"


def calls_the_table(node: ast.AST) -> bool:
    """Whether an expression is a message of `mosaicvi.data.problems`, whose table the page holds."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "problem"


def test_messages_are_followed_to_where_they_are_written() -> None:
    said = load("messages").listing()
    for words in (
        "not a mosaicvi model: it does not say so",  # an argument of the function that raises
        "values are fractional, so they look normalised already",  # what a function returns
        "remove them: mdata = mdata[np.any(",  # added to a list of problems
        "cells have no modality at all",
    ):
        assert words in said
