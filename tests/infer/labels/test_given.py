from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mosaicvi.infer.labels import has_label


@pytest.mark.parametrize("kind", ["object", "category"])
def test_missing_values_and_those_named_are_no_labels(kind: str) -> None:
    column = pd.Series(["B", "unknown", None, np.nan, "Unassigned"], dtype=kind)
    assert list(has_label(column)) == [True, False, False, False, True]
    assert list(has_label(column.replace("unknown", "Unknown").astype(kind))) == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert list(has_label(column, "Unassigned")) == [True, True, False, False, False]
    assert list(has_label(column, ["Unassigned", "unknown"])) == [True, False, False, False, False]


def test_numbers_are_labels_by_their_text() -> None:
    assert list(has_label(pd.Series([1, -1, 2]), "-1")) == [True, False, True]
