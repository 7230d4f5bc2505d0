from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicvi.data.combine.intervals import chromosome, parse_peaks, unify_peaks


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[("1", "chr1"), ("chr1", "chr1"), ("Chr1", "chr1"), ("x", "chrX"), ("MT", "chrM"), ("chrM", "chrM")],
        *[("2L", "chr2L"), ("GL000194.1", "GL000194.1"), ("chrUn_KI270742v1", "chrUn_KI270742v1")],
    ],
)
def test_chromosome_names(name: str, expected: str) -> None:
    assert chromosome(name) == expected


def test_spellings_of_peaks() -> None:
    got = parse_peaks(
        ["chr1:10-20", "chr1-10-20", "1_10_20", "GL000194.1-5-9", "chrUn_K2:1-2", "gene", "chr1:20-10"]
    )
    assert got["chromosome"].tolist()[:5] == ["chr1", "chr1", "chr1", "GL000194.1", "chrUn_K2"]
    assert list(zip(got["start"], got["end"], strict=True)) == [(10, 20)] * 3 + [
        (5, 9),
        (1, 2),
        (-1, -1),
        (-1, -1),
    ]


def test_union_of_overlaps() -> None:
    got = unify_peaks(
        {"a": ["chr1:100-200", "chr1:200-300", "chr2:5-9", "odd"], "b": ["1:150-180", "1:290-400", "2:9-12"]}
    )
    assert got == {
        "a": ["chr1:100-200", "chr1:200-400", "chr2:5-9", "odd"],
        "b": ["chr1:100-200", "chr1:200-400", "chr2:9-12"],
    }


def test_a_long_peak_joins_those_inside_it() -> None:
    got = unify_peaks({"a": ["chr1:0-100"], "b": ["chr1:10-20", "chr1:50-60", "chr1:100-101"]})
    assert got["b"] == ["chr1:0-100", "chr1:0-100", "chr1:100-101"]


intervals = st.tuples(st.sampled_from("12"), st.integers(0, 60), st.integers(1, 12))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(intervals, max_size=8, unique=True), min_size=1, max_size=3))
def test_unions_cover_exactly_what_the_peaks_cover(sets: list[list[tuple[str, int, int]]]) -> None:
    peaks = {str(i): [f"chr{c}:{s}-{s + n}" for c, s, n in every] for i, every in enumerate(sets)}
    unions = unify_peaks(peaks)

    def bases(name: str) -> set[tuple[str, int]]:
        chrom, _, span = name.partition(":")
        start, end = map(int, span.split("-"))
        return {(chrom, base) for base in range(start, end)}

    covered = [bases(name) for every in peaks.values() for name in every]
    after = [bases(name) for name in {name for every in unions.values() for name in every}]
    assert set().union(*after) == set().union(*covered)
    assert sum(map(len, after)) == len(set().union(*after))  # unions do not overlap
    for dataset, every in peaks.items():
        assert all(bases(p) <= bases(u) for p, u in zip(every, unions[dataset], strict=True))


def test_other_spellings_of_peaks() -> None:
    got = parse_peaks(["chr1:1:500", "chr1:1,000-1,500", "chr1:1..500", "chrUn_K2:1,000..2,000"])
    assert got["chromosome"].tolist() == ["chr1", "chr1", "chr1", "chrUn_K2"]
    assert got["start"].tolist() == [1, 1000, 1, 1000]
    assert got["end"].tolist() == [500, 1500, 500, 2000]
