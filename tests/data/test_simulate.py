from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError

import mudata
import numpy as np
import pytest
import scipy.sparse as sp
from mudata import MuData
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from mosaicvi.datasets import SimulatedMosaic, simulated_counts, simulated_mosaic
from mosaicvi.errors import InputError

SMALL = dict(n_cells=60, n_genes=24, n_proteins=5, n_peaks=30, n_types=3, n_chromosomes=4)


@pytest.fixture(scope="module")
def sim() -> SimulatedMosaic:
    return simulated_mosaic()


def fingerprint(data: MuData) -> str:
    sha = hashlib.sha256(data.obs.to_csv().encode())
    for name, part in sorted(data.mod.items()):  # files do not keep the order
        sha.update(name.encode() + "|".join([*part.obs_names, *part.var_names]).encode())
        for array in (part.X.data, part.X.indices, part.X.indptr):
            sha.update(array.tobytes())
        for key in part.layers:
            sha.update(part.layers[key].tobytes())
        for key in part.varm:
            sha.update(part.varm[key].to_numpy().tobytes())
    for key in sorted(data.obsm):
        sha.update(np.asarray(data.obsm[key]).tobytes())
    return sha.hexdigest()


def measured(part, batch) -> np.ndarray:
    """cells × features: what the panels of the cells' batches hold."""
    return part.varm["measured"].to_numpy().T[batch.cat.codes.to_numpy()]


def test_same_seed_same_bits_and_global_state_is_left_alone():
    np.random.seed(1)  # noqa: NPY002
    before, option = np.random.get_state()[1].copy(), mudata.set_options().opts  # noqa: NPY002
    a = simulated_mosaic(**SMALL, seed=3)
    np.random.seed(2)  # noqa: NPY002
    b = simulated_mosaic(**SMALL, seed=3)
    np.random.seed(1)  # noqa: NPY002
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert mudata.set_options().opts == option
    assert fingerprint(a.mdata) == fingerprint(b.mdata)
    assert fingerprint(a.truth) == fingerprint(b.truth)
    other = simulated_mosaic(**SMALL, seed=4)
    assert fingerprint(other.truth) != fingerprint(a.truth)


def test_importing_and_simulating_do_not_change_mudatas_options():
    from mudata._core.config import OPTIONS

    before = dict(OPTIONS)
    simulated_mosaic(**SMALL)
    assert before == OPTIONS


def test_sizes_types_and_names(sim):
    assert (sim.mdata.n_obs, sim.mdata.n_vars) == (2000, 400 + 30 + 1500)
    assert list(sim.mdata.obs.columns) == ["batch", "group", "cell_type"]
    assert sim.mdata.obs["cell_type"].nunique() == 8
    assert sim.mdata.obs_names.is_unique
    assert sim.mdata.var_names.is_unique
    assert sim.mdata.obs.equals(sim.truth.obs)
    for data in (sim.mdata, sim.truth):
        for part in data.mod.values():
            assert isinstance(part.X, sp.csr_matrix)
            assert part.X.dtype == np.float32
            assert (part.X.data > 0).all()
            assert (part.X.data == np.rint(part.X.data)).all()
            assert part.X.sum(1).min() > 0
            assert len(part.obs.columns) == 0
    with pytest.raises(FrozenInstanceError):
        sim.mdata = None


def test_truth_agrees_with_the_mosaic_on_every_measured_entry(sim):
    for name, part in sim.mdata.mod.items():
        whole = sim.truth[name]
        assert list(whole.obs_names) == list(sim.truth.obs_names)
        assert list(whole.var_names) == list(part.var_names)
        mask = measured(part, sim.mdata.obs.loc[part.obs_names, "batch"])
        there = whole[part.obs_names].X.toarray()
        assert (part.X.toarray() == np.where(mask, there, 0)).all()
        assert whole.layers["expected"].dtype == np.float32
        assert (whole.layers["expected"] > 0).all()


def test_group_batch_and_structure_say_the_same(sim):
    obs = sim.mdata.obs
    for name, part in sim.mdata.mod.items():
        says = obs["group"].map(lambda g, name=name: name in g.split("+")).to_numpy(bool)
        assert set(part.obs_names) == set(obs.index[says])
        assert (np.asarray(sim.mdata.obsmap[name]).ravel() > 0).tolist() == says.tolist()
        panel = part.varm["measured"]
        assert panel.to_numpy().dtype == bool
        assert list(panel.columns) == list("ABCDE")
        assert panel.any(axis=1).all()
        used = set(obs.loc[part.obs_names, "batch"])
        assert {b for b in panel.columns if panel[b].any()} == used
    groups = {b: set(obs["group"][obs["batch"] == b]) for b in "ABCDE"}
    assert groups == {
        "A": {"rna+adt"},
        "B": {"rna+atac", "rna", "atac"},
        "C": {"rna"},
        "D": {"adt"},
        "E": {"atac"},
    }


def test_gene_panels_overlap_in_part(sim):
    panel = sim.mdata["rna"].varm["measured"]
    assert (panel["B"] == panel["C"]).all()
    assert (panel["A"] & panel["B"]).sum() == 240
    assert (panel["A"] & ~panel["B"]).sum() == (panel["B"] & ~panel["A"]).sum() == 80
    assert sim.mdata["adt"].varm["measured"]["D"].sum() == 18
    full = simulated_mosaic(**SMALL, panel_overlap=1.0).mdata
    assert full["rna"].varm["measured"][["A", "B", "C"]].all(axis=None)


def test_batches_are_connected_through_shared_features(sim):
    """Walk from batch to batch over features that both measure, within a modality."""
    reached, found = {"A"}, True
    while found:
        found = False
        for part in sim.mdata.mod.values():
            panel = part.varm["measured"]
            for b in set(panel.columns) - reached:
                if any((panel[b] & panel[a]).sum() >= 4 for a in reached):
                    reached.add(b)
                    found = True
    assert reached == set("ABCDE")


@pytest.mark.parametrize("seed", range(6))
def test_sparsity_is_that_of_real_data(seed):
    truth = simulated_mosaic(800, seed=seed).truth
    zeros = {m: 1 - a.X.nnz / np.prod(a.shape) for m, a in truth.mod.items()}
    assert 0.85 < zeros["rna"] < 0.93
    assert 0.96 < zeros["atac"] < 0.98
    assert zeros["adt"] < 0.10


def test_counts_have_the_expected_values(sim):
    """Poisson peaks: the standardised sum is normal. Overdispersed genes and proteins: sums agree to 3 %."""
    for name, part in sim.truth.mod.items():
        mean = part.layers["expected"].astype(float)
        if name == "atac":
            score = (part.X.sum(0) - mean.sum(0)) / np.sqrt(mean.sum(0))
            assert abs(np.asarray(score).mean()) < 0.1
            assert 0.9 < np.asarray(score).std() < 1.1
        assert part.X.sum() == pytest.approx(mean.sum(), rel=0.03)


def test_types_are_recoverable_from_every_modality_within_a_batch(sim):
    inside = (sim.truth.obs["batch"] == "A").to_numpy()
    types = sim.truth.obs["cell_type"].to_numpy()[inside]
    for part in sim.truth.mod.values():
        mean = part.layers["expected"][inside]
        log = np.log(mean / mean.sum(1, keepdims=True))
        assert cross_val_score(KNeighborsClassifier(15), log, types, cv=3).mean() > 0.95


def test_relatives_are_similar():
    """The centres of sister leaves are nearer than those of leaves that only share the root."""
    near, far = [], []
    for seed in range(12):
        truth = simulated_mosaic(200, n_genes=20, n_peaks=20, n_types=4, seed=seed).truth
        centre = np.stack(
            [truth.obsm["state"][truth.obs["cell_type"] == f"type{t:02d}"].mean(0) for t in (1, 2, 3, 4)]
        )
        gap = np.linalg.norm(centre[:, None] - centre[None], axis=-1)
        near += [gap[0, 1], gap[2, 3]]
        far += [gap[0, 2], gap[0, 3], gap[1, 2], gap[1, 3]]
    assert np.mean(near) < 0.8 * np.mean(far)


def test_batch_effect_is_multiplicative_per_feature_and_can_be_none():
    for effect, low, high in ((0.0, 0.0, 1e-6), (0.5, 0.4, 1.0)):
        truth = simulated_mosaic(600, n_peaks=20, n_types=1, batch_effect=effect, seed=1).truth
        log = np.log(truth["rna"].layers["expected"].astype(float))
        log -= log.mean(1, keepdims=True)
        # one type: what the state explains linearly is taken away, the batches' offsets stay
        state = np.c_[np.ones(600), truth.obsm["state"]]
        rest = log - state @ np.linalg.lstsq(state, log, rcond=None)[0]
        codes = truth.obs["batch"].cat.codes.to_numpy()
        offsets = np.stack([rest[codes == b].mean(0) for b in range(5)])
        assert low <= offsets.std() * np.sqrt(5 / 4) <= high


def test_peaks_lie_in_order_on_chromosomes_of_unequal_size(sim):
    place = sim.mdata["atac"].var_names.str.extract(r"^(chr\d+):(\d+)-(\d+)$")
    assert place[0].iloc[0] == "chr1"
    assert place[1].iloc[0] == "1000"
    sizes = place.groupby(0, sort=False).size()
    assert len(sizes) == 6
    assert sizes.is_monotonic_decreasing
    assert sizes.iloc[0] > 2 * sizes.iloc[-1]
    for _, peaks in place.groupby(0):
        starts, ends = peaks[1].astype(int).to_numpy(), peaks[2].astype(int).to_numpy()
        assert (ends - starts == 500).all()
        assert (starts[1:] > ends[:-1]).all()


def test_partly_paired_share():
    whole = simulated_mosaic(**SMALL, paired=1.0).mdata.obs
    assert set(whole["group"][whole["batch"] == "B"]) == {"rna+atac"}
    none = simulated_mosaic(**SMALL, paired=0.0).mdata.obs
    assert set(none["group"][none["batch"] == "B"]) == {"rna", "atac"}


def test_survives_a_file(tmp_path):
    sim = simulated_mosaic(**SMALL)
    for data in (sim.mdata, sim.truth):
        with mudata.set_options(pull_on_update=False):
            data.write(tmp_path / "a.h5mu")
            again = mudata.read_h5mu(tmp_path / "a.h5mu")
        assert fingerprint(again) == fingerprint(data)
        assert set(again.mod) == {"rna", "adt", "atac"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_cells": 10}, "n_cells is 10"),
        ({"n_cells": 100.5}, "n_cells is 100.5"),
        ({"n_genes": 3}, "n_genes is 3"),
        ({"n_types": 0}, "n_types is 0"),
        ({"n_types": 61}, "more than the 60 cells"),
        ({"n_chromosomes": 31}, "more than the 30 peaks"),
        ({"paired": 1.5}, "paired is 1.5"),
        ({"panel_overlap": 0.0}, "panel_overlap is 0.0"),
        ({"batch_effect": float("nan")}, "batch_effect is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_arguments_are_named(wrong, says):
    with pytest.raises(InputError, match=says):
        simulated_mosaic(**{**SMALL, **wrong})


def test_all_wrong_sizes_are_named_at_once():
    with pytest.raises(InputError) as caught:
        simulated_mosaic(1, n_genes=1)
    assert len(caught.value.problems) == 2


def test_simulated_counts_is_a_whole_sparse_matrix_of_its_density():
    x = simulated_counts(3000, 700, 0.05, seed=1)
    again = simulated_counts(3000, 700, 0.05, seed=1)
    assert isinstance(x, sp.csr_matrix)
    assert x.shape == (3000, 700)
    assert x.dtype == np.float32
    assert x.data.min() == 1
    assert (x.data == np.rint(x.data)).all()
    assert x.nnz / np.prod(x.shape) == pytest.approx(0.05, rel=0.02)
    x.check_format(full_check=True)
    assert x.has_sorted_indices
    inside = np.delete(np.diff(x.indices), x.indptr[1:-1] - 1)
    assert (inside > 0).all()  # no column twice in a row
    for a, b in ((x.data, again.data), (x.indices, again.indices), (x.indptr, again.indptr)):
        assert a.tobytes() == b.tobytes()
    # every row and column gets its share
    assert np.std(np.diff(x.indptr)) == pytest.approx(np.sqrt(700 * 0.05 * 0.95), rel=0.1)
    assert np.std(np.bincount(x.indices)) == pytest.approx(np.sqrt(3000 * 0.05 * 0.95), rel=0.15)


def test_simulated_counts_across_chunks_and_extremes(monkeypatch):
    tall = simulated_counts(300_000, 40, 0.5, seed=0)  # three chunks
    assert np.diff(tall.indptr).mean() == pytest.approx(20, rel=0.01)
    assert (np.diff(tall.indptr)[[99_999, 100_000, 200_000, -1]] > 5).all()
    assert simulated_counts(5, 4, 1.0).nnz == 20
    assert simulated_counts(1, 1, 1e-9).nnz == 0
    with pytest.raises(InputError, match="density is 0"):
        simulated_counts(5, 4, 0)
    with pytest.raises(InputError, match="n_features is 0"):
        simulated_counts(5, 0, 0.1)
