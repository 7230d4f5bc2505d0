"""Every remedy can be followed where it is given: no Python on the terminal, no option that is not there."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import mosaicvi
from mosaicvi import MosaicVI
from mosaicvi.cli.app import app
from mosaicvi.cli.run import _options, run
from mosaicvi.cli.say import OPTIONS, for_terminal
from mosaicvi.data.problems import PROBLEMS

SOURCE = Path(mosaicvi.__file__).parent
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
READING = ("inspect", "combine", "train", "embed", "impute", "report")
OF_DATA = ("data", "config", "fit", "infer", "inspect", "store", "report")

NAMES_OF_OTHERS = SOURCE / "config" / "names.py"  # answered to callers of Python alone

# Arguments that have an option of the command line.
ARGUMENTS = (
    "layers", "likelihoods", "transforms", "block_keys", "batch_key", "panel_key", "modalities", "modality",
    "from_obsm", "min_counts", "rounded", "zeros_missing", "orientation", "duplicates", "columns", "genome",
    "log2", "names_from", "pair", "checkpoint_dir", "batch_size", "join",
)  # fmt: skip
PYTHON = re.compile(rf"\b({'|'.join(ARGUMENTS)})=(?![\w.]*\))")
# Code that somebody on a terminal cannot run.
CODE = re.compile(
    r"\bmdata\b|\badata\b|\bX = X|\.to(array|csr)\(|\btrain\(|in_memory|library_aware=|\w+_unique\(|uns\["
)
# Said only to those who call a function.
OF_PYTHON_ALONE = re.compile(
    r"setup_mudata|setup_anndata|to_mudata\(adata|train\(|^combine: |^in_memory: |MosaicVI\."
)


def sentences() -> Iterator[tuple[str, str]]:
    """Texts of the source that are put together from pieces, with x in place of what is filled in."""
    for station in OF_DATA:
        for path in sorted({*(SOURCE / station).rglob("*.py")} - {NAMES_OF_OTHERS}):
            tree = ast.parse(path.read_text())
            documents = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
            inner = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
            for node in ast.walk(tree):
                if id(node) in documents | inner:
                    continue
                if isinstance(node, ast.JoinedStr):
                    yield str(path.relative_to(SOURCE)), "".join(map(_piece, node.values))
                elif (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and path.name != "problems.py"
                ):
                    yield str(path.relative_to(SOURCE)), node.value
    for key, kind in PROBLEMS.items():
        yield f"problem {key}", re.sub(r"\{\w+!r\}", "'x'", kind.text).replace("{{", "{").replace("}}", "}")


def _piece(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.FormattedValue)
    if isinstance(node.value, ast.List):
        return "['x']"
    return "'x'" if node.conversion == ord("r") else "7" if node.format_spec else "x"


def messages() -> list[tuple[str, str]]:
    return [(where, text) for where, text in sentences() if PYTHON.search(text) and " " in text]


def test_what_is_said_where_data_are_registered_can_be_done_before() -> None:
    """`setup_mudata` takes no cuts; `to_mudata` does, and is what is named."""
    from mosaicvi.data.read import to_mudata

    known = inspect.signature(to_mudata).parameters
    named = {
        option
        for where, text in sentences()
        if where.startswith("data/register/")
        for option in re.findall(r"to_mudata\(data, (\w+)=", text)
    }
    assert {"rounded", "zeros_missing", "min_counts"} <= named <= {*known}
    said = "if not, mosaicvi.to_mudata(data, zeros_missing=['rna'], batch_key=...) takes them as missing"
    assert for_terminal(said) == "if not, --zeros-missing rna takes them as missing"


def test_there_are_messages() -> None:
    assert len(messages()) > 20


@pytest.mark.parametrize(("where", "text"), messages(), ids=lambda v: v[:50])
def test_no_python_on_the_terminal(where: str, text: str) -> None:
    if OF_PYTHON_ALONE.search(text):
        pytest.skip("said to callers of Python alone")
    left = PYTHON.search(for_terminal(text))
    assert left is None, f"{where}: {for_terminal(text)}"


def test_no_code_on_the_terminal() -> None:
    for where, text in sentences():
        shown = for_terminal(text)
        is_said_there = " " in text and not OF_PYTHON_ALONE.search(text) and "report/" not in where
        assert not (is_said_there and CODE.search(shown)), f"{where}: {shown}"


def test_what_exists_is_replaced_by_the_argument_or_the_option() -> None:
    assert for_terminal("batch_correction=False compares") == "--no-batch-correction compares"
    said = "out.h5mu exists; pass overwrite=True or choose another name"
    assert any(text.endswith(said.removeprefix("out.h5mu")) for _, text in sentences())
    assert for_terminal(said) == "out.h5mu exists; pass --overwrite or choose another name"


@pytest.mark.parametrize("command", ["embed", "impute", "label", "compare", "map", "report"])
def test_who_has_a_model_is_not_sent_to_training(command: str) -> None:
    token = OPTIONS.set(_options(app, [command]))
    try:
        beside = (
            "obsm['adt']: its 3 features are read as the modality 'adt', as by from_obsm={'adt': 'adt'}; "
            "del data.obsm['adt'] first, or modalities=['rna'] of setup_mudata, leaves them out."
        )
        assert for_terminal(beside) == "obsm['adt']: its 3 features are read as the modality 'adt'."
        of_model = (
            "obsm['adt']: its 3 features are read as the modality 'adt', as by mosaicvi.to_mudata(data, "
            "from_obsm={'adt': 'adt'}); del data.obsm['adt'] first leaves them out. 4 cells are left."
        )
        assert for_terminal(of_model) == (
            "obsm['adt']: its 3 features are read as the modality 'adt'. 4 cells are left."
        )
        for call in ("from_obsm={'adt': 'x'}", "mosaicvi.to_mudata(data, from_obsm={'adt': 'x'})"):
            unread = f"obsm['x'] holds counts that are not read; {call} makes them a modality."
            assert for_terminal(unread) == "obsm['x'] holds counts that are not read."
        unread = "obsm['x'] holds counts that are not read; from_obsm={'adt': 'x'} makes them a modality."
        assert for_terminal(unread) == "obsm['x'] holds counts that are not read."
        panels = "rna: 2 panels; note the column of obs that does, data.uns['mosaicvi'] = {'panel_key': ...}."
        assert for_terminal(panels) == (
            "rna: 2 panels; name the column of obs that does, mosaicvi combine --panel-key ..., "
            "and give what that writes."
        )
    finally:
        OPTIONS.reset(token)


@pytest.mark.parametrize("command", READING)
def test_no_option_that_the_command_lacks(command: str) -> None:
    token = OPTIONS.set(_options(app, [command]))
    try:
        own = {o for p in COMMANDS[command].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        for where, text in sentences():
            shown = for_terminal(text)
            for option in re.finditer(r"(mosaicvi (\w+) )?(--[a-z][a-z0-9-]+)", shown):
                of = option[2] or command
                there = (
                    own
                    if of == command
                    else {o for p in COMMANDS[of].params for o in (*p.opts, *p.secondary_opts)}
                )
                if option[3] not in there | {"--overwrite", "--version"}:
                    raise AssertionError(f"{where}: {shown}")
    finally:
        OPTIONS.reset(token)


@pytest.mark.parametrize("command", READING)
def test_every_command_that_reads_takes_the_same_options(command: str) -> None:
    own = {o for p in COMMANDS[command].params for o in (*p.opts, *p.secondary_opts)}
    assert {
        "--as", "--layer", "--from-obsm", "--pair", "--no-pair", "--orientation", "--columns", "--duplicates",
        "--genome", "--min-counts", "--round", "--zeros-missing", "--log2", "--names-from", "--obs",
    } <= own  # fmt: skip


@pytest.mark.parametrize("command", list(COMMANDS))
def test_examples_stand_one_a_line(command: str) -> None:
    text = inspect.getdoc(COMMANDS[command].callback) or ""
    for line in text.splitlines():
        if line.strip().startswith("mosaicvi "):
            assert line.startswith("    "), f"{command}: {line}"


def test_names_of_python_are_arguments() -> None:
    from mosaicvi.data.combine import combine
    from mosaicvi.data.read import read, to_mudata

    known = {
        p
        for f in (combine, read, to_mudata, MosaicVI.setup_mudata, MosaicVI.train)
        for p in inspect.signature(f).parameters
    }
    assert set(ARGUMENTS) <= known


def test_a_command_leaves_how_messages_are_said_as_it_was(tmp_path: Path) -> None:
    before = OPTIONS.get()
    assert run(["describe", str(tmp_path / "nowhere")]) == 2
    assert OPTIONS.get() is before
