"""Every message of ``docs/input-errors.md`` is provoked here, and the table is the one of the code."""

from __future__ import annotations

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
from mosaicvi.data.read import dataset_names, mudata_as_it_is, read
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
