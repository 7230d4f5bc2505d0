from __future__ import annotations

import pandas as pd
import pytest

from mosaicvi.data.register.features import chromosomes


@pytest.mark.parametrize("form", ["{}:{}-{}", "{}:{}:{}", "{}:{}..{}", "{}-{}-{}", "{}_{}_{}"])
def test_peaks_of_any_spelling_make_blocks(form: str) -> None:
    names = pd.Index(
        [form.format(c, s, e) for c in ("chr1", "chr2") for s, e in (("1", "500"), ("1,000", "1,500"))]
    )
    assert chromosomes(names) == ["chr1", "chr1", "chr2", "chr2"]


def test_genes_make_none() -> None:
    assert chromosomes(pd.Index(["CD3", "peak_1", "HLA-A", "chr1"])) is None
