"""Counts beside an X that certainly holds none are found; wherever there is doubt, X it is."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mosaicvi import MosaicVI
from mosaicvi.data.combine import combine
from mosaicvi.data.counts import counts_beside_x
from mosaicvi.data.read import to_mudata
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.errors import InputError, MosaicWarning
from mosaicvi.inspect.describe import describe

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.gamma(1, 2, (30, 12))).astype(np.float32) + np.eye(30, 12, dtype=np.float32)
SHARES = COUNTS / COUNTS.sum(1, keepdims=True) * 1e4
LOGS = np.log1p(SHARES)
Z = (LOGS - LOGS.mean(0)) / LOGS.std(0)


def data(x: np.ndarray | None, *, raw: np.ndarray | None = None, **layers: np.ndarray) -> AnnData:
    var = pd.DataFrame(index=[f"g{i}" for i in range(12)])
    a = AnnData(x, obs=pd.DataFrame(index=[f"c{i}" for i in range(30)]), var=var, layers=layers)
    if raw is not None:
        a.raw = AnnData(raw, obs=a.obs, var=pd.DataFrame(index=[f"g{i}" for i in range(raw.shape[1])]))
    return a


@pytest.mark.parametrize("x", [LOGS, Z, SHARES, sparse.csr_matrix(LOGS)], ids=["logs", "z", "shares", "csr"])
def test_counts_are_found(x: np.ndarray) -> None:
    more = np.hstack([COUNTS, COUNTS])
    assert counts_beside_x("rna", data(x, counts=COUNTS)) == "counts"
    assert counts_beside_x("adt", data(x, raw=sparse.csr_matrix(more))) == "raw"
    assert counts_beside_x("rna", data(x, raw=LOGS, counts=sparse.csc_matrix(COUNTS))) == "counts"


@pytest.mark.parametrize(
    ("modality", "a"),
    [
        ("rna", data(COUNTS, counts=2 * COUNTS)),
        ("peptides", data(LOGS, counts=COUNTS)),
        ("rna", data(LOGS, spliced=COUNTS)),
        ("rna", data(LOGS, counts=LOGS, raw=Z)),
        ("rna", data(LOGS, raw=COUNTS[:, :9])),
        ("rna", data(LOGS, counts=0 * COUNTS)),
        ("rna", data(np.where(COUNTS == 0, np.nan, LOGS), counts=COUNTS)),
        ("rna", data(LOGS, counts=np.where(COUNTS == 0, np.nan, COUNTS))),
        ("rna", data(9 * COUNTS * RNG.uniform(0.8, 1, COUNTS.shape), counts=9 * COUNTS)),  # SoupX
        ("rna", data(None, counts=COUNTS)),
    ],
)
def test_in_doubt_it_is_x(modality: str, a: AnnData) -> None:
    assert counts_beside_x(modality, a) is None


def test_register_takes_them_and_remembers_where_they_were() -> None:
    a = data(LOGS, raw=COUNTS)
    words = r"rna.*X look normalised.*\.raw are taken, as by layer='raw'\. likelihood='Gaussian' takes X"
    with pytest.warns(MosaicWarning, match=words):
        mosaic = MosaicVI.setup_anndata(a)
    m = mosaic.modality("rna")
    assert (m.likelihood, mosaic.registry.setup.layers) == ("NB", {"rna": "raw"})
    np.testing.assert_array_equal(m.x.toarray(), COUNTS)
    np.testing.assert_array_equal(
        register(a, mosaic.registry.setup, registry=mosaic.registry).modality("rna").x.toarray(), COUNTS
    )
    MosaicVI(a)
    a.raw.X[0, 0] += 1
    with pytest.raises(InputError, match="changed after they had been registered"):
        MosaicVI(a)


@pytest.mark.parametrize(
    "said", [{"layers": {"rna": "X"}}, {"likelihoods": {"rna": "Gaussian"}}, {"transforms": {"rna": "none"}}]
)
def test_what_was_said_is_taken(said: dict[str, dict[str, str]]) -> None:
    setup = Setup(modalities=("rna",), **said)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*are taken")
        mosaic = register(data(Z, counts=COUNTS), setup)
    assert mosaic.registry.setup.layers == {}
    np.testing.assert_allclose(mosaic.modality("rna").x.mean(0), 0, atol=1e-5)


def test_combine_and_inspect_take_them_too() -> None:
    a, b = data(LOGS, counts=COUNTS), data(COUNTS)
    with pytest.warns(MosaicWarning, match=r"^a: Modality 'rna'.*layer 'counts' are taken.*'X'\} takes X"):
        both = combine({"a": a, "b": b}, pair=False)
    np.testing.assert_array_equal(both["rna"].X.toarray(), np.vstack([COUNTS, COUNTS]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = combine({"a": a}, layers={"rna": "X"})
    np.testing.assert_allclose(kept["rna"].X.toarray(), LOGS)
    found = describe(a)
    assert found.modalities[0].values == "counts"
    assert any("layer 'counts' are taken" in note for note in found.warnings)
    assert describe(a, layers={"rna": "X"}).modalities[0].values == "positive"


def test_a_cut_is_one_of_counts() -> None:
    least = float(np.median(COUNTS.sum(1)))
    got = to_mudata(data(LOGS, counts=COUNTS), min_counts={"rna": least})
    assert isinstance(got, MuData)
    assert got.n_obs == int((COUNTS.sum(1) >= least).sum())
