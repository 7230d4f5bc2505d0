from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mosaicvi.data.read import read
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
    with pytest.raises(InputError, match=r"column 'Genes' holds 'TP53'.*columns='\^Length'"):
        read(path)
    got = read(path, columns=r"^S\d")
    assert list(got.obs_names) == ["S1", "S2"]
    np.testing.assert_array_equal(dense(got), np.array([[10.5, 7], [np.nan, 8]], np.float32))
    assert list(got.var["Genes"]) == ["TP53", "BRCA1"]
    assert list(got.var["Length"]) == [393, 1863]


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
