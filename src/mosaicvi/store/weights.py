"""Tensors as a safetensors file: written tensor by tensor, and read only after all of it is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from mosaicvi.store import strict_json
from mosaicvi.store.strict_json import JSON

DTYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
}
MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
MAX_NAME = 512

_CODES = {dtype: code for code, dtype in DTYPES.items()}


def is_tensor_name(name: str) -> bool:
    """Say whether a tensor may have this name: printable, short, and never part of a path."""
    return (
        0 < len(name) <= MAX_NAME
        and name.isprintable()
        and not any(part in name for part in ("/", "\\", ".."))
        and name != "__metadata__"
    )


def is_storable(tensor: torch.Tensor) -> bool:
    """Say whether a tensor is dense and of a type that the file can hold."""
    return tensor.dtype in _CODES and tensor.layout == torch.strided and tensor.ndim <= MAX_DIMENSIONS


def is_finite(tensor: torch.Tensor) -> bool:
    """Say whether a tensor has neither NaN nor infinity."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def entry(tensor: torch.Tensor) -> dict[str, JSON]:
    """Return a tensor's type and shape as the tables of both files state them."""
    return {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape)}


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, JSON]:
    """Write a safetensors file and return its size and SHA-256.

    Raises
    ------
    ValueError
        A tensor cannot be stored under its name, or there are too many. The message is one line.
    """
    for name, tensor in tensors.items():
        _check_storable(name, tensor)
    # Wide types first keep every tensor aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, JSON] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        header[name] = {**entry(tensors[name]), "data_offsets": [begin, end]}
    text = strict_json.canonical(header)
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"the table of {len(names)} tensors is larger than {MAX_HEADER_BYTES} bytes")
    prefix = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(prefix)
    with path.open("xb") as file:
        file.write(prefix)
        for name in names:
            raw = _raw(tensors[name])
            digest.update(raw)
            file.write(raw)
    return {"size": len(prefix) + end, "sha256": digest.hexdigest()}


def read_weights(data: bytes, table: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Build the tensors of a safetensors file, in the order of `table`.

    Parameters
    ----------
    data
        The whole file.
    table
        By name, the type and shape of every tensor that must be in it, and no other.

    Raises
    ------
    ValueError
        What the file states about itself does not fit together, or a value is not finite. The
        message is one line.
    """
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"states a header of {length} bytes in a file of {len(data)}")
    header = strict_json.parse(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    found = {name: _without_place(stated) for name, stated in header.items() if name != "__metadata__"}
    if found != table or not all(map(is_tensor_name, table)):
        raise ValueError("its tensors are not those that model.json lists")
    try:
        tensors = safetensors.torch.load(
            data
        )  # which sees that they lie one after the other, as their shapes say
    except (safetensors.SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"safetensors refuses it: {' '.join(str(error).split())[:200]}") from error
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ValueError(f"the tensor {name!a} has values that are not finite")
        if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            raise ValueError(f"the tensor {name!a} has values that are not true or false")
    return {name: tensors[name] for name in table}


def _check_storable(name: str, tensor: torch.Tensor) -> None:
    if not is_tensor_name(name):
        raise ValueError(f"{name[:80]!a} cannot be the name of a tensor")
    if not is_storable(tensor):
        raise ValueError(f"the tensor {name!a} ({tensor.dtype}, {tensor.layout}) cannot be stored")
    if not is_finite(tensor):
        raise ValueError(f"the tensor {name!a} has values that are not finite")


def _raw(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _without_place(stated: object) -> object:
    """What a header says of a tensor besides where it lies."""
    if not isinstance(stated, dict) or "data_offsets" not in stated:
        return None
    return {key: value for key, value in stated.items() if key != "data_offsets"}
