"""Inputs that went wrong for somebody: `inspect` says of each what is the matter, or reads it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from mosaicvi.cli import run

CASES = Path(__file__).parents[2] / "shared" / "cases"
PAIR = ["rna=pair-of-tables/cbmc_rna.csv.gz", "adt=pair-of-tables/cbmc_adt.csv.gz"]
RAW = "counts-in-raw/counts_in_raw.h5ad"
PROTEINS = "proteins-in-obsm/prot_in_protein_counts.h5ad"
DIANN = "orientation/report_final.pg_matrix.tsv"

INSPECTED: list[tuple[list[str], int, str]] = [
    (PAIR, 0, "20 cells of the same names.*--pair makes them one"),
    ([*PAIR, "--pair"], 0, "rna – adt +20 +paired"),
    (["one-file-of-two/a.h5ad"], 0, "80 cells"),
    (["no-name-column/pcs.tsv.gz"], 2, "first column, 'PC1', holds numbers.*no names"),
    (["valid-called-damaged/v0.4.1.axis0.h5mu"], 0, "mod1 +100 +20"),
    (["valid-called-damaged/test.loom", "--duplicates", "number"], 0, "rna +200 +20"),
    (["x-is-null/v0.11.4.h5ad"], 2, "X is empty; name the layer with the values, --layer"),
    ([RAW], 0, "look normalised.*--layer rna=raw"),
    ([RAW, "--layer", "rna=raw"], 0, "rna +120 +400 +counts"),
    ([PROTEINS], 0, "protein_counts.*--from-obsm adt=protein_counts"),
    ([PROTEINS, "--from-obsm", "adt=protein_counts"], 0, "adt +120 +14 +counts"),
    (["orientation/ob_counts.csv"], 2, "--orientation cells or --orientation features"),
    (["orientation/ob_counts.csv", "--orientation", "cells"], 0, "rna"),
    (["orientation/reap_protein_2.txt.gz"], 0, "rna +3,158 +48"),
    ([DIANN], 2, "choose the columns of numbers by a pattern, --columns"),
    ([DIANN, "--columns", r"^S\d"], 0, "rna +20 +10"),
    (["ambient-droplets/raw_droplets_nonzero.h5ad"], 0, "most are droplets.*--min-counts rna=10"),
    (["ambient-droplets/raw_probe_bc_matrix.h5"], 0, "most are droplets.*--min-counts rna=10"),
    (["raw-intensities/results_proteins.csv"], 0, "raw intensities; take their logarithm"),
    (["tables-as-they-come/npx_decimal_comma.csv"], 0, "rna +3 +3"),
    (["tables-as-they-come/npx_long.csv"], 0, "long table, 'NPX' of 'Assay' in 'SampleID'"),
    (["tables-as-they-come/umi_tools.tsv.gz"], 0, "long table, 'count' of 'gene' in 'cell'"),
    (
        ["technical-features/filtered_feature_bc_matrix"],
        0,
        "'multiplexing_capture' holds hashtags of samples",
    ),
]


@pytest.mark.skipif(not CASES.exists(), reason="the collection of inputs is not there")
@pytest.mark.parametrize(("arguments", "code", "words"), INSPECTED, ids=lambda v: str(v)[:60])
def test_inspect_tells_what_is_the_matter(
    arguments: list[str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(CASES)
    monkeypatch.setenv("COLUMNS", "200")
    with warnings.catch_warnings():
        assert run(["inspect", *arguments]) == code
    out, err = capsys.readouterr()
    assert re.search(words, " ".join(f"{out} {err}".split("\n"))), out + err
    if code:
        assert err.count("error: ") == 1


@pytest.mark.skipif(not CASES.exists(), reason="the collection of inputs is not there")
def test_a_file_alone_has_the_name_of_its_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES / "one-file-of-two")
    model, both, alone = tmp_path / "model", tmp_path / "both.csv", tmp_path / "alone.csv"
    assert run(["train", "a.h5ad", "b.h5ad", "-o", str(model), "--max-epochs", "1", "-q"]) == 0
    assert run(["embed", str(model), "a.h5ad", "b.h5ad", "-o", str(both), "-q"]) == 0
    assert run(["embed", str(model), "a.h5ad", "-o", str(alone), "-q"]) == 0
    lines = alone.read_text().splitlines()
    assert lines == both.read_text().splitlines()[: len(lines)]
