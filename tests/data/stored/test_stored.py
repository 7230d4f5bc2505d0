"""Values that stay in files are the same as in memory, to the bit: registered, gathered, and their sums."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import h5py
import mudata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from mudata import MuData
from numpy.typing import NDArray
from tests.builders import mudata_of, random_mudata

from mosaicvi.data import blocks as blocks_module
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register import register
from mosaicvi.data.register.source import source_of
from mosaicvi.data.registry import Setup
from mosaicvi.data.sampling import RUN, buffered, shuffled, split
from mosaicvi.data.splits import values_digest
from mosaicvi.data.stored import pieces
from mosaicvi.data.stored.open import open_stored
from mosaicvi.data.stored.values import StoredValues
from mosaicvi.errors import InputError, MosaicWarning

SETUP = Setup(batch_key="batch")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that small data have several."""
    monkeypatch.setattr(blocks_module, "ROWS", 5)
    monkeypatch.setattr("mosaicvi.data.stored.values.ROWS", 5)
    monkeypatch.setattr("mosaicvi.data.stored.values.READ_TOGETHER", 100)
    monkeypatch.setattr(pieces, "NEAR", 2)


def registered(data: Any, setup: Setup = SETUP, in_memory: Any = False) -> Mosaic:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        source = source_of(data, setup, in_memory)
        return register(source.data, setup, stored=source.stored)


def written(mdata: MuData, path: Path) -> Path:
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        mdata.write_zarr(path) if path.suffix == ".zarr" else mdata.write_h5mu(path)
    return path


def assert_same(on_disk: Mosaic, in_memory: Mosaic) -> None:
    """Everything that registering says, and every minibatch, is the same to the bit."""
    assert on_disk.registry.to_dict().keys() == in_memory.registry.to_dict().keys()
    np.testing.assert_equal(on_disk.registry.to_dict(), in_memory.registry.to_dict())
    for a, b in zip(on_disk.modalities, in_memory.modalities, strict=True):
        assert isinstance(a.x, StoredValues)
        for name in ("row_of_cell", "panels", "panel_of_row", "library", "scale"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert (a.entry_measured is None) == (b.entry_measured is None)
        for transform in ("none", a.transform):
            for field, value in vars(a.columns(transform)).items():
                np.testing.assert_array_equal(value, getattr(b.columns(transform), field), err_msg=field)
        np.testing.assert_array_equal(a.totals(), b.totals())
        np.testing.assert_array_equal(a.measured(slice(3, 7)), b.measured(slice(3, 7)))
    assert values_digest(on_disk) == values_digest(in_memory)
    index = np.random.default_rng(0).permutation(in_memory.n_cells)[:11]
    other = MinibatchLoader(in_memory).take(index)
    for memory in (1.0, 1e-9):
        batch = MinibatchLoader(on_disk, memory=memory).take(index)
        for one, two in zip(batch.rows, other.rows, strict=True):
            for field, value in vars(one).items():
                same(value, getattr(two, field), field)


def same(one: Any, two: Any, what: str) -> None:
    if hasattr(one, "indptr"):
        for field, value in vars(one).items():
            same(value, getattr(two, field), field)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), what
    else:
        assert one == two, what


@pytest.mark.parametrize(
    ("suffix", "fractions", "panels", "nan"),
    [
        ("zarr", False, True, True),
        ("h5mu", False, True, True),
        ("h5mu", True, False, False),
        ("h5mu", True, True, True),
    ],
)
def test_a_file_is_registered_as_in_memory(
    tmp_path: Path, suffix: str, fractions: bool, panels: bool, nan: bool
) -> None:
    mdata = random_mudata(3, fractions=fractions, panels=panels, nan=nan)
    path = written(mdata, tmp_path / f"m.{suffix}")
    assert_same(registered(path), registered(path, in_memory=True))
    assert "on disk" in repr(registered(path))
    assert not registered(path, in_memory="auto").modalities[0].on_disk


def test_a_backed_object_stays_on_disk(tmp_path: Path) -> None:
    mdata = random_mudata(1, nan=False)
    path = written(mdata, tmp_path / "m.h5mu")
    with mudata.set_options(pull_on_update=False):
        backed = mudata.read_h5mu(path, backed="r")
    assert_same(registered(backed), registered(mdata, in_memory=True))


def test_an_anndata_with_a_layer_and_with_raw(tmp_path: Path) -> None:
    a = random_mudata(2, panels=False)["rna"].copy()
    counts = a.X.copy()
    a.obs["batch"] = ["A", "B"] * (a.n_obs // 2) + ["A"] * (a.n_obs % 2)
    a.raw = AnnData(counts[:, ::-1].tocsr(), var=a.var[::-1], obs=a.obs)
    a.layers["counts"] = sp.csr_matrix(counts, dtype=np.int64)
    a.X = sp.csr_matrix(np.log1p(counts.toarray()))
    a.write_h5ad(tmp_path / "a.h5ad")
    for layer in ("counts", "raw"):
        setup = Setup(batch_key="batch", layers={"rna": layer}, modalities=("rna",))
        assert_same(registered(tmp_path / "a.h5ad", setup), registered(a, setup, in_memory=True))
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    other = Setup(modalities=("rna",), likelihoods={"rna": "Gaussian"})
    assert_same(registered(backed, other), registered(a, other, in_memory=True))


def test_unsorted_doubled_and_zero_entries_are_put_in_order(tmp_path: Path) -> None:
    x = sp.csr_matrix((np.float32([1, 2, 3, 0, 5, 4]), [3, 1, 1, 0, 2, 0], [0, 3, 4, 6]), shape=(3, 4))
    a = AnnData(x)
    a.write_h5ad(tmp_path / "a.h5ad")
    mosaic = registered(tmp_path / "a.h5ad", Setup())
    np.testing.assert_array_equal(
        mosaic.modalities[0].x[np.array([2, 0, 1])].toarray(), x.toarray()[[2, 0, 1]]
    )
    assert_same(mosaic, registered(a, Setup(), in_memory=True))


def test_rows_without_anything_measured_are_left_out(tmp_path: Path) -> None:
    mdata = random_mudata(5, panels=False)
    known = mdata["rna"].obs_names.union(mdata["atac"].obs_names)
    mdata["adt"].X[np.flatnonzero(mdata["adt"].obs_names.isin(known))[[1, 2]]] = np.nan
    path = written(mdata, tmp_path / "m.h5mu")
    in_memory = registered(path, in_memory=True)
    assert in_memory.modality("adt").n_cells == mdata["adt"].n_obs - 2
    assert_same(registered(path), in_memory)


def test_values_by_columns_and_no_numbers_are_refused(tmp_path: Path) -> None:
    a = AnnData(sp.csc_matrix(np.eye(3, dtype=np.float32)))
    a.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=r"stored by columns.*in_memory=True"):
        registered(tmp_path / "a.h5ad", Setup())
    AnnData(np.array([["x", "y"]], dtype=object)).write_h5ad(tmp_path / "text.h5ad")
    with pytest.raises(InputError, match="not numbers"):
        registered(tmp_path / "text.h5ad", Setup())


def test_what_cannot_stay_on_disk_says_so(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("cell,g1,g2\nc1,1,2\nc2,0,3\n")
    with pytest.raises(InputError, match=r"in_memory=False needs an \.h5ad, \.h5mu or \.zarr"):
        registered(table, Setup())
    with pytest.raises(InputError, match="are in memory already"):
        registered(random_mudata(0), SETUP)
    with pytest.raises(InputError, match="in_memory: True, False or 'auto', not 'maybe'"):
        registered(table, Setup(), in_memory="maybe")


def test_modalities_in_obsm_are_not_passed_over(tmp_path: Path) -> None:
    a = AnnData(sp.csr_matrix(np.eye(3, dtype=np.float32)))
    a.obsm["protein_counts"], a.uns["protein_names"] = np.arange(6).reshape(3, 2), ["p", "q"]
    a.write_h5ad(tmp_path / "named.h5ad")
    with pytest.raises(InputError, match=r"obsm has 'protein_counts', which cannot be parted on disk"):
        registered(tmp_path / "named.h5ad", Setup())
    del a.uns["protein_names"]  # perhaps no modality, which reading into memory would not take it for either
    a.write_h5ad(tmp_path / "bare.h5ad")
    assert list(registered(tmp_path / "bare.h5ad", Setup()).registry.features) == ["rna"]


def test_cells_that_obs_of_the_whole_lacks_are_there(tmp_path: Path) -> None:
    a, b = (AnnData(sp.csr_matrix(np.eye(4, dtype=np.float32)[:n])) for n in (4, 2))
    path = written(MuData({"rna": a, "adt": b}), tmp_path / "m.h5mu")
    with h5py.File(path, "r+") as file:
        names, about = file["obs/_index"][:3], dict(file["obs/_index"].attrs)
        del file["obs/_index"], file["obsm"], file["obsmap"]
        file["obs/_index"] = names
        file["obs/_index"].attrs.update(about)
    assert_same(registered(path, Setup()), registered(path, Setup(), in_memory=True))


def test_a_damaged_chunk_is_said_in_one_line(tmp_path: Path) -> None:
    path = written(random_mudata(1, nan=False), tmp_path / "m.zarr")
    chunk = tmp_path / "m.zarr/mod/rna/X/data/0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:16] + b"\xff" * (len(whole) - 16))  # as long as its head says
    with pytest.raises(InputError, match=r"m\.zarr: rna.*damaged") as caught:
        registered(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("is_dense", [False, True])
def test_a_store_that_changed_in_its_place_is_another(tmp_path: Path, is_dense: bool) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is an optional extra")
    x = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
    path = tmp_path / "a.zarr"
    AnnData(x if is_dense else sp.csr_matrix(x)).write_zarr(path)

    def identity() -> Any:
        return open_stored(path, {})[1][""].identity()

    before, marks = identity(), {p: p.stat() for p in path.iterdir() if p.is_file()}
    assert identity() == before
    zarr.open(str(path), mode="r+")["X" if is_dense else "X/data"][0] = 7
    assert marks == {p: p.stat() for p in marks}  # what describes the store did not change
    assert identity() != before


@pytest.mark.parametrize("nan", [False, True])
def test_one_factor_after_another_multiplies(tmp_path: Path, nan: bool) -> None:
    on_disk = registered(written(random_mudata(1, nan=nan), tmp_path / "m.h5mu"))
    for data in on_disk.modalities:
        assert isinstance(data.x, StoredValues)
        rng = np.random.default_rng(0)
        factors = rng.uniform(0.5, 2, (2, 3, data.n_features)).astype(np.float32)
        groups = rng.integers(-1, 3, (2, data.n_cells))
        every = np.arange(data.n_cells)
        expected = data.x[every]
        expected = expected if isinstance(expected, np.ndarray) else expected.toarray()
        expected = expected * factors[0][groups[0]] * factors[1][groups[1]]
        found = data.x.times(factors[0], groups[0]).times(factors[1], groups[1])[every]
        found = found if isinstance(found, np.ndarray) else found.toarray()
        np.testing.assert_array_equal(found, expected)


def test_an_index_outside_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    AnnData(sp.csr_matrix(np.eye(3, dtype=np.float32))).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["X/indices"][1] = 7
    with pytest.raises(InputError, match="outside of 0 to 2"):
        registered(path, Setup())


@given(n=st.integers(1, 3000), size=st.integers(1, 400), buffer=st.integers(0, 2000), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_buffers_hold_each_cell_once_in_equal_minibatches(n: int, size: int, buffer: int, seed: int) -> None:
    cells = np.arange(n) * 3
    buffers = list(buffered(cells, size, seed, 1, buffer))
    minibatches = [part for of_buffer in buffers for part in of_buffer]
    np.testing.assert_array_equal(np.sort(np.concatenate(minibatches)), cells)
    lengths = {len(part) for part in minibatches}
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert all(sum(map(len, of_buffer)) <= max(buffer, size) for of_buffer in buffers if buffer)
    again = buffered(cells, size, seed, 1, buffer)
    assert all(map(np.array_equal, minibatches, (part for of_buffer in again for part in of_buffer)))
    if buffer == 0 or buffer >= n + size:
        assert all(map(np.array_equal, minibatches, shuffled(cells, size, seed, 1)))


def whole_order(
    cells: NDArray[np.int64], size: int, seed: int, buffer: int, *, in_order: bool
) -> list[list[NDArray[np.int64]]]:
    """Minibatches by buffer, from the order of all cells at once."""
    n_minibatches = -(-len(cells) // size)
    n_buffers = -(-n_minibatches // max(1, buffer // size))
    rng = np.random.default_rng([seed, 1, 4])
    n_runs = -(-len(cells) // RUN)
    runs = np.roll(np.arange(n_runs), rng.integers(n_runs)) if in_order else rng.permutation(n_runs)
    order = np.concatenate([cells[r * RUN : (r + 1) * RUN] for r in runs])
    groups = np.array_split(np.arange(n_minibatches), n_buffers)
    parts = np.array_split(order, n_minibatches)
    out = []
    for group in groups:
        mixed = rng.permutation(np.concatenate([parts[k] for k in group]))
        out.append(np.split(mixed, np.cumsum([len(parts[k]) for k in group])[:-1]))
    return out


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize(("n", "size", "buffer"), [(20 * RUN - 7, 100, 5 * RUN), (3001, 97, 700)])
def test_buffers_made_one_by_one_are_those_of_the_whole_order(
    n: int, size: int, buffer: int, in_order: bool
) -> None:
    cells = np.flatnonzero(np.arange(2 * n) % 3 > 0)[:n]
    wanted = whole_order(cells, size, 7, buffer, in_order=in_order)
    found = list(buffered(cells, size, 7, 4, buffer, in_order=in_order))
    assert len(found) == len(wanted) > 1
    for of_buffer, expected in zip(found, wanted, strict=True):
        assert len(of_buffer) == len(expected)
        assert all(map(np.array_equal, of_buffer, expected))


def test_a_buffer_is_of_runs_of_neighbours() -> None:
    for of_buffer in buffered(np.arange(20 * RUN), 100, 0, 0, 5 * RUN):
        cells = np.sort(np.concatenate(of_buffer))
        assert np.count_nonzero(np.diff(cells) > 1) <= 6


def test_what_was_stored_in_random_order_is_read_in_order() -> None:
    n = 20 * RUN - 7
    buffers = [np.sort(np.concatenate(b)) for b in buffered(np.arange(n), 100, 0, 3, 5 * RUN, in_order=True)]
    np.testing.assert_array_equal(np.sort(np.concatenate(buffers)), np.arange(n))
    steps = np.concatenate([np.diff(cells) for cells in buffers])
    assert np.count_nonzero(steps > 1) <= 1  # where the last cells and the first ones are in one buffer
    starts = {
        min(next(buffered(np.arange(n), 100, 0, e, 5 * RUN, in_order=True))[0]) // RUN for e in range(5)
    }
    assert len(starts) > 1


def test_a_split_by_runs_keeps_neighbours_together() -> None:
    train, valid = split(1000, 0.8, 0, run=30)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, valid])), np.arange(1000))
    assert not set(train // 30) & set(valid // 30)
    assert 0.7 < len(train) / 1000 < 0.9


@pytest.mark.parametrize("nan", [False, True])
def test_several_files_are_one_mosaic_as_combine_makes_it(tmp_path: Path, nan: bool) -> None:
    paths = {}
    for i, name in enumerate(("a", "b", "c")):
        mdata = random_mudata(
            i, n_genes=4 + i, panels=i == 1, nan=nan, modalities=("rna", "adt")[: 2 - (i == 2)]
        )
        for a in mdata.mod.values():
            a.obs_names = [f"{name}{cell}" for cell in a.obs_names]
        obs = mdata.obs.set_axis([f"{name}{cell}" for cell in mdata.obs_names])
        paths[name] = written(mudata_of(dict(mdata.mod), obs), tmp_path / f"{name}.h5mu")
    setup = Setup(batch_key="dataset")
    assert_same(registered(paths, setup), registered(paths, setup, in_memory=True))
    np.testing.assert_equal(
        registered(list(paths.values()), setup).registry.to_dict(),
        registered(list(paths.values()), setup, in_memory=True).registry.to_dict(),
    )
