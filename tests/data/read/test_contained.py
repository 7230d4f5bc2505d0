"""What is in a file is checked before compiled code trusts it, in bounded time and memory."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from mosaicvi.data.combine import combine
from mosaicvi.data.read import read, to_mudata
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.errors import InputError
from mosaicvi.inspect.describe import describe


def matrix() -> sparse.csr_matrix:
    return sparse.random(20, 10, 0.3, format="csr", dtype=np.float32, random_state=0)


def unsound(which: str) -> sparse.csr_matrix:
    x = matrix()
    x.data[:] = 1
    if which == "decreases":
        x.indptr[3] = 0
        x.indptr[2] = 5
    elif which == "passes the data":
        x.indptr[-1] = 1000
    elif which == "below 0":
        x.indices[4] = -1
    else:
        x.indices[4] = 2_000_000_000
    return x


FAULTS = ("decreases", "passes the data", "below 0", "far out")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("use", ["register", "describe", "combine"])
def test_an_unsound_matrix_in_memory_is_one_line(fault: str, use: str) -> None:
    adata = AnnData(sparse.csr_matrix((20, 10), dtype=np.float32))
    adata._X = unsound(fault)
    uses: dict[str, Callable[[], object]] = {
        "register": lambda: register(adata, Setup(modalities=("rna",))),
        "describe": lambda: describe(adata),
        "combine": lambda: combine({"a": adata}),
    }
    with pytest.raises(InputError, match="no sound sparse matrix") as caught:
        uses[use]()
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["X", "layers/counts", "raw/X", "obsm/proteins", "obsp/near", "matrix"])
def test_an_unsound_matrix_in_a_file_is_one_line(tmp_path: Path, fault: str, place: str) -> None:
    x = unsound(fault)
    path = tmp_path / "a.h5"
    if place == "matrix":
        with h5py.File(path, "w") as file:
            group = file.create_group("matrix")
            group["shape"] = [10, 20]
            group["barcodes"] = np.array([f"c{i}" for i in range(20)], "S")
            for key in ("name", "id"):
                group[f"features/{key}"] = np.array([f"g{i}" for i in range(10)], "S")
            for key in ("data", "indices", "indptr"):
                group[key] = getattr(x, key)
    else:
        adata = AnnData(matrix(), layers={"counts": matrix()})
        adata.raw = adata.copy()
        adata.obsm["proteins"] = matrix()
        near = matrix()
        adata.obsp["near"] = sparse.csr_matrix((near.data, near.indices, near.indptr), shape=(20, 20))
        adata.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            for key in ("data", "indices", "indptr"):
                file[f"{place}/{key}"][:] = getattr(x, key)
    with pytest.raises(InputError, match="no sound sparse matrix") as caught:
        read(path)
    assert len(caught.value.problems) == 1


def test_an_unsound_matrix_of_obsm_is_one_line() -> None:
    adata = AnnData(matrix(), obsm={"p": matrix(), "protein_expression": matrix()})
    adata.obsm["p"].indptr[2] = 1000
    with pytest.raises(InputError, match=r"obsm\['p'\] is no sound sparse matrix"):
        to_mudata(adata, from_obsm={"adt": "p"})
    adata.obsm["protein_expression"].indices[0] = 2_000_000_000
    with pytest.raises(InputError, match=r"obsm\['protein_expression'\] is no sound sparse matrix"):
        to_mudata(adata)


def small(path: Path, change: Callable[[h5py.File], object]) -> Path:
    AnnData(matrix()).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def many_ways(file: h5py.File) -> None:
    """A group in a group, each by two names: 2 to the 30 paths."""
    group = file["uns"]
    for _ in range(30):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner


def outside(file: h5py.File) -> None:
    file["obs"].create_dataset("x", (20,), dtype="S10", external=[("/etc/passwd", 0, 200)])
    file["obs"].attrs["column-order"] = ["x"]


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(20,), dtype="i8")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(20,))
    file["obs"].create_virtual_dataset("x", layout)


WRONG: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "external storage": (outside, "outside of the file"),
    "external link": (lambda f: f["uns"].__setitem__("x", h5py.ExternalLink("b.h5", "/X")), "outside of the"),
    "virtual": (virtual, "outside of the file"),
    "a group in itself": (lambda f: f["uns"].__setitem__("x", f["/"]), "in a circle"),
    "a soft link to itself": (lambda f: f["uns"].__setitem__("x", h5py.SoftLink("/uns/x")), "in a circle"),
    "2 to the 30 paths": (many_ways, "more groups and arrays"),
    "8 TB of nothing": (
        lambda f: f["uns"].create_dataset("x", (10**12,), dtype="f8", chunks=(1000,)),
        "next to nothing is stored",
    ),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_file_stays_inside_itself(tmp_path: Path, name: str) -> None:
    change, words = WRONG[name]
    with pytest.raises(InputError, match=words) as caught:
        read(small(tmp_path / "a.h5ad", change))
    assert len(caught.value.problems) == 1


def test_names_that_link_to_the_same_array_are_read(tmp_path: Path) -> None:
    path = small(tmp_path / "a.h5ad", lambda f: f["obs"].__setitem__("again", f["obs/_index"]))
    assert read(path).n_obs == 20


@pytest.mark.parametrize("name", ["a.csv.gz", "matrix.mtx.gz"])
def test_a_bomb_takes_little_time_and_memory(tmp_path: Path, name: str) -> None:
    if name == "a.csv.gz":
        with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
            for _ in range(640):
                file.write(b"0" * (1 << 20))
    else:
        with gzip.open(tmp_path / name, "wt") as file:
            file.write("%%MatrixMarket matrix coordinate integer general\n100000 100000 9000000000\n1 1 1\n")
        for part in ("barcodes", "features"):
            (tmp_path / f"{part}.tsv").write_text("".join(f"n{i}\n" for i in range(100_000)))
    code = (
        "import sys, resource, mosaicvi\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: mosaicvi.read(sys.argv[1])\n"
        "except mosaicvi.InputError as e: print(len(e.problems))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    path = tmp_path if name.startswith("matrix") else tmp_path / name
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    n_lines, kib = map(int, done.stdout.split())
    assert n_lines == 1
    assert kib < 700 * 1024
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60
