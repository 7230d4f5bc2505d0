from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import io, sparse

from mosaicvi.data.read import read
from mosaicvi.errors import InputError

X = np.array([[1, 0, 2], [0, 3, 4]], np.float32)  # cells x features


def fill(group: h5py.Group) -> None:
    x = sparse.csr_matrix(X)
    for key, value in {"data": x.data, "indices": x.indices, "indptr": x.indptr, "shape": [3, 2]}.items():
        group[key] = value
    group["barcodes"] = np.array(["c1", "c2"], "S")


def test_one_of_several_genomes_of_version_2(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for genome in ("hg19", "mm10"):
            fill(file.create_group(genome))
            for key in ("genes", "gene_names"):
                file[f"{genome}/{key}"] = np.array([f"{genome}_{i}" for i in range(3)], "S")
    with pytest.raises(InputError, match=r"several genomes; choose genome='hg19' \(there are: hg19, mm10\)"):
        read(tmp_path / "a.h5")
    assert list(read(tmp_path / "a.h5", genome="mm10").var_names) == ["mm10_0", "mm10_1", "mm10_2"]


@pytest.mark.parametrize("scalar", [False, True])
def test_genomes_of_version_3(tmp_path: Path, scalar: bool) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        fill(file.create_group("matrix"))
        for key in ("id", "name"):
            file[f"matrix/features/{key}"] = np.array(["A", "B", "C"], "S")
        file["matrix/features/feature_type"] = np.array(["Gene Expression"] * 3, "S")
        file["matrix/features/genome"] = b"hg19" if scalar else np.array(["hg19", "mm10", "hg19"], "S")
    np.testing.assert_array_equal(read(tmp_path / "a.h5").X.toarray(), X)
    wanted = [0, 1, 2] if scalar else [0, 2]
    np.testing.assert_array_equal(read(tmp_path / "a.h5", genome="hg19").X.toarray(), X[:, wanted])
    with pytest.raises(InputError, match="no genome 'rn6'; there are: hg19"):
        read(tmp_path / "a.h5", genome="rn6")


def test_genomes_of_a_folder(tmp_path: Path) -> None:
    io.mmwrite(tmp_path / "matrix.mtx", sparse.coo_matrix(X.T))
    (tmp_path / "barcodes.tsv").write_text("c1\nc2\n")
    (tmp_path / "genes.tsv").write_text("hg19_1\thg19_A\nmm10_1\tmm10_A\nhg19_2\thg19_B\n")
    assert list(read(tmp_path, genome="hg19").var_names) == ["hg19_A", "hg19_B"]


def test_a_list_of_names_that_was_cut_off(tmp_path: Path) -> None:
    io.mmwrite(tmp_path / "matrix.mtx", sparse.coo_matrix(X.T))
    (tmp_path / "barcodes.tsv").write_text("c1\nc2\n")
    (tmp_path / "genes.tsv").write_text("i1\tA\ni2\tB\ni3")
    with pytest.raises(InputError, match=r"genes\.tsv: .*the last line is shorter than others: 'i3"):
        read(tmp_path)
    (tmp_path / "genes.tsv").write_text("i1\tA\ni2\t\ni3\tC\n")  # a gene without a name
    assert list(read(tmp_path).var_names) == ["A", "", "C"]


def test_a_file_with_another_matrix_is_named_by_what_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["matrix"] = np.ones((2, 2))
    with pytest.raises(InputError, match=r"not a format that is read here .HDF5 with matrix"):
        read(tmp_path / "a.h5")
