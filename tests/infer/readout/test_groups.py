"""Features that are read out together."""

from __future__ import annotations

import numpy as np
import pytest

from mosaicvi.infer.readout.groups import by_pattern


@pytest.mark.parametrize("seed", range(5))
def test_features_are_grouped_by_who_measured_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patterns = rng.random((4, 19)) < 0.5
    patterns[0] = True
    measured = patterns[rng.integers(0, 4, 30)].T
    found = list(by_pattern(measured))
    expected = np.unique(measured.T, axis=0)
    np.testing.assert_array_equal([pattern for pattern, _ in found], expected)
    for pattern, features in found:
        np.testing.assert_array_equal(features, np.flatnonzero((pattern == measured.T).all(1)))
