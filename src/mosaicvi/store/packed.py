"""A state as bytes, for another process of the same training: safetensors, nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch

from mosaicvi.store.state import flatten, unflatten

DOCUMENT = "$document"  # no name of a tensor


def packed(state: Mapping[str, Any]) -> bytes:
    """A state that `flatten` takes, as bytes."""
    tensors, document = flatten(state)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content: bytes = safetensors.torch.save(plain, {DOCUMENT: json.dumps(document)})
    return content


def unpacked(content: bytes) -> dict[str, Any]:
    """The state of the bytes that `packed` made."""
    tensors = safetensors.torch.load(content)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return unflatten(tensors, json.loads(header["__metadata__"][DOCUMENT]))
