"""Odd but valid files of every format that is read, and random mutations of them, for `benchmarks.files`.

What a file holds is decided by a generator of random numbers: types, kinds of names, encodings of old
versions, layers, ``raw``, categories, orders, views.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import io, sparse

from mosaicvi.data.read import mudata_as_it_is

Rng = np.random.Generator
TYPES = ("f4", "f8", "i4", "i8", "u2", "u1", "i1", "?")
NUMBERS: tuple[Any, ...] = (-1, 0, 5, 10**6, 2**31 - 1, 2**62)
WORDS: tuple[Any, ...] = ("x", "csr_matrix", "csc_matrix", "dataframe", "array", "", "9.9.9")


# --- valid -----------------------------------------------------------------------------------------


def odd(rng: Rng) -> AnnData:
    """An AnnData of any kind that can be written."""
    n, d = int(rng.integers(1, 30)), int(rng.integers(1, 20))
    x = rng.poisson(1, (n, d)).astype(rng.choice(TYPES))
    obs = pd.DataFrame(index=_names(rng, n, "c"))
    var = pd.DataFrame(index=_names(rng, d, "g"))
    adata = AnnData(_form(rng, x), obs=obs, var=var)
    columns = {
        "category": pd.Categorical(rng.choice(["u", "v"], n), categories=["v", "u", "z"], ordered=True),
        "nullable": pd.array([None if i % 2 else i for i in range(n)], dtype="Int64"),
        "boolean": pd.array([None if i % 2 else True for i in range(n)], dtype="boolean"),
        "gaps": pd.Categorical([None if i % 2 else "a" for i in range(n)], categories=["a"]),
        "number": rng.normal(size=n),
        "whole": np.arange(n),
        "text": ["t \u00e9"] * n,
    }
    for name, values in columns.items():
        if rng.random() < 0.4:
            adata.obs[name] = values
    if rng.random() < 0.4:
        adata.var["category"] = pd.Categorical(["a"] * d)
    if adata.X is not None and rng.random() < 0.4:
        adata.layers["counts"] = _form(rng, x, needed=True)
    if adata.X is not None and rng.random() < 0.4:
        adata.raw = adata.copy()
    if rng.random() < 0.4:
        adata.obsm["X_pca"] = rng.normal(size=(n, 2))
    if rng.random() < 0.3:
        adata.obsm["table"] = pd.DataFrame({"p": np.arange(n), "q": 0.5}, index=obs.index)
    if rng.random() < 0.3:
        adata.obsm["protein_counts"] = _form(rng, rng.poisson(3, (n, 3)), needed=True)
        adata.uns["protein_names"] = ["p1", "p2", "p3"]
    if rng.random() < 0.2:
        adata.obsp["near"] = sparse.csr_matrix(np.eye(n))
    if rng.random() < 0.2:
        adata.varm["loadings"] = rng.normal(size=(d, 2))
    if rng.random() < 0.3:
        adata.uns["u"] = {"k": np.arange(3), "s": "text", "n": {"m": 1.5, "none": None}}
    return adata[:, ::-1] if adata.X is not None and rng.random() < 0.2 else adata


def _names(rng: Rng, n: int, letter: str) -> list[str]:
    forms = (f"{letter}{{}}", f"{letter} \u00e9 {{}}", "{}", f"{letter}/{{}}")
    form = forms[rng.integers(len(forms))]
    return [form.format(i) for i in rng.permutation(n)]


def _form(rng: Rng, x: np.ndarray[Any, Any], *, needed: bool = False) -> Any:
    """Values as any matrix that holds them; now and then with indices that are not sorted, or with none."""
    kind = rng.integers(0, 5 if needed else 6)
    if kind == 0:
        return x
    if kind == 1:
        return np.asfortranarray(x)
    if kind == 5:
        return None
    made = (sparse.csc_matrix if kind == 2 else sparse.csr_matrix)(x)
    if kind == 4:
        for i in range(made.shape[0]):
            part = slice(made.indptr[i], made.indptr[i + 1])
            made.indices[part], made.data[part] = (
                made.indices[part][::-1].copy(),
                made.data[part][::-1].copy(),
            )
        made.has_sorted_indices = False
    if kind == 3:
        made.indices, made.indptr = made.indices.astype(np.int64), made.indptr.astype(np.int64)
    return made


def _h5ad(rng: Rng, folder: Path) -> Path:
    path = folder / "a.h5ad"
    odd(rng).write_h5ad(path, compression=rng.choice([None, "gzip", "lzf"]))
    return path


def _h5mu(rng: Rng, folder: Path) -> Path:
    path = folder / "a.h5mu"
    _several(rng).write_h5mu(path)
    return path


def _several(rng: Rng) -> MuData:
    with mudata_as_it_is():
        mods = {name: odd(rng).copy() for name in ("rna", "adt", "atac")[: int(rng.integers(1, 4))]}
        mdata = MuData(mods)
        if rng.random() < 0.5:
            mdata.obs["batch"] = pd.Categorical(rng.choice(["a", "b"], mdata.n_obs))
    return mdata


def _zarr(rng: Rng, folder: Path) -> Path:
    path = folder / "a.zarr"
    with mudata_as_it_is():
        if rng.random() < 0.5:
            odd(rng).copy().write_zarr(path)
        else:
            _several(rng).write_zarr(path)
    return path


def _old(rng: Rng, folder: Path) -> Path:
    """An h5ad as anndata 0.7 wrote it: categories beside the columns, encodings without versions."""
    path = _h5ad(rng, folder)
    with h5py.File(path, "r+") as file:
        file.attrs.clear()
        for table in (file["obs"], file["var"]):
            for name in [key for key, value in table.items() if isinstance(value, h5py.Group)]:
                column = table[name]
                if "categories" not in column:
                    del table[name]  # nullable: newer than this format
                    order = [key for key in table.attrs["column-order"] if key != name]
                    table.attrs["column-order"] = np.array(order, dtype=object) if order else np.zeros(0)
                    continue
                codes, categories = column["codes"][()], column["categories"][()]
                ordered = bool(column.attrs["ordered"])
                del table[name]
                table[name] = codes
                kept = table.require_group("__categories")
                kept[name] = categories
                kept[name].attrs["ordered"] = ordered
                table[name].attrs["categories"] = kept[name].ref
    return path


def _tenx(rng: Rng, folder: Path) -> Path:
    """Output of Cell Ranger: h5 of version 3 or 2, or a folder."""
    n, d = int(rng.integers(2, 20)), int(rng.integers(2, 15))
    x = sparse.csr_matrix(rng.poisson(1, (n, d)).astype(np.int32))
    cells, ids = [f"AC{i}-1" for i in range(n)], [f"ENSG{i:05d}" for i in range(d)]
    names = [f"G{i}" for i in range(d)]
    types = ["Gene Expression"] * d
    if rng.random() < 0.5:
        types[d // 2 :] = ["Antibody Capture"] * (d - d // 2)
    if rng.random() < 0.4:
        return _tenx_folder(rng, folder / "mtx", x, cells, ids, names, types)
    path = folder / "a.h5"
    is_new = rng.random() < 0.7
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if is_new else "GRCh38")
        group["shape"] = [d, n]
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(x, key).astype(rng.choice(["i4", "i8"]))
        group["barcodes"] = np.array(cells, "S")
        if is_new:
            for key, texts in (("id", ids), ("name", names), ("feature_type", types)):
                group[f"features/{key}"] = np.array(texts, "S")
            group["features/genome"] = np.array(["GRCh38"] * d, "S")
        else:
            group["genes"], group["gene_names"] = np.array(ids, "S"), np.array(names, "S")
    return path


def _tenx_folder(
    rng: Rng,
    folder: Path,
    x: sparse.csr_matrix,
    cells: list[str],
    ids: list[str],
    names: list[str],
    types: list[str],
) -> Path:
    folder.mkdir()
    is_new = rng.random() < 0.7
    io.mmwrite(folder / "matrix.mtx", x.T.tocoo(), field="integer")
    rows = list(zip(ids, names, types, strict=True))
    text = ["\t".join(row if is_new else row[:2]) for row in rows]
    (folder / ("features.tsv" if is_new else "genes.tsv")).write_text("\n".join(text) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(cells) + "\n")
    for path in list(folder.iterdir()) if is_new else ():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return folder


def _table(rng: Rng, folder: Path) -> Path:
    """A table of features x cells or the other way round, with any separator."""
    n, d = int(rng.integers(2, 20)), int(rng.integers(2, 15))
    values = rng.poisson(1, (n, d)).astype(rng.choice(["i8", "f8"]))
    if rng.random() < 0.3:
        values = np.log1p(values)
    if values.dtype.kind == "f" and rng.random() < 0.3:
        values[0, 0] = np.nan
    by_cell = rng.random() < 0.5
    frame = pd.DataFrame(values, index=[f"r{i}" for i in range(n)], columns=[f"s{i}" for i in range(d)])
    frame = frame.rename_axis("cell" if by_cell else "gene")
    kind = rng.integers(0, 4)
    if kind == 3:
        frame.to_parquet(folder / "a.parquet")
        return folder / "a.parquet"
    path = folder / ("a.csv", "a.tsv", "a.csv.gz")[kind]
    frame.to_csv(path, sep="\t" if kind == 1 else ",")
    return path


KINDS: tuple[Callable[[Rng, Path], Path], ...] = (_h5ad, _h5mu, _zarr, _old, _tenx, _table)


def write(rng: Rng, folder: Path) -> Path:
    """One odd but valid file or folder."""
    return KINDS[rng.choice(len(KINDS), p=[0.34, 0.22, 0.1, 0.1, 0.12, 0.12])](rng, folder)


# --- mutated ---------------------------------------------------------------------------------------


def mutate(rng: Rng, path: Path) -> str:
    """Change a file at random; what was done."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)
        chosen = files[rng.integers(len(files))]
        if rng.random() < 0.2:
            chosen.unlink()
            return f"removed {chosen.relative_to(path)}"
        if path.suffix == ".zarr" and rng.random() < 0.2:
            shutil.rmtree(chosen.parent) if chosen.parent != path else chosen.unlink()
            return f"removed all of {chosen.parent.relative_to(path)}"
        return f"{_bytes(rng, chosen)} of {chosen.relative_to(path)}"
    if not h5py.is_hdf5(path) or rng.random() < 0.35:
        return _bytes(rng, path)
    return _inside(rng, path)


def _bytes(rng: Rng, path: Path) -> str:
    content = bytearray(path.read_bytes())
    kind = rng.integers(0, 4)
    if kind == 0:
        path.write_bytes(content[: rng.integers(0, len(content))])
        return "cut"
    if kind == 1:
        for at in rng.integers(0, len(content), int(rng.integers(1, 30))):
            content[at] = int(rng.integers(256))
        path.write_bytes(content)
        return "bytes changed"
    if kind == 2:
        at, size = int(rng.integers(len(content))), int(rng.integers(1, 200))
        path.write_bytes(content[:at] + content[at + size :])
        return "bytes left out"
    at = int(rng.integers(len(content)))
    path.write_bytes(content[:at] + rng.bytes(int(rng.integers(1, 50))) + content[at:])
    return "bytes put in"


def _inside(rng: Rng, path: Path) -> str:
    """Change, replace or remove something in an HDF5 file that stays one."""
    done = "nothing"
    with contextlib.suppress(OSError, TypeError, ValueError, KeyError), h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = names[rng.integers(len(names))]
        item = file[name]
        kind = rng.integers(0, 7)
        if kind == 0 and item.attrs:
            key = list(item.attrs)[rng.integers(len(item.attrs))]
            value = WORDS[rng.integers(len(WORDS))] if rng.random() < 0.6 else np.array([10**12, 10**12])
            item.attrs[key] = value
            done = f"{name}@{key} = {value}"
        elif kind == 1 and item.attrs:
            key = list(item.attrs)[rng.integers(len(item.attrs))]
            del item.attrs[key]
            done = f"{name}@{key} removed"
        elif kind in (2, 3) and isinstance(item, h5py.Dataset) and item.shape and item.size:
            at = int(rng.integers(len(item)))
            if item.dtype.kind in "iuf":
                value = NUMBERS[rng.integers(len(NUMBERS))]
                most = np.iinfo(item.dtype).max if item.dtype.kind in "iu" else value
                item[at] = max(0, min(value, most)) if item.dtype.kind == "u" else min(value, most)
            elif item.dtype.kind == "O":
                value = ("", "x", "c0", "\u2028")[rng.integers(4)]
                item[at] = value
            else:
                item[at] = value = np.zeros((), item.dtype)
            done = f"{name}[{at}] = {value!r}"
        elif kind == 4 and isinstance(item, h5py.Dataset) and item.shape and len(item):
            kept, attributes = item[: rng.integers(len(item))], dict(item.attrs)
            del file[name]
            file[name] = kept
            file[name].attrs.update(attributes)
            done = f"{name} made shorter"
        elif kind == 5:
            other = names[rng.integers(len(names))]
            del file[name]
            file[name] = h5py.SoftLink(f"/{other}")
            done = f"{name} leads to {other}"
        else:
            del file[name]
            done = f"{name} removed"
            if rng.random() < 0.5:
                file[name] = np.arange(3)
                done = f"{name} replaced"
    return done


def size(path: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(os.stat(Path(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)
