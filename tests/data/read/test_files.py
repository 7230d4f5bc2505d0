from __future__ import annotations

import builtins
import gzip
import sys
from pathlib import Path

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import io, sparse

from mosaicvi.data.read import dataset_names, mudata_as_it_is, read, read_mudata, to_mudata
from mosaicvi.data.read.table import find_orientation, read_table
from mosaicvi.errors import InputError, MosaicWarning

X = np.array([[1, 0, 2, 0, 3], [0, 4, 0, 5, 0], [6, 0, 0, 0, 7]], np.float32)
BARCODES = ["AAACCTGAGAAACC-1", "AAACCTGAGAAACG-1", "AAACCTGAGAAACT-1"]
NAMES = ["GENE1", "GENE1", "CD4", "CD4", "chr1:10-20"]
IDS = ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003", "CD4", "chr1:10-20"]
TYPES = ["Gene Expression"] * 3 + ["Antibody Capture", "Peaks"]


def dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)


def small() -> AnnData:
    obs = pd.DataFrame({"donor": ["a", "a", "b"]}, index=BARCODES)
    return AnnData(sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=list("abcde")))


def small_mudata() -> MuData:
    with mudata_as_it_is():
        mdata = MuData({"rna": small()[:, :3].copy(), "adt": small()[1:, 3:].copy()})
        mdata.obs["batch"] = ["x", "y", "y"]
    return mdata


def write_10x_h5(path: Path) -> None:
    x_dn = sparse.csc_matrix(X.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["shape"] = np.array(x_dn.shape)
        group["data"] = x_dn.data.astype(np.int32)
        group["indices"] = x_dn.indices
        group["indptr"] = x_dn.indptr
        group["barcodes"] = np.array(BARCODES, "S")
        group["features/name"] = np.array(NAMES, "S")
        group["features/id"] = np.array(IDS, "S")
        group["features/feature_type"] = np.array(TYPES, "S")
        group["features/genome"] = np.array(["GRCh38"] * 5, "S")


def write_mtx(folder: Path, *, gz: bool, prefix: str = "", features: str = "features.tsv") -> None:
    folder.mkdir(exist_ok=True)
    rows = zip(IDS, NAMES, TYPES, strict=True)
    files = {
        "barcodes.tsv": "\n".join(BARCODES),
        features: "\n".join("\t".join(row) for row in rows),
    }
    matrix = folder / f"{prefix}matrix.mtx"
    io.mmwrite(matrix, sparse.coo_matrix(X.T.astype(int)))
    files["matrix.mtx"] = matrix.read_text()
    matrix.unlink()
    for name, text in files.items():
        path = folder / f"{prefix}{name}{'.gz' if gz else ''}"
        with gzip.open(path, "wt") if gz else path.open("w") as file:
            file.write(text)


def assert_split(mdata: MuData) -> None:
    assert list(mdata.mod) == ["rna", "adt", "atac"]
    np.testing.assert_array_equal(dense(mdata["rna"]), X[:, :3])
    np.testing.assert_array_equal(dense(mdata["adt"]), X[:, 3:4])
    np.testing.assert_array_equal(dense(mdata["atac"]), X[:, 4:])
    assert list(mdata.obs_names) == BARCODES
    assert list(mdata["rna"].var_names) == [*IDS[:2], "CD4"]
    assert mdata["rna"].X.dtype == np.float32


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_anndata_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    small().write_h5ad(path) if kind == "h5ad" else small().write_zarr(path)
    got = read(path)
    assert isinstance(got, AnnData)
    np.testing.assert_array_equal(dense(got), X)
    assert list(got.obs["donor"]) == ["a", "a", "b"]


@pytest.mark.parametrize("kind", ["h5mu", "zarr"])
def test_mudata_files_keep_their_columns(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    with mudata_as_it_is():
        small_mudata().write_h5mu(path) if kind == "h5mu" else small_mudata().write_zarr(path)
    got = read(path)
    assert isinstance(got, MuData)
    assert list(got.obs) == ["batch"]
    np.testing.assert_array_equal(dense(got["adt"]), X[1:, 3:])


def test_reading_leaves_the_options_of_mudata_alone(tmp_path: Path) -> None:
    before = mudata.set_options(pull_on_update=True)
    try:
        small().write_h5ad(tmp_path / "a.h5ad")
        read_mudata(tmp_path / "a.h5ad")
        assert mudata._core.config.OPTIONS["pull_on_update"] is True
    finally:
        before.__exit__(None, None, None)
    assert mudata._core.config.OPTIONS["pull_on_update"] is None


def test_10x_h5_is_split_by_feature_type(tmp_path: Path) -> None:
    write_10x_h5(tmp_path / "filtered_feature_bc_matrix.h5")
    with pytest.warns(MosaicWarning, match="GENE1.*named by their ids"):
        assert_split(read(tmp_path / "filtered_feature_bc_matrix.h5"))
    with pytest.warns(MosaicWarning):
        assert_split(read(tmp_path))  # the folder that holds it


@pytest.mark.parametrize(
    ("gz", "prefix", "features"), [(True, "", "features.tsv"), (False, "GSM1_", "genes.tsv")]
)
def test_10x_folders(tmp_path: Path, gz: bool, prefix: str, features: str) -> None:
    write_mtx(tmp_path / "run", gz=gz, prefix=prefix, features=features)
    with pytest.warns(MosaicWarning, match="named by their ids"):
        assert_split(read(tmp_path / "run"))


def test_10x_old_genes_and_peaks(tmp_path: Path) -> None:
    x_dn = sparse.coo_matrix(X[:, :2].T.astype(int))
    for name, text in {"genes.tsv": "ENSG1\tA\nENSG2\tB", "peaks.bed": "chr1\t1\t5\nchr2\t3\t9"}.items():
        folder = tmp_path / name
        folder.mkdir()
        io.mmwrite(folder / "matrix.mtx", x_dn)
        (folder / "barcodes.tsv").write_text("\n".join(BARCODES))
        (folder / name).write_text(text)
    assert list(read(tmp_path / "genes.tsv").var_names) == ["A", "B"]
    assert list(read_mudata(tmp_path / "peaks.bed")["atac"].var_names) == ["chr1:1-5", "chr2:3-9"]


def test_10x_h5_of_version_2(tmp_path: Path) -> None:
    x_dn = sparse.csc_matrix(X.T)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        group = file.create_group("GRCh38")
        for key, value in {
            "shape": x_dn.shape,
            "data": x_dn.data,
            "indices": x_dn.indices,
            "indptr": x_dn.indptr,
        }.items():
            group[key] = np.asarray(value)
        group["barcodes"] = np.array(BARCODES, "S")
        group["genes"] = np.array(IDS, "S")
        group["gene_names"] = np.array(list("ABCDE"), "S")
    got = read_mudata(tmp_path / "old.h5")
    assert list(got.mod) == ["rna"]
    np.testing.assert_array_equal(dense(got["rna"]), X)


TABLES = {
    "cells.csv": "cell,g1,NA\nc1,1,0\nc2,0,2.5\n",
    "features.tsv": "gene\tc1\tc2\ng1\t1\t0\nNA\t0\t2.5\n",
    "r.txt": '"c1" "c2"\n"g1" 1 0\n"NA" 0 2.5\n'.replace(" ", "\t"),
    "semicolon.csv": "barcode;g1;NA\nc1;1;0\nc2;0;2.5\n",
}


@pytest.mark.parametrize("name", list(TABLES))
@pytest.mark.parametrize("gz", [False, True])
def test_tables(tmp_path: Path, name: str, gz: bool) -> None:
    path = tmp_path / (name + ".gz" if gz else name)
    with gzip.open(path, "wt") if gz else path.open("w") as file:
        file.write(TABLES[name])
    got = read(path, orientation="features") if name == "r.txt" else read(path)
    assert (list(got.obs_names), list(got.var_names)) == (["c1", "c2"], ["g1", "NA"])
    np.testing.assert_array_equal(dense(got), [[1, 0], [0, 2.5]])
    assert sparse.issparse(got.X)


def test_missing_values_of_a_table_stay_missing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("peptide,s1,s2\np1,1.5,\np2,NA,0\n")
    got = read(tmp_path / "t.csv")
    assert isinstance(got.X, np.ndarray)
    np.testing.assert_array_equal(got.X, np.array([[1.5, np.nan], [np.nan, 0]], np.float32))


@pytest.mark.parametrize("named", ["index", "column"])
def test_parquet(tmp_path: Path, named: str) -> None:
    frame = pd.DataFrame({"g1": [1.0, 0.0], "g2": [np.nan, 2.0]}, index=pd.Index(["c1", "c2"], name="cell"))
    (frame if named == "index" else frame.reset_index()).to_parquet(tmp_path / "t.parquet")
    got = read(tmp_path / "t.parquet")
    np.testing.assert_array_equal(dense(got), frame.to_numpy(np.float32))
    assert list(got.obs_names) == ["c1", "c2"]


@pytest.mark.parametrize(
    ("header", "rows", "columns", "expected"),
    [
        ("cell", ["a"], ["b"], "cells"),
        ("Gene", ["a"], ["b"], "features"),
        ("", BARCODES, ["CD4_TGTTCCCGCTCAACT", "CD8"], "cells"),
        ("", ["x", "y"], BARCODES, "features"),
        ("", ["ENSG00000000001", "ENSG00000000002.3"], ["a", "b"], "features"),
        ("", ["a", "b"], ["chr1:1-2", "chr2-3-4"], "cells"),
        ("", ["donor1_AAACCTGAGAAACC", "donor1_AAACCTGAGAAACG"], ["A", "B"], "cells"),
        ("", ["a", "b"], ["c", "d"], None),
    ],
)
def test_orientation_rules(header: str, rows: list[str], columns: list[str], expected: str | None) -> None:
    frame = pd.DataFrame(0, index=pd.Index(rows, name=header), columns=columns)
    assert find_orientation(frame) == expected


def test_orientation_that_is_said_wins(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("cell,x,y,z\na,1,2,3\n")
    assert read_table(tmp_path / "t.csv").shape == (1, 3)
    assert read_table(tmp_path / "t.csv", orientation="features").shape == (3, 1)


def test_duplicated_features_are_an_error_or_numbered(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("cell,A,A,B\nc1,1,2,3\n")
    with pytest.raises(InputError, match="occur more than once: A; rename them"):
        read(tmp_path / "t.csv")
    with pytest.warns(MosaicWarning, match="numbered feature names.*A"):
        assert list(read(tmp_path / "t.csv", duplicates="number").var_names) == ["A", "A-1", "B"]


def test_one_modality_is_named(tmp_path: Path) -> None:
    assert list(to_mudata(small()).mod) == ["rna"]
    assert list(to_mudata(small(), modality="adt").mod) == ["adt"]
    with_types = small()
    with_types.var["feature_types"] = ["Antibody Capture"] * 5
    assert list(to_mudata(with_types).mod) == ["adt"]
    with_types.var["feature_types"] = ["Peaks", None, "CRISPR Guide Capture", "Peaks", "Peaks"]
    assert list(to_mudata(with_types).mod) == ["atac", "rna", "crispr_guide_capture"]
    assert list(to_mudata(small()).obs) == ["donor"]
    assert to_mudata(mdata := small_mudata()) is mdata


def test_names_of_datasets() -> None:
    assert list(dataset_names(["a/x.h5ad", "b/y.csv.gz", "c/z"])) == ["x", "y", "z"]
    assert list(dataset_names(["d1/filtered.h5", "d2/filtered.h5"])) == ["d1", "d2"]
    runs = ["a.csv", "d1/outs/filtered_feature_bc_matrix.h5", "d2/filtered_feature_bc_matrix", "/outs"]
    assert list(dataset_names(runs)) == ["a", "d1", "d2", "outs"]
    assert list(dataset_names(["/s/d1/f/m.h5", "/s/d2/f/m.h5"])) == ["d1", "d2"]
    assert len(dataset_names(["/x.h5ad", "/a/x.h5ad", "/b/x.h5ad"])) == 3
    with pytest.raises(InputError, match="given more than once"):
        dataset_names(["a/x.h5ad", "a/../a/x.h5ad"])


@pytest.mark.parametrize("kind", ["h5ad", "h5mu", "10x.h5", "csv.gz", "mtx", "zarr", "parquet"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_files_end_in_one_line(tmp_path: Path, kind: str, keep: float) -> None:
    path = tmp_path / f"a.{kind}"
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, (50, 40)).astype(np.float32)
    names = [f"c{i}" for i in range(50)], [f"g{i}" for i in range(40)]
    adata = AnnData(sparse.csr_matrix(x), obs=pd.DataFrame(index=names[0]), var=pd.DataFrame(index=names[1]))
    victim = path
    if kind == "h5ad":
        adata.write_h5ad(path)
    elif kind == "h5mu":
        with mudata_as_it_is():
            MuData({"rna": adata}).write_h5mu(path)
    elif kind == "10x.h5":
        write_10x_h5(path)
    elif kind == "csv.gz":
        adata.to_df().to_csv(path, index_label="cell")
    elif kind == "parquet":
        adata.to_df().to_parquet(path)
    elif kind == "mtx":
        write_mtx(path, gz=True)
        victim = path / "matrix.mtx.gz"
    else:
        adata.write_zarr(path)
        victim = max(
            (p for p in path.rglob("*") if p.is_file() and "X/data" in p.as_posix()),
            key=lambda p: p.stat().st_size,
        )
    content = victim.read_bytes()
    victim.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "extra", "name"), [("zarr", "zarr", "a.zarr"), ("pyarrow", "parquet", "a.parquet")]
)
def test_missing_extras_say_how_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, name: str
) -> None:
    path = tmp_path / name
    small().write_zarr(path) if package == "zarr" else small().to_df().to_parquet(path)
    real = builtins.__import__

    def without(module: str, *args: object, **kwargs: object) -> object:
        if module.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(module, *args, **kwargs)

    for module in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=rf"needs the package {package}; pip install 'mosaicvi\[{extra}\]'"):
        read(path)


def test_files_of_anndata_itself_are_found_by_content(tmp_path: Path) -> None:
    path = tmp_path / "counts.hdf5"
    small().write_h5ad(path)
    assert isinstance(read(path), anndata.AnnData)


def with_proteins(table: object) -> AnnData:
    adata = small()
    adata.obsm["protein_expression"] = table
    return adata


@pytest.mark.parametrize("form", ["table", "array", "sparse"])
def test_proteins_beside_the_genes_are_a_modality(form: str) -> None:
    values = np.array([[3, 0], [0, 0], [0, 8]])
    forms = {
        "table": pd.DataFrame(values, index=BARCODES, columns=["CD3", "CD4"]),
        "array": values,
        "sparse": sparse.csr_matrix(values),
    }
    adata = with_proteins(forms[form])
    adata.uns["protein_names"] = ["CD3", "CD4"]
    with pytest.warns(MosaicWarning, match=r"its 2 proteins .* 'adt'.* 1 cells with only zeros"):
        mdata = to_mudata(adata)
    assert list(mdata.mod) == ["rna", "adt"]
    assert list(mdata.obs_names) == BARCODES
    assert list(mdata.obs["donor"]) == ["a", "a", "b"]
    assert list(mdata["adt"].obs_names) == [BARCODES[0], BARCODES[2]]
    assert list(mdata["adt"].var_names) == ["CD3", "CD4"]
    assert dense(mdata["adt"]).tolist() == [[3, 0], [0, 8]]


def test_proteins_with_missing_entries_stay_dense() -> None:
    adata = with_proteins(np.array([[3, np.nan], [0, 0], [np.nan, np.nan]]))
    with pytest.warns(MosaicWarning, match="adt"):
        adt = to_mudata(adata)["adt"]
    np.testing.assert_array_equal(adt.X, np.array([[3, np.nan], [np.nan, np.nan]], np.float32))
    assert list(adt.var_names) == ["0", "1"]


def test_a_table_of_nothing_is_no_modality() -> None:
    assert list(to_mudata(with_proteins(np.zeros((3, 2)))).mod) == ["rna"]
    assert list(to_mudata(with_proteins(np.ones((3, 2))), modality="adt").mod) == ["adt"]


@pytest.mark.parametrize("kind", ["h5ad", "h5mu"])
def test_indices_of_nullable_strings(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    (small().write_h5ad if kind == "h5ad" else small_mudata().write_h5mu)(path)
    with h5py.File(path, "r+") as file:
        groups = ["obs", "var"] if kind == "h5ad" else ["obs", "var", "mod/rna/obs", "mod/rna/var"]
        for group in groups:
            names = file[f"{group}/_index"].asstr()[:]
            del file[f"{group}/_index"]
            index = file[group].create_group("_index")
            index.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
            values = index.create_dataset("values", data=names.astype(object), dtype=h5py.string_dtype())
            mask = index.create_dataset("mask", data=np.zeros(len(names), bool))
            values.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
            mask.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    got = read(path)
    assert list(got.obs_names) == BARCODES


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip", "a.zarr.zip", "a.h5ad.gz"])
def test_archives_are_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(InputError, match=r"unpack it \((tar -xf|unzip|gunzip)\)"):
        read(tmp_path / name)
