"""The state of a program as tensors and JSON, and back, exact to the bit.

JSON holds what it can. Everything else stands in it as an object with one key that begins with
``$``; ``docs/format.md`` lists them.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from mosaicvi.errors import ModelFileError
from mosaicvi.store.weights import is_finite, is_storable, is_tensor_name

_TORCH_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    )
}
_NUMPY_TYPE = re.compile(r"[<>|][biuf][1248]")
_TEXT_TYPES = ("object", "string", "str")


def flatten(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Turn a nested state into tensors and a JSON document, as `save_bundle` takes them.

    Parameters
    ----------
    state
        Nested dicts, lists and tuples of tensors, numpy arrays and scalars, data frames, numbers
        (also NaN and infinity), texts and None. Tensors may be on any device and are not copied.

    Raises
    ------
    TypeError
        The state holds something else; the message says where.
    """
    tensors: dict[str, torch.Tensor] = {}
    document = _encode_mapping(state, "", tensors)
    return tensors, document


def unflatten(tensors: Mapping[str, torch.Tensor], document: Mapping[str, Any]) -> dict[str, Any]:
    """Turn tensors and a document from `flatten` into the state again.

    Tensors come back on the CPU and without gradients, parameters as tensors, and every mapping as
    a dict. Numbers, texts, types, shapes and NaNs are the same to the bit.

    Raises
    ------
    ModelFileError
        The document names a tensor that is not there, or was not written by `flatten`.
    """
    try:
        state = _decode(document, tensors)
    except ModelFileError:
        raise
    except (
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        OverflowError,
        AttributeError,
        struct.error,
    ) as error:
        raise ModelFileError(
            f"the saved state does not fit together: {' '.join(str(error).split())[:200]!a}"
        ) from error
    if not isinstance(state, dict):
        raise ModelFileError("the saved state is not a dict")
    return state


# To JSON

Tensors = dict[str, torch.Tensor]


def _encode(value: Any, path: str, tensors: Tensors) -> Any:
    if value is None or isinstance(value, bool):
        return value
    for kind, encode in _ENCODERS:
        if isinstance(value, kind):
            return encode(value, path, tensors)
    raise TypeError(f"{path or 'the state'} is a {type(value).__name__}, which cannot be stored")


def _encode_float(value: float, path: str, tensors: Tensors) -> Any:
    return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}


def _encode_scalar(value: np.generic, path: str, tensors: Tensors) -> Any:
    if isinstance(value, np.str_):
        return str(value)
    if not _NUMPY_TYPE.fullmatch(value.dtype.str):
        raise TypeError(f"{path} is a numpy scalar of type {value.dtype}, which cannot be stored")
    return {"$scalar": value.dtype.str, "bits": value.tobytes().hex()}


def _encode_list(value: list[Any], path: str, tensors: Tensors) -> Any:
    return [_encode(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]


def _encode_tuple(value: tuple[Any, ...], path: str, tensors: Tensors) -> Any:
    return {"$tuple": _encode_list(list(value), path, tensors)}


def _encode_mapping(value: Mapping[Any, Any], path: str, tensors: Tensors) -> dict[str, Any]:
    items = [(key, _encode(item, f"{path}.{key}".removeprefix("."), tensors)) for key, item in value.items()]
    if all(type(key) is str and not key.startswith("$") for key, _ in items):
        return dict(items)
    return {
        "$dict": [[_encode(key, f"a key of {path or 'the state'}", tensors), item] for key, item in items]
    }


def _encode_tensor(value: torch.Tensor, path: str, tensors: Tensors) -> Any:
    value = value.detach()
    if is_storable(value) and is_finite(value):
        return {"$tensor": _put(value, path, tensors)}
    kind = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or kind not in _TORCH_TYPES:
        raise TypeError(f"{path} is a tensor of type {value.dtype}, {value.layout}, which cannot be stored")
    name = _put(value.contiguous().reshape(-1).view(torch.uint8), path, tensors)
    return {"$tensor": name, "dtype": kind, "shape": list(value.shape)}


def _encode_array(value: np.ndarray[Any, Any], path: str, tensors: Tensors) -> Any:
    if not _NUMPY_TYPE.fullmatch(value.dtype.str):
        raise TypeError(f"{path} is an array of type {value.dtype}, which cannot be stored")
    raw = (
        torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8)
        if value.size
        else torch.empty(0).byte()
    )
    return {"$array": _put(raw, path, tensors), "dtype": value.dtype.str, "shape": list(value.shape)}


def _encode_index(value: pd.Index[Any], path: str, tensors: Tensors) -> Any:
    name = _encode(value.name, f"{path}.name", tensors)
    if isinstance(value, pd.RangeIndex):
        return {"$range": {"name": name, "range": [value.start, value.stop, value.step]}}
    return {"$index": {"name": name, **_encode_labels(value, path, tensors)}}


def _encode_labels(value: pd.Index[Any] | pd.Series[Any], path: str, tensors: Tensors) -> dict[str, Any]:
    dtype = value.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return {"dtype": dtype.str, "values": _encode_array(value.to_numpy(), path, tensors)}
    if isinstance(value, pd.MultiIndex) or str(dtype) not in _TEXT_TYPES:
        raise TypeError(f"{path} is a table's part of type {dtype}, which cannot be stored")
    return {"dtype": str(dtype), "values": _encode_list(value.tolist(), path, tensors)}


def _encode_frame(value: pd.DataFrame, path: str, tensors: Tensors) -> Any:
    parts = [(f"{path}.{label}", value.iloc[:, place]) for place, label in enumerate(value.columns)]
    return {
        "$frame": {
            "index": _encode_index(value.index, f"{path}.index", tensors),
            "columns": _encode_index(value.columns, f"{path}.columns", tensors),
            "data": [{"$column": _encode_labels(column, where, tensors)} for where, column in parts],
        }
    }


def _put(value: torch.Tensor, path: str, tensors: Tensors) -> str:
    """Store a tensor under its path in the state, or a number where that cannot be a name."""
    name = path if is_tensor_name(path) and path not in tensors else f"tensor~{len(tensors)}"
    tensors[name] = value
    return name


# A numpy float is also a float, so that it must be asked for first.
_ENCODERS: list[tuple[type, Callable[[Any, str, Tensors], Any]]] = [
    (np.generic, _encode_scalar),
    (str, lambda value, path, tensors: str(value)),
    (int, lambda value, path, tensors: int(value)),
    (float, _encode_float),
    (Mapping, _encode_mapping),
    (list, _encode_list),
    (tuple, _encode_tuple),
    (torch.Tensor, _encode_tensor),
    (np.ndarray, _encode_array),
    (pd.DataFrame, _encode_frame),
]


# From JSON


def _decode(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, Mapping):
        return value
    marker = next(iter(value), "")
    if not marker.startswith("$"):
        return {key: _decode(item, tensors) for key, item in value.items()}
    if marker not in _DECODERS:
        raise ModelFileError(f"the saved state holds {marker[:40]!a}, which this version does not know")
    return _DECODERS[marker](value, tensors)


def _decode_tensor(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    found = tensors[value["$tensor"]]
    if "dtype" not in value:
        return found
    return found.clone().view(_TORCH_TYPES[value["dtype"]]).reshape(value["shape"])


def _decode_array(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> np.ndarray[Any, Any]:
    return np.frombuffer(bytearray(_raw(value, "$array", tensors)), _numpy_type(value["dtype"])).reshape(
        value["shape"]
    )


def _raw(value: Mapping[str, Any], key: str, tensors: Mapping[str, torch.Tensor]) -> bytes:
    found = tensors[value[key]]
    if found.dtype != torch.uint8:
        raise ValueError(f"{value[key]} should hold raw bytes")
    return found.numpy().tobytes()


def _numpy_type(text: str) -> np.dtype[Any]:
    if not _NUMPY_TYPE.fullmatch(text):
        raise ValueError(f"{text[:20]} is no numeric type")
    return np.dtype(text)


def _decode_scalar(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    return np.frombuffer(bytes.fromhex(value["bits"]), _numpy_type(value["$scalar"]))[0]


def _decode_float(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> float:
    return float(struct.unpack(">d", bytes.fromhex(value["$float"]))[0])


def _decode_tuple(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
    return tuple(_decode(value["$tuple"], tensors))


def _decode_dict(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[Any, Any]:
    return {_decode(key, tensors): _decode(item, tensors) for key, item in value["$dict"]}


def _decode_range(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> pd.RangeIndex:
    inner = value["$range"]
    start, stop, step = inner["range"]
    return pd.RangeIndex(start, stop, step, name=_decode(inner["name"], tensors))


def _decode_index(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> pd.Index[Any]:
    inner = value["$index"]
    labels: pd.Index[Any] = pd.Index(_decode(inner["values"], tensors), dtype=_pandas_type(inner))
    labels.name = _decode(inner["name"], tensors)
    return labels


def _decode_column(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> pd.Series[Any]:
    inner = value["$column"]
    column: pd.Series[Any] = pd.Series(_decode(inner["values"], tensors), dtype=_pandas_type(inner))
    return column


def _pandas_type(inner: Mapping[str, Any]) -> Any:
    return inner["dtype"] if inner["dtype"] in _TEXT_TYPES else _numpy_type(inner["dtype"])


def _decode_frame(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    inner = {key: _decode(part, tensors) for key, part in value["$frame"].items()}
    index, columns, data = inner["index"], inner["columns"], inner["data"]
    if len(data) != len(columns) or any(len(column) != len(index) for column in data):
        raise ValueError("the parts of a table have different lengths")
    frame = pd.DataFrame({place: column.set_axis(index) for place, column in enumerate(data)}, index=index)
    frame.columns = columns
    return frame


_DECODERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, torch.Tensor]], Any]] = {
    "$tensor": _decode_tensor,
    "$array": _decode_array,
    "$scalar": _decode_scalar,
    "$float": _decode_float,
    "$tuple": _decode_tuple,
    "$dict": _decode_dict,
    "$range": _decode_range,
    "$index": _decode_index,
    "$column": _decode_column,
    "$frame": _decode_frame,
}
