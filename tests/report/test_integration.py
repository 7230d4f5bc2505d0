from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

from mosaicvi.metrics import neighbor_label_agreement
from mosaicvi.report.integration import Metric, integration


def numbers(found: list[Metric]) -> dict[str, float]:
    return {m.name: m.value for m in found}


def test_cells_without_a_label_count_neither_as_a_type_nor_as_neighbours() -> None:
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2], 60)
    z = rng.normal(size=(180, 4)).astype(np.float32)
    z[kind == 1] += 2
    z[kind == 2] -= 2
    batch = pd.Series(np.tile(["a", "b"], 90))
    pattern = pd.Series("rna", index=batch.index)
    labels = pd.Series(np.array(["B", "T", "NK"], object)[kind])
    labels[rng.permutation(180)[:90]] = None
    known = labels.notna().to_numpy()
    found = numbers(integration(z, batch, pattern, labels))
    alone = numbers(
        integration(*(x[known] for x in (z, batch, pattern, labels)))  # type: ignore[arg-type]
    )
    of_labels = [name for name in found if "abel" in name]
    assert len(of_labels) == 5
    assert {name: found[name] for name in of_labels} == {name: alone[name] for name in of_labels}
    assert found["Neighbours of the same label"] == pytest.approx(
        neighbor_label_agreement(z[known], labels[known].to_numpy())
    )
    assert found["Silhouette of labels"] == pytest.approx(silhouette_score(z[known], labels[known]))


@pytest.mark.parametrize("labels", [["B"] * 50 + [None] * 50, ["B", "T"] * 9 + [None] * 82])
def test_one_type_or_few_labelled_cells_are_not_scored(labels: list[str | None]) -> None:
    z = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    one = pd.Series("a", index=range(100))
    assert integration(z, one, one, pd.Series(labels, dtype=object)) == []
