"""Every message of ``docs/input-errors.md`` is provoked here, and the table is the one of the code."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import io, sparse

from mosaicvi.data.combine import combine
from mosaicvi.data.problems import PROBLEMS, problem, table
from mosaicvi.data.read import dataset_names, mudata_as_it_is, read, to_mudata
from mosaicvi.data.stored.open import open_stored
from mosaicvi.errors import InputError
from mosaicvi.inspect.describe import describe

PAGE = Path(__file__).parents[2] / "docs" / "input-errors.md"


def one(x: object = ((1, 2),), features: str = "AB", **obs: object) -> AnnData:
    x = np.array(x)
    x = sparse.csr_matrix(x.astype(np.float32)) if x.dtype.kind in "iu" else x
    cells = list("xyz"[: x.shape[0]])
    return AnnData(x, obs=pd.DataFrame(obs, index=cells), var=pd.DataFrame(index=list(features)))


def panelled(columns: dict[str, list[object]], **obs: object) -> AnnData:
    adata = one([[1, 2], [3, 4]], **obs)
    adata.varm["measured"] = pd.DataFrame(columns, index=adata.var_names)
    return adata


def text(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


def mtx(folder: Path, *, barcodes: str | None = "a\nb") -> Path:
    run = folder / "run"
    run.mkdir()
    io.mmwrite(run / "matrix.mtx", sparse.coo_matrix(np.eye(2, dtype=int)))
    text(folder, "run/features.tsv", "1\tA\tGene Expression\n2\tB\tGene Expression")
    if barcodes is not None:
        text(folder, "run/barcodes.tsv", barcodes)
    return run


def hdf5(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file["something"] = 1
    return folder / "a.h5"


def no_zarr(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    one().write_zarr(folder / "a.zarr")
    patch.setitem(__import__("sys").modules, "zarr", None)
    return folder / "a.zarr"


def without_x() -> AnnData:
    adata = AnnData(obs=pd.DataFrame(index=["x"]), var=pd.DataFrame(index=["A"]))
    adata.layers["counts"] = np.ones((1, 1), "f")
    return adata


def mudata(mods: dict[str, AnnData], *, axis: int = 0) -> MuData:
    with mudata_as_it_is():
        return MuData(mods, axis=axis)


def lost_cell() -> MuData:
    mdata = mudata({"rna": one([[1, 2], [3, 4]])})
    mdata.mod["rna"] = mdata["rna"][:1].copy()
    return mdata


def renamed(adata: AnnData, column: str) -> AnnData:
    adata.obs[column] = 1
    return adata


def h5(folder: Path, change: Callable[[h5py.File], object]) -> Path:
    """A small h5ad, changed."""
    adata = AnnData(sparse.csr_matrix(np.eye(3, dtype="f")))
    adata.write_h5ad(folder / "a.h5ad")
    with h5py.File(folder / "a.h5ad", "r+") as file:
        change(file)
    return folder / "a.h5ad"


def nested(file: h5py.File) -> None:
    group = file["uns"]
    for _ in range(60):
        group = group.create_group("g")


def no_memory(path: Path, patch: pytest.MonkeyPatch) -> Path:
    def full(*args: object, **kwargs: object) -> None:
        raise MemoryError("Unable to allocate 4 TiB")

    patch.setattr(pd, "read_csv", full)
    return path


def old_tenx(folder: Path, *genomes: str) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        for genome in genomes:
            x = {"data": [1], "indices": [0], "indptr": [0, 1], "shape": [1, 1]}
            for key, value in x.items():
                file[f"{genome}/{key}"] = value
            for key in ("barcodes", "genes", "gene_names"):
                file[f"{genome}/{key}"] = np.array(["x"], "S")
    return folder / "a.h5"


def loom(folder: Path) -> Path:
    with h5py.File(folder / "a.loom", "w") as file:
        file["matrix"] = np.ones((2, 3), "f")
        file["row_attrs/Gene"] = np.array(["a", "b"], "S")
        file["col_attrs/age"] = np.arange(3)
    return folder / "a.loom"


def with_raw() -> AnnData:
    adata = one([[1, 2]], features="AC")
    adata.raw = one([[1, 2]], features="AB")
    return adata


def twins(features: str, **mods: str) -> dict[str, object]:
    """Datasets of the same ten cells."""
    names = [f"cell{i}" for i in range(10)]
    x = np.ones((10, len(features)), "f")
    var = pd.DataFrame(index=list(features))
    return {name: {m: AnnData(x, obs=pd.DataFrame(index=names), var=var)} for name, m in mods.items()}


def two_panels() -> AnnData:
    return panelled({"p": [True, True], "q": [True, False]}, site=["p", "q"], lab=["a", "b"])


def dirty(folder: Path) -> Path:
    folder = folder / "notes"
    folder.mkdir()
    text(folder, "readme.md", "x")
    return folder


Provoke = Callable[[Path, pytest.MonkeyPatch], object]
CASES: dict[str, Provoke] = {
    "missing": lambda f, p: read(f / "none.h5ad"),
    "empty": lambda f, p: read(text(f, "a.h5ad", "")),
    "foreign": lambda f, p: read(text(f, "a.rds", "x")),
    "damaged": lambda f, p: read(text(f, "a.h5mu", "no HDF5 at all")),
    "extra": lambda f, p: read(no_zarr(f, p)),
    "outside": lambda f, p: read(
        h5(f, lambda h: h["obs"].create_dataset("x", (3,), dtype="S3", external=[("/etc/passwd", 0, 9)]))
    ),
    "circle": lambda f, p: read(h5(f, lambda h: h["uns"].__setitem__("x", h["uns"]))),
    "too-many-objects": lambda f, p: read(h5(f, nested)),
    "absurd": lambda f, p: read(
        h5(f, lambda h: h["uns"].create_dataset("x", (10**12,), dtype="f8", chunks=(1000,)))
    ),
    "sparse": lambda f, p: read(h5(f, lambda h: h["X/indices"].__setitem__(0, 2_000_000_000))),
    "memory": lambda f, p: read(no_memory(text(f, "a.csv", "cell,A\nc,1\n"), p)),
    "long-line": lambda f, p: read(text(f, "a.csv", "cell\0,A\nc,1\n")),
    "no-names": lambda f, p: read(text(f, "a.csv", "PC1,PC2\n0.5,1\n1.5,2\n")),
    "pattern": lambda f, p: read(text(f, "a.csv", "cell,A\nc,1\n"), columns="("),
    "no-names-from": lambda f, p: read(text(f, "a.csv", "cell,A\nc,1\n"), names_from="Genes"),
    "log-negative": lambda f, p: to_mudata(AnnData(-np.ones((2, 2), np.float32)), log2=["rna"]),
    "no-columns": lambda f, p: read(text(f, "a.csv", "cell,A\nc,1\n"), columns="^B"),
    "long-twice": lambda f, p: read(text(f, "a.csv", "gene,cell,count\nA,c,1\nA,c,2\nB,c,1\n")),
    "loom-names": lambda f, p: read(loom(f)),
    "archive": lambda f, p: read(text(f, "a.tar.gz", "x")),
    "genomes": lambda f, p: read(old_tenx(f, "hg19", "mm10")),
    "no-genome": lambda f, p: read(old_tenx(f, "hg19", "mm10"), genome="rn6"),
    "raw-features": lambda f, p: combine({"a": with_raw()}, layers={"rna": "raw"}),
    "no-obsm": lambda f, p: to_mudata(one(), from_obsm={"adt": "proteins"}),
    "obsm-of-mudata": lambda f, p: to_mudata(mudata({"rna": one()}), from_obsm={"adt": "proteins"}),
    "too-few-counts": lambda f, p: to_mudata(one(), min_counts={"rna": 500}),
    "zeros-panels": lambda f, p: to_mudata(two_panels(), zeros_missing=["rna"], batch_key="lab"),
    "pair-modality": lambda f, p: combine(twins("AB", a="rna", b="rna"), pair=True),
    "pair-name": lambda f, p: combine({"x": one(), **twins("AB", a="rna", b="adt")}, pair={"x": ["a", "b"]}),
    "pair-nothing": lambda f, p: combine({"b": one(), **twins("AB", a="rna")}, pair=True),
    "folder": lambda f, p: read(dirty(f)),
    "mtx-part": lambda f, p: read(mtx(f, barcodes=None)),
    "mtx-shape": lambda f, p: read(mtx(f, barcodes="a\nb\nc")),
    "orientation": lambda f, p: read(text(f, "a.csv", "x,a,b\nc,1,2\n")),
    "table-shape": lambda f, p: read(text(f, "a.tsv", "one column\n1\n")),
    "not-number": lambda f, p: read(text(f, "a.csv", "cell,A,type\nc,1,T cell\n")),
    "duplicate-cells": lambda f, p: read(text(f, "a.csv", "cell,A\nc,1\nc,2\n")),
    "duplicate-features": lambda f, p: read(text(f, "a.csv", "cell,A,A\nc,1,2\n")),
    "option": lambda f, p: combine({"a": one()}, join="left"),
    "path-twice": lambda f, p: dataset_names([f / "a.h5ad", f / "a.h5ad"]),
    "nothing": lambda f, p: combine({}),
    "dataset-name": lambda f, p: combine({"a/b": one()}),
    "kind": lambda f, p: combine({"a": [[1]]}),
    "axis": lambda f, p: combine({"a": mudata({"rna": one()}, axis=1)}),
    "no-cells": lambda f, p: combine({"a": one()[:0]}),
    "no-x": lambda f, p: combine({"a": without_x()}),
    "no-layer": lambda f, p: combine({"a": one()}, layers={"rna": "counts"}),
    "changed": lambda f, p: changed(f),
    "by-columns": lambda f, p: by_columns(f),
    "x-type": lambda f, p: combine({"a": one(np.array([["p", "q"]], object))}),
    "infinite": lambda f, p: combine({"a": one(np.array([[1, np.inf]]))}),
    "sparse-nan": lambda f, p: combine({"a": AnnData(sparse.csr_matrix(np.array([[np.nan]], "f")))}),
    "no-modality": lambda f, p: combine({"a": lost_cell()}),
    "column": lambda f, p: combine({"a": one(dataset=["mine"])}),
    "column-name": lambda f, p: combine({"a": renamed(one(), "a/b")}),
    "panel-type": lambda f, p: combine({"a": panelled({"p": [1.0, 0.0]})}),
    "panel-key": lambda f, p: combine({"a": panelled({"p": [True, True], "q": [True, False]})}),
    "panel-unknown": lambda f, p: combine(
        {"a": panelled({"p": [True, True], "q": [True, False]}, site=["p", "r"])}, panel_key="site"
    ),
    "panel-name": lambda f, p: combine(
        {"a": panelled({"p": [True, True], "q": [True, False]}, site=["p", "q"]), "a:p": one()}
    ),
    "no-overlap": lambda f, p: combine({"a": one(), "b": one(features="CD")}, join="inner"),
    "no-such-modality": lambda f, p: combine({"a": one()}, match={"adt": "adt"}),
    "rename-clash": lambda f, p: combine({"a": {"rna": one(), "gex": one()}}, rename={"gex": "rna"}),
    "batch-key": lambda f, p: describe(one(), batch_key="donor"),
}


def changed(folder: Path) -> None:
    path = folder / "a.h5ad"
    one().write_h5ad(path)
    _, stored = open_stored(path, {})
    os.utime(path, (0, 0))
    next(stored[""].blocks())


def by_columns(folder: Path) -> None:
    AnnData(sparse.csc_matrix(np.eye(2, dtype=np.float32))).write_h5ad(folder / "a.h5ad")
    open_stored(folder / "a.h5ad", {})


def pattern(key: str) -> str:
    """What a message of this kind looks like, whatever fills its places."""
    pieces = [
        re.escape(literal) + (".*" if name else "")
        for literal, name, _, _ in string.Formatter().parse(PROBLEMS[key].text)
    ]
    return "".join(pieces)


def test_every_problem_is_provoked() -> None:
    assert set(CASES) == set(PROBLEMS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", list(CASES))
def test_each_problem_ends_in_its_message(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as caught:
        CASES[key](tmp_path, monkeypatch)
    lines = caught.value.problems
    assert any(re.fullmatch(pattern(key), line) for line in lines), lines
    assert all("\n" not in line for line in lines)


def test_the_page_is_the_table_of_the_code() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")


def test_a_message_stays_on_one_line() -> None:
    assert problem("missing", name="a\nb") == "a b: no such file or folder; check the path"
