"""What is legal but suspicious is said, by register and by inspect alike; what is ordinary is not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mosaicvi.data.blocks import Block
from mosaicvi.data.looks import filled_by_batch, look
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.data.register import register
from mosaicvi.data.register.suspicious import droplets, hashtags, scale, zero_or_one, zeros
from mosaicvi.data.registry import Setup
from mosaicvi.errors import InputError, MosaicWarning
from mosaicvi.inspect.describe import describe

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.gamma(1, 2, (300, 60))).astype(np.float32)
LOGS = RNG.normal(25, 2, (300, 60)).astype(np.float32)


def soup() -> np.ndarray:
    return np.asarray(COUNTS * 8 * RNG.uniform(0.8, 1, COUNTS.shape), np.float32) * (
        RNG.random(COUNTS.shape) < 0.4
    )


def shares_of_counts() -> np.ndarray:
    return np.asarray(COUNTS / COUNTS.sum(1, keepdims=True) * 1e6, np.float32) * 1.0


def ratios_to_the_mean() -> np.ndarray:
    """Centred log ratios of counts, as proteins are often given."""
    x = RNG.poisson(RNG.gamma(2, np.exp(RNG.normal(2, 1.5, 60)), (300, 60)))
    return np.asarray(np.log1p(x / np.exp(np.log1p(x).mean(1, keepdims=True))), np.float32)


SCALES: dict[str, tuple[Callable[[], np.ndarray], str | None]] = {
    "counts": (lambda: COUNTS, None),
    "log intensities": (lambda: LOGS, None),
    "raw intensities": (lambda: np.exp2(LOGS), "raw intensities; take their logarithm"),
    "whole intensities": (lambda: np.rint(np.exp2(LOGS)), "raw intensities; take their logarithm"),
    "flow": (lambda: RNG.normal(500, 3000, (300, 60)).astype(np.float32), "raw flow or mass cytometry"),
    "ratios": (
        lambda: np.exp2(RNG.normal(0, 1, (300, 60))).astype(np.float32),
        "ratios around 1; take their",
    ),
    "ratios of a narrow spread": (
        lambda: np.exp2(RNG.normal(0.1, 0.6, (300, 60))).astype(np.float32),
        "ratios around 1; take their logarithm",
    ),
    "values around 1": (lambda: RNG.normal(1, 0.1, (300, 60)).astype(np.float32), None),
    "log counts": (lambda: np.log1p(COUNTS), None),
    "centred log ratios of proteins": (ratios_to_the_mean, None),
    "log ratios": (lambda: RNG.normal(0, 3, (300, 60)).astype(np.float32), None),
    "methylation": (lambda: RNG.beta(1, 1, (300, 60)).astype(np.float32), "shares between 0 and 1"),
    "CPM": (shares_of_counts, "normalised to 1,000,000 a cell"),
    "SoupX": (soup, "counts with fractions, as SoupX"),
}


@pytest.mark.parametrize("name", list(SCALES))
def test_scales_are_named_for_what_they_look_like(name: str) -> None:
    make, words = SCALES[name]
    found = scale("prot", look(make()), counts_in=None)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found
    if words is not None:
        with_layer = scale("prot", look(make()), counts_in="counts")
        assert with_layer is not None
        assert "layers={'prot': 'counts'}" in with_layer


def test_z_scores_are_named_where_counts_are_usual() -> None:
    x = RNG.normal(0, 1, (300, 60)).astype(np.float32)
    assert scale("peptides", look(x), counts_in=None) is None
    assert "z-scores" in str(scale("rna", look(x), counts_in=None))
    assert "z-scores" in str(scale("peptides", look(x), counts_in="counts"))


def test_intensities_are_refused_and_accepted_when_meant() -> None:
    a = AnnData(np.exp2(LOGS))
    with pytest.raises(InputError, match=r"raw intensities.*likelihoods=\{'ms': 'Gaussian'\}"):
        register(a, Setup(modalities=("ms",)))
    meant = register(a, Setup(modalities=("ms",), likelihoods={"ms": "Gaussian"}))
    assert meant.modality("ms").likelihood == "Gaussian"


@pytest.mark.parametrize(("name", "is_said"), [("rna", True), ("peptides", False)])
def test_log_normalised_counts_in_a_dense_matrix_are_named_where_counts_are_usual(
    name: str, is_said: bool
) -> None:
    x = np.log1p((COUNTS + 2) * (RNG.random(COUNTS.shape) < 0.8) * 0.5)
    said = f"like log-normalised counts.*are better.*layers=.'{name}': '...'.*likelihoods=.'{name}': 'Gauss"
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found = register(AnnData(x), Setup(modalities=(name,)))
    assert found.modality(name).likelihood == "Gaussian"
    assert any(re.search(said, str(note.message)) for note in notes) == is_said
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        register(AnnData(x), Setup(modalities=(name,), likelihoods={name: "Gaussian"}))
    assert not any(re.search(said, str(note.message)) for note in notes)


def batches(n: int = 300) -> np.ndarray:
    return np.repeat([0, 1], n // 2)


def notes_on_zeros(name: str, x: Block) -> list[str]:
    names = pd.Index([f"p{i}" for i in range(60)])
    return zeros(name, look(x), filled_by_batch(x, batches(), 2), names, batches(), ["a", "b"])


def test_features_and_cells_of_zeros_in_one_batch() -> None:
    assert notes_on_zeros("adt", sparse.csr_matrix(COUNTS)) == []
    x = COUNTS.copy()
    x[150:, :3] = 0
    (note,) = notes_on_zeros("adt", sparse.csr_matrix(x))
    assert "3 features are 0 in every cell of batch 'b'" in note
    assert "p0, p1, p2" in note
    assert "zeros_missing=['adt']" in note
    x = COUNTS.copy()
    x[200:] = 0
    (note,) = notes_on_zeros("adt", sparse.csr_matrix(x))
    assert "67% of the cells of batch 'b' have nothing but zeros" in note


def test_exact_zeros_far_from_all_other_values() -> None:
    x = np.where(RNG.random(LOGS.shape) < 0.2, 0, LOGS).astype(np.float32)
    (note,) = notes_on_zeros("ms", x)
    assert re.search(r"(19|20|21)% of its values are exactly 0", note)
    assert notes_on_zeros("ms", LOGS) == []
    near = np.where(RNG.random(LOGS.shape) < 0.2, 0, RNG.exponential(1, LOGS.shape)).astype(np.float32)
    assert notes_on_zeros("ms", near) == []


def test_droplets_hashtags_and_zeros_and_ones() -> None:
    few = sparse.csr_matrix(RNG.poisson(0.01, (400, 300)).astype(np.float32))
    assert "min_counts={'rna': 10}" in droplets("rna", look(few))[0]
    assert droplets("rna", look(sparse.csr_matrix(RNG.poisson(1, (400, 300)).astype(np.float32)))) == []
    assert "Hashtag1, HTO_2, CMO301" in hashtags("adt", pd.Index(["CD3", "Hashtag1", "HTO_2", "CMO301"]))[0]
    assert hashtags("adt", pd.Index(["CD3", "CD45RA"])) == []
    binary = sparse.csr_matrix((RNG.random((20, 60)) < 0.3).astype(np.float32))
    assert "likelihoods={'x': 'Bernoulli'}" in zero_or_one("x", look(binary), is_peak=False)[0]
    assert zero_or_one("x", look(binary), is_peak=True) == []


def mudata(**x: np.ndarray) -> MuData:
    with mudata_as_it_is():
        return MuData({name: AnnData(sparse.csr_matrix(values)) for name, values in x.items()})


def test_technical_features_are_left_out_unless_named() -> None:
    mdata = mudata(rna=COUNTS, crispr_guide_capture=COUNTS[:, :4] + 1)
    with pytest.warns(MosaicWarning, match="holds guides.*modalities=.'rna', 'crispr_guide_capture'. takes"):
        assert [m.name for m in register(mdata, Setup()).modalities] == ["rna"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = register(mdata, Setup(modalities=("rna", "crispr_guide_capture")))
    assert len(both.modalities) == 2
    assert any("holds guides" in note for note in describe(mdata).warnings)
    alone = mudata(custom=COUNTS)
    assert [m.name for m in register(alone, Setup()).modalities] == ["custom"]


def test_inspect_says_what_training_would() -> None:
    a = AnnData(sparse.csr_matrix(np.log1p(COUNTS * (RNG.random(COUNTS.shape) < 0.5))))
    a.raw = AnnData(sparse.csr_matrix(COUNTS))
    notes = describe(a).warnings
    assert any("look normalised" in note and "layers={'rna': 'raw'}" in note for note in notes)
    assert describe(a, layers={"rna": "raw"}).warnings == ()


def test_parts_that_nothing_connects_are_said_when_registering() -> None:
    with mudata_as_it_is():
        rna = AnnData(sparse.csr_matrix(COUNTS[:10]), obs=pd.DataFrame(index=[f"a{i}" for i in range(10)]))
        adt = AnnData(
            sparse.csr_matrix(COUNTS[:10, :5]), obs=pd.DataFrame(index=[f"b{i}" for i in range(10)])
        )
        apart = MuData({"rna": rna, "adt": adt})
    with pytest.warns(MosaicWarning, match="falls into 2 parts that share no feature and no cell"):
        register(apart, Setup())
