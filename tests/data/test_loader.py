"""Minibatches: their sparse rows are the dense rows, block by block; shuffling and splitting."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import fingerprint, random_mudata, truth

from mosaicvi.data import loader as loader_module
from mosaicvi.data.blocks import distinct_rows
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import transformed
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.data.sampling import drawn_features, shuffled, split
from mosaicvi.engine import threads as workers
from mosaicvi.errors import MosaicWarning


def mosaic_of(mdata: object, **setup: object) -> Mosaic:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return register(mdata, Setup(batch_key="batch", **setup))  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    picks=st.lists(st.integers(0, 23), min_size=1, max_size=30),
    fractions=st.booleans(),
    panels=st.booleans(),
    n_workers=st.sampled_from([1, 3]),
)
def test_slices_equal_the_dense_rows(
    seed: int, picks: list[int], fractions: bool, panels: bool, n_workers: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader_module, "WORTH_SHARING", 0)
        patch.setattr(workers, "n_workers", lambda: n_workers)
        _check_slices(seed, picks, fractions=fractions, panels=panels)


def _check_slices(seed: int, picks: list[int], *, fractions: bool, panels: bool) -> None:
    mdata = random_mudata(seed, fractions=fractions, panels=panels)
    before = fingerprint(mdata)
    mosaic = mosaic_of(mdata)
    index = np.array(picks)
    batch = MinibatchLoader(mosaic).take(index)
    assert batch.n_cells == len(picks)
    np.testing.assert_array_equal(batch.index, index)
    np.testing.assert_array_equal(batch.covariates, mosaic.covariates[index])
    np.testing.assert_array_equal(batch.group, mosaic.group[index])
    for data, rows in zip(mosaic.modalities, batch.rows, strict=True):
        x, measured = (v[index] for v in truth(mdata, data.name, data.features.names))
        has = data.row_of_cell[index] >= 0
        np.testing.assert_array_equal(rows.cells, np.flatnonzero(has))
        panel = rows.panels[rows.panel].numpy()
        known = panel if rows.entry_measured is None else rows.entry_measured.numpy()
        np.testing.assert_array_equal(known, measured[has])
        assert rows.all_measured == bool(data.panels.all())
        np.testing.assert_allclose(rows.library, np.maximum(x.sum(1), 0)[has], rtol=1e-6)
        if data.standard is not None:
            z = (x.astype(np.float32) - data.standard.centre) / data.standard.spread
            x = np.where(measured, z, 0)
        if rows.dense is not None:
            np.testing.assert_array_equal(rows.dense, x[has].astype(np.float32))
        else:
            _check_sparse(rows, x[has], data.block_sizes)
        np.testing.assert_allclose(
            _dense(rows, transformed(rows), len(data.features.names)),
            _transformed(data.transform, x[has], measured[has]),
            rtol=1e-5,
        )
    assert fingerprint(mdata) == before


def _check_sparse(rows: object, x: np.ndarray, sizes: tuple[int, ...]) -> None:
    """Block-major, columns ascending in each run, and every non-zero once."""
    s, n = rows.sparse, len(x)  # type: ignore[attr-defined]
    block_of = np.repeat(np.arange(len(sizes)), sizes)
    i, j = np.nonzero(x)
    order = np.lexsort((j, i, block_of[j]))
    np.testing.assert_array_equal(s.cell, i[order])
    np.testing.assert_array_equal(s.col, j[order])
    np.testing.assert_array_equal(s.value, x[i, j][order].astype(np.float32))
    np.testing.assert_array_equal(
        s.indptr, np.concatenate([[0], np.cumsum(np.bincount(block_of[j] * n + i, minlength=n * len(sizes)))])
    )


def _dense(rows: object, values: torch.Tensor, n_features: int) -> np.ndarray:
    if rows.sparse is None:  # type: ignore[attr-defined]
        return np.asarray(values)
    n = len(rows.cells)  # type: ignore[attr-defined]
    out = np.zeros((n, n_features), np.float32)
    out[rows.sparse.cell.numpy(), rows.sparse.col.numpy()] = values  # type: ignore[attr-defined]
    return out


def _transformed(transform: str, x: np.ndarray, measured: np.ndarray) -> np.ndarray:
    if transform == "binarize":
        return (x > 0).astype(float)
    if transform == "none":
        return x
    if transform == "clr":
        mean = np.log1p(x).sum(1) / measured.sum(1)
        return np.log1p(x / np.exp(mean)[:, None])
    return np.log1p(x * 1e4 / np.maximum(x.sum(1), 1)[:, None])


def test_clr_in_a_minibatch() -> None:
    mdata = random_mudata(4)
    mosaic = mosaic_of(mdata, transforms={"adt": "clr", "rna": "clr"})
    rows = MinibatchLoader(mosaic).take(np.arange(24)).rows
    for data, own in zip(mosaic.modalities[:2], rows, strict=False):
        x, measured = truth(mdata, data.name, data.features.names)
        has = data.row_of_cell >= 0
        expected = _transformed("clr", x[has], measured[has])
        np.testing.assert_allclose(_dense(own, transformed(own), data.n_features), expected, rtol=1e-5)


def test_chunks_of_the_block_index_change_nothing() -> None:
    x = mosaic_of(random_mudata(1)).modality("atac").x
    ends = np.array([3, 7])
    whole = loader_module._block_indptr(x, ends)
    np.testing.assert_array_equal(loader_module._block_indptr(x, ends, chunk=2), whole)
    block = (x.indices >= 3).astype(int) + 2 * np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    np.testing.assert_array_equal(np.diff(whole), np.bincount(block, minlength=2 * x.shape[0]))


def test_continuous_covariates_of_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    mosaic = mosaic_of(random_mudata(2), continuous_covariate_keys=("age",))
    whole = MinibatchLoader(mosaic).take(np.array([5, 3, 5]))
    monkeypatch.setattr(loader_module, "MAX_DISTINCT", 4)
    apart = MinibatchLoader(mosaic).take(np.array([5, 3, 5]))
    np.testing.assert_array_equal(whole.covariates, mosaic.covariates[[5, 3, 5]])
    np.testing.assert_array_equal(apart.covariates, whole.covariates)
    assert len(apart.covariate_table) == 3


@given(
    n=st.integers(1, 500), share=st.floats(0.01, 1.0), seed=st.integers(0, 2**31), size=st.integers(1, 300)
)
def test_every_cell_trains_once_an_epoch_or_validates(n: int, share: float, seed: int, size: int) -> None:
    train, valid = split(n, share, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, valid])), np.arange(n))
    assert len(train) == max(1, round(share * n))
    parts = shuffled(train, size, seed, 3)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), train)
    lengths = [len(p) for p in parts]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_order_is_a_function_of_seed_and_epoch_alone() -> None:
    cells = np.arange(100)
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    first = np.concatenate(shuffled(cells, 30, 1, 2))
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(5)
    np.testing.assert_array_equal(first, np.concatenate(shuffled(cells, 30, 1, 2)))
    assert (first != np.concatenate(shuffled(cells, 30, 1, 3))).any()
    assert (first != np.concatenate(shuffled(cells, 30, 2, 2))).any()
    assert (split(100, 0.5, 1)[0] != split(100, 0.5, 2)[0]).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_rows_of_some_features(seed: int, data: st.DataObject) -> None:
    mosaic = mosaic_of(random_mudata(seed, fractions=data.draw(st.booleans())))
    every = MinibatchLoader(mosaic).take(np.arange(24)).rows
    chosen = [
        np.array(sorted(data.draw(st.sets(st.integers(0, m.n_features - 1), min_size=1))))
        for m in mosaic.modalities
    ]
    batch = MinibatchLoader(mosaic).take(np.arange(24), [chosen[0], None, chosen[2]])
    assert batch.targets[1] is batch.rows[1]
    for m in (0, 2):
        whole, some = every[m], batch.targets[m]
        raw = whole.sparse.value if whole.sparse is not None else whole.dense
        dense = _dense(whole, raw, mosaic.modalities[m].n_features)[:, chosen[m]]
        own = some.sparse.value if some.sparse is not None else some.dense
        np.testing.assert_array_equal(_dense(some, own, len(chosen[m])), dense)
        np.testing.assert_allclose(some.library, dense.sum(1), rtol=1e-6)
        np.testing.assert_array_equal(some.panels, whole.panels[:, chosen[m]])
        np.testing.assert_array_equal(some.scale, whole.scale)
        again = some.only(np.array([len(chosen[m]) - 1]))
        assert some.features is not None
        assert again.features is not None
        assert some.features.tolist() == chosen[m].tolist()
        assert again.features.tolist() == [chosen[m][-1]]


def test_features_are_drawn_with_their_probability_and_by_the_seed_alone() -> None:
    orders, shares = (
        [np.random.default_rng(0).permutation(1000), np.arange(30), np.arange(4)],
        [0.3, 1.0, 1e-9],
    )
    drawn = [drawn_features(orders, shares, (7, 2, step)) for step in range(400)]
    times, together = np.zeros(1000), np.zeros((1000, 1000))
    for some, whole, none in drawn:
        assert whole is None
        assert none is None  # a modality without any is taken whole
        assert some is not None
        assert (np.diff(some) > 0).all()
        times[some] += 1
        together[np.ix_(some, some)] += 1
        # nearly the same number of every 64 that are side by side
        per_run = np.bincount(np.argsort(orders[0])[some] // 64)[:-1]
        assert np.abs(per_run - 0.3 * 64).max() < 1
    # 400 draws at 0.3: 120 on average, with a deviation of 9.2
    assert abs(times.mean() - 120) < 0.5
    assert np.abs(times - 120).max() < 5 * 9.2
    # and every pair comes together: in 36 draws on average
    assert together.min() > 36 - 6 * np.sqrt(36)
    np.testing.assert_array_equal(drawn[3][0], drawn_features(orders, shares, (7, 2, 3))[0])
    assert len(drawn[3][0]) != len(drawn[4][0]) or (drawn[3][0] != drawn[4][0]).any()


def test_a_minibatch_is_moved_whole_and_what_is_shared_once() -> None:
    mosaic = mosaic_of(random_mudata(2, panels=True))
    batch = MinibatchLoader(mosaic).take(np.arange(20), [np.arange(3), None, None])
    there = batch.to(torch.device("meta"))
    tensors = [getattr(there, f.name) for f in dataclasses.fields(there)]
    for part in [*there.rows, *there.targets]:
        tensors += [getattr(part, f.name) for f in dataclasses.fields(part)]
        tensors += [] if part.sparse is None else list(vars(part.sparse).values())
    of_tensors = [t for t in tensors if isinstance(t, torch.Tensor)]
    assert {t.device.type for t in of_tensors} == {"meta"}
    assert there.rows[0] is not there.targets[0]
    assert there.rows[1] is there.targets[1]
    assert there.targets[0].features is batch.targets[0].features


@pytest.mark.parametrize("together", [7, 1000])
def test_distinct_rows_are_those_of_numpy(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mosaicvi.data.blocks.COMPARED", together)
    rng = np.random.default_rng(0)
    for table in (
        rng.integers(0, 3, (100, 4)).astype(np.float32),
        rng.integers(-1, 2, (100, 2)),
        np.array([[0.0, -0.0], [-0.0, 0.0], [1.5, 0.0]], np.float32),
        np.zeros((0, 2), np.float32),
    ):
        found, code = distinct_rows(table)
        wanted, of = np.unique(table, axis=0, return_inverse=True)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(code, of.ravel())
    many = rng.normal(size=(50, 2))
    found, code = distinct_rows(many, 49)
    assert found is many
    np.testing.assert_array_equal(code, np.arange(50))
