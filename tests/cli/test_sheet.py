"""Tables of cells beside the data, as R and others write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from mosaicvi.cli.sheet import Sheet
from mosaicvi.errors import InputError


def sheet(folder: Path, *texts: str) -> Sheet:
    paths = [folder / f"{i}.csv" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return Sheet.read(paths)


def cells(names: Sequence[str]) -> AnnData:
    return AnnData(np.ones((len(names), 2), np.float32), obs=pd.DataFrame(index=list(names)))


@pytest.mark.parametrize(
    "text",
    [
        "cell,plate,age\nc1,p1,3\nc2,p2,4\n",
        '"plate" "age"\n"c1" "p1" 3\n"c2" "p2" 4\n',
        "plate\tage\nc1\tp1\t3\nc2\tp2\t4\n",
        '"","plate","age"\n"c1","p1",3\n"c2","p2",4\n',
        "cell;plate;age\nc1;p1;3;\nc2;p2;4;\n",
    ],
    ids=["csv", "write.table", "with tabs", "write.csv", "separators at the ends"],
)
def test_values_are_under_their_own_columns(tmp_path: Path, text: str) -> None:
    data = cells(["c2", "c1"])
    sheet(tmp_path, text).add_to(data)
    assert data.obs["plate"].tolist() == ["p2", "p1"]
    assert data.obs["age"].tolist() == [4, 3]
    assert list(data.obs) == ["plate", "age"]


def test_a_line_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a line has 3 fields, the header 2"):
        sheet(tmp_path, "cell,plate\nc1,p1,3\nc2,p2\n")


def test_names_are_text_and_columns_with_gaps_can_be_written(tmp_path: Path) -> None:
    data = cells(["001", "002", "003"])
    sheet(tmp_path, "cell,is_good,dose\n001,True,1\n002,,2\n").add_to(data)
    data.write_h5ad(tmp_path / "a.h5ad")
    good = read_h5ad(tmp_path / "a.h5ad").obs["is_good"]
    assert good.isna().tolist() == [False, True, True]
    assert bool(good.iloc[0])


def test_the_lines_of_several_tables_count(tmp_path: Path) -> None:
    data = cells(["c1", "c2", "c3"])
    sheet(tmp_path, "cell,plate\nc1,1\nc2,2\n", "cell,plate,sex\nc3,x,f\n").add_to(data)
    assert data.obs["plate"].tolist() == ["1", "2", "x"]
    assert data.obs["sex"].isna().tolist() == [True, True, False]
    data.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="'c1' have 'plate' in two of them"):
        sheet(tmp_path, "cell,plate\nc1,1\n", "cell,plate\nc1,2\n")


def test_cells_of_several_files_are_called_by_their_own_names_or_those_before(tmp_path: Path) -> None:
    data = cells(["c1-a", "c1-b", "c2"])
    data.obs["original_name"] = ["c1", "c1", "c2"]
    sheet(tmp_path, "cell,plate\nc1-a,p1\nc1-b,p2\nc2,p3\n").add_to(data, names="original_name")
    assert data.obs["plate"].tolist() == ["p1", "p2", "p3"]
    one_short = cells(["c2-a"])
    one_short.obs["original_name"] = ["c2"]
    sheet(tmp_path, "cell,plate\nc2,p3\n").add_to(one_short, names="original_name")
    assert one_short.obs["plate"].tolist() == ["p3"]
    del data.obs["plate"]
    with pytest.raises(InputError, match="'c1' is the name of several cells; call them 'c1-a', 'c1-b'"):
        sheet(tmp_path, "cell,plate\nc1,p1\nc2,p3\n").add_to(data, names="original_name")
