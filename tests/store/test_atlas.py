"""A mosaic written block by block is the one that combine makes; shuffled, it has the same cells."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from tests.builders import mudata_of, random_mudata
from tests.data.stored.test_stored import written

from mosaicvi import MosaicVI
from mosaicvi.cli import run
from mosaicvi.data import sampling
from mosaicvi.data.combine import combine, combine_stored
from mosaicvi.data.combine.assemble import Assembled
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.read import read
from mosaicvi.data.stored.values import StoredMatrix, StoredValues
from mosaicvi.errors import InputError
from mosaicvi.store import atlas
from mosaicvi.store.atlas import write_atlas

zarr = pytest.importorskip("zarr", reason="zarr is an optional extra")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("atlas"), {}
    for i, name in enumerate(("a", "b")):
        mdata = random_mudata(i, n_genes=5 + i, panels=i == 1, nan=True, modalities=("rna", "adt"))
        obs = mdata.obs.set_axis([f"{name}{cell}" for cell in mdata.obs_names])
        for part in mdata.mod.values():
            part.obs_names = [f"{name}{cell}" for cell in part.obs_names]
        found[name] = written(mudata_of(dict(mdata.mod), obs), folder / f"{name}.h5mu")
    return found


def dense(a: AnnData) -> np.ndarray:
    return a.X.toarray() if sp.issparse(a.X) else np.asarray(a.X)


def assert_same_cells(found: MuData, expected: MuData) -> None:
    assert set(found.obs_names) == set(expected.obs_names)
    assert found.obs.loc[expected.obs_names, "dataset"].tolist() == expected.obs["dataset"].tolist()
    for name, a in expected.mod.items():
        b = found.mod[name][a.obs_names]
        np.testing.assert_array_equal(dense(b), dense(a))
        assert b.varm["measured"].equals(a.varm["measured"])
        assert sp.issparse(b.X) == sp.issparse(a.X)


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_store_is_the_mosaic(
    paths: dict[str, Path], tmp_path: Path, shuffle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "CHUNK", 16)
    monkeypatch.setattr(atlas, "CHUNKS", 2)
    monkeypatch.setattr(atlas, "AT_A_TIME", 4)
    monkeypatch.setattr(atlas, "SHUFFLED_TOGETHER", 500)
    monkeypatch.setattr(sampling, "RUN", 2)
    rows = 0

    def count(n: int) -> None:
        nonlocal rows
        rows += n

    write_atlas(tmp_path / "atlas.zarr", combine_stored(paths), shuffle=shuffle, advance=count)
    in_memory = Assembled(mdata=combine(paths), stored={})
    write_atlas(tmp_path / "from-memory.zarr", in_memory, shuffle=shuffle)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, expected = read(tmp_path / "atlas.zarr"), combine(paths)
    for name in ("atlas", "from-memory"):
        found = read(tmp_path / f"{name}.zarr")
        assert isinstance(found, MuData)
        assert_same_cells(found, expected)
    assert (list(found.obs_names) != list(expected.obs_names)) is shuffle
    assert rows == sum(a.n_obs for a in expected.mod.values())
    assert found.uns["mosaicvi"]["panel_key"] == expected.uns["mosaicvi"]["panel_key"]


@pytest.mark.parametrize("shuffle", [False, True])
def test_training_knows_whether_the_store_was_shuffled(
    paths: dict[str, Path], tmp_path: Path, shuffle: bool
) -> None:
    write_atlas(tmp_path / "atlas.zarr", combine_stored(paths), shuffle=shuffle)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mosaic = MosaicVI.setup_mudata(tmp_path / "atlas.zarr", batch_key="dataset", in_memory=False)
    assert MinibatchLoader(mosaic).in_order is shuffle
    x = mosaic.modality("rna").x
    assert isinstance(x, StoredValues)
    assert not StoredMatrix(2 * x.matrix.pieces).is_shuffled  # two files are below one another


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed, which this system cannot fork")
def test_the_same_command_starts_over_after_a_kill(paths: dict[str, Path], tmp_path: Path) -> None:
    command = ["combine", *map(str, paths.values()), "--output", str(tmp_path / "atlas.zarr"), "--quiet"]
    pid = os.fork()
    if not pid:
        atlas.SparseStore.close = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        os._exit(run(command))
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "atlas.zarr").exists()
    assert len(list(tmp_path.iterdir())) == 1  # what was half written
    assert run(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.zarr"]
    assert_same_cells(read(tmp_path / "atlas.zarr"), combine(paths))  # type: ignore[arg-type]


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    x = sp.csr_matrix(np.array([[1, np.nan], [0, 2]], np.float32))
    AnnData(x).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="sparse matrix with NaN"):
        write_atlas(tmp_path / "atlas.zarr", combine_stored({"a": tmp_path / "a.h5ad"}))


def test_the_command_line_combines_into_a_store(
    paths: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "atlas.zarr"
    assert run(["combine", *map(str, paths.values()), "--output", str(output), "--shuffle"]) == 0
    assert "Wrote" in capfd.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, expected = read(output), combine(paths)
    assert isinstance(found, MuData)
    assert_same_cells(found, expected)
    assert run(["combine", *map(str, paths.values()), "--output", str(output)]) == 2
    assert "exists" in capfd.readouterr().err
    other = str(tmp_path / "m.h5mu")
    assert run(["combine", *map(str, paths.values()), "--output", other, "--shuffle"]) == 2
    assert "--shuffle: " in capfd.readouterr().err


def test_a_byte_of_a_chunk_that_changed_is_said_in_one_line(paths: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "atlas.zarr"
    write_atlas(store, combine_stored(paths))
    shard = store / "mod/rna/X/data/c/0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"atlas\.zarr: rna.*damaged") as caught:
        MosaicVI.setup_mudata(store, batch_key="dataset", in_memory=False)
    assert "\n" not in str(caught.value)
