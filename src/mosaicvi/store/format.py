"""A saved model or checkpoint: a folder with ``weights.safetensors`` and ``model.json``.

The format is described in ``docs/format.md``. Nothing in such a folder is ever executed, and
nothing is built from it before all of it is checked.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import safetensors
import torch

from mosaicvi._version import __version__
from mosaicvi.errors import ModelFileError
from mosaicvi.store import strict_json
from mosaicvi.store.files import atomic_directory, check_output_directory, find_directory, shown
from mosaicvi.store.strict_json import JSON
from mosaicvi.store.weights import entry, read_weights, write_weights

Kind: TypeAlias = Literal["model", "checkpoint"]

FORMAT_VERSION = 1
WEIGHTS, DOCUMENT = "weights.safetensors", "model.json"
NAMES = frozenset({WEIGHTS, DOCUMENT})
MAX_JSON_BYTES = 32 << 20
MAX_WEIGHT_BYTES = 8 << 30

_KEYS = ("format", "format_version", "kind", "written_by", "manifest", "tensors", "document", "checksum")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_AGAIN = "copy it again from where it was saved"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a saved model or checkpoint holds.

    Attributes
    ----------
    tensors
        By name, on the CPU.
    document
        Plain JSON: whatever was saved beside the tensors.
    written_by
        Versions of the libraries that wrote it.
    format_version
        The version of the format that `tensors` and `document` follow.
    path
        The folder it was read from.
    """

    tensors: dict[str, torch.Tensor]
    document: dict[str, Any]
    written_by: dict[str, str]
    format_version: int
    path: Path


# MIGRATIONS[n] turns what a bundle of version n holds into what one of version n + 1 would hold.
MIGRATIONS: dict[int, Callable[[Bundle], Bundle]] = {}


def check_bundle_output(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that `save_bundle` could not write at the end of the work."""
    check_output_directory(folder, overwrite=overwrite, holds=NAMES)


def save_bundle(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    document: Mapping[str, JSON],
    *,
    kind: Kind,
    overwrite: bool = False,
) -> None:
    """Write a bundle, whole or not at all.

    Parameters
    ----------
    folder
        Where to; one that holds anything but a bundle is never replaced.
    tensors
        Dense tensors of the types in `weights.DTYPES`, on any device; floating ones must be finite.
    document
        Plain JSON: dicts with string keys, lists, strings, finite numbers, booleans, None.
    kind
        A finished model, or the state of a training run.
    overwrite
        Whether an existing bundle may be replaced.

    Raises
    ------
    InputError
        The folder exists, or cannot be written; the disk is full.
    ModelFileError
        A tensor cannot be stored, or the document is too large; what was there is unchanged.
    TypeError
        The document is not plain JSON.
    """
    folder = Path(folder)
    with atomic_directory(folder, overwrite=overwrite, holds=NAMES) as temporary:
        try:
            manifest = {WEIGHTS: write_weights(temporary / WEIGHTS, tensors)}
        except ValueError as error:
            raise _refuse(folder, f"not saved: {error}") from error
        data = _document_bytes(
            {
                "format": "mosaicvi",
                "format_version": FORMAT_VERSION,
                "kind": kind,
                "written_by": dict(versions()),
                "manifest": manifest,
                "tensors": {name: entry(tensor) for name, tensor in tensors.items()},
                "document": dict(document),
            }
        )
        if len(data) > MAX_JSON_BYTES:
            raise _refuse(folder, f"not saved: {DOCUMENT} would be larger than {MAX_JSON_BYTES} bytes")
        (temporary / DOCUMENT).write_bytes(data)


def load_bundle(folder: Path, *, kind: Kind, max_bytes: int = MAX_WEIGHT_BYTES) -> Bundle:
    """Read a bundle after checking all of it.

    Parameters
    ----------
    folder
        As given to `save_bundle`.
    kind
        What the caller expects.
    max_bytes
        A larger file of weights is refused before it is read.

    Raises
    ------
    ModelFileError
        One line: missing, truncated, altered, foreign, of another kind, too new or absurdly large.
    """
    folder = Path(folder)
    for _ in range(2):
        source = find_directory(folder)
        before = _identity(source)
        try:
            return _migrated(_load(source, kind=kind, max_bytes=max_bytes))
        except ModelFileError:
            # Another process may have replaced the folder between the reading of its two files.
            if _identity(find_directory(folder)) == before:
                raise
    return _migrated(_load(find_directory(folder), kind=kind, max_bytes=max_bytes))


def load_document(folder: Path, *, kind: Kind) -> dict[str, Any]:
    """Read and check only the document of a bundle, as it was stored.

    Raises
    ------
    ModelFileError
        As `load_bundle`, for all but the weights.
    """
    document: dict[str, Any] = _read_checked(find_directory(Path(folder)), kind=kind)["document"]
    return document


def checksum(content: Mapping[str, JSON]) -> str:
    """Return the SHA-256 of a ``model.json`` in its canonical form, without the checksum itself."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(strict_json.canonical(rest)).hexdigest()


def _document_bytes(content: dict[str, JSON]) -> bytes:
    """Write each part of the document on a line of its own, once it is sure to read back the same."""
    try:
        content = {**content, "checksum": checksum(content)}
        lines = [
            strict_json.canonical(key) + b":" + strict_json.canonical(part) for key, part in content.items()
        ]
        data = b"{\n" + b",\n".join(lines) + b"\n}\n"
        same = strict_json.parse(data) == content
    except (TypeError, ValueError) as error:
        raise TypeError(f"the document is not plain JSON: {error}") from error
    if not same:
        raise TypeError("the document is not plain JSON: it has a tuple, or a key that is not a string")
    return data


def versions() -> dict[str, str]:
    """Versions of what writes a model."""
    return {
        "mosaicvi": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def _read_checked(folder: Path, *, kind: Kind) -> dict[str, Any]:
    """Read all that ``model.json`` says, once it is sure that this is what was written."""
    path = folder / DOCUMENT
    content = _read_document(folder)
    _check_version(path, content)
    _check_fields(path, content)
    if content["checksum"] != checksum(content):
        raise _refuse(path, f"altered or damaged: its checksum does not fit; {_AGAIN}")
    if content["kind"] != kind:
        raise _refuse(folder, f"holds a {content['kind'][:20]!a}, not a {kind!a}")
    return content


def _load(folder: Path, *, kind: Kind, max_bytes: int) -> Bundle:
    content = _read_checked(folder, kind=kind)
    stated = content["manifest"][WEIGHTS]
    data = _read_file(folder / WEIGHTS, limit=max_bytes, size=stated["size"])
    if hashlib.sha256(data).hexdigest() != stated["sha256"]:
        raise _refuse(folder / WEIGHTS, f"altered or damaged: its SHA-256 does not fit; {_AGAIN}")
    try:
        tensors = read_weights(data, content["tensors"])
    except ValueError as error:
        raise _refuse(folder / WEIGHTS, str(error)) from error
    return Bundle(
        tensors=tensors,
        document=content["document"],
        written_by=content["written_by"],
        format_version=content["format_version"],
        path=folder,
    )


def _migrated(bundle: Bundle) -> Bundle:
    while bundle.format_version < FORMAT_VERSION:
        version = bundle.format_version
        bundle = MIGRATIONS[version](bundle)
        if bundle.format_version != version + 1:
            raise RuntimeError(f"the migration from format version {version} led to {bundle.format_version}")
    return bundle


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / DOCUMENT
    if not os.path.lexists(folder):
        raise _refuse(folder, "no such model folder; check the path")
    if not folder.is_dir():
        raise _refuse(folder, "is not a folder; a saved model is one, with model.json in it")
    if not os.path.lexists(path):
        raise _refuse(folder, f"not a mosaicvi model: it has no {DOCUMENT}")
    try:
        content = strict_json.parse(_read_file(path, limit=MAX_JSON_BYTES))
    except ModelFileError:
        raise
    except ValueError as error:
        raise _refuse(path, f"not a mosaicvi model, or damaged: {error}; {_AGAIN}") from error
    if not isinstance(content, dict) or content.get("format") != "mosaicvi":
        raise _refuse(path, "not a mosaicvi model: it does not say so")
    return content


def _check_version(path: Path, content: Mapping[str, Any]) -> None:
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise _refuse(path, f"altered or damaged: it states no format version; {_AGAIN}")
    if version > FORMAT_VERSION:
        raise _refuse(
            path,
            f"written by a newer mosaicvi: format version {version}, "
            f"this one reads up to {FORMAT_VERSION}; upgrade mosaicvi",
        )


def _check_fields(path: Path, content: Mapping[str, Any]) -> None:
    """Check that every part is there and of its type, and no other."""
    manifest = content.get("manifest")
    stated = manifest.get(WEIGHTS) if isinstance(manifest, dict) else None
    versions = content.get("written_by")
    valid = (
        tuple(content) == _KEYS
        and isinstance(content["kind"], str)
        and isinstance(versions, dict)
        and all(isinstance(version, str) for version in versions.values())
        and isinstance(content["tensors"], dict)
        and isinstance(content["document"], dict)
        and isinstance(manifest, dict)
        and list(manifest) == [WEIGHTS]
        and isinstance(stated, dict)
        and set(stated) == {"size", "sha256"}
        and type(stated["size"]) is int
        and isinstance(stated["sha256"], str)
        and _SHA256.fullmatch(stated["sha256"]) is not None
    )
    if not valid:
        raise _refuse(path, f"altered or damaged: a part is missing or of the wrong type; {_AGAIN}")


def _read_file(path: Path, *, limit: int, size: int | None = None) -> bytes:
    """Read a regular file whose size is as expected, and known before anything is allocated."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _refuse(path, "is not a regular file")
            if size is not None and status.st_size != size:
                state = "truncated" if status.st_size < size else "altered"
                raise _refuse(
                    path, f"{state}: {status.st_size} bytes, where {DOCUMENT} states {size}; {_AGAIN}"
                )
            if status.st_size > limit:
                raise _refuse(path, f"{status.st_size} bytes are more than a model can have ({limit})")
            data = file.read(status.st_size)
    except FileNotFoundError as error:
        raise _refuse(path, f"missing; {_AGAIN}") from error
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror or type(error).__name__}") from error
    if len(data) != status.st_size:
        raise _refuse(path, f"truncated while it was read; {_AGAIN}")
    return data


def _identity(folder: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _refuse(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(f"{shown(path)}: {reason}")
