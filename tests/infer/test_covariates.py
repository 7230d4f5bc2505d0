"""Values as other batches: corrected ones agree between batches, others with what those measured."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from tests.builders import mudata_of

from mosaicvi import InputError, MosaicVI, MosaicWarning
from mosaicvi.infer.covariates import batches_of

N, GENES, PROTEINS, TYPES = 600, 40, 8, 3
STRONG = 4  # so many proteins stain fourfold in batch B
FACTOR = 4.0


def stained(seed: int = 0) -> tuple[MuData, np.ndarray]:
    """Batches A and B with RNA and proteins, C with RNA alone; and the type of each cell."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, TYPES, N)
    batch = np.array(["A", "B", "C"])[np.arange(N) * 3 // N]
    genes = np.exp(rng.normal(0, 1, (TYPES, GENES)))[kind] * rng.lognormal(0, 0.3, (N, 1))
    proteins = 8 * np.exp(rng.normal(0, 0.8, (TYPES, PROTEINS)))[kind] * rng.lognormal(0, 0.3, (N, 1))
    proteins[batch == "B", :STRONG] *= FACTOR
    genes[batch == "B", : GENES // 4] *= FACTOR
    rna = rng.poisson(1.5 * genes).astype(np.float32)
    adt = rng.poisson(proteins * rng.gamma(10, 0.1, proteins.shape)).astype(np.float32)
    obs = pd.DataFrame({"batch": batch}, index=[f"c{i}" for i in range(N)])
    has = batch != "C"
    mods = {
        "rna": AnnData(
            sp.csr_matrix(rna), obs=obs[[]].copy(), var=pd.DataFrame(index=[f"g{j}" for j in range(GENES)])
        ),
        "adt": AnnData(
            sp.csr_matrix(adt[has]),
            obs=obs[has][[]].copy(),
            var=pd.DataFrame(index=[f"p{j}" for j in range(PROTEINS)]),
        ),
    }
    return mudata_of(mods, obs), kind


@pytest.fixture(scope="module")
def made() -> tuple[MosaicVI, MuData, np.ndarray]:
    mdata, kind = stained()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mosaic, dimensions=24, dim_latent=6, dim_block_enc=16, dim_block_dec=16)
    model.train(60, batch_size=70, lr=0.01, progress=False, accelerator="cpu")
    return model, mdata, kind


def at_library(counts: np.ndarray, library: float) -> np.ndarray:
    return counts / np.maximum(counts.sum(1, keepdims=True), 1) * library


def means(model: MosaicVI, batch: str, kind: np.ndarray, mdata: MuData, **choice: Any) -> np.ndarray:
    """Mean value of each type among the cells of a batch, (types, features)."""
    here = (mdata.obs["batch"] == batch).to_numpy()
    table = model.get_imputed_values(**choice).to_numpy(float)
    return np.stack([table[here & (kind == t)].mean(0) for t in range(TYPES)])


CHOICES = [
    {"modality": "adt", "library": 200.0},
    {"modality": "adt", "scale": "log1p_cp10k"},
    {"modality": "rna", "library": 120.0},
    {"modality": "rna", "scale": "log1p_cp10k"},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("as_batch", ["mean", "B", ["A", "B"]], ids=str)
def test_corrected_values_of_a_type_agree_between_batches(
    made: tuple[MosaicVI, MuData, np.ndarray], choice: dict[str, Any], as_batch: Any
) -> None:
    model, mdata, kind = made
    a, b = (means(model, name, kind, mdata, transform_batch=as_batch, **choice) for name in "AB")
    own = [means(model, name, kind, mdata, **choice) for name in "AB"]
    assert np.abs(a / b - 1).mean() < 0.1
    assert np.abs(own[0] / own[1] - 1).mean() > 3 * np.abs(a / b - 1).mean()


@pytest.mark.parametrize("modality", ["adt", "rna"])
@pytest.mark.parametrize(("of", "as_batch"), [("A", "B"), ("B", "A"), ("C", "B"), ("A", None), ("B", None)])
def test_a_counterfactual_batch_has_its_measured_means(
    made: tuple[MosaicVI, MuData, np.ndarray], modality: str, of: str, as_batch: str | None
) -> None:
    model, mdata, kind = made
    a = mdata.mod[modality]
    batch = (mdata.obs["batch"] == (as_batch or of)).to_numpy()[mdata.obs_names.get_indexer(a.obs_names)]
    kinds = kind[mdata.obs_names.get_indexer(a.obs_names)]
    library = 200.0 if modality == "adt" else 120.0
    measured = at_library(a.X.toarray(), library)
    wanted = np.stack([measured[batch & (kinds == t)].mean(0) for t in range(TYPES)])
    found = means(model, of, kind, mdata, modality=modality, library=library, transform_batch=as_batch)
    often = wanted > 1
    off = np.abs(found[often] / wanted[often] - 1)
    assert off.mean() < 0.15


def test_cells_without_the_modality_are_at_the_mean_by_default(
    made: tuple[MosaicVI, MuData, np.ndarray],
) -> None:
    model, mdata, _ = made
    without = np.flatnonzero((mdata.obs["batch"] == "C").to_numpy())
    for scale in ("counts", "log1p_cp10k"):
        own, mean = (
            model.get_imputed_values(modality="adt", indices=without, scale=scale, transform_batch=batch)  # type: ignore[arg-type]
            for batch in (None, "mean")
        )
        pd.testing.assert_frame_equal(own, mean, check_exact=True)
    assert own.attrs["batch"].endswith("where that measured none of adt")
    assert mean.attrs["batch"] == "mean of the batches that measured it"
    as_b = model.get_imputed_values(modality="adt", indices=[0], transform_batch=["B"])
    assert as_b.attrs["batch"] == "as batch B"


def test_of_several_batches_the_average(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    model = made[0]
    for choice in ({"modality": "rna", "library": 120.0}, {"modality": "rna", "scale": "log1p_cp10k"}):
        a, b, c, every = (
            model.get_imputed_values(transform_batch=batch, **choice).to_numpy(float)  # type: ignore[arg-type]
            for batch in ("A", "B", "C", ["A", "B", "C"])
        )
        np.testing.assert_allclose(every, (a + b + c) / 3, rtol=1e-4, atol=1e-5)


def test_a_batch_without_the_modality_is_refused(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    model = made[0]
    for batch, message in (
        ("C", r"transform_batch: 'C' did not measure adt; use 'mean' or one of 'A', 'B'\."),
        (["A", "X"], r"transform_batch: 'X' is unknown; use 'mean' or one of 'A', 'B'\."),
        ([], r"transform_batch: an empty list; name at least one batch\."),
    ):
        with pytest.raises(InputError, match=message):
            model.get_imputed_values(modality="adt", transform_batch=batch)


def test_data_without_batches_have_none_to_choose(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(made[1])
    assert batches_of(mosaic.registry, "adt").shares is None
    with pytest.raises(InputError, match="transform_batch: the data were registered without batches"):
        batches_of(mosaic.registry, "adt", "A")


def test_a_batch_called_mean_is_meant_by_its_name(made: tuple[MosaicVI, MuData, np.ndarray]) -> None:
    mdata = made[1].copy()
    mdata.obs["batch"] = mdata.obs["batch"].replace("B", "mean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        registry = MosaicVI.setup_mudata(mdata, batch_key="batch").registry
    assert str(batches_of(registry, "adt", "mean")) == "as batch mean"


def test_where_one_batch_measured_it_every_answer_is_as_that_batch() -> None:
    mdata, _ = stained(1)
    kept = mdata.obs["batch"] != "B"
    mdata = mdata[kept.to_numpy()].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        mosaic = MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mosaic, dimensions=24, dim_latent=6, dim_block_enc=16, dim_block_dec=16)
    model.train(2, batch_size=70, progress=False, accelerator="cpu")
    readout = model.readout()
    assert readout is not None
    assert set(readout.levels) == {"rna"}
    for scale in ("counts", "log1p_cp10k"):
        tables = [
            model.get_imputed_values(modality="adt", scale=scale, transform_batch=batch)  # type: ignore[arg-type]
            for batch in (None, "A", "mean", ["A"])
        ]
        for table in tables[1:]:
            np.testing.assert_array_equal(tables[0], table)
