"""Odd but valid files are read as their own libraries read them, and mutated ones so or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from benchmarks.files import differences, read_by_its_library
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse

from mosaicvi.data.read import mudata_as_it_is, read, to_mudata
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.errors import InputError
from mosaicvi.inspect.describe import describe

pytestmark = pytest.mark.filterwarnings("ignore")
TYPES = ("f4", "f8", "i4", "i8", "u2", "u1", "?")


def odd(rng: np.random.Generator, *, with_x: bool = False) -> AnnData:
    """An AnnData of any kind that can be written."""
    n, d = int(rng.integers(1, 30)), int(rng.integers(1, 20))
    x = rng.poisson(1, (n, d)).astype(rng.choice(TYPES))
    forms = (x, np.asfortranarray(x), sparse.csr_matrix(x), sparse.csc_matrix(x), None)
    form = forms[rng.integers(0, 4 if with_x else 5)]
    names = ("c{}", "c \u00e9 {}", "{}")
    obs = pd.DataFrame(index=[names[rng.integers(3)].format(i) for i in range(n)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(d)])
    if not obs.index.is_unique:
        obs.index = [f"c{i}" for i in range(n)]
    adata = AnnData(form, obs=obs, var=var)
    columns = {
        "category": pd.Categorical(rng.choice(["u", "v"], n), categories=["v", "u", "z"], ordered=True),
        "nullable": pd.array([None if i % 2 else i for i in range(n)], dtype="Int64"),
        "boolean": pd.array([None if i % 2 else True for i in range(n)], dtype="boolean"),
        "number": rng.normal(size=n),
        "text": ["t"] * n,
    }
    for name, values in columns.items():
        if rng.random() < 0.4:
            adata.obs[name] = values
    if form is not None and rng.random() < 0.4:
        adata.layers["counts"] = sparse.csr_matrix(x)
    if form is not None and rng.random() < 0.4:
        adata.raw = adata.copy()
    if rng.random() < 0.4:
        adata.obsm["X_pca"] = rng.normal(size=(n, 2))
    if rng.random() < 0.3:
        adata.uns["u"] = {"k": np.arange(3), "s": "text", "n": {"m": 1.5}}
    return adata[:, ::-1] if form is not None and rng.random() < 0.2 else adata


def write(rng: np.random.Generator, folder: Path, *, with_x: bool = False) -> Path:
    """One odd file."""
    compression = rng.choice([None, "gzip", "lzf"])
    if rng.random() < 0.6:
        odd(rng, with_x=with_x).write_h5ad(folder / "a.h5ad", compression=compression)
        return folder / "a.h5ad"
    with mudata_as_it_is():
        mods = {name: odd(rng, with_x=with_x).copy() for name in ("rna", "adt")[: int(rng.integers(1, 3))]}
        MuData(mods).write_h5mu(folder / "a.h5mu")
    return folder / "a.h5mu"


def values(x: object) -> NDArray[np.generic]:
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


@pytest.mark.parametrize("seed", range(40))
def test_valid_files_are_read_as_their_own_libraries_read_them(seed: int, tmp_path: Path) -> None:
    path = write(np.random.default_rng(seed), tmp_path)
    got = read(path)
    with mudata_as_it_is():
        theirs = anndata.read_h5ad(path) if path.suffix == ".h5ad" else mudata.read_h5mu(path)
    pairs = [(got, theirs)] if isinstance(theirs, AnnData) else [(got[m], theirs[m]) for m in theirs.mod]
    for ours, own in pairs:
        assert list(ours.var_names) == list(own.var_names)
        pd.testing.assert_frame_equal(ours.obs, own.obs)
        assert set(ours.layers) == set(own.layers)
        assert (ours.raw is None) == (own.raw is None)
        assert (ours.X is None) == (own.X is None)
        if own.X is not None:
            np.testing.assert_array_equal(values(ours.X), values(own.X))


def mutate(rng: np.random.Generator, path: Path) -> None:
    """Cut a file, change bytes of it, or change, replace or remove something inside."""
    kind = rng.integers(0, 5)
    content = bytearray(path.read_bytes())
    if kind == 0:
        path.write_bytes(content[: rng.integers(1, len(content))])
    elif kind == 1:
        for at in rng.integers(0, len(content), 10):
            content[at] = int(rng.integers(256))
        path.write_bytes(content)
    else:
        with contextlib.suppress(OSError, TypeError, ValueError, KeyError), h5py.File(path, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            name = names[rng.integers(len(names))]
            item = file[name]
            if kind == 2 and item.attrs:
                key = list(item.attrs)[rng.integers(len(item.attrs))]
                item.attrs[key] = "csr_matrix" if rng.random() < 0.5 else np.array([10**12, 10**12])
            elif kind == 3 and isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf" and item.size:
                most = np.iinfo(item.dtype).max if item.dtype.kind in "iu" else 2**31 - 1
                item[0] = int(
                    rng.choice([0 if item.dtype.kind == "u" else -1, min(2**31 - 1, most), min(10**6, most)])
                )
            else:
                del file[name]
                if rng.random() < 0.5:
                    file[name] = np.arange(3)


@pytest.mark.parametrize("seed", range(100))
def test_mutated_files_end_in_one_line_or_are_read_as_by_their_libraries(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(1000 + seed)
    path = write(rng, tmp_path, with_x=True)
    mutate(rng, path)
    problems: list[str] = []
    try:
        data = read(path)
        assert differences(data, read_by_its_library(path)) == ""
        mdata = to_mudata(data)
        describe(mdata)
        register(mdata, Setup())
    except InputError as error:
        problems = error.problems
    assert all("\n" not in line for line in problems)
