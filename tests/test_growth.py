"""A model that grows: what it knew stays to the bit, what is new is learnt."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData
from tests.builders import mudata_of

from mosaicvi import InputError, ModelFileError, MosaicVI, MosaicWarning
from mosaicvi.cli import run
from mosaicvi.infer import latent as latent_module
from mosaicvi.nn.growth import cut, places
from mosaicvi.store.format import load_bundle, save_bundle
from mosaicvi.store.saved import known_of, weights_digest

SMALL = {"dim_latent": 4, "dimensions": [8], "dim_block_enc": 6, "dim_block_dec": 6, "dim_block_embed": 2}
TRAIN = {"batch_size": 32, "progress": False}


def whole() -> MuData:
    """Counts of 200 cells in five batches: all have RNA, half of them proteins, a third of them peaks."""
    rng = np.random.default_rng(0)
    cells = np.array([f"c{i}" for i in range(200)], object)
    names = {
        "rna": [f"g{i}" for i in range(20)],
        "adt": [f"p{i}" for i in range(6)],
        "atac": [f"chr{1 + i % 2}:{100 * i}-{100 * i + 50}" for i in range(20)],
    }
    has = {"rna": np.ones(200, bool), "adt": np.arange(200) % 2 == 0, "atac": np.arange(200) % 3 == 0}
    level = rng.gamma(2.0, 1.0, 200)
    mods = {}
    for name, features in names.items():
        rate = level[has[name], None] * rng.gamma(2.0, 1.0, len(features)) / (4 if name == "atac" else 1)
        counts = rng.poisson(rate).astype(np.float32)
        counts[:, [0, -1]] += 1  # no cell is empty
        x = sp.csr_matrix(counts)
        mods[name] = AnnData(
            x, obs=pd.DataFrame(index=cells[has[name]]), var=pd.DataFrame(index=np.array(features, object))
        )
    obs = pd.DataFrame({"batch": np.repeat(list("ABCDE"), 40)}, index=cells)
    return mudata_of(mods, obs)


def of(data: MuData, batches: set[str], **features: slice) -> MuData:
    """The cells of some batches, with some features of each modality; `slice(0)` leaves a modality out."""
    cells = data.obs_names[data.obs["batch"].isin(batches)]
    mods: dict[str, AnnData] = {}
    for name, a in data.mod.items():
        rows = a.obs_names.isin(cells)
        columns = np.arange(a.n_vars)[features.get(name, slice(None))]
        if rows.any() and len(columns):
            kept = a.obs_names[rows]
            mods[name] = AnnData(
                a.X[rows][:, columns], obs=pd.DataFrame(index=kept), var=a.var.iloc[columns].copy()
            )
    there = np.any([cells.isin(a.obs_names) for a in mods.values()], axis=0)
    return mudata_of(mods, data.obs.loc[cells[there], ["batch"]])


def reference_of(data: MuData, **parameters: Any) -> MosaicVI:
    MosaicVI.setup_mudata(data, batch_key="batch")
    return MosaicVI(data, **(SMALL | parameters)).train(2, **TRAIN)


@pytest.fixture(scope="module")
def data() -> MuData:
    return whole()


def answers(model: MosaicVI, data: MuData, modalities: tuple[str, ...]) -> list[np.ndarray]:
    """Latent and all imputed values of cells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        query = MosaicVI.prepare_query(data, model)
    latent = model.get_latent_representation(query)
    return [latent, *(model.get_imputed_values(query, modality=m) for m in modalities)]


def same(before: list[np.ndarray], after: list[np.ndarray]) -> bool:
    """Whether answers agree to the bit, in the features that were known before."""
    pairs = zip(before, after, strict=True)
    return all(
        np.array_equal(a, b[a.columns]) if isinstance(a, pd.DataFrame) else np.array_equal(a, b)
        for a, b in pairs
    )


CASES = {
    "a batch": ({}, {}),
    "a modality": ({"adt": slice(0)}, {}),
    "features": ({"adt": slice(4), "rna": slice(15)}, {"new_features": ["adt", "rna"]}),
    "peaks": ({"atac": slice(0, 20, 2)}, {"new_features": ["atac"]}),
}


@pytest.mark.parametrize("engine", ["compiled", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_what_it_knew_stays_to_the_bit_and_what_is_new_is_learnt(
    case: str, engine: str, data: MuData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", engine)
    kept, options = CASES[case]
    old = of(data, {"A", "B", "C", "D"}, **kept)
    reference = reference_of(old)
    known = reference.config.uni_block_names
    before = answers(reference, old, known)
    state = {k: v.clone() for k, v in reference.net.state_dict().items()}
    query = of(data, {"E", "A"})
    grown = MosaicVI.load_query_data(query, reference, **options)
    fresh = {k: v.clone() for k, v in grown.net.state_dict().items()}
    grown.train(2, **TRAIN)
    assert same(before, answers(grown, old, known))
    assert all(torch.equal(v, reference.net.state_dict()[k]) for k, v in state.items())
    where = places(known_of(reference.config, reference.registry), known_of(grown.config, grown.registry))
    part = cut(grown.net.state_dict(), list(state), where)
    assert all(torch.equal(part[k], v) for k, v in state.items())
    after = grown.net.state_dict()
    changed = {k for k in fresh if not torch.equal(fresh[k], after[k])}
    assert "decoder.hidden.linear.0.weight" in changed
    assert not any("norm" in k for k in changed)
    if case != "a batch":
        assert any(k.startswith("decoder.last") for k in changed)
    # the network itself says the same of cells that have nothing new, but for rounding
    own = grown.mosaic.n_cells
    assert len(grown.history) == 2
    assert grown.get_latent_representation().shape == (own, 4)
    grown.save(tmp_path / "grown")
    opened = MosaicVI.load(tmp_path / "grown")
    assert same(before, answers(opened, old, known))
    both = [m.get_latent_representation(MosaicVI.prepare_query(query, m)) for m in (grown, opened)]
    assert np.array_equal(*both)
    assert opened.reference.lineage[0]["weights"] == weights_digest(reference.net)


def test_what_it_grew_from_is_asked_for_as_many_cells_as_it_computes_together(
    data: MuData, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = of(data, {"A", "B", "C", "D"}, rna=slice(10), atac=slice(0))
    reference = reference_of(old)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        grown = MosaicVI.load_query_data(of(data, {"E"}, atac=slice(0)), reference, new_features=["rna"])
    monkeypatch.setattr(latent_module, "MOST_VALUES", 320)  # 32 cells of 10 genes, 16 of 20
    assert grown._base is not None
    stream, asked = grown._base._imputed_stream, []

    def noted(mosaic: Any, cells: np.ndarray, **how: Any) -> Any:
        asked.append(len(cells))
        return stream(mosaic, cells, **how)

    monkeypatch.setattr(grown._base, "_imputed_stream", noted)
    answers(grown, old, ("rna",))
    assert asked == [32] * 5


def test_a_grown_network_answers_alike_before_it_is_trained(data: MuData) -> None:
    reference = reference_of(of(data, {"A", "B", "C"}, adt=slice(4)), preset="published")
    query = of(data, {"D", "E"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        made = MosaicVI.prepare_query(query, reference)
        grown = MosaicVI.load_query_data(query, reference, new_features=["adt"])
        latent = reference.get_latent_representation(made)
        expected = reference.get_imputed_values(made, modality="rna")
    np.testing.assert_allclose(grown.get_latent_representation(), latent, atol=1e-5)
    found = grown.get_imputed_values(modality="rna")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_cells_with_nothing_else_are_seen_by_their_new_features(data: MuData) -> None:
    reference = reference_of(of(data, {"A", "B", "C"}, adt=slice(3)))
    paired = of(data, {"A", "B"})
    only = of(data, {"A", "B"}, rna=slice(0), atac=slice(0), adt=slice(3, 6))
    for query, sees in ((paired, ()), (only, ("adt",))):
        grown = MosaicVI.load_query_data(query, reference, new_features=["adt"])
        assert grown._sees == sees
        value = next(k for k in grown.net.state_dict() if k.startswith("encoder.block.1.value"))
        before = grown.net.state_dict()[value].clone()
        grown.train(1, **TRAIN)
        assert torch.equal(before, grown.net.state_dict()[value]) == (not sees)


@pytest.mark.parametrize("from_folder", [True, False])
@pytest.mark.parametrize("lacks", [("adt",), ("atac",), ("adt", "atac"), ("rna", "atac")])
def test_new_cells_that_lack_a_modality(
    data: MuData, tmp_path: Path, lacks: tuple[str, ...], from_folder: bool
) -> None:
    reference = reference_of(of(data, {"A", "B", "C"}))
    reference.save(tmp_path / "reference")
    query = of(data, {"D"}, **dict.fromkeys(lacks, slice(0)))
    grown = MosaicVI.load_query_data(query, tmp_path / "reference" if from_folder else reference)
    grown.train(1, batch_size=10, progress=False)
    imputed = [grown.get_imputed_values(modality=name).to_numpy() for name in ("rna", "adt", "atac")]
    assert all(len(values) == query.n_obs and np.isfinite(values).all() for values in imputed)
    grown.save(tmp_path / "grown")
    opened = MosaicVI.load(tmp_path / "grown")
    again = opened.get_imputed_values(MosaicVI.prepare_query(query, opened), modality="adt")
    np.testing.assert_allclose(again, imputed[1], rtol=1e-4, atol=1e-5)


def test_a_model_grows_again_and_trains_on(data: MuData, tmp_path: Path) -> None:
    reference = reference_of(of(data, {"A", "B"}))
    old = of(data, {"A", "B"})
    before = answers(reference, old, ("rna",))
    once = MosaicVI.load_query_data(of(data, {"C"}), reference).train(1, **TRAIN)
    third = of(data, {"C"})
    of_third = answers(once, third, ("rna",))
    once.save(tmp_path / "once")
    twice = MosaicVI.load_query_data(of(data, {"D"}), tmp_path / "once").train(1, **TRAIN)
    assert same(before, answers(twice, old, ("rna",)))
    assert same(of_third, answers(twice, third, ("rna",)))
    assert len(twice.reference.lineage) == 2
    twice.save(tmp_path / "twice")
    opened = MosaicVI.load(tmp_path / "twice", MosaicVI.prepare_query(of(data, {"D"}), twice))
    opened.train(1, **TRAIN)
    assert same(before, answers(opened, old, ("rna",)))
    assert len(opened.history) == 2


def test_unfrozen_all_weights_are_trained(data: MuData) -> None:
    reference = reference_of(of(data, {"A", "B", "C"}))
    old = of(data, {"A"})
    before = answers(reference, old, ("rna",))
    grown = MosaicVI.load_query_data(of(data, {"D"}), reference, unfrozen=True).train(1, **TRAIN)
    assert not same(before, answers(grown, old, ("rna",)))
    assert same(before, answers(reference, old, ("rna",)))
    assert grown.reference.lineage[0]["cells"] == reference.mosaic.n_cells


def test_unfrozen_trains_on_as_many_reference_cells_where_their_data_are_given(
    data: MuData, tmp_path: Path
) -> None:
    reference = reference_of(of(data, {"A", "B", "C"}))
    query = of(data, {"D"})
    grown = MosaicVI.load_query_data(query, reference, unfrozen=True, seed=1)
    own, rehearsed = grown.mosaic.cells[: query.n_obs], grown.mosaic.cells[query.n_obs :]
    assert set(own) == set(query.obs_names)
    assert len(set(rehearsed)) == query.n_obs
    assert set(rehearsed) <= set(reference.mosaic.cells)
    earlier = grown._earlier
    assert earlier is not None
    assert set(earlier[0].cells) == set(reference.mosaic.cells) - set(rehearsed)
    again = MosaicVI.load_query_data(query, reference, unfrozen=True, seed=1)
    assert again.mosaic.cells.equals(grown.mosaic.cells)
    other = MosaicVI.load_query_data(query, reference, unfrozen=True, seed=2)
    assert not other.mosaic.cells.equals(grown.mosaic.cells)
    # what the reference says of its cells is what the grown model is trained on
    place = reference.mosaic.cells.get_indexer(rehearsed)
    for name in ("rna", "adt", "atac"):
        there, here = reference.mosaic.modality(name), grown.mosaic.modality(name)
        rows, now = there.row_of_cell[place], here.row_of_cell[query.n_obs :]
        assert np.array_equal(rows < 0, now < 0)
        assert (there.x[rows[rows >= 0]] != here.x[now[now >= 0]]).nnz == 0
    known = of(data, {"C", "D"})  # a query with cells of the reference has each of them once
    overlapping = MosaicVI.load_query_data(known, reference, unfrozen=True)
    assert overlapping.mosaic.cells.is_unique
    reference.save(tmp_path / "model")
    alone = MosaicVI.load_query_data(query, tmp_path / "model", unfrozen=True)
    assert alone.mosaic.n_cells == query.n_obs


def test_unfrozen_with_reference_cells_forgets_less(tmp_path: Path) -> None:
    """The query has genes the other way round, so that learning it alone ruins what was known."""

    def cells(n: int, batch: str, *, swapped: bool, seed: int) -> MuData:
        rng = np.random.default_rng(seed)
        kind = (np.arange(n) % 2)[:, None] ^ int(swapped)
        x = rng.poisson(np.where(np.arange(16) % 2 == kind, 30.0, 3.0)).astype(np.float32) + 1
        obs = pd.DataFrame({"batch": batch}, index=[f"{batch}{i}" for i in range(n)])
        var = pd.DataFrame(index=[f"g{i}" for i in range(16)])
        a = AnnData(sp.csr_matrix(x), obs=pd.DataFrame(index=obs.index), var=var)
        a.X = sp.csr_matrix(np.where(np.arange(16) < 8, x, 1 if swapped else x))
        return mudata_of({"rna": a}, obs)

    old, query = cells(160, "A", swapped=False, seed=0), cells(80, "B", swapped=True, seed=1)
    MosaicVI.setup_mudata(old, batch_key="batch")
    reference = MosaicVI(old, **SMALL).train(20, **TRAIN)
    reference.save(tmp_path / "model")

    def lost(of: Any) -> float:
        grown = MosaicVI.load_query_data(query, of, unfrozen=True).train(40, **TRAIN)
        now = MosaicVI.prepare_query(old, grown)
        return float(-grown.cell_fit(now)["log_likelihood"].mean())

    with_cells, without = lost(reference), lost(tmp_path / "model")
    assert with_cells < without


def test_a_run_goes_on_only_with_the_choice_that_it_began_with(data: MuData, tmp_path: Path) -> None:
    reference_of(of(data, {"A", "B", "C"})).save(tmp_path / "model")
    query, run = of(data, {"D"}), {"checkpoint_dir": tmp_path / "run", **TRAIN}
    MosaicVI.load_query_data(query, tmp_path / "model").train(1, **run)
    other = MosaicVI.load_query_data(query, tmp_path / "model", unfrozen=True)
    with pytest.raises(
        InputError, match=r"other weights to train \(unfrozen=\); resume with the same"
    ) as said:
        other.train(2, resume=True, **run)
    assert len(said.value.problems) == 1
    same_choice = MosaicVI.load_query_data(query, tmp_path / "model").train(2, resume=True, **run)
    assert len(same_choice.history) == 2
    again = {"checkpoint_dir": tmp_path / "all", **TRAIN}
    MosaicVI.load_query_data(query, tmp_path / "model", unfrozen=True).train(1, **again)
    with pytest.raises(InputError, match=r"unfrozen="):
        MosaicVI.load_query_data(query, tmp_path / "model").train(2, resume=True, **again)


def test_a_modality_that_no_reference_cell_has_is_learnt_and_imputed_into_them() -> None:
    rng = np.random.default_rng(0)
    n = 400
    kind = np.arange(n) % 3
    cells = np.array([f"c{i}" for i in range(n)], object)

    def counts(d: int) -> np.ndarray:
        return rng.poisson(np.where(np.arange(d) % 3 == kind[:, None], 20.0, 4.0)).astype(np.float32)

    both = {
        name: AnnData(
            sp.csr_matrix(counts(d) + 1),
            obs=pd.DataFrame(index=cells),
            var=pd.DataFrame(index=[f"{name}{i}" for i in range(d)]),
        )
        for name, d in (("rna", 24), ("adt", 9))
    }
    obs = pd.DataFrame({"batch": np.repeat(["A", "B", "C", "D"], 100)}, index=cells)
    complete = mudata_of(both, obs)
    old, query = of(complete, {"A", "B", "C"}, adt=slice(0)), of(complete, {"D"})
    MosaicVI.setup_mudata(old, batch_key="batch")
    reference = MosaicVI(old, **SMALL).train(30, **TRAIN)
    before = answers(reference, old, ("rna",))
    grown = MosaicVI.load_query_data(query, reference).train(progress=False)
    imputed = grown.get_imputed_values(MosaicVI.prepare_query(old, grown), modality="adt")
    truth = np.log1p(both["adt"][:300].X.toarray())
    level = np.log1p(imputed[both["adt"].var_names].to_numpy())
    # the best guess is the mean of the type
    best = np.stack([truth[kind[:300] == k].mean(0) for k in range(3)])[kind[:300]]
    r, most = (
        np.mean([np.corrcoef(guess[:, j], truth[:, j])[0, 1] for j in range(9)]) for guess in (level, best)
    )
    assert r > 0.95 * most
    assert same(before, answers(grown, old, ("rna",)))


def test_a_lineage_that_was_changed_is_refused(data: MuData, tmp_path: Path) -> None:
    reference = reference_of(of(data, {"A", "B"}))
    MosaicVI.load_query_data(of(data, {"C"}), reference).train(1, **TRAIN).save(tmp_path / "grown")
    bundle = load_bundle(tmp_path / "grown", kind="model")
    rng = np.random.default_rng(0)

    def written(name: str, tensors: dict, document: dict) -> Path:
        save_bundle(tmp_path / name, tensors, document, kind="model")
        return tmp_path / name

    document = json.loads(json.dumps(bundle.document))
    document["lineage"][0]["weights"] = "0" * 64
    with pytest.raises(ModelFileError, match="not those of the model that it grew from"):
        MosaicVI.load(written("digest", dict(bundle.tensors), document))
    document = json.loads(json.dumps(bundle.document))
    document["grown"]["base"]["registry"]["categories"]["batch"]["$tuple"][0] = "Z"
    with pytest.raises(ModelFileError, match="'Z'"):
        MosaicVI.load(written("category", dict(bundle.tensors), document))
    frozen = "net.decoder.hidden.linear.0.bias"
    for i in range(3):
        tensors = dict(bundle.tensors)
        changed = tensors[frozen].clone()
        changed[int(rng.integers(len(changed)))] += 1e-3
        with pytest.raises(ModelFileError, match="not those of the model that it grew from"):
            MosaicVI.load(written(f"weight{i}", tensors | {frozen: changed}, bundle.document))


def test_values_of_a_new_modality_are_where_it_is_said(data: MuData, tmp_path: Path) -> None:
    reference = reference_of(of(data, {"A", "B"}, adt=slice(0)))
    plain, query = of(data, {"C", "D"}), of(data, {"C", "D"})
    adt = query.mod["adt"]
    adt.layers["stained"] = adt.X.copy()
    adt.X = adt.X * 0.37
    right = MosaicVI.load_query_data(plain, reference).train(2, **TRAIN)
    grown = MosaicVI.load_query_data(query, reference, layers={"adt": "stained"}).train(2, **TRAIN)
    expected = right.get_imputed_values(modality="adt")
    pd.testing.assert_frame_equal(grown.get_imputed_values(modality="adt"), expected)
    grown.save(tmp_path / "grown")
    again = MosaicVI.load(tmp_path / "grown")
    pd.testing.assert_frame_equal(
        again.get_imputed_values(MosaicVI.prepare_query(query, again), modality="adt"), expected
    )


def test_where_nothing_is_new_that_is_said_and_nothing_changes(data: MuData) -> None:
    reference = reference_of(of(data, {"A", "B"}))
    with pytest.warns(MosaicWarning, match="Nothing in these data is new to the model"):
        grown = MosaicVI.load_query_data(of(data, {"B"}), reference)
    grown.train(1, **TRAIN)
    assert weights_digest(grown.net) == weights_digest(reference.net)


def test_a_query_without_the_column_is_one_new_batch(data: MuData, tmp_path: Path) -> None:
    reference_of(of(data, {"A", "B"})).save(tmp_path / "model")
    query = of(data, {"C", "D"})
    said = query.copy()
    said.obs["batch"] = "query"
    del query.obs["batch"]
    with pytest.warns(
        MosaicWarning, match="no obs column 'batch': 80 cells are learnt as a new batch 'query'"
    ):
        grown = MosaicVI.load_query_data(query, tmp_path / "model")
    named = MosaicVI.load_query_data(said, tmp_path / "model")
    for model in (grown, named):
        assert model.registry.categories["batch"] == ("A", "B", "query")
        model.train(1, **TRAIN)
    assert "batch" not in query.obs  # the user's object stays as it is
    assert weights_digest(grown.net) == weights_digest(named.net)
    np.testing.assert_array_equal(*(m.get_imputed_values(modality="adt") for m in (grown, named)))


def test_cells_without_a_value_are_a_batch_beside_those_that_have_one(data: MuData) -> None:
    reference = reference_of(of(data, {"A", "B"}))
    query = of(data, {"B", "C"})
    query.obs["batch"] = query.obs["batch"].astype(object).where(query.obs["batch"] != "C", None)
    query.obs.iloc[-1, 0] = "query"
    with pytest.warns(MosaicWarning, match="no value in obs column 'batch': 39 cells .* new batch 'query_2'"):
        grown = MosaicVI.load_query_data(query, reference)
    assert grown.registry.categories["batch"] == ("A", "B", "query", "query_2")
    assert np.bincount(grown.mosaic.batch).tolist() == [0, 40, 1, 39]


def test_what_cannot_be_learnt_is_said(data: MuData) -> None:
    reference = reference_of(of(data, {"A", "B"}, adt=slice(4)))
    query = of(data, {"C", "D"})
    with pytest.warns(MosaicWarning, match=r"'adt': 2 features .* left out; new_features=\['adt'\] learns"):
        MosaicVI.load_query_data(query, reference)
    for options, words in (
        ({"new_features": ["x"]}, "new_features: no modality 'x' that the model knows"),
        ({"modalities": ["x"]}, "modalities: no new modality 'x' in the data"),
        ({"layers": {"adt": "counts"}}, "layers: 'adt' is no new modality; there are none"),
        ({"new_features": "adt"}, r"new_features: a list of names is needed, such as \['adt'\]"),
    ):
        with pytest.raises(InputError, match=words):
            MosaicVI.load_query_data(query, reference, **options)
    MosaicVI.setup_mudata(query, batch_key="batch")
    with pytest.raises(InputError, match="The model is not trained"):
        MosaicVI.load_query_data(query, MosaicVI(query, **SMALL))


@pytest.mark.parametrize("unfrozen", [False, True])
def test_the_cells_of_all_growth_are_counted(
    data: MuData, tmp_path: Path, unfrozen: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    first = of(data, {"A", "B", "C"}, adt=slice(0), rna=slice(15))
    reference = reference_of(first)
    once = MosaicVI.load_query_data(
        of(data, {"D"}), reference, unfrozen=unfrozen, new_features=["rna"]
    ).train(1, **TRAIN)
    once.save(tmp_path / "once")
    second = of(data, {"C", "E"}, adt=slice(0))
    grown = MosaicVI.load_query_data(second, once, unfrozen=unfrozen).train(1, **TRAIN)
    grown.save(tmp_path / "twice")
    opened = MosaicVI.load(tmp_path / "twice")
    expected = {"A": (40, 40, 14, 0), "B": (40, 40, 13, 0), "C": (40, 40, 13, 0)}  # which comes twice
    expected |= {"D": (40, 40, 14, 20), "E": (40, 40, 13, 0)}
    for model in (grown, opened):
        cells = model.reference.cells
        assert {str(b): tuple(row) for b, row in cells.iterrows()} == expected
        assert list(cells.columns) == ["cells", "rna", "atac", "adt"]
        assert model.reference.panels["adt"].shape == (6, 1)
        # genes that only some cells measured
        panels = model.reference.panels["rna"].sum().tolist()
        assert sorted(panels) == [15, 20]
        lineage = model.reference.lineage
        assert [one["cells"] for one in lineage] == [120, 160]
        assert lineage[0]["new"] == {
            "categories": {"batch": ["D"]},
            "modalities": ["adt"],
            "features": {"rna": 5, "adt": 6},
        }
        assert lineage[1]["new"]["categories"] == {"batch": ["E"]}
        json.dumps(model.reference.to_dict())
    assert run(["describe", str(tmp_path / "twice")]) == 0
    said = capsys.readouterr().out
    how = "all weights trained" if unfrozen else "its weights frozen"
    assert "Reference of 200 cells" in said
    assert f"which learnt batch 'D', modality adt (6 features), 5 features of rna, {how}" in said
    assert f"a model of 160 cells, 1 epochs, weights {lineage[1]['weights'][:12]}" in said


def test_cells_that_the_reference_had_are_counted_once(data: MuData) -> None:
    reference = reference_of(of(data, {"A", "B"}))
    grown = MosaicVI.load_query_data(of(data, {"B", "C"}), reference)
    assert grown.reference.cells["cells"].to_dict() == {"A": 40, "B": 40, "C": 40}
    assert [one["new"]["categories"]["batch"] for one in grown.reference.lineage] == [["C"]]


def test_numbers_of_cells_that_do_not_fit_are_refused(data: MuData, tmp_path: Path) -> None:
    reference = reference_of(of(data, {"A", "B"}))
    MosaicVI.load_query_data(of(data, {"C"}), reference).train(1, **TRAIN).save(tmp_path / "grown")
    bundle = load_bundle(tmp_path / "grown", kind="model")
    document = json.loads(json.dumps(bundle.document))
    document["met"]["cells"]["C"][""] = -1
    save_bundle(tmp_path / "less", bundle.tensors, document, kind="model")
    with pytest.raises(ModelFileError, match="the numbers of its cells do not fit"):
        MosaicVI.load(tmp_path / "less")
