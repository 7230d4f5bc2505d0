"""Random mutations of a saved model, for `benchmarks.mutations`.

Accidents change bytes. Attacks also make every size, SHA-256 and checksum fit again, so that only
what the files say about themselves can give them away.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

WEIGHTS, DOCUMENT = "weights.safetensors", "model.json"
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    1 << 40,
    1 << 70,
    0.5,
    "",
    "x",
    "../../etc/passwd",
    "\ud800\n",
    [],
    {},
    [[[]]],
]
NAMES = [
    "../../x",
    "/etc/passwd",
    "..\\x",
    "a\n",
    "",
    "x" * 10_000,
    "\ud800",
    "weights/../x",
    "C:\\x",
    "__class__",
]

Files = dict[str, bytes]


# Accidents


def flip_bits(files: Files, rng: random.Random) -> Files:
    name = rng.choice(sorted(files))
    data = bytearray(files[name])
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return {**files, name: bytes(data)}


def truncate(files: Files, rng: random.Random) -> Files:
    name = rng.choice(sorted(files))
    return {**files, name: files[name][: rng.randrange(len(files[name]))]}


def append(files: Files, rng: random.Random) -> Files:
    name = rng.choice(sorted(files))
    return {**files, name: files[name] + rng.choice([b"\0", b"\n", b" ", b"{}", rng.randbytes(100)])}


def swap_blocks(files: Files, rng: random.Random) -> Files:
    name = rng.choice(sorted(files))
    data = bytearray(files[name])
    size = rng.choice([4, 8, 64])
    a, b = rng.randrange(len(data) - size), rng.randrange(len(data) - size)
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return {**files, name: bytes(data)}


def drop_or_replace_file(files: Files, rng: random.Random) -> Files:
    name, other = rng.sample(sorted(files), 2)
    rest = {key: data for key, data in files.items() if key != name}
    return rng.choice(
        [rest, {**files, name: b""}, {**files, name: files[other]}, {**files, name: rng.randbytes(5000)}]
    )


def huge_header_length(files: Files, rng: random.Random) -> Files:
    length = rng.choice([1 << 63, (1 << 64) - 1, 1 << 40, 1 << 31, 100_000_000, rng.randrange(1 << 64)])
    return {**files, WEIGHTS: length.to_bytes(8, "little") + files[WEIGHTS][8:]}


def edit_json(files: Files, rng: random.Random) -> Files:
    content = json.loads(files[DOCUMENT])
    change_somewhere(content, rng)
    return {**files, DOCUMENT: json.dumps(content).encode()}


def reformat_json(files: Files, rng: random.Random) -> Files:
    return {
        **files,
        DOCUMENT: json.dumps(json.loads(files[DOCUMENT]), indent=rng.choice([None, 1, 4])).encode(),
    }


def swap_tensors(files: Files, rng: random.Random) -> Files:
    """Exchange the names of two tensors in the header of the weights."""
    header, body = split(files[WEIGHTS])
    a, b = rng.sample([name for name in header if name != "__metadata__"], 2)
    header[a], header[b] = header[b], header[a]
    return {**files, WEIGHTS: join(json.dumps(header), body)}


def foreign(files: Files, rng: random.Random) -> Files:
    pickle = (
        b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x06touch x\x85R."
    )
    name = rng.choice(sorted(files))
    return {
        **files,
        name: rng.choice([pickle, b"PK\x03\x04" + bytes(50), b"\x89HDF\r\n\x1a\n", b"[]", b"null"]),
    }


# Attacks


def hostile_length(files: Files, rng: random.Random) -> Files:
    header, body = split(files[WEIGHTS])
    size = len(json.dumps(header))
    length = rng.choice([0, 1, size - 1, size + len(body) + 1, (16 << 20) + 1, 1 << 62, (1 << 64) - 1])
    return refit({**files, WEIGHTS: join(json.dumps(header), body, length=length)})


def hostile_entry(files: Files, rng: random.Random) -> Files:
    header, body = split(files[WEIGHTS])
    name = rng.choice([name for name in header if name != "__metadata__"])
    key = rng.choice(["dtype", "shape", "data_offsets"])
    before = header[name][key]
    absurd = [
        *VALUES,
        [0, 1 << 62],
        [1 << 33, 1 << 33],
        [-8, 8],
        [8, 0],
        [0, 1 << 50],
        "F16",
        "I8",
        [1] * 100,
    ]
    header[name][key] = rng.choice([value for value in absurd if value != before])
    return refit({**files, WEIGHTS: join(json.dumps(header), body)})


def hostile_name(files: Files, rng: random.Random) -> Files:
    """Give a tensor a name that is part of a path, in every table."""
    header, body = split(files[WEIGHTS])
    content = json.loads(files[DOCUMENT])
    old = rng.choice(sorted(content["tensors"]))
    new = rng.choice(NAMES)
    header = {new if name == old else name: entry for name, entry in header.items()}
    content["tensors"] = {new if name == old else name: entry for name, entry in content["tensors"].items()}
    if new == "__class__":
        header[new]["__reduce__"] = "x"
    return refit({DOCUMENT: json.dumps(content).encode(), WEIGHTS: join(json.dumps(header), body)})


def hostile_duplicate(files: Files, rng: random.Random) -> Files:
    header, body = split(files[WEIGHTS])
    name = rng.choice([name for name in header if name != "__metadata__"])
    again = json.dumps(name) + ": " + json.dumps(header[rng.choice(sorted(set(header) - {"__metadata__"}))])
    if rng.random() < 0.5:
        return refit({**files, WEIGHTS: join(json.dumps(header)[:-1] + ", " + again + "}", body)})
    text = files[DOCUMENT].decode().rstrip()[:-1]
    key = rng.choice(["format", "kind", "document", "manifest", "checksum"])
    return {**files, DOCUMENT: f'{text}, "{key}": {json.dumps(json.loads(files[DOCUMENT])[key])}}}'.encode()}


def hostile_overlap(files: Files, rng: random.Random) -> Files:
    """Let one tensor lie on another, or leave bytes that belong to none."""
    header, body = split(files[WEIGHTS])
    name = rng.choice(
        [name for name, entry in header.items() if name != "__metadata__" and entry["shape"] != [0, 4]]
    )
    begin, end = header[name]["data_offsets"]
    shift = rng.choice([-8, -4, 4, 8])
    header[name]["data_offsets"] = [begin + shift, end + shift]
    extra = rng.choice([b"", bytes(8), bytes(64)])
    return refit({**files, WEIGHTS: join(json.dumps(header), body + extra)})


def hostile_swap(files: Files, rng: random.Random) -> Files:
    """Exchange the names of two tensors of different shapes, in one of the two tables."""
    header, body = split(files[WEIGHTS])
    content = json.loads(files[DOCUMENT])
    tables = [header, content["tensors"]]
    a, b = rng.sample(["encoder.weight", "encoder.bias", "decoder.weight", "decoder.half", "none"], 2)
    table = rng.choice(tables)
    table[a], table[b] = table[b], table[a]
    return refit({DOCUMENT: json.dumps(content).encode(), WEIGHTS: join(json.dumps(header), body)})


def hostile_values(files: Files, rng: random.Random) -> Files:
    """Write NaN or infinity into a tensor of floats."""
    header, body = split(files[WEIGHTS])
    name = rng.choice(["encoder.weight", "encoder.bias", "decoder.weight"])
    begin, end = header[name]["data_offsets"]
    place = rng.randrange(begin, end, 4)
    value = rng.choice([b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\1\0\x80\x7f"])
    return refit({**files, WEIGHTS: join(json.dumps(header), body[:place] + value + body[place + 4 :])})


def hostile_envelope(files: Files, rng: random.Random) -> Files:
    """Change what model.json says around the document, with a checksum that fits."""
    content = json.loads(files[DOCUMENT])
    key = rng.choice(["format", "format_version", "kind", "manifest", "tensors", "extra", "size", "path"])
    if key == "size":
        content["manifest"][WEIGHTS]["size"] += rng.choice([-1, 1, 1 << 40, 1 << 62])
    elif key == "path":
        content["manifest"][rng.choice(NAMES)] = content["manifest"].pop(WEIGHTS)
    else:
        content[key] = rng.choice([value for value in VALUES if value != content.get(key) or value is True])
    return {**files, DOCUMENT: signed(content)}


def hostile_json(files: Files, rng: random.Random) -> Files:
    depth = rng.choice([65, 1000, 200_000])
    bomb = rng.choice(
        ["[" * depth, '{"a":' * depth, "[" * depth + "]" * depth, "[0," + "[]," * 3_000_000 + "0]"]
    )
    bomb = rng.choice([bomb, "9" * 5000, "1e999", "NaN", '"' + "\\u0000" * 10 + "\x00" + '"'])
    if rng.random() < 0.5:
        return {
            **files,
            DOCUMENT: files[DOCUMENT].replace(b'"document":', f'"document":{bomb},"d":'.encode(), 1),
        }
    return refit({**files, WEIGHTS: join(f'{{"x":{bomb}}}', b"")})


Mutation = Callable[[Files, random.Random], Files]
ACCIDENTS: list[Mutation] = [
    flip_bits, truncate, append, swap_blocks, drop_or_replace_file, huge_header_length,
    edit_json, reformat_json, swap_tensors, foreign,
]  # fmt: skip
ATTACKS: list[Mutation] = [
    hostile_length, hostile_entry, hostile_name, hostile_duplicate, hostile_overlap, hostile_swap,
    hostile_values, hostile_envelope, hostile_json,
]  # fmt: skip


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: str, body: bytes, *, length: int | None = None) -> bytes:
    raw = header.encode("utf-8", "surrogatepass")
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + body


def signed(content: dict[str, Any]) -> bytes:
    from mosaicvi.store.format import checksum

    content["checksum"] = checksum(content)
    return json.dumps(content).encode()


def refit(files: Files) -> Files:
    """Make the sizes, the SHA-256 and the checksum fit the mutated weights."""
    content = json.loads(files[DOCUMENT])
    data = files[WEIGHTS]
    content["manifest"] = {WEIGHTS: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    return {**files, DOCUMENT: signed(content)}


def change_somewhere(value: Any, rng: random.Random) -> None:
    """Change, remove or add something at a random place of a JSON value."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.7:
            value = value[key]
            continue
        if rng.random() < 0.3:
            del value[key]
        else:
            value[key] = rng.choice(VALUES)
        return
