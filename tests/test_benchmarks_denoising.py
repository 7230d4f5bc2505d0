"""benchmarks.denoising: what is hidden, and what is compared."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks import denoising


def test_hidden_entries_are_compared_with_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.log1p(np.random.default_rng(3).poisson(1.0, (30, 9)) + 0.0)
    x[:, 4] = 0
    pd.DataFrame(x).to_csv(tmp_path / "x.csv")
    asked = []

    def found(values: np.ndarray, hidden: np.ndarray, *, epochs: int, seed: int) -> np.ndarray:
        asked.append((values.shape, epochs, seed))
        return np.where(hidden, values + seed + 1, np.nan)

    monkeypatch.setattr(denoising, "denoised", found)
    out = tmp_path / "out.csv"
    page = tmp_path / "from-scvaeit.md"
    page.write_text((Path(__file__).parents[1] / "docs" / page.name).read_text())
    asks = [str(tmp_path / "x.csv"), "--seeds", "2", "--csv", str(out), "--fill", str(page)]
    monkeypatch.setattr(sys, "argv", ["x", *asks])
    denoising.main()
    assert "| 1 | 4 |" in page.read_text()
    assert "| 0 | 0.798 | 0.879 | 0.807 |" not in page.read_text()  # which stood there
    assert asked == [((30, 8), 1000, 0), ((30, 8), 1000, 1)]
    table = pd.read_csv(out, comment="#")
    assert table["mosaicvi"].tolist() == [1, 4]
    kept = np.delete(x, 4, 1)
    for seed in (0, 1):
        hidden = np.random.default_rng(seed).random(kept.shape) < 0.3
        mean = np.array([kept[~hidden[:, j], j].mean() for j in range(8)])
        assert table["gene_means"][seed] == pytest.approx(np.square(kept - mean)[hidden].mean(), rel=1e-3)


def test_values_that_are_hidden_are_not_seen() -> None:
    x = np.log1p(np.random.default_rng(4).poisson(2.0, (24, 6)) + 0.0)
    hidden = np.zeros(x.shape, bool)
    hidden[:, 1] = np.arange(24) % 2 == 0
    one = denoising.denoised(x, hidden, epochs=1, seed=0)
    other = denoising.denoised(np.where(hidden, 99.0, x), hidden, epochs=1, seed=0)
    np.testing.assert_array_equal(one, other)
    assert one.shape == x.shape
