from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from mosaicvi.data.read import read
from mosaicvi.errors import MosaicWarning


@pytest.mark.parametrize("unique", [True, False])
def test_a_loom_is_read(tmp_path: Path, unique: bool) -> None:
    x_dn = np.arange(6, dtype=float).reshape(2, 3)
    with h5py.File(tmp_path / "a.loom", "w") as file:
        file["matrix"] = x_dn
        file["row_attrs/Gene"] = ["A", "B"]
        file["col_attrs/CellID"] = ["x", "y", "z"] if unique else ["x", "x", "z"]
        file["col_attrs/age"] = [1, 2, 3]
        file.create_group("layers")
    if unique:
        got = read(tmp_path / "a.loom")
    else:
        with pytest.warns(MosaicWarning, match="not unique; numbered"):
            got = read(tmp_path / "a.loom")
    assert list(got.obs_names) == (["x", "y", "z"] if unique else ["cell1", "cell2", "cell3"])
    assert list(got.var_names) == ["A", "B"]
    assert list(got.obs["age"]) == [1, 2, 3]
    np.testing.assert_array_equal(got.X.toarray(), x_dn.T)
