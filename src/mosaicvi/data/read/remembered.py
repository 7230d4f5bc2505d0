"""How files were read, noted beside the data, so that a model can have others read in the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

from anndata import AnnData
from mudata import MuData

KEY = "reading"  # in ``uns["mosaicvi"]``, JSON
TEXTS = ("genome",)
BY_DATASET = ("modality", "orientation", "columns", "names_from")  # one for all, or by name
PAIRS = ("layers", "from_obsm")
NAMES = ("rounded", "log2", "zeros_missing")


def note_reading(uns: MutableMapping[str, Any], **choices: object) -> None:
    """Note choices that are not the default beside those noted before; arguments as those of `combine`."""
    about = uns.get("mosaicvi")
    noted = checked(about.get(KEY) if isinstance(about, Mapping) else None)
    noted |= checked(json.dumps({name: _plain(value) for name, value in choices.items()}))
    if noted:
        uns["mosaicvi"] = {**(about if isinstance(about, Mapping) else {}), KEY: json.dumps(noted)}


def noted_reading(data: MuData | AnnData) -> str:
    """What was noted, as JSON; empty for nothing."""
    about = data.uns.get("mosaicvi")
    noted = checked(about.get(KEY) if isinstance(about, Mapping) else None)
    return json.dumps(noted) if noted else ""


def checked(noted: object) -> dict[str, Any]:
    """The choices of a note that are what they should be; it comes from a file."""
    try:
        said = json.loads(str(noted))
    except (ValueError, RecursionError):
        return {}
    kept = {name: value for name, value in said.items() if value} if isinstance(said, dict) else {}
    return {name: value for name, value in kept.items() if _is_sound(name, value)}


def _is_sound(name: str, value: object) -> bool:
    if name in ("pair", "dataset_in_names"):
        return value is True
    if name == "duplicates":
        return value == "number"
    if name == "min_counts":
        return isinstance(value, dict) and all(isinstance(n, int | float) for n in value.values())
    if name in NAMES:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    is_mapping = isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    if name in PAIRS:
        return is_mapping
    return (name in BY_DATASET and (is_mapping or isinstance(value, str))) or (
        name in TEXTS and isinstance(value, str)
    )


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, list | tuple | set | frozenset) else value
