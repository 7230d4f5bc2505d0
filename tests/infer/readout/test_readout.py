"""The read-out of a whole model: better than the decoder, the cell's own, saved to the bit."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from tests.builders import mudata_of

from mosaicvi import InputError, ModelFileError, MosaicVI, MosaicWarning, metrics
from mosaicvi.engine import serves
from mosaicvi.infer.readout import read_readout
from mosaicvi.infer.readout.scales import counts_of_ratios, on_scale
from mosaicvi.infer.readout.views import Shown, shown_of_cells

N, GENES, PROTEINS = 420, 40, 8


def paired(seed: int = 0, *, mean: float = 10, least: int = 1) -> tuple[MuData, np.ndarray]:
    """RNA of all cells, proteins of two thirds, whose counts follow the same three types; all proteins."""
    rng = np.random.default_rng(seed)
    cells = np.array([f"c{i}" for i in range(N)])
    kind, depth = rng.integers(0, 3, N), rng.lognormal(0, 0.4, (N, 1))
    level = rng.normal(size=(N, 2))
    genes = np.exp(0.5 * level @ rng.normal(size=(2, GENES)) + rng.normal(0, 1, (3, GENES))[kind])
    proteins = np.exp(0.5 * level @ rng.normal(size=(2, PROTEINS)) + rng.normal(0, 1, (3, PROTEINS))[kind])
    rna = sp.csr_matrix(rng.poisson(0.05 * depth * genes).astype(np.float32))
    adt = rng.poisson(mean * proteins).astype(np.float32) + least
    batch = np.where(np.arange(N) < 2 * N // 3, "paired", "rna")
    obs = pd.DataFrame({"batch": batch}, index=cells)
    has = batch == "paired"
    mods = {
        "rna": AnnData(rna, obs=obs.copy(), var=pd.DataFrame(index=[f"g{j}" for j in range(GENES)])),
        "adt": AnnData(
            sp.csr_matrix(adt[has]), obs=obs[has].copy(), var=pd.DataFrame(index=[f"p{j}" for j in range(8)])
        ),
    }
    return mudata_of(mods, obs), adt


def trained(mdata: MuData, **parameters: Any) -> MosaicVI:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mosaic, dimensions=24, dim_latent=6, dim_block_enc=16, dim_block_dec=16, **parameters)
    return model.train(30, batch_size=70, progress=False, accelerator="cpu")


@pytest.fixture(scope="module")
def made() -> tuple[MosaicVI, MuData, np.ndarray]:
    mdata, adt = paired()
    return trained(mdata), mdata, adt


def hidden(mdata: MuData) -> np.ndarray:
    return np.flatnonzero((mdata.obs["batch"] == "rna").to_numpy())


def clr(x: np.ndarray) -> np.ndarray:
    return np.log1p(x / np.exp(np.log1p(x).mean(1, keepdims=True)))


def test_counts_mostly_above_zero_are_seen_as_ratios(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    assert made[0].registry.transforms == {"rna": "log1p_cp10k", "adt": "clr"}


def test_it_comes_nearer_to_hidden_values_than_the_decoder(
    made: tuple[MosaicVI, MuData, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, mdata, adt = made
    rows = hidden(mdata)
    read = clr(model.get_imputed_values(modality="adt", indices=rows).to_numpy(float))
    monkeypatch.setattr(MosaicVI, "readout", lambda *_: None)
    decoded = clr(model.get_imputed_values(modality="adt", indices=rows).to_numpy(float))
    error = [float(((found - clr(adt[rows])) ** 2).mean()) for found in (read, decoded)]
    assert error[0] < 0.95 * error[1]
    assert metrics.correlation_overall(read, clr(adt[rows])) > 0.6


def test_logarithms_are_expected_logarithms(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    model, mdata, _ = made
    truth = mdata.mod["rna"].X.toarray()
    truth = np.log1p(truth / np.maximum(truth.sum(1, keepdims=True), 1) * 1e4)
    logs = model.get_imputed_values(modality="rna", scale="log1p_cp10k")
    counts = model.get_imputed_values(modality="rna", library=1e4)
    assert logs.attrs["scale"] == "expected log(1 + counts per 10,000)"
    error = [float(np.square(found.to_numpy() - truth).mean()) for found in (logs, np.log1p(counts))]
    assert error[0] < error[1]
    np.testing.assert_allclose(logs.to_numpy().mean(), truth.mean(), rtol=0.05)


def test_logarithms_of_ratios_are_expected_logarithms_too() -> None:
    mdata, adt = paired(mean=0.5, least=0)
    model, rows = trained(mdata), hidden(mdata)
    assert model.registry.transforms["adt"] == "clr"
    truth = on_scale(adt.astype(np.float64), "log1p_cp10k")
    logs = model.get_imputed_values(modality="adt", scale="log1p_cp10k").to_numpy(np.float64)
    counts = model.get_imputed_values(modality="adt").to_numpy(np.float64)
    found = {"logs": logs, "of counts": on_scale(counts, "log1p_cp10k")}
    error = {name: np.square(values - truth)[rows].mean() for name, values in found.items()}
    assert error["logs"] < 0.6 * error["of counts"]
    np.testing.assert_allclose(logs[rows].mean(0), truth[rows].mean(0), atol=0.7)
    seen = np.setdiff1d(np.arange(N), rows)
    np.testing.assert_allclose(logs[seen].mean(), truth[seen].mean(), rtol=0.02)


def test_ratios_as_they_are_read_out(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    model = made[0]
    ratios = model.get_imputed_values(modality="adt", scale="clr")
    assert ratios.attrs["scale"] == "expected centred log ratios of counts"
    counts = model.get_imputed_values(modality="adt").to_numpy(np.float64)
    usual = model.registry.median_library["adt"]
    implied = counts_of_ratios(ratios.to_numpy(np.float64)).sum(1)
    lowest, highest = np.minimum(implied, usual), np.minimum(np.maximum(implied, usual), 4 * usual)
    assert ((counts.sum(1) > 0.999 * lowest) & (counts.sum(1) < 1.001 * highest)).all()
    missed = np.sqrt(np.square(clr(counts) - ratios.to_numpy()).mean(1))
    within = implied < 4 * usual  # of the others no total that is allowed has these ratios
    assert (missed[within] <= 0.05 * np.abs(np.log(implied / usual))[within] + 1e-3).all()
    assert within.sum() > 50
    with pytest.raises(InputError, match=r"rna has no values on the scale 'clr'; use 'counts' or 'log1p"):
        model.get_imputed_values(modality="rna", scale="clr")
    with pytest.raises(InputError, match=r"adt has no intervals of ratios; use scale='log1p_cp10k' or"):
        model.get_imputed_intervals(modality="adt", scale="clr")  # type: ignore[arg-type]


def test_answers_are_the_cells_own(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    model = made[0]
    # torch rounds by the size of the minibatch, and then one of the nearest cells may be another
    rtol = 1e-5 if serves(device="cpu") else 0.05
    for scale in ("counts", "log1p_cp10k", "clr"):
        whole = model.get_imputed_values(modality="adt", scale=scale)  # type: ignore[arg-type]
        some = model.get_imputed_values(modality="adt", scale=scale, indices=[401, 3, 77], batch_size=2)  # type: ignore[arg-type]
        np.testing.assert_allclose(some, whole.iloc[[401, 3, 77]], rtol=rtol)
        few = model.get_imputed_values(modality="adt", scale=scale, features=["p5", "p0"])  # type: ignore[arg-type]
        pd.testing.assert_frame_equal(few, whole[["p5", "p0"]])


def test_a_library_is_the_total(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    found = made[0].get_imputed_values(modality="adt", library=100.0)
    np.testing.assert_allclose(found.sum(axis=1), 100.0, rtol=1e-5)
    assert found.attrs["scale"] == "expected counts at a library of 100"


@pytest.mark.parametrize("scale", ["value", "probability", "logs"])
def test_a_scale_that_the_modality_lacks_is_named(
    scale: str, made: tuple[MosaicVI, MuData, np.ndarray]
) -> None:
    with pytest.raises(InputError, match=rf"scale: adt has no values on the scale '{scale}'; use 'counts'"):
        made[0].get_imputed_values(modality="adt", scale=scale)  # type: ignore[arg-type]


def test_a_loaded_model_answers_to_the_bit(made: tuple[MosaicVI, MuData, np.ndarray], tmp_path: Path) -> None:
    model, mdata, _ = made
    model.save(tmp_path / "m")
    loaded = MosaicVI.load(tmp_path / "m", mdata)
    for name in ("rna", "adt"):
        for scale in ("counts", "log1p_cp10k"):
            pd.testing.assert_frame_equal(
                model.get_imputed_values(modality=name, scale=scale),  # type: ignore[arg-type]
                loaded.get_imputed_values(modality=name, scale=scale),  # type: ignore[arg-type]
                check_exact=True,
            )


def test_training_on_forgets_the_old_read_out(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    model = trained(made[1])
    before = model.readout()
    assert model.readout() is before
    model.train(1, batch_size=70, progress=False, accelerator="cpu")
    assert model.readout() is not before


def test_a_saved_read_out_that_does_not_fit_is_refused(
    made: tuple[MosaicVI, MuData, np.ndarray],
) -> None:
    model = made[0]
    readout = model.readout()
    assert readout is not None
    plain = readout.to_dict()
    assert read_readout(plain, model.config, Path("m"), n_batches=model._n_batches).scales == readout.scales
    for broken in (
        {**plain, "scales": {"rna": "cubed"}},
        {**plain, "parts": [{**plain["parts"][0], "modality": "atac"}]},
        {**plain, "parts": [{**plain["parts"][0], "own": np.ones(3, bool)}]},
        {**plain, "levels": {"adt": _levels(d=3)}},
        {**plain, "levels": {"adt": {**_levels(), "trust": np.ones(3)}}},
        {**plain, "levels": {"atac": _levels()}},
        {"parts": plain["parts"]},
    ):
        with pytest.raises(ModelFileError, match="its read-out does not fit"):
            read_readout(broken, model.config, Path("m"), n_batches=model._n_batches)
    weights = dataclasses.asdict(next(p for p in readout.parts.values() if p.groups).groups[0])["weights"]
    assert json.dumps(weights.tolist())


def _levels(d: int = PROTEINS) -> dict[str, np.ndarray]:
    return {"known": np.ones((2, d), bool), "trust": np.ones(d), "offset": np.zeros((2, d))}


def test_the_published_preset_takes_the_decoder(tmp_path: Path) -> None:
    mdata, _ = paired(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
    small: dict[str, Any] = {"dimensions": 12, "dim_latent": 4, "dim_block_enc": 6, "dim_block_dec": 6}
    model = MosaicVI(mosaic, preset="published", **small)
    model.train(1, batch_size=70, progress=False, accelerator="cpu")
    assert model.readout() is None
    assert model.registry.transforms["adt"] == "log1p_cp10k"
    model.save(tmp_path / "m")
    assert MosaicVI.load(tmp_path / "m", mdata).readout() is None


def test_what_is_shown_of_cells(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    code, views = shown_of_cells(made[0].mosaic)
    names = [tuple(view.features) for view in views]
    assert sorted(names) == [("rna",), ("rna", "adt")]
    rows = hidden(made[1])
    assert {names[i] for i in code[rows]} == {("rna",)}
    assert views[0].only(["rna"]) == Shown.make({"rna": np.ones(GENES, bool)})


def test_intervals_do_not_depend_on_what_was_asked_before(
    made: tuple[MosaicVI, MuData, np.ndarray],
) -> None:
    model, mdata, _ = made
    some = mdata.obs_names[:40]
    few = mudata_of({"adt": mdata["adt"][some, :3].copy()}, mdata.obs.loc[some])
    query = MosaicVI.prepare_query(few, model)
    first = model.get_imputed_intervals(query, modality="adt")
    values = model.get_imputed_values(query, modality="adt", scale="log1p_cp10k").to_numpy()
    for one, two in zip(first, model.get_imputed_intervals(query, modality="adt"), strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert np.mean((values >= first.lower) & (values <= first.upper)) > 0.8
