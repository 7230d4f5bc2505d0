from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from mosaicvi.data.combine import combine
from mosaicvi.data.read import read, to_mudata
from mosaicvi.data.read.programs import sample_columns
from mosaicvi.data.read.table import find_orientation
from mosaicvi.errors import InputError, MosaicWarning


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content)
    return path


def dense(adata: object) -> np.ndarray:
    x = adata.X  # type: ignore[attr-defined]
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


PROTEINS = "Protein.Group\tGenes\tLength\tS1\tS2\nP04637\tTP53\t393\t10.5\t\nP38398;Q9Y2\tBRCA1\t1863\t7\t8\n"


def test_annotations_of_a_protein_table_are_kept_apart_by_a_pattern(tmp_path: Path) -> None:
    path = write(tmp_path, "report.pg_matrix.tsv", PROTEINS)
    with pytest.raises(InputError, match=r"column 'Genes' holds 'TP53'.*columns=r'\^S'"):
        read(path)
    got = read(path, columns=r"^S\d")
    assert list(got.obs_names) == ["S1", "S2"]
    np.testing.assert_array_equal(dense(got), np.array([[10.5, 7], [np.nan, 8]], np.float32))
    assert list(got.var["Genes"]) == ["TP53", "BRCA1"]
    assert list(got.var["Length"]) == [393, 1863]


@pytest.mark.parametrize(
    ("numbers", "pattern"),
    [
        (["Score", "LFQ intensity A_1", "LFQ intensity A_2", "LFQ intensity B_1"], "^LFQ intensity "),
        ([f"{q} {s}" for q in ("Peptides", "Intensity", "LFQ intensity") for s in "AB"], "^LFQ intensity "),
        (["A Intensity", "B Intensity", "A MaxLFQ Intensity", "B MaxLFQ Intensity"], " MaxLFQ Intensity$"),
        (["N.Sequences", r"D:\raw\p1\S1.raw", r"D:\raw\p1\S2.raw", r"D:\raw\p2\S3.raw"], r"\.raw$"),
        (["[1] a.raw.PG.Quantity", "[2] b.raw.PG.Quantity"], r"\.Quantity$"),
        (["A Intensity", "B Intensity", "A Spectral Count", "B Spectral Count"], " Intensity$"),
        (["S1", "S2", "S10", "Mass"], "^S"),
        (["alpha", "beta"], None),
        (["Mass"], None),
    ],
)  # fmt: skip
def test_columns_of_samples_are_found_by_what_they_have_in_common(
    numbers: list[str], pattern: str | None
) -> None:
    assert sample_columns(numbers) == pattern
    if pattern:
        re.compile(pattern)


def max_quant(folder: Path) -> Path:
    """Proteins with decoys and contaminants, and intensities of which zeros are missing."""
    n = 12
    frame = pd.DataFrame({"Protein IDs": [f"P{i:05d}" for i in range(n)]})
    frame["Gene names"] = ["G1;G1L", "", *(f"G{i}" for i in range(2, n))]
    frame["Peptides"] = range(n)
    frame["Reverse"] = ["+" if i == 11 else "" for i in range(n)]
    frame["Potential contaminant"] = ["+" if i in (10, 11) else "" for i in range(n)]
    for k in range(3):
        frame[f"LFQ intensity S {k}"] = [0 if i % 4 == k else 100_000 * (i + k + 1) for i in range(n)]
    path = folder / "proteinGroups.txt"
    frame.to_csv(path, sep="\t", index=False)
    return path


def test_the_columns_of_a_protein_table_are_proposed_and_what_is_no_protein_is_left_out(
    tmp_path: Path,
) -> None:
    path = max_quant(tmp_path)
    with pytest.raises(InputError, match=r"columns=r'\^LFQ intensity '; leave"):
        read(path)
    with pytest.warns(MosaicWarning, match=r"left out 2 of 12 rows.* \(Reverse 1, Potential contaminant 2\)"):
        got = read(path, columns="^LFQ intensity ")
    assert got.shape == (3, 10)
    with pytest.warns(MosaicWarning) as said:
        assert read(path, columns="^Peptides").n_obs == 1
    assert any("columns='^Peptides' matches one column, 'Peptides'" in str(w.message) for w in said)


def test_features_are_named_by_an_annotation(tmp_path: Path) -> None:
    path = max_quant(tmp_path)
    with pytest.warns(MosaicWarning, match="left out"):
        got = read(path, columns="^LFQ", names_from="Gene names")
    assert list(got.var_names[:3]) == ["G1", "P00001", "G2"]
    assert list(got.var["original_name"][:2]) == ["P00000", "P00001"]
    with (
        pytest.warns(MosaicWarning, match="left out"),
        pytest.raises(InputError, match=r"no column 'Genes'.*there are: Gene names, Peptides"),
    ):
        read(path, columns="^LFQ", names_from="Genes")


def test_names_before_those_of_an_annotation_are_not_replaced(tmp_path: Path) -> None:
    var = pd.DataFrame({"original_name": ["id0", "id1"], "Genes": ["A", "B"]}, index=["x", "y"])
    AnnData(np.ones((2, 2), np.float32), var=var).write_h5ad(tmp_path / "a.h5ad")
    got = read(tmp_path / "a.h5ad", names_from="Genes")
    assert list(got.var_names) == ["A", "B"]
    assert list(got.var["original_name"]) == ["id0", "id1"]


def test_logarithms_of_intensities_have_gaps_where_these_are_zero(tmp_path: Path) -> None:
    with pytest.warns(MosaicWarning, match="left out"):
        adata = read(max_quant(tmp_path), columns="^LFQ")
    raw = dense(adata)
    with np.errstate(divide="ignore"):
        wanted = np.where(raw > 0, np.log2(raw), np.nan)
    np.testing.assert_allclose(to_mudata(adata, modality="prot", log2=["prot"])["prot"].X, wanted, rtol=1e-6)
    with pytest.warns(
        MosaicWarning, match=r"prot: its values look like raw intensities in a.*log2=\['prot'\]"
    ):
        combine({"a": adata}, modality="prot")
    mdata = combine({"a": adata}, modality="prot", log2=["prot"])
    np.testing.assert_allclose(mdata["prot"].X, wanted, rtol=1e-6)
    zeros = to_mudata(adata, modality="prot", zeros_missing=["prot"])["prot"].X
    np.testing.assert_array_equal(zeros, np.where(raw > 0, raw, np.nan))
    logs = mdata["prot"].copy()
    with pytest.warns(MosaicWarning, match="look like logarithms already"):
        to_mudata(logs, modality="prot", log2=["prot"])
    logs.X = -logs.X
    with pytest.raises(InputError, match="prot has negative values"):
        to_mudata(logs, modality="prot", log2=["prot"])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_decimal_commas(tmp_path: Path, name: str) -> None:
    sign = ";" if name == "a.csv" else "\t"
    lines = ["SampleID;A;B", "s1;12,5;3", "s2;-0,25;1e3"]
    got = read(write(tmp_path, name, "\n".join(lines).replace(";", sign) + "\n"))
    np.testing.assert_array_equal(dense(got), np.array([[12.5, 3], [-0.25, 1000]], np.float32))


def test_a_first_column_of_numbers_is_no_column_of_names(tmp_path: Path) -> None:
    for content in ("PC1,PC2\n0.5,1\n1.5,2\n", "A,B\n1,2\n1,3\n", ",A\n0.5,1\n1.5,2\n"):
        with pytest.raises(InputError, match=r"holds numbers such as .*no names"):
            read(write(tmp_path, "a.csv", content), orientation="cells")
    assert list(read(write(tmp_path, "b.csv", ",A\n0,1\n1,2\n"), orientation="cells").obs_names) == ["0", "1"]
    assert list(read(write(tmp_path, "c.csv", "cell,A\n7,1\n9,2\n")).obs_names) == ["7", "9"]


LONG = {
    "umi_tools": ("gene\tcell\tcount\nA\tc1\t3\nB\tc1\t1\nA\tc2\t2\n", [[3, 1], [2, 0]]),
    "npx": (
        "SampleID\tOlinkID\tAssay\tNPX\tQC\nc1\tO1\tA\t-1.5\tPASS\nc1\tO2\tB\t2\tPASS\nc2\tO1\tA\t0.5\tWARN\n",
        [[-1.5, 2], [0.5, np.nan]],
    ),
}


@pytest.mark.parametrize("name", list(LONG))
def test_long_tables(tmp_path: Path, name: str) -> None:
    content, expected = LONG[name]
    with pytest.warns(MosaicWarning, match="read as a long table"):
        got = read(write(tmp_path, "a.tsv", content))
    assert (list(got.obs_names), list(got.var_names)) == (["c1", "c2"], ["A", "B"])
    np.testing.assert_array_equal(dense(got), np.array(expected, np.float32))


def test_a_long_table_takes_the_names_that_tell_its_values_apart(tmp_path: Path) -> None:
    content = "SampleID,Assay,OlinkID,NPX\nc1,IL6,O1,1.5\nc1,IL6,O2,2.5\nc2,IL6,O1,0.5\n"
    with pytest.warns(MosaicWarning, match="of 'OlinkID'"):
        assert list(read(write(tmp_path, "a.csv", content)).var_names) == ["O1", "O2"]


def test_excel(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"A": [1.0, 2.0], "B": [np.nan, 4.5]}, index=pd.Index(["s1", "s2"], name="sample"))
    frame.to_excel(tmp_path / "a.xlsx")
    got = read(tmp_path / "a.xlsx")
    assert list(got.obs_names) == ["s1", "s2"]
    np.testing.assert_array_equal(dense(got), frame.to_numpy(np.float32))


@pytest.mark.parametrize(
    ("header", "rows", "columns", "expected"),
    [
        ("Protein.Group", ["a"], ["b"], "features"),
        ("Protein IDs", ["a"], ["b"], "features"),
        ("SampleID", ["a"], ["b"], "cells"),
        ("", ["CD335_GTTTGTGG", "CD33_CCAGTGGA"], ["GATTTGCTAGCGTT-s4", "TATAAGTGTAAAGG-s4"], "features"),
        ("", ["sp|P36578|RL4_HUMAN", "sp|Q9P258|RCC2_HUMAN"], ["A", "B"], "features"),
        ("", ["a", "b"], ["chr1:1,000-1,500", "chr2:1..500"], "cells"),
    ],
)
def test_more_headers_and_names(header: str, rows: list[str], columns: list[str], expected: str) -> None:
    frame = pd.DataFrame(1, index=pd.Index(rows, name=header), columns=columns)
    assert find_orientation(frame) == expected
