"""What the user's files are called: datasets, those that were given one name, and options for one of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mosaicvi.cli.options import Reading
from mosaicvi.errors import InputError


def without_file(pairs: Mapping[str, str], name: str) -> dict[str, str]:
    """``FILE:MOD`` of the one file as ``MOD``."""
    return {key.removeprefix(f"{name}:"): value for key, value in pairs.items()}


def with_names(pairs: Mapping[str, str], named: Mapping[str, Path]) -> dict[str, str]:
    """``FILE:MOD`` with the dataset's name in place of its file."""
    files = {path.name: name for name, path in named.items()} | {
        str(path): name for name, path in named.items()
    }
    found = {}
    for key, value in pairs.items():
        file, colon, modality = key.rpartition(":")
        found[f"{files[file]}:{modality}" if colon and file in files else key] = value
    return found


def name_datasets(paths: Sequence[Path]) -> dict[str, Path]:
    """Dataset name → path; the name is the user's (``NAME=PATH``) or comes from the path.

    Files that were given one name together are called by their paths.
    """
    from mosaicvi.data.read import dataset_names

    together = {name for name, count in Counter(map(name_of, filter(is_named, paths))).items() if count > 1}
    named = [path for path in paths if is_named(path) and name_of(path) not in together]
    given = {name_of(path): path_of(path) for path in named}
    plain = [path_of(path) for path in paths if path not in named]
    found = dataset_names(plain) if plain else {}
    twice = sorted(set(found) & set(given))
    if twice:
        raise InputError(f"{found[twice[0]]}: the name {twice[0]!r} was given already; choose another one")
    return found | given


def pairs_of(paths: Sequence[Path]) -> dict[str, list[str]]:
    """The names that several files were given together → what `name_datasets` calls these."""
    named = {path: name for name, path in name_datasets(paths).items()}
    found: dict[str, list[str]] = {}
    for path in filter(is_named, paths):
        key = named.get(path_of(path)) or named[Path(os.path.abspath(path_of(path)))]
        found.setdefault(name_of(path), []).append(key)
    return {name: keys for name, keys in found.items() if len(keys) > 1}


def check_pairs(paths: Sequence[Path], reading: Reading) -> None:
    """Refuse one name for several files that were not said to be of the same cells."""
    pairs = {} if reading.pair else pairs_of(paths)
    for name, files in pairs.items():
        raise InputError(
            f"{name}: the name of {' and '.join(files)}; add --pair if they are of the same cells, "
            "or give each a name of its own"
        )


def is_named(path: Path) -> bool:
    """Whether a path is ``NAME=PATH``, and no file of that name."""
    name, equals, rest = str(path).partition("=")
    return bool(equals and name and rest and os.sep not in name and not path.exists())


def name_of(path: Path) -> str:
    """Name of the dataset of a file, the user's or the file's own."""
    from mosaicvi.data.read import dataset_names

    return str(path).partition("=")[0] if is_named(path) else next(iter(dataset_names([path])))


def path_of(path: Path) -> Path:
    """The file, without the name that the user gave it."""
    return Path(str(path).partition("=")[2]) if is_named(path) else path


def named_as_in_training(path: Path, files: Mapping[str, str]) -> Path:
    """A file with the name that its dataset had in training, where that was another than its own."""
    if is_named(path):
        return path
    parts = path.absolute().parts
    for n in (1, 2):
        same = [name for name, file in files.items() if Path(file).parts[-n:] == parts[-n:]]
        if len(same) == 1:
            return Path(f"{same[0]}={path}")
    return path
