from __future__ import annotations

import json
import math
import random
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi.errors import ModelFileError
from mosaicvi.store import strict_json
from mosaicvi.store.format import load_bundle, save_bundle
from mosaicvi.store.state import _DECODERS, flatten, unflatten


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    tensors, document = flatten(state)
    return unflatten(tensors, strict_json.parse(strict_json.canonical(document)))


def through_disk(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    save_bundle(folder, *flatten(state), kind="checkpoint")
    bundle = load_bundle(folder, kind="checkpoint")
    return unflatten(bundle.tensors, bundle.document)


def bits(number: float) -> bytes:
    return struct.pack("<d", number)


def assert_identical(found: Any, expected: Any) -> None:
    """Check that two states are the same to the bit and of the same types."""
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        raw = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (found, expected)]
        assert torch.equal(*raw)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_identical(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert (type(found), len(found)) == (type(expected), len(expected))
        for one, other in zip(found, expected, strict=True):
            assert_identical(one, other)
    elif isinstance(expected, np.ndarray | np.generic):
        assert (type(found), found.dtype, found.shape) == (type(expected), expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_exact=True, check_index_type="exact")
        for place in range(expected.shape[1]):
            if expected.dtypes.iloc[place].kind != "O":
                assert (
                    found.iloc[:, place].to_numpy().tobytes() == expected.iloc[:, place].to_numpy().tobytes()
                )
    elif isinstance(expected, float):
        assert type(found) is float
        assert bits(found) == bits(expected)
    else:
        assert type(found) is type(expected)
        assert found == expected


def test_the_state_of_a_training_run_comes_back_to_the_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, amsgrad=True)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    for _ in range(3):
        model(torch.randn(2, 3, generator=generator)).square().sum().backward()
        optimizer.step()
    state = {
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "generator": generator.get_state(),
        "numpy": np.random.default_rng(1).bit_generator.state,
        "python": random.Random(3).getstate(),
        "history": pd.DataFrame(
            {
                "loss": [1.0, math.nan, -0.0],
                "n": [1, 2, 3],
                "ok": [True, False, True],
                "note": ["a", None, "é"],
            },
            index=pd.RangeIndex(1, 4, name="epoch"),
        ),
        "early_stopping": {"best": math.inf, "patience": 3, "since": None},
        "modalities": ["rna", "ATAC peaks (10x)", "a/b"],
    }
    found = through_disk(state, tmp_path / "c")
    assert_identical(found, state)
    optimizer.load_state_dict(found["optimizer"])
    schedule.load_state_dict(found["schedule"])
    assert torch.equal(
        torch.randn(5, generator=torch.Generator().set_state(found["generator"])),
        torch.randn(5, generator=generator),
    )


NAN_WITH_A_MESSAGE = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_DEAD_BEEF))[0]

CASES: dict[str, Any] = {
    "floats": [math.nan, -math.nan, NAN_WITH_A_MESSAGE, math.inf, -math.inf, -0.0, 5e-324, 0.1, 1e308],
    "numbers": [0, -1, 2**127, True, None, 1.0],
    "texts": ["", "é\n\x00\ud800", "$tensor"],
    "nested": ([], (), {}, (1, (2,)), [[{"a": ()}]]),
    "keys": {1: "a", "1": "b", None: 1, (1, 2): 3, 2.5: 4},
    "dollar": {"$tensor": "x", "$float": 1},
    "dots": {
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
        "/etc/passwd": torch.ones(2),
        "": torch.ones(3),
    },
    "tensors": [
        torch.tensor([math.nan, 1.0]),
        torch.tensor(math.inf),
        torch.tensor([-math.inf], dtype=torch.bfloat16),
        torch.tensor([1 + 2j]),
        torch.tensor([[-3]], dtype=torch.int16),
        torch.tensor([True, False]),
        torch.empty(0, 3),
        torch.tensor(1.5, dtype=torch.float16),
        torch.arange(6.0).reshape(2, 3).T,
        torch.ones(1).expand(3, 2),
    ],
    "arrays": [
        np.array([[1.0, math.nan]]),
        np.array(3, dtype=np.uint16),
        np.zeros((0, 2), dtype=bool),
        np.arange(6, dtype=">i4").reshape(2, 3).T.copy(),
        np.float32(1.5),
        np.float64("nan"),
        np.bool_(True),
        np.int64(-(2**63)),
    ],
    "frames": [
        pd.DataFrame(),
        pd.DataFrame(index=pd.RangeIndex(5)),
        pd.DataFrame({"x": []}),
        pd.DataFrame([[1.0, 2], [3.0, 4]], columns=["a", "a"], index=["i", "i"]),
        pd.DataFrame({0: [1.5], 1: np.array([2], dtype=np.float32)}),
        pd.DataFrame({"a": [1, 2]}, index=pd.Index([0.5, math.nan], name="t")),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_whatever_python_holds_comes_back_to_the_bit(case: str, tmp_path: Path) -> None:
    state = {case: CASES[case], "again": CASES[case]}
    assert_identical(through_disk(state, tmp_path / "c"), state)


LEAVES = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats() | st.text(max_size=5)
KEYS = st.text(max_size=3) | st.integers() | st.none()
STATES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), STATES, max_size=4))
def test_any_state_comes_back_to_the_bit(state: dict[str, Any]) -> None:
    assert_identical(through_json(state), state)


def test_parameters_and_ordered_dicts_become_plain() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    found = through_json({"x": OrderedDict(w=parameter)})
    assert type(found["x"]) is dict
    assert type(found["x"]["w"]) is torch.Tensor
    assert not found["x"]["w"].requires_grad


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"bytes",
        1j,
        torch.eye(2).to_sparse(),
        np.array(["a"], dtype=object),
        pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}),
        np.datetime64("2020-01-01"),
    ],
)
def test_what_cannot_be_stored_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=r"a\.b\.0.* cannot be stored"):
        flatten({"a": {"b": [value]}})


@pytest.mark.parametrize(
    "document",
    [
        {"x": {"$tensor": "none"}},
        {"x": {"$tensor": ["w"]}},
        {"x": {"$tensor": "w", "dtype": "object", "shape": [1]}},
        {"x": {"$tensor": "w", "dtype": "float32", "shape": [10**12]}},
        {"x": {"$array": "w", "dtype": "|O8", "shape": [1]}},
        {"x": {"$array": "f", "dtype": "<f8", "shape": [1]}},
        {"x": {"$array": "w", "dtype": "<f8", "shape": [3]}},
        {"x": {"$float": "zz"}},
        {"x": {"$float": "00"}},
        {"x": {"$scalar": "<f8", "bits": ""}},
        {"x": {"$dict": [[1]]}},
        {"x": {"$dict": [[[], 1]]}},
        {"x": {"$frame": {}}},
        {
            "x": {
                "$frame": {
                    "index": {"$range": {"name": None, "range": [0, 10**15, 1]}},
                    "columns": [1],
                    "data": [[]],
                }
            }
        },
        {"x": {"$code": "import os"}},
        {"$tuple": []},
        {"x": {"$index": {"name": None, "dtype": "datetime64[ns]", "values": []}}},
    ],
)
def test_a_document_that_does_not_fit_is_refused_in_one_line(document: dict[str, Any]) -> None:
    tensors = {"w": torch.zeros(8, dtype=torch.uint8), "f": torch.zeros(2)}
    with pytest.raises(ModelFileError) as caught:
        unflatten(tensors, json.loads(json.dumps(document)))
    assert "\n" not in str(caught.value)


def test_every_marker_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    assert all(f'{{"{marker}": ' in page for marker in _DECODERS)
