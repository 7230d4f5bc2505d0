from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mosaicvi.errors import InputError
from mosaicvi.infer.impute import Scale
from mosaicvi.infer.output import ImputedModality
from mosaicvi.infer.table import tables_of, write_tables

CELLS, FEATURES = pd.Index([f"c{i}" for i in range(7)]), ["CD3", "CD,4"]
X = np.random.default_rng(0).lognormal(size=(7, 2)).astype(np.float32)


def part(*, with_interval: bool) -> ImputedModality:
    rows = [slice(0, 3), slice(3, 6), slice(6, 7)]
    return ImputedModality(
        name="adt",
        cells=CELLS,
        measured=np.zeros(7, bool),
        var=pd.DataFrame(index=FEATURES),
        scale=Scale(kind="counts"),
        batch="own",
        values=((r, X[r]) for r in rows),
        interval=((r, X[r] - 1, X[r] + 1) for r in rows) if with_interval else None,
    )


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_tables_hold_every_value_and_both_ends(tmp_path: Path, suffix: str, separator: str) -> None:
    done: list[int] = []
    output = tmp_path / f"adt{suffix}"
    paths = write_tables(output, part(with_interval=True), overwrite=False, advance=done.append)
    assert paths == tables_of(output, with_interval=True)
    assert [path.name for path in paths] == [f"adt{suffix}", f"adt.lower{suffix}", f"adt.upper{suffix}"]
    for path, expected in zip(paths, (X, X - 1, X + 1), strict=True):
        table = pd.read_csv(path, sep=separator, index_col=0)
        assert table.index.name == "cell"
        assert list(table.index) == list(CELLS)
        assert list(table.columns) == FEATURES
        np.testing.assert_allclose(table.to_numpy(), expected, rtol=1e-5, atol=1e-6)
    assert done == [3, 3, 1, 3, 3, 1]  # values, then ends


def test_without_intervals_there_is_one_table(tmp_path: Path) -> None:
    assert write_tables(tmp_path / "a.csv", part(with_interval=False), overwrite=False) == [
        tmp_path / "a.csv"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_all_tables_or_none_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.upper.csv").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        write_tables(tmp_path / "a.csv", part(with_interval=True), overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.upper.csv"]
    assert (tmp_path / "a.upper.csv").read_text() == "mine"
