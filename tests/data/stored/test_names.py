"""Names that stay out of memory are the same names."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from mudata import MuData, set_options

from mosaicvi import MosaicVI
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.splits import names_digest
from mosaicvi.data.stored import names as module
from mosaicvi.data.stored.names import StoredNames, plain, read_names, repeated
from mosaicvi.errors import InputError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of any number of cells stay on disk."""
    monkeypatch.setattr(module, "MANY", 1)


def stored(names: list[str]) -> pd.Index:
    return pd.Index(StoredNames._from_sequence(names))


@given(names=st.lists(TEXT, min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_they_are_the_strings_they_were_made_of(names: list[str]) -> None:
    found, wanted = stored(names), pd.Index(names, dtype=object)
    assert plain(found).equals(wanted)
    assert [found[i] for i in range(len(names))] == names
    assert plain(found[::2]).equals(wanted[::2])
    assert plain(found[np.arange(len(names))[::-1]]).equals(wanted[::-1])
    np.testing.assert_array_equal(repeated(found), wanted.duplicated())
    np.testing.assert_array_equal(found == stored(names), True)
    np.testing.assert_array_equal(found == wanted, True)
    np.testing.assert_array_equal(found[:1] == stored(["another name"]), [False])
    if wanted.is_unique:
        np.testing.assert_array_equal(found.get_indexer(wanted[::-1]), np.arange(len(names))[::-1])


def test_missing_places_are_strings_with_gaps() -> None:
    found = pd.Series([1, 2], index=stored(["a", "b"])).reindex(["b", "c"])
    assert found.index.tolist() == ["b", "c"]
    assert found["b"] == 2
    assert np.isnan(found["c"])


@pytest.mark.parametrize("names", [["a1", "bb", "ccc"], ["é", "日本", "x"]])
@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_they_are_read_from_a_file(names: list[str], kind: str, tmp_path: Path, few: None) -> None:
    if kind == "h5":
        file = h5py.File(tmp_path / "a.h5", "w")
        array = file.create_dataset("names", data=np.array(names, object), dtype=h5py.string_dtype())
    else:
        array = zarr.open_group(str(tmp_path / "a.zarr"), mode="w").create_array(
            "names", shape=3, chunks=2, dtype=str
        )
        array[:] = np.array(names)
    found = read_names(array)
    assert found is not None
    assert isinstance(found.array, StoredNames)
    assert plain(found).tolist() == names


@pytest.mark.parametrize("kind", ["O", "T"])
def test_zeros_at_the_end_of_a_name_are_not_lost(kind: str) -> None:
    if kind == "T" and not hasattr(np.dtypes, "StringDType"):
        pytest.skip("numpy before version 2 has no strings of any length")
    dtype = np.dtype("O") if kind == "O" else np.dtypes.StringDType()
    packed = module._packed(np.array(["a", "bc"], dtype))
    assert packed is not None
    assert packed.tolist() == [b"a", b"bc"]
    assert module._packed(np.array(["a\0", "b"], dtype)) is None


def test_few_names_are_strings(tmp_path: Path) -> None:
    array = zarr.open_group(str(tmp_path / "a.zarr"), mode="w").create_array("names", shape=2, dtype=str)
    assert read_names(array) is None


def mosaic_of(path: Path) -> MuData:
    """RNA of the first 40 of 60 cells and ATAC of the last 40, written as a store."""
    rng = np.random.default_rng(0)
    names = np.array([f"cell{i}" for i in range(60)], object)
    mods = {}
    for name, which in (("rna", slice(0, 40)), ("atac", slice(20, 60))):
        x = sp.csr_matrix(rng.poisson(1.0, (40, 12)).astype(np.float32))
        features = [f"{name}{i}" for i in range(12)]
        mods[name] = AnnData(x, obs=pd.DataFrame(index=names[which]), var=pd.DataFrame(index=features))
    with warnings.catch_warnings(), set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        mdata = MuData(mods)
        mdata.obs["batch"] = np.where(np.arange(60) % 3 > 0, "a", "b")
        mdata.obs["type"] = np.arange(60) % 4
        mdata.write_zarr(path)
    return mdata


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Mosaic, Mosaic]]:
    """The mosaic with names as strings, and with names on disk."""
    mosaic_of(tmp_path / "a.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = MosaicVI.setup_mudata(tmp_path / "a.zarr", batch_key="batch", in_memory=False)
        monkeypatch.setattr(module, "MANY", 1)
        yield whole, MosaicVI.setup_mudata(tmp_path / "a.zarr", batch_key="batch", in_memory=False)


def test_a_mosaic_with_names_on_disk_is_the_same(both: tuple[Mosaic, Mosaic]) -> None:
    whole, found = both
    assert isinstance(found.cells.array, StoredNames)
    assert not isinstance(whole.cells.array, StoredNames)
    assert found.names().equals(whole.cells)
    assert names_digest(found) == names_digest(whole)
    for one, other in zip(whole.modalities, found.modalities, strict=True):
        np.testing.assert_array_equal(one.row_of_cell, other.row_of_cell)
        np.testing.assert_array_equal(one.library, other.library)
    np.testing.assert_array_equal(whole.group, found.group)


def test_answers_name_cells_by_strings(both: tuple[Mosaic, Mosaic]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = []
        for mosaic in both:
            model = MosaicVI(mosaic, dim_latent=3).train(1, progress=False)
            imputed = model.get_imputed_values(modality="atac", indices=["cell3", "cell1"])
            draws = model.posterior_predictive_sample(modality="atac", indices=[5], n_samples=2)
            answers.append((imputed, draws, model.predict_labels(label_key="type")))
    for one, other in zip(*answers, strict=True):
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other)
            assert other.index.dtype == object
        else:
            np.testing.assert_array_equal(one, other)


def test_a_cell_that_is_there_twice_is_found(tmp_path: Path, few: None) -> None:
    mosaic_of(tmp_path / "a.zarr")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r+", use_consolidated=False)
    index = group["obs/_index"] if "_index" in group["obs"] else group[f"obs/{group['obs'].attrs['_index']}"]
    names = index[:]
    names[7] = names[6]
    index[:] = names
    zarr.consolidate_metadata(group.store)
    with pytest.raises(InputError, match="cell6"), warnings.catch_warnings(action="ignore"):
        MosaicVI.setup_mudata(tmp_path / "a.zarr", batch_key="batch", in_memory=False)
