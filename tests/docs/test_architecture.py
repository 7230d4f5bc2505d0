"""The map of the code, `docs/architecture.md`: what it names is there, and rooms import what it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src" / "mosaicvi"
ROOMS = {
    name.rstrip("/"): imported
    for names, imported in re.findall(r"^\| ((?:`[\w/]+`,? ?)+) \| [^|]+ \| ([^|]+) \|$", ARCHITECTURE, re.M)
    for name in re.findall(r"`([\w/]+)`", names)
}


def file_of(path: str) -> Path:
    """A file that the page names, from the root or inside the package."""
    return next(file for file in (ROOT / path, SOURCE / path) if file.exists())


def defines(body: list[ast.stmt], names: list[str]) -> bool:
    """Whether a function, class, field or constant of these names, one inside another, is in the body."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name == names[0] and (not names[1:] or defines(node.body, names[1:])):
                return True
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not names[1:]:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if names[0] in map(ast.unparse, targets):
                return True
    return False


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`([\w/]+\.py::[\w.]+)`", ARCHITECTURE))))
def test_what_the_architecture_names_is_there(place: str) -> None:
    path, name = place.split("::")
    tree = ast.parse(file_of(path).read_text(encoding="utf-8"))
    assert defines(tree.body, name.split(".")), f"docs/architecture.md: {path} has no {name}"


def test_every_path_of_the_architecture_is_there() -> None:
    for path in re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", ARCHITECTURE):
        assert file_of(path).exists()
    assert len(re.findall(r"`[\w/]+\.py::[\w.]+`", ARCHITECTURE)) > 100


def test_every_room_is_on_the_map() -> None:
    there = {
        path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {name for name in ROOMS if "/" not in name} == there - {"__init__", "__main__", "_version"}


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, also for its types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            of = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name.split(".")[1] for name in of if name.startswith("mosaicvi.")}
    return found


@pytest.mark.parametrize("room", [name for name in ROOMS if "/" not in name])
def test_a_room_imports_what_the_map_says(room: str) -> None:
    files = sorted((SOURCE / room).rglob("*.py")) or [SOURCE / f"{room}.py"]
    for_types = {"model"} if room == "report" else set()
    found = set().union(*map(imported_rooms, files)) - {room, "_version"} - for_types
    said = set(re.findall(r"`(\w+)`", ROOMS[room]))
    assert found <= said, f"{room} imports {found - said}, which docs/architecture.md does not say"
    above = list(ROOMS)[: list(ROOMS).index(room)]
    exception = {"store"} if room == "engine" else set()
    assert said <= {*above, *exception}
