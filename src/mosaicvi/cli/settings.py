"""The file of ``mosaicvi train --config``: any parameter, in the sections [network], [train] and [setup]."""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mosaicvi.errors import InputError, nearest
from mosaicvi.store.files import shown

NUMBER = (int, float)
KINDS: dict[str, type | tuple[type, ...]] = {
    "max_epochs": int,
    "batch_size": int,
    "lr": (float, int),
    "devices": (int, str),
    "checkpoint_dir": str,
    "log_dir": str,
    "progress": bool,
    "batch_key": str,
    "panel_key": str,
    "layers": dict,
    "likelihoods": dict,
    "transforms": dict,
    "block_keys": dict,
    "categorical_covariate_keys": list,
    "continuous_covariate_keys": list,
    "modalities": list,
    "condition_keys": list,
    "preset": str,
    "in_memory": (bool, str),
}
WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Arguments of `MosaicVI`, `MosaicVI.train` and `MosaicVI.setup_mudata`, by their names."""

    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    setup: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_settings(path: Path | None) -> Settings:
    """Read and check a TOML file; nothing for None.

    Raises
    ------
    InputError
        The file is missing or no TOML; a section or name is unknown (the message has the nearest one); a
        value is of the wrong kind.
    """
    if path is None:
        return Settings()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"--config {shown(path)}: {problem.strerror}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InputError(f"--config {shown(path)} is no valid TOML: {problem}") from None
    sections = [f.name for f in dataclasses.fields(Settings)]
    problems = _unknown(content, sections, "section")
    problems += [f"{name} is no section; write [{name}]" for name in sections if not _is_table(content, name)]
    if not problems:
        from mosaicvi.model import MosaicVI

        try:
            content["network"] = _in_our_names(content.get("network", {}))
        except InputError as error:
            problems += error.problems
        problems += _problems(content.get("train", {}), MosaicVI.train, "train")
        problems += _problems(content.get("setup", {}), MosaicVI.setup_mudata, "setup")
    if problems:
        raise InputError([f"--config {shown(path)}: {line}" for line in problems])
    return Settings(**content)


def _is_table(content: Mapping[str, Any], name: str) -> bool:
    return isinstance(content.get(name, {}), dict)


def _unknown(given: Collection[str], known: Collection[str], what: str) -> list[str]:
    return [f"Unknown {what} {name!r}; {nearest(name, known)}" for name in given if name not in known]


def _in_our_names(section: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the network, as `MosaicVI` takes them."""
    from mosaicvi.config import check_names
    from mosaicvi.model.names import in_our_names

    found = in_our_names(section, ())
    problems = []
    for name in found:
        try:
            check_names({} if name == "preset" else {name: None})
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return found


def _problems(section: Mapping[str, Any], function: Callable[..., Any], name: str) -> list[str]:
    """Unknown names, and values of the wrong kind."""
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(function).parameters.items()
        if key not in ("self", "mdata")
    }
    problems = _unknown(section, parameters, f"parameter of [{name}]")
    for key, value in section.items():
        if key in parameters and not _is_of_kind(value, kind := _kind(key, parameters[key].default)):
            first = kind[0] if isinstance(kind, tuple) else kind
            problems.append(f"[{name}] {key}: {WORDS[first]} is needed, not {value!r}.")
    return problems


def _kind(name: str, default: object) -> type | tuple[type, ...]:
    if name in KINDS:
        return KINDS[name]
    return (float, int) if isinstance(default, float) else type(default)


def _is_of_kind(value: object, kind: type | tuple[type, ...]) -> bool:
    """Like isinstance, but true and false are no numbers."""
    if isinstance(value, bool):
        return kind is bool or (isinstance(kind, tuple) and bool in kind)
    return isinstance(value, kind)
