"""What headers and names say: cells, features or values."""

from __future__ import annotations

import re

import pandas as pd

CELL_HEADERS = {
    *("cell", "cells", "cellid", "cellname", "cellbarcode", "barcode", "barcodes", "obs", "obsnames"),
    *("sample", "samples", "sampleid", "samplename"),
}
FEATURE_HEADERS = {
    *("gene", "genes", "geneid", "genename", "genesymbol", "symbol", "feature", "features", "featureid"),
    *("protein", "proteins", "peptide", "peptides", "antibody", "adt", "peak", "peaks", "var", "varnames"),
    *("proteingroup", "proteingroups", "proteinid", "proteinids", "majorityproteinids", "proteinaccession"),
    *("pgproteingroups", "uniprot", "uniprotid", "accession", "assay", "olinkid"),
}
VALUE_HEADERS = {
    *("count", "counts", "value", "values", "npx", "umi", "umis", "umicount", "nreads", "expression"),
    *("intensity", "abundance", "quantity"),
}
BARCODE = re.compile(r"[ACGT]{10,}([-_.][A-Za-z]*\d+)?")
NAMED_BARCODE = re.compile(r".*[_:#.-][ACGT]{10,}([-_.]\w+)?")
_UNIPROT = r"([OPQ]\d[A-Z\d]{3}\d|[A-NR-Z]\d([A-Z][A-Z\d]{2}\d){1,2})(-\d+)?"
FEATURE_ID = re.compile(
    r"ENS[A-Z]*G\d{6,}(\.\d+)?|(chr)?[\dXYM]{1,2}[:_-]\d+[_-]\d+|chr\w+[:_-][\d,]+([_:-]|\.\.)[\d,]+"
    rf"|{_UNIPROT}(;{_UNIPROT})*|(sp|tr)\|{_UNIPROT}\|\w+"
)


def plain(header: object) -> str:
    """A header without case and signs: ``Protein.Group`` and ``protein group`` are ``proteingroup``."""
    return re.sub(r"[^a-z0-9]", "", str(header or "").lower())


def mostly(names: pd.Index[str], pattern: re.Pattern[str], *, look_at: int = 1000) -> bool:
    """Whether more than half of the first names are of a pattern."""
    looked_at = [str(name) for name in names[:look_at]]
    return 2 * sum(pattern.fullmatch(name) is not None for name in looked_at) > len(looked_at)
