"""Features of new data that are written otherwise than the model's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi import InputError
from mosaicvi.data.register import register
from mosaicvi.data.register.names import overlapping
from mosaicvi.data.register.query import align_to_model, told
from mosaicvi.data.registry import Registry, Setup


def data(names: list[str], values: np.ndarray | None = None, **var: list[str]) -> AnnData:
    x = np.arange(1, 2 * len(names) + 1).reshape(2, -1).astype(np.float32) if values is None else values
    return AnnData(sp.csr_matrix(x), obs=pd.DataFrame(index=["c0", "c1"]), var=pd.DataFrame(var, index=names))


def knows(names: list[str]) -> Registry:
    return register(data(names), Setup(modalities=("rna",), likelihoods={"rna": "NB"})).registry


def values(query: AnnData, known: list[str], rule: str) -> tuple[np.ndarray, pd.DataFrame]:
    registry = knows(known)
    made = told(query, registry, match={"rna": rule})
    aligned = align_to_model(made, registry)
    assert list(aligned.var_names) == known
    return aligned.X.toarray(), made.uns["mosaicvi"]["matches"]


@pytest.mark.parametrize(
    ("rule", "known", "query", "column"),
    [
        ("case", ["Cd4", "Cd8a"], data(["CD8A", "CD4"]), [1, 0]),
        ("version", ["ENSG00000141510", "ENSG1"], data(["ENSG1.7", "ENSG00000141510.18"]), [1, 0]),
        (
            "ensembl",
            ["TP53", "CD4"],
            data(["ENSG00000010610", "ENSG00000141510"], gene_symbols=["CD4", "TP53"]),
            [1, 0],
        ),
        ("adt", ["CD3", "CD19"], data(["CD19_TotalSeqB", "anti-CD3"]), [1, 0]),
    ],
)  # fmt: skip
def test_names_are_matched_by_rules_and_reported(
    rule: str, known: list[str], query: AnnData, column: list[int]
) -> None:
    found, report = values(query, known, rule)
    np.testing.assert_array_equal(found, query.X.toarray()[:, column])
    assert report.set_index("original")["matched_to"].to_dict() == {
        query.var_names[c]: name for name, c in zip(known, column, strict=True)
    }
    assert set(report["rule"]) == {rule}


def test_peaks_are_those_that_they_overlap_most_and_their_counts_add_up() -> None:
    known = ["chr1:100-200", "chr1:300-400", "chr2:50-90"]
    query = data(["chr1:90-150", "chr1:160-320", "1_310_390", "chr2:90-95", "chr3:1-5"])
    found, report = values(query, known, "overlap")
    x = query.X.toarray()
    np.testing.assert_array_equal(found, np.c_[x[:, 0] + x[:, 1], x[:, 2], 0 * x[:, 0]])
    assert report["matched_to"].tolist() == ["chr1:100-200", "chr1:100-200", "chr1:300-400"]


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_the_largest_overlap_is_found(draw: st.DataObject) -> None:
    interval = st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 30), st.integers(1, 12))
    some = draw.draw(st.lists(interval, min_size=1, max_size=8))
    known = draw.draw(st.lists(interval, min_size=1, max_size=8))
    names, others = ([f"{c}:{a}-{a + n}" for c, a, n in each] for each in (some, known))
    for (c, a, n), place in zip(some, overlapping(names, others), strict=True):
        shared = [min(a + n, b + m) - max(a, b) if c == d else 0 for d, b, m in known]
        if max(shared) <= 0:
            assert place == -1
        else:
            assert shared[place] == max(shared)


def test_what_cannot_be_matched_is_said() -> None:
    registry = knows(["g0", "g1"])
    with pytest.raises(InputError, match="match: no modality 'adt' that the model knows; there are 'rna'"):
        told(data(["g0"]), registry, match={"adt": "case"})
    with pytest.raises(InputError, match="nonsense"):
        told(data(["g0"]), registry, match={"rna": "nonsense"})
