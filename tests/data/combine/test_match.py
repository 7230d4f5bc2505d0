from __future__ import annotations

import pandas as pd
import pytest

from mosaicvi.data.combine.antibody import adt_key
from mosaicvi.data.combine.match import COLUMNS, match_features
from mosaicvi.errors import InputError


def var(*names: str, **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=list(names))


def rows(report: pd.DataFrame) -> set[tuple[str, ...]]:
    return {tuple(row[1:]) for row in report.itertuples(index=False)}


@pytest.mark.parametrize(
    "name",
    [
        *("CD4", "CD4_GTCCAGGC", "anti-CD4", "CD4_TotalSeqB", "adt_CD4", "CD4 (RPA-T4)", "Hu.CD4-RPA.T4"),
        *("CD4_SK3", "anti-human CD4", "CD4-TotalSeqC0072", "prot_CD4", "CD4_TotalSeqB_ADT", "cd4"),
    ],
)
def test_antibodies_of_one_protein(name: str) -> None:
    assert adt_key(name) == "cd4"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CD3-1", "CD31"),
        ("Mouse-IgG1", "Rat-IgG1"),
        ("CD45RA", "CD45RO"),
        ("HLA-DR", "HLA-ABC"),
        ("CD8a", "CD8b"),
    ],
)
def test_antibodies_of_different_proteins(one: str, other: str) -> None:
    assert adt_key(one) != adt_key(other)


def test_nothing_is_matched_without_rules() -> None:
    got = match_features({"a": var("CD4"), "b": var("cd4")})
    assert got.names == {"a": ["CD4"], "b": ["cd4"]}
    assert got.report.empty
    assert list(got.report) == COLUMNS


def test_the_first_name_counts_and_the_rest_is_reported() -> None:
    got = match_features(
        {"a": var("CD4_GTCCAGGC", "CD8"), "b": var("anti-CD4", "CD19")}, modality="adt", rules=["adt"]
    )
    assert got.names == {"a": ["CD4_GTCCAGGC", "CD8"], "b": ["CD4_GTCCAGGC", "CD19"]}
    assert rows(got.report) == {
        ("b", "anti-CD4", "CD4_GTCCAGGC", "adt"),
        ("a", "CD8", "", "left alone"),
        ("b", "CD19", "", "left alone"),
    }
    assert set(got.report["modality"]) == {"adt"}


def test_two_candidates_are_ambiguous_and_stay() -> None:
    got = match_features({"a": var("CD4_SK3", "CD4_OKT4"), "b": var("CD4")}, rules=["adt"])
    assert got.names == {"a": ["CD4_SK3", "CD4_OKT4"], "b": ["CD4"]}
    assert {row[1] for row in rows(got.report) if row[3] == "adt: ambiguous"} == {
        "CD4_SK3",
        "CD4_OKT4",
        "CD4",
    }


def test_versions_and_case() -> None:
    names = {"a": var("ENSG01.3", "Cd4"), "b": var("ENSG01", "CD4")}
    got = match_features(names, rules=["version", "case"])
    assert got.names["b"] == ["ENSG01.3", "Cd4"]
    assert {row[3] for row in rows(got.report)} == {"version", "case"}


def test_versions_of_two_genes_in_one_dataset_stay_apart() -> None:
    got = match_features({"a": var("AC01.1", "AC01.2"), "b": var("AC01.1")}, rules=["version"])
    assert got.names == {"a": ["AC01.1", "AC01.2"], "b": ["AC01.1"]}


IDS = ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003"]


def test_symbols_against_ids_in_var() -> None:
    features = {
        "symbols": var("A", "B", gene_ids=IDS[:2]),
        "ids": var(f"{IDS[1]}.7", IDS[2], gene_name=["B-old", "C"]),
        "plain": var("B", "C", "D"),
    }
    got = match_features(features, rules=["ensembl"])
    assert got.names == {"symbols": ["A", "B"], "ids": ["B", IDS[2]], "plain": ["B", IDS[2], "D"]}
    matched = {row for row in rows(got.report) if row[2]}
    assert matched == {("ids", f"{IDS[1]}.7", "B", "ensembl"), ("plain", "C", IDS[2], "ensembl")}


def test_a_symbol_of_two_ids_is_left_alone() -> None:
    features = {"a": var("X", gene_ids=IDS[:1]), "b": var("X", gene_ids=IDS[1:2]), "c": var(IDS[0], IDS[1])}
    got = match_features(features, rules=["ensembl"])
    assert got.names["a"] == ["X"]
    assert got.names["b"] == ["X"]
    assert len(set(got.names["c"])) == 2  # never two features of one dataset under one name


def test_overlapping_peaks() -> None:
    got = match_features(
        {"a": var("chr1:1-10"), "b": var("1:5-7", "1:8-20")}, modality="atac", rules=["overlap"]
    )
    assert got.names == {"a": ["chr1:1-20"], "b": ["chr1:1-20"] * 2}
    assert len(got.report) == 3


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(InputError, match="match is 'fuzzy'; choose ensembl or"):
        match_features({"a": var("x")}, rules=["fuzzy"])
