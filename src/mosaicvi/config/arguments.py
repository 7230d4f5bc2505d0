"""Arguments of the wrong kind are refused by name, before they meet code that would fail with them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.errors import InputError

WHOLE_PARAMETERS = ("dim_block_embed", "dim_block_enc", "dim_block_dec", "dimensions")


def whole(name: str, value: object, *, least: int = 0) -> int:
    """A whole number, as a plain int.

    Raises
    ------
    InputError
        It is none, or below `least`.
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)  # numbers that come from R are all of this kind
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise InputError(f"{name}: a whole number is needed, not {value!r}.")
    if value < least:
        raise InputError(f"{name}: at least {least}, not {value!r}.")
    return int(value)


def number(name: str, value: object) -> float:
    """A finite number, as a plain float.

    Raises
    ------
    InputError
        It is none.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"{name}: a number is needed, not {value!r}.")
    if not math.isfinite(value):
        raise InputError(f"{name}: a finite number is needed, not {value!r}.")
    return float(value)


def flag(name: str, value: object) -> bool:
    """True or False.

    Raises
    ------
    InputError
        It is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}: True or False, not {value!r}.")
    return bool(value)


def pairs(name: str, value: object) -> dict[str, Any]:
    """What is said of each modality by its name; None says nothing.

    Raises
    ------
    InputError
        It is no mapping.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(
            f"{name}: a mapping of modality to value is needed, such as {{'rna': ...}}, not {value!r}."
        )
    return dict(value)


def listed(name: str, value: object) -> NDArray[Any]:
    """An array of what a list holds, or of one value.

    Raises
    ------
    InputError
        Its rows are of different lengths.
    """
    try:
        return np.atleast_1d(np.asarray(value))
    except ValueError:
        raise InputError(f"{name}: one list of values is needed, not {value!r}.") from None


def spread(name: str, value: object, *sizes: int) -> NDArray[Any]:
    """An array of one of these lengths; one value stands for all.

    Raises
    ------
    InputError
        It has another shape.
    """
    array = listed(name, value)
    if array.shape == (1,):
        array = np.repeat(array, max(sizes))
    if array.shape not in {(size,) for size in sizes}:
        counts = " or ".join(str(n) for n in sorted({1, *sizes}))
        raise InputError(f"{name}: {counts} values are needed; got the shape {array.shape}.")
    return array


def distinct(names: object) -> list[str]:
    """Different names, in the order in which they come; also of a single one."""
    return list(dict.fromkeys(np.atleast_1d(np.asarray(names)).astype(str).tolist()))


def given_by(name: str, value: object) -> dict[str, Any]:
    """What is said by name: entries of a mapping, or attributes of an object or a class, also inherited ones.

    What is None says nothing, nor do attributes that begin with ``_``, which an `argparse.Namespace` has.

    Raises
    ------
    InputError
        It is neither.
    """
    if isinstance(value, Mapping):
        said = dict(value)
    elif hasattr(value, "__dict__"):
        said = {each: getattr(value, each) for each in dir(value) if not each.startswith("_")}
    else:
        raise InputError(f"{name}: a dict or a namespace is needed, not {type(value).__name__}.")
    plain = {
        key: one.item() if isinstance(one, np.ndarray) and not one.ndim else one for key, one in said.items()
    }
    return {key: one for key, one in plain.items() if one is not None}


def check_training(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Arguments of `MosaicVI.train` as plain values, those that are None left as they are.

    Raises
    ------
    InputError
        With every argument that is of the wrong kind.
    """
    out: dict[str, Any] = dict(arguments)
    problems: list[str] = []
    optional = ("max_epochs", "batch_size", "patience", "lr", "checkpoint_dir", "log_dir", "progress")
    for name, value in arguments.items():
        if value is None and name in optional:
            continue
        try:
            if name in ("max_epochs", "batch_size", "patience", "seed"):
                out[name] = whole(name, value, least=1 if name in ("max_epochs", "batch_size") else 0)
            elif name in ("early_stopping", "resume", "progress"):
                out[name] = flag(name, value)
            elif name in ("checkpoint_dir", "log_dir"):
                _path(name, value)
            else:
                out[name] = number(name, value)
                if name in ("weight_decay", "checkpoint_every") and out[name] < 0:
                    raise InputError(f"{name}: must be >= 0, not {value!r}.")
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return out


def check_network(parameters: Mapping[str, object]) -> dict[str, Any]:
    """Widths as whole numbers; without what is None, which asks for the default.

    Raises
    ------
    InputError
        With every parameter that is of the wrong kind.
    """
    problems: list[str] = []
    out = {name: value for name, value in parameters.items() if value is not None}
    for name in ("dim_latent", *WHOLE_PARAMETERS):
        if name not in out:
            continue
        try:
            out[name] = (
                whole(name, out[name], least=1) if name == "dim_latent" else _whole_each(name, out[name])
            )
        except InputError as error:
            problems += error.problems
    for one in _each(out.get("library_aware", True)):
        try:
            flag("library_aware", one)
        except InputError as error:
            problems += error.problems
            break
    if problems:
        raise InputError(problems)
    return out


def _whole_each(name: str, value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: whole(name, one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(whole(name, one) for one in _each(value))
    return whole(name, value)


def _each(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, np.ndarray):
        return iter(value.ravel().tolist())
    return value if isinstance(value, list | tuple) else (value,)


def _path(name: str, value: object) -> None:
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name}: the path of a folder is needed, not {value!r}.")
