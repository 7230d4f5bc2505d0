from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests import processes

from mosaicvi.errors import InputError, ModelFileError
from mosaicvi.store import format as fmt
from mosaicvi.store import weights
from mosaicvi.store.format import DOCUMENT, WEIGHTS, Bundle, load_bundle, save_bundle

ROOT = Path(__file__).parents[2]
SAMPLE = Path(__file__).parent / "data" / "model_v1"


def sample_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "encoder.weight": torch.randn(3, 5, generator=generator),
        "encoder.bias": torch.tensor([0.0, -0.0, 1e-45, 3.4e38, -1.5]),
        "scale": torch.tensor(2.5, dtype=torch.float64),
        "step": torch.tensor([2**62, -1]),
        "state": generator.get_state()[:9],
        "mask": torch.tensor([[True, False], [False, True]]),
        "half": torch.randn(7, generator=generator).bfloat16(),
        "none": torch.empty(0, 4),
    }


DOCUMENT_SAMPLE: dict[str, Any] = {
    "params": {"n_latent": 16, "dropout": 0.1, "tiny": 5e-324, "zero": -0.0, "name": "é\n\ud800"},
    "z": [1, 2.0, True, None, "x"],
    "a": [],
}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert (
            found[name].numpy(force=True).tobytes() == tensor.numpy(force=True).tobytes()
            if (tensor.dtype != torch.bfloat16)
            else torch.equal(found[name], tensor)
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    save_bundle(path, sample_tensors(), DOCUMENT_SAMPLE, kind="model")
    return path


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ModelFileError) as caught:
        load_bundle(folder, **{"kind": "model", **options})
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(caught.value.problems) == 1
    return message


def rewrite(folder: Path, *, fixed: bool = True, **changes: Any) -> None:
    """Edit model.json; with `fixed`, make its checksum fit again, as a hostile writer would."""
    content = json.loads((folder / DOCUMENT).read_text())
    content.update(changes)
    if fixed:
        content["checksum"] = fmt.checksum(content)
    (folder / DOCUMENT).write_text(json.dumps(content))


def rewrite_weights(folder: Path, data: bytes) -> None:
    (folder / WEIGHTS).write_bytes(data)
    manifest = {WEIGHTS: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    rewrite(folder, manifest=manifest)


def with_header(folder: Path, text: str, *, length: int | None = None) -> None:
    """Replace the header of the weights and make everything around it fit."""
    data = (folder / WEIGHTS).read_bytes()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    raw = text.encode()
    rewrite_weights(folder, (len(raw) if length is None else length).to_bytes(8, "little") + raw + body)


def header_of(folder: Path) -> dict[str, Any]:
    data = (folder / WEIGHTS).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert isinstance(header, dict)
    return header


# What is saved comes back


def test_everything_comes_back_to_the_bit(folder: Path) -> None:
    bundle = load_bundle(folder, kind="model")
    assert_same(bundle.tensors, sample_tensors())
    assert bundle.document == DOCUMENT_SAMPLE
    assert list(bundle.document) == list(DOCUMENT_SAMPLE)
    assert str(bundle.document["params"]["zero"]) == "-0.0"
    assert bundle.format_version == fmt.FORMAT_VERSION
    assert bundle.written_by["torch"] == torch.__version__
    assert bundle.path == folder


def test_other_programs_read_the_weights(folder: Path) -> None:
    found = safetensors.torch.load_file(folder / WEIGHTS)
    expected = sample_tensors()
    assert_same({name: found[name] for name in expected}, expected)


def test_the_same_content_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    save_bundle(tmp_path / "again", sample_tensors(), DOCUMENT_SAMPLE, kind="model")
    for name in (WEIGHTS, DOCUMENT):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_strided_shared_and_differentiable_tensors_are_stored(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "a": base.T,
        "b": base[:, 1],
        "c": base,
        "d": torch.nn.Parameter(base),
        "e": base.expand(2, 3, 4),
    }
    save_bundle(tmp_path / "m", tensors, {}, kind="checkpoint")
    found = load_bundle(tmp_path / "m", kind="checkpoint").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_bundle_may_be_empty(tmp_path: Path) -> None:
    save_bundle(tmp_path / "m", {}, {}, kind="model")
    bundle = load_bundle(tmp_path / "m", kind="model")
    assert (bundle.tensors, bundle.document) == ({}, {})


def test_an_existing_bundle_is_replaced_only_when_told(folder: Path) -> None:
    with pytest.raises(InputError, match="exists; pass overwrite=True"):
        save_bundle(folder, {}, {}, kind="model")
    with pytest.raises(InputError, match="exists; pass overwrite=True"):
        fmt.check_bundle_output(folder, overwrite=False)
    save_bundle(folder, {}, {}, kind="model", overwrite=True)
    assert load_bundle(folder, kind="model").tensors == {}
    assert os.listdir(folder.parent) == ["model"]


@pytest.mark.parametrize(
    ("tensors", "part"),
    [
        ({"w": torch.tensor([1.0, float("nan")])}, "not finite"),
        ({"w": torch.tensor(float("inf"), dtype=torch.bfloat16)}, "not finite"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "cannot be stored"),
        ({"w": torch.eye(2).to_sparse()}, "cannot be stored"),
        ({"../w": torch.zeros(1)}, "name"),
        ({"": torch.zeros(1)}, "name"),
        ({"__metadata__": torch.zeros(1)}, "name"),
        ({"a\nb": torch.zeros(1)}, "name"),
    ],
)
def test_what_cannot_be_stored_leaves_the_previous_model(
    folder: Path, tensors: dict[str, torch.Tensor], part: str
) -> None:
    with pytest.raises(ModelFileError, match=part) as caught:
        save_bundle(folder, tensors, {}, kind="model", overwrite=True)
    assert "\n" not in str(caught.value)
    assert_same(load_bundle(folder, kind="model").tensors, sample_tensors())


@pytest.mark.parametrize("value", [float("nan"), (1, 2), {1: 2}, {True: 1}, {1, 2}, torch.zeros(1)])
def test_a_document_that_would_not_come_back_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="not plain JSON"):
        save_bundle(tmp_path / "m", {}, {"x": [value]}, kind="model")
    assert os.listdir(tmp_path) == []


# What is refused


def test_what_is_missing_is_refused(folder: Path, tmp_path: Path) -> None:
    assert "no such model folder" in refusal(tmp_path / "nowhere")
    assert "not a folder" in refusal(folder / DOCUMENT)
    (folder / WEIGHTS).unlink()
    assert "missing" in refusal(folder)
    (folder / DOCUMENT).unlink()
    assert "has no model.json" in refusal(folder)


def test_truncated_files_are_refused(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1])
    assert "truncated" in refusal(folder)
    (folder / WEIGHTS).write_bytes(data + b"\0")
    assert "altered" in refusal(folder)
    text = (folder / DOCUMENT).read_bytes()
    (folder / DOCUMENT).write_bytes(text[:-20])
    assert "damaged" in refusal(folder)


def test_an_edited_document_is_refused(folder: Path) -> None:
    rewrite(folder, fixed=False, document={**DOCUMENT_SAMPLE, "z": [1, 2]})
    assert "checksum does not fit" in refusal(folder)


def test_a_flipped_bit_in_the_weights_is_refused(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    assert "SHA-256" in refusal(folder)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"\xff\xfe", b'{"format": "other"}', b"\x89HDF\r\n", b"null"]
)
def test_foreign_documents_are_refused(folder: Path, text: bytes) -> None:
    (folder / DOCUMENT).write_bytes(text)
    assert "not a mosaicvi model" in refusal(folder)


def test_a_newer_format_is_refused(folder: Path) -> None:
    rewrite(folder, format_version=7)
    assert refusal(folder).endswith(
        "written by a newer mosaicvi: format version 7, this one reads up to 1; upgrade mosaicvi"
    )


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None])
def test_a_version_that_is_none_is_refused(folder: Path, version: Any) -> None:
    rewrite(folder, format_version=version)
    assert "no format version" in refusal(folder)


def test_the_other_kind_is_refused(folder: Path) -> None:
    assert "holds a 'model', not a 'checkpoint'" in refusal(folder, kind="checkpoint")


@pytest.mark.parametrize(
    "changes",
    [
        {"manifest": {}},
        {"manifest": {"../../etc/passwd": {"size": 1, "sha256": "0" * 64}}},
        {"manifest": {WEIGHTS: {"size": 1.0, "sha256": "0" * 64}}},
        {"manifest": {WEIGHTS: {"size": 1, "sha256": "x"}}},
        {"manifest": {WEIGHTS: {"size": 1, "sha256": "0" * 64}, "code.py": {"size": 1, "sha256": "0" * 64}}},
        {"tensors": []},
        {"document": None},
        {"kind": ["model"]},
        {"written_by": {"torch": 2}},
        {"extra": 1},
    ],
)
def test_a_document_with_wrong_parts_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    rewrite(folder, **changes)
    assert "missing or of the wrong type" in refusal(folder)


def test_devices_pipes_and_folders_are_refused_without_waiting(folder: Path) -> None:
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        (folder / WEIGHTS).rename(folder / "kept")
        make(folder / WEIGHTS)
        assert folder.name in refusal(folder)
        (folder / WEIGHTS).rename(folder / f"done-{os.urandom(4).hex()}")
        (folder / "kept").rename(folder / WEIGHTS)


def test_absurd_sizes_are_refused_before_they_are_read(folder: Path) -> None:
    size = 1 << 40
    os.truncate(folder / WEIGHTS, size)
    assert "altered" in refusal(folder)
    rewrite(folder, manifest={WEIGHTS: {"size": size, "sha256": "0" * 64}})
    assert "more than a model can have" in refusal(folder)
    assert "more than a model can have" in refusal(folder, max_bytes=10)
    os.truncate(folder / DOCUMENT, 1 << 40)
    assert "more than a model can have" in refusal(folder)


HOSTILE = {
    "gap": ("w", {"data_offsets": [4, 8]}),
    "overlap": ("encoder.weight", {"data_offsets": [0, 60]}),
    "negative": ("w", {"data_offsets": [-4, 0]}),
    "backwards": ("scale", {"data_offsets": [8, 0]}),
    "far": ("w", {"data_offsets": [0, 1 << 60]}),
    "not numbers": ("w", {"data_offsets": ["0", 4]}),
    "large shape": ("scale", {"shape": [1 << 31, 1 << 31]}),
    "large empty shape": ("none", {"shape": [0, 1 << 62]}),
    "negative shape": ("scale", {"shape": [-1]}),
    "deep shape": ("scale", {"shape": [1] * 9}),
    "float shape": ("scale", {"shape": [1.0]}),
    "unknown type": ("scale", {"dtype": "C64"}),
    "type list": ("scale", {"dtype": ["F32"]}),
    "other type": ("scale", {"dtype": "I64"}),
    "extra key": ("scale", {"code": "x"}),
    "path name": ("../../x", {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}),
    "absolute name": ("/etc/passwd", {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}),
    "long name": ("x" * 600, {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}),
    "unlisted": ("more", {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}),
    "metadata": ("__metadata__", {"x": 1}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tables_are_refused_though_every_checksum_fits(folder: Path, case: str) -> None:
    name, changes = HOSTILE[case]
    header = header_of(folder)
    header[name] = {**header.get(name, {}), **changes}
    with_header(folder, json.dumps(header))
    assert WEIGHTS in refusal(folder)


def test_hostile_headers_are_refused_though_every_checksum_fits(folder: Path) -> None:
    text = json.dumps(header_of(folder))
    original = {name: (folder / name).read_bytes() for name in (WEIGHTS, DOCUMENT)}
    for hostile, length in [
        (text, 1 << 63),
        (text, (1 << 24) + 1),
        (text, 0),
        (text, len(text) - 1),
        (text[:-1] + ', "scale": ' + json.dumps(header_of(folder)["scale"]) + "}", None),
        (text.replace("[3, 5]", "[3, NaN]"), None),
        ("[" * 100_000, None),
        ("[]", None),
        ("{}", None),
    ]:
        with_header(folder, hostile, length=length)
        assert WEIGHTS in refusal(folder)
        for name, data in original.items():
            (folder / name).write_bytes(data)
    rewrite_weights(folder, b"abc")
    assert "states a header" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "raw"), [("encoder.bias", b"\0\0\xc0\x7f"), ("half", b"\x80\x7f"), ("mask", b"\2")]
)
def test_values_that_no_model_has_are_refused(folder: Path, name: str, raw: bytes) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little") + header_of(folder)[name]["data_offsets"][0]
    data[begin : begin + len(raw)] = raw
    rewrite_weights(folder, bytes(data))
    assert f"{name!r} has values that are not" in refusal(folder)


def test_a_path_with_a_line_break_stays_one_line(tmp_path: Path) -> None:
    assert "no such model" in refusal(tmp_path / "a\nb")


# Old versions


def test_version_1_still_loads() -> None:
    bundle = load_bundle(SAMPLE, kind="model")
    assert_same(bundle.tensors, sample_tensors())
    assert bundle.document == DOCUMENT_SAMPLE


def test_migrations_lead_from_every_old_version() -> None:
    assert sorted(fmt.MIGRATIONS) == list(range(1, fmt.FORMAT_VERSION))


def test_migrations_are_applied_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(bundle: Bundle) -> Bundle:
        document = {"n_latent": bundle.document["params"]["n_latent"]}
        return replace(bundle, document=document, format_version=2)

    def double(bundle: Bundle) -> Bundle:
        return replace(bundle, document={"n_latent": 2 * bundle.document["n_latent"]}, format_version=3)

    monkeypatch.setattr(fmt, "FORMAT_VERSION", 3)
    monkeypatch.setattr(fmt, "MIGRATIONS", {2: double, 1: rename})
    bundle = load_bundle(SAMPLE, kind="model")
    assert bundle.document == {"n_latent": 32}
    assert bundle.format_version == 3


# Mutations


def test_mutations_are_refused_or_change_nothing(tmp_path: Path) -> None:
    line = ["-m", "benchmarks.mutations", "--n", "300", "--seed", "3"]
    result = processes.run(line, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert result.returncode == 0, result.stdout + result.stderr
    assert "300 of 300" in result.stdout
    assert os.listdir(tmp_path) == []


def test_dtypes_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "format.md").read_text()
    assert all(f"`{code}`" in page for code in weights.DTYPES)
