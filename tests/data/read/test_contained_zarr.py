"""A zarr store stays inside its folder, in bounded time and memory, as HDF5 files do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mosaicvi.data.read import mudata_as_it_is, read
from mosaicvi.data.stored.open import open_stored
from mosaicvi.errors import InputError

pytest.importorskip("zarr")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def store(folder: Path) -> Path:
    adata = AnnData(sparse.random(20, 10, 0.3, format="csr", dtype=np.float32, random_state=0))
    adata.obsm["X_pca"] = np.ones((20, 2))
    with anndata.settings.override(zarr_write_format=2):
        adata.write_zarr(folder / "a.zarr")
    (folder / "a.zarr" / ".zmetadata").unlink(missing_ok=True)  # which would hide what is changed beside it
    return folder / "a.zarr"


def edited(path: Path, **values: Any) -> None:
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | values))


def linked(target: Path | str, where: Path) -> None:
    if where.is_dir():
        where.rename(where.with_name("elsewhere"))
    else:
        where.unlink(missing_ok=True)
    where.symlink_to(target)


def cut(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[:-1])


def zstd_bomb(path: Path) -> None:
    """A frame that says it becomes 8 TB."""
    edited(path / "obsm/X_pca/.zarray", compressor={"id": "zstd", "level": 1})
    frame = b"\x28\xb5\x2f\xfd" + bytes([0xE0]) + (1 << 43).to_bytes(8, "little") + bytes(20)
    next(p for p in (path / "obsm/X_pca").iterdir() if not p.name.startswith(".")).write_bytes(frame)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file outside": (lambda p: linked("/etc/passwd", p / "obsm/X_pca/0.0"), "outside of the file.*passwd"),
    "a folder outside": (lambda p: linked(p.parent, p / "obsm/X_pca"), "outside of the file"),
    "a folder in itself": (lambda p: linked(p, p / "uns/x"), "in a circle"),
    "a link to nothing": (lambda p: linked("nothing", p / "uns/x"), "a link to nothing"),
    "a pipe": (lambda p: os.mkfifo(p / "uns/x"), "a device or a pipe"),
    "8 TB of nothing": (
        lambda p: edited(p / "obsm/X_pca/.zarray", shape=[10**12, 1], chunks=[1000, 1]),
        "next to nothing is stored",
    ),
    "a chunk of 8 TB": (
        lambda p: edited(p / "obsm/X_pca/.zarray", chunks=[10**12, 2]),
        "next to nothing is stored",
    ),
    "a frame of 8 TB": (zstd_bomb, "next to nothing is stored"),
    "a chunk cut off": (lambda p: cut(p / "obsm/X_pca/0.0"), r"a chunk has \d+ bytes, not \d+"),
    "an empty chunk": (lambda p: (p / "obsm/X_pca/0.0").write_bytes(b""), r"a chunk has 0 bytes"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_store_stays_inside_itself(tmp_path: Path, name: str) -> None:
    change, words = WRONG[name]
    path = store(tmp_path)
    change(path)
    for reads in (read, partial(open_stored, layers={})):  # into memory, and with values that stay on disk
        with pytest.raises(InputError, match=words) as caught:
            reads(path)
        assert len(caught.value.problems) == 1


@pytest.mark.parametrize("codec", [{"compressor": None, "filters": [{"id": "pickle", "protocol": 4}]}])
def test_nothing_is_unpickled(tmp_path: Path, codec: dict[str, Any]) -> None:
    path = store(tmp_path)
    edited(path / "obsm/X_pca/.zarray", dtype="|O", **codec)
    with pytest.raises(InputError, match="pickle") as caught:
        read(path)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("form", [2, 3])
def test_sound_stores_are_read_with_links_inside(tmp_path: Path, form: int) -> None:
    adata = AnnData(np.zeros((300, 20), np.float32), obs={"b": ["x", "y"] * 150})
    adata.raw = adata.copy()
    with anndata.settings.override(zarr_write_format=form), mudata_as_it_is():
        adata.write_zarr(tmp_path / "a.zarr")
        MuData({"rna": adata}).write_zarr(tmp_path / "m.zarr")
    first, second = (tmp_path / "a.zarr/obs/x", tmp_path / "a.zarr/obs/y")
    first.write_text("a note")
    second.symlink_to(first)
    read_ = read(tmp_path / "a.zarr")
    assert isinstance(read_, AnnData)
    np.testing.assert_array_equal(read_.X, adata.X)
    link = tmp_path / "link.zarr"
    link.symlink_to(tmp_path / "m.zarr")
    assert read(link).shape == (300, 20)
