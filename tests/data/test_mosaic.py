"""Registering: what is measured, by name; the user's object as it was; every column and dtype."""

from __future__ import annotations

import re
import tracemalloc
import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from mudata import MuData
from tests.builders import PEAKS, fingerprint, mudata_of, random_mudata, truth

from mosaicvi.data import values as values_module
from mosaicvi.data.combine import combine
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register import register
from mosaicvi.data.registry import Registry, Setup
from mosaicvi.errors import InputError, MosaicWarning
from mosaicvi.store.state import flatten, unflatten

BATCH = Setup(batch_key="batch")


def quietly(data: object, setup: Setup = BATCH, registry: Registry | None = None) -> Mosaic:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return register(data, setup, registry=registry)  # type: ignore[arg-type]


def dense_of(mosaic: Mosaic, name: str) -> tuple[np.ndarray, np.ndarray]:
    """What a mosaic says of a modality, dense, in the order of its cells: values and measured, (n, D)."""
    m = mosaic.modality(name)
    x = m.x if isinstance(m.x, np.ndarray) else m.x.toarray()
    measured = m.panels[m.panel_of_row] if m.entry_measured is None else m.entry_measured
    has = m.row_of_cell >= 0
    out, known = np.zeros((mosaic.n_cells, m.n_features)), np.zeros((mosaic.n_cells, m.n_features), bool)
    out[has], known[has] = x[m.row_of_cell[has]], measured[m.row_of_cell[has]]
    return out, known


def one(x: object, *, obs: dict[str, object] | None = None, names: list[str] | None = None) -> AnnData:
    n, d = x.shape  # type: ignore[attr-defined]
    cells = [f"c{i}" for i in range(n)]
    return AnnData(
        x,
        obs=pd.DataFrame(obs or {}, index=cells),
        var=pd.DataFrame(index=names or [f"g{j}" for j in range(d)]),
    )


COUNTS = np.array([[0, 3, 0, 1], [2, 0, 0, 0], [0, 0, 5, 1]], np.float32)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), panels=st.booleans(), nan=st.booleans(), fractions=st.booleans())
def test_values_and_measured_are_those_of_the_cell_by_name(
    seed: int, panels: bool, nan: bool, fractions: bool
) -> None:
    mdata = random_mudata(seed, panels=panels, nan=nan, fractions=fractions)
    before = fingerprint(mdata)
    mosaic = quietly(mdata)
    assert fingerprint(mdata) == before
    assert list(mosaic.cells) == list(mdata.obs_names)
    for m in mosaic.modalities:
        x, measured = dense_of(mosaic, m.name)
        expected, known = truth(mdata, m.name, m.features.names)
        np.testing.assert_array_equal(measured, known)
        np.testing.assert_array_equal(x, expected.astype(np.float32))
        has = m.row_of_cell >= 0
        np.testing.assert_allclose(
            m.library[m.row_of_cell[has]], np.maximum(expected.sum(1), 0)[has], rtol=1e-6
        )
        if m.transform == "log1p_cp10k":
            np.testing.assert_allclose(
                m.scale[m.row_of_cell[has]], 1e4 / np.maximum(expected.sum(1), 1)[has], rtol=1e-6
            )


def test_kinds_are_found_from_values_and_names() -> None:
    mosaic = quietly(random_mudata(0))
    assert [(m.name, m.likelihood, m.transform, m.whole) for m in mosaic.modalities] == [
        ("rna", "NB", "clr", True),
        ("adt", "NB", "clr", True),
        ("atac", "Poisson", "log1p_cp10k", True),
    ]
    sparse = random_mudata(0)
    rna = sparse.mod["rna"].X
    rna.data[rna.data == 1] = 0
    assert (rna.data > 0).sum() < 0.2 * rna.shape[0] * rna.shape[1]
    assert quietly(sparse).modality("rna").transform == "log1p_cp10k"
    assert quietly(random_mudata(0, fractions=True)).modality("adt").likelihood == "Gaussian"


def test_blocks_are_chromosomes_in_order_of_appearance() -> None:
    m = quietly(random_mudata(1)).modality("atac")
    assert m.features.blocks == ("chr2", "chr1")
    assert m.features.sizes == (3, 4)
    assert [PEAKS[i] for i in m.features.order] == list(m.features.names)


@pytest.mark.parametrize("form", ["{}:{}-{}", "{}-{}-{}", "{}_{}_{}"])
def test_every_way_of_naming_peaks(form: str) -> None:
    names = [form.format(c, i, i + 5) for i, c in enumerate(["chr1", "chr1", "chrX", "GL000194.1"])]
    m = quietly(one(sp.csr_matrix(COUNTS), names=names), Setup()).modality("rna")
    assert (m.features.blocks, m.features.sizes) == (("chr1", "chrX", "GL000194.1"), (2, 1, 1))
    assert m.likelihood == "Poisson"


def test_one_chromosome_is_peaks_too_and_a_few_odd_names_are_a_block() -> None:
    one_chromosome = [f"chr1:{i}-{i + 1}" for i in range(4)]
    assert quietly(one(sp.csr_matrix(COUNTS), names=one_chromosome), Setup()).modality("rna").likelihood == (
        "Poisson"
    )
    names = [f"chr1:{i}-{i + 1}" for i in range(19)] + ["spike"]
    m = quietly(one(sp.csr_matrix(np.ones((2, 20), np.float32)), names=names), Setup()).modality("rna")
    assert m.features.blocks == ("chr1", "other")


def test_a_var_column_overrides_the_blocks() -> None:
    a = one(sp.csr_matrix(COUNTS))
    a.var["pathway"] = pd.Categorical(["y", "x", "y", "x"])
    m = quietly(a, Setup(block_keys={"rna": "pathway"})).modality("rna")
    assert (m.features.blocks, m.features.names, m.likelihood) == (("y", "x"), ("g0", "g2", "g1", "g3"), "NB")
    a.var["pathway"] = ["y", None, "y", "x"]
    with pytest.raises(InputError, match=r"says no block for 'g1'"):
        quietly(a, Setup(block_keys={"rna": "pathway"}))
    with pytest.raises(InputError, match=r"no var column 'way'"):
        quietly(a, Setup(block_keys={"rna": "way"}))


# --- matrices -----------------------------------------------------------------------------------


def forms() -> dict[str, object]:
    csr = sp.csr_matrix(COUNTS)
    places = np.array([3, 1, 0, 3, 2]), np.array([0, 2, 3, 5])

    def unsorted(dtype: type) -> sp.csr_matrix:
        return sp.csr_matrix((np.array([1, 3, 2, 1, 5], dtype), *map(np.copy, places)), shape=(3, 4))

    def twice(dtype: type) -> sp.csr_matrix:
        data, cols = np.array([2, 1, 1, 2, 5, 1, 0], dtype), np.array([1, 1, 3, 0, 2, 3, 0])
        return sp.csr_matrix((data, cols, np.array([0, 3, 4, 7])), shape=(3, 4))

    return {
        "csr": csr,
        "csr64": csr.astype(np.float64),
        "csc": sp.csc_matrix(COUNTS),
        "csr_array": sp.csr_array(COUNTS),
        "csc_array": sp.csc_array(COUNTS.astype(np.int64)),
        "int64, unsorted": unsorted(np.int64),
        "float32, unsorted": unsorted(np.float32),
        "duplicates and zeros": twice(np.float64),
        "duplicates, float32": twice(np.float32),
        "int32": csr.astype(np.int32),
        "uint8": csr.astype(np.uint8),
        "dense": COUNTS,
        "dense int": COUNTS.astype(np.int16),
        "dense Fortran": np.asfortranarray(COUNTS),
    }


@pytest.mark.parametrize(
    "order", [["g0", "g1", "g2", "g3"], ["chr2-1-2", "chr1-1-2", "chr2-3-4", "chr1-3-4"]]
)
@pytest.mark.parametrize("form", forms())
def test_any_matrix_is_read_alike_and_left_alone(form: str, order: list[str]) -> None:
    a = one(forms()[form], names=order)
    before = fingerprint(a)
    m = quietly(a, Setup(likelihoods={"rna": "NB"})).modality("rna")
    assert fingerprint(a) == before
    assert m.x.has_canonical_format
    assert m.x.dtype == np.float32
    assert m.x.data.all()
    np.testing.assert_array_equal(m.x.toarray(), COUNTS[:, m.features.order])
    m.x.data[:] = -1
    if form not in ("csr", "csr_array"):
        assert fingerprint(a) == before, "only canonical float32 CSR may be shared"


@pytest.mark.parametrize("form", ["csr", "int64, unsorted", "dense"])
def test_views_files_layers_and_lazy_arrays(form: str, tmp_path: object) -> None:
    a = one(forms()[form])
    view = a[[2, 0]][:, ["g3", "g0", "g2"]]
    expected = COUNTS[[2, 0]][:, [3, 0, 2]]
    assert view.is_view
    np.testing.assert_array_equal(quietly(view, Setup()).modality("rna").x.toarray(), expected)
    assert view.is_view
    a.write_h5ad(f"{tmp_path}/a.h5ad")
    backed = anndata.read_h5ad(f"{tmp_path}/a.h5ad", backed="r")
    np.testing.assert_array_equal(quietly(backed, Setup()).modality("rna").x.toarray(), COUNTS)
    assert backed.isbacked
    backed.file.close()
    b = AnnData(obs=a.obs, var=a.var, layers={"counts": a.X})
    np.testing.assert_array_equal(
        quietly(b, Setup(layers={"rna": "counts"})).modality("rna").x.toarray(), COUNTS
    )
    with pytest.raises(InputError, match=r"X is empty; name the layer"):
        quietly(b, Setup())
    with pytest.raises(InputError, match=r"no layer 'raw'; it has 'counts'"):
        quietly(b, Setup(layers={"rna": "raw"}))


def test_bool_is_a_count_and_text_is_none() -> None:
    m = quietly(one(sp.csr_matrix(COUNTS > 0)), Setup()).modality("rna")
    np.testing.assert_array_equal(m.x.toarray(), COUNTS > 0)
    a = one(COUNTS)
    a.layers["text"] = COUNTS.astype(str).astype(object)
    with pytest.raises(InputError, match=r"type object, not numbers"):
        quietly(a, Setup(layers={"rna": "text"}))


def test_a_big_csr_is_shared_and_little_is_allocated() -> None:
    x = sp.random(20_000, 400, density=0.2, format="csr", dtype=np.float32, rng=0)
    x.data = np.ceil(x.data * 9)
    a = one(x)
    a.varm["measured"] = np.ones((400, 1), bool)
    tracemalloc.start()
    m = quietly(a, Setup()).modality("rna")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.shares_memory(m.x.data, a.X.data)
    assert np.shares_memory(m.x.indices, a.X.indices)
    assert peak < 5 * values_module.CHUNK * 8
    assert peak < 9 * x.nnz * 8


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mdata = random_mudata(3)
    whole = quietly(mdata)
    monkeypatch.setattr(values_module, "CHUNK", chunk)
    parts = quietly(mdata)
    for a, b in zip(whole.modalities, parts.modalities, strict=True):
        assert (a.x != b.x).sum() == 0
        np.testing.assert_array_equal(a.library, b.library)
        np.testing.assert_array_equal(a.scale, b.scale)


def test_libraries_are_exact_where_float32_sums_are_not() -> None:
    x = np.ones((2, 5000), np.float32)
    x[0, 0] = 2**24
    m = quietly(one(sp.csr_matrix(x)), Setup()).modality("rna")
    assert m.library[0] == np.float32(2**24 + 4999)


def test_clr_scale_is_the_geometric_mean_over_measured_features() -> None:
    x = np.array([[1, np.nan, 3], [0, 0, 7]], np.float32)
    m = quietly(one(x), Setup(transforms={"rna": "clr"})).modality("rna")
    expected = [np.exp(-np.mean(np.log1p([1, 3]))), np.exp(-np.mean(np.log1p([0, 0, 7])))]
    np.testing.assert_allclose(m.scale, expected, rtol=1e-6)


# --- what was measured --------------------------------------------------------------------------

TABLE = np.array([[1, 0], [1, 1], [0, 1], [1, 1]], bool)


@pytest.mark.parametrize("kind", ["frame", "array", "sparse", "numbers", "objects"])
def test_panels_in_any_form(kind: str) -> None:
    named = kind != "array" and kind != "sparse"
    x = np.array([[2, 1, 0, 1], [0, 3, 4, 0], [5, 0, 0, 1]], np.float32)
    a = one(sp.csr_matrix(x), obs={"panel": ["P", "Q", "P"] if named else [0, 1, 0]})
    columns = ["P", "Q"]
    a.varm["measured"] = {
        "frame": pd.DataFrame(TABLE, a.var_names, columns),
        "array": TABLE,
        "sparse": sp.csr_matrix(TABLE),
        "numbers": pd.DataFrame(TABLE.astype(float), a.var_names, columns),
        "objects": pd.DataFrame(TABLE.astype(object), a.var_names, columns),
    }[kind]
    m = register(a, Setup(panel_key="panel")).modality("rna")
    np.testing.assert_array_equal(m.panels[m.panel_of_row], TABLE.T[[0, 1, 0]])
    np.testing.assert_array_equal(m.x.toarray(), x)


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"P": [True, True, None, False]}, dtype=object),
        pd.DataFrame({"P": [1.0, 0, np.nan, 1]}),
        pd.DataFrame({"P": ["True", "False", "True", "True"]}),
        pd.DataFrame({"P": [2, 1, 0, 1]}),
    ],
)
def test_a_table_that_is_not_boolean_is_refused(table: pd.DataFrame) -> None:
    a = one(sp.csr_matrix(COUNTS))
    a.varm["measured"] = table.set_axis(a.var_names)
    with pytest.raises(InputError, match=r"is no table of True and False"):
        register(a, Setup())


def test_whose_panel_must_be_clear() -> None:
    a = one(sp.csr_matrix(COUNTS), obs={"batch": ["P", "R", "P"]})
    a.varm["measured"] = pd.DataFrame(TABLE, a.var_names, ["P", "Q"])
    with pytest.raises(InputError, match=r"has 2 panels; say which obs column"):
        register(a, Setup())
    with pytest.raises(InputError, match=r"obs\['batch'\] has 'R', which are no columns .*\('P', 'Q'\)"):
        register(a, BATCH)


def test_combined_datasets_bring_their_panels() -> None:
    left, right = one(sp.csr_matrix(COUNTS)), one(sp.csr_matrix(COUNTS[:, :3]))
    right.var_names = ["g1", "g2", "g9"]
    mdata = combine({"left": left, "right": right})
    m = register(mdata, Setup()).modality("rna")
    expected = np.array([[1, 1, 1, 1, 0], [0, 1, 1, 0, 1]], bool)
    assert m.features.names == ("g0", "g1", "g2", "g3", "g9")
    np.testing.assert_array_equal(m.panels[m.panel_of_row], expected[[0, 0, 0, 1, 1, 1]])


def test_equal_panels_are_one_and_unused_ones_are_dropped() -> None:
    a = one(sp.csr_matrix(COUNTS), obs={"batch": ["P", "Q", "P"]})
    a.varm["measured"] = pd.DataFrame({"P": True, "Q": True, "R": False}, index=a.var_names)
    m = register(a, BATCH).modality("rna")
    assert m.panels.tolist() == [[True] * 4]
    assert m.panel_of_row.tolist() == [0, 0, 0]


@pytest.mark.parametrize("form", [sp.csr_matrix, np.asarray])
def test_values_outside_the_panel_are_left_out_with_a_warning(form: object) -> None:
    x = form(np.array([[2, 1, 7, 1], [9, 3, 4, 0], [5, 0, 0, 1]], np.float32))  # type: ignore[operator]
    a = one(x, obs={"batch": ["P", "Q", "P"]})
    a.varm["measured"] = pd.DataFrame(TABLE, a.var_names, ["P", "Q"])
    before = fingerprint(a)
    with pytest.warns(MosaicWarning, match=r"2 values stand where"):
        m = register(a, BATCH).modality("rna")
    assert fingerprint(a) == before
    np.testing.assert_array_equal(m.x.toarray(), [[2, 1, 0, 1], [0, 3, 4, 0], [5, 0, 0, 1]])
    assert m.library.tolist() == [4, 7, 6]


def test_nan_is_missing_and_an_all_nan_cell_lacks_the_modality() -> None:
    x = np.array([[1, np.nan, 0.5], [np.nan, np.nan, np.nan], [2, 1, 0.25]], np.float32)
    both = mudata_of({"adt": one(x), "rna": one(sp.csr_matrix(COUNTS))})
    m = register(both, Setup()).modality("adt")
    assert m.row_of_cell.tolist() == [0, -1, 1]
    assert m.entry_measured is not None
    np.testing.assert_array_equal(m.entry_measured, [[True, False, True], [True, True, True]])
    np.testing.assert_array_equal(m.x, np.array([[1, 0, 0.5], [2, 1, 0.25]], np.float32))
    with pytest.raises(InputError, match=r"1 cells have no modality at all \(such as 'c1'\)"):
        register(one(x), Setup())


def test_a_feature_that_nobody_measured_is_refused() -> None:
    x = COUNTS.copy()
    x[:, 1] = np.nan
    with pytest.raises(InputError, match=r"nobody measured 'g1'; remove"):
        register(one(x), Setup())
    a = one(sp.csr_matrix(COUNTS))
    a.varm["measured"] = np.array([1, 0, 1, 1], bool)[:, None]
    with pytest.raises(InputError, match=r"nobody measured 'g1'"):
        quietly(a, Setup())


def test_whole_dense_matrices_need_no_table_of_entries() -> None:
    fractions = one(np.array([[0.5, 1], [2, 3]], np.float32))
    m = register(fractions, Setup()).modality("rna")
    assert m.likelihood == "Gaussian"
    assert m.entry_measured is None


# --- columns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        [1, 2, 10],
        [1.0, 2.0, 10.0],
        ["1", "2", "10"],
        pd.Categorical([1, 2, 10]),
        pd.Categorical([1.0, 2.0, 10.0]),
        pd.Categorical(["1", "2", "10"], categories=["10", "unused", "2", "1"]),
        pd.array([1, 2, 10], dtype="Int64"),
        pd.array(["1", "2", "10"], dtype="string"),
    ],
)
def test_batches_have_the_same_names_however_they_are_stored(column: object) -> None:
    a = one(sp.csr_matrix(COUNTS), obs={"batch": column})
    mosaic = register(a, BATCH)
    assert mosaic.registry.categories == {"batch": ("1", "10", "2")}
    assert mosaic.batch.tolist() == [0, 2, 1]
    np.testing.assert_array_equal(mosaic.covariates, np.eye(3, dtype=np.float32)[[0, 2, 1]])


def test_columns_of_modalities_serve_where_the_whole_has_none() -> None:
    rna, adt = one(sp.csr_matrix(COUNTS)), one(sp.csr_matrix(COUNTS))
    adt.obs_names = ["c2", "c3", "c1"]
    rna.obs["batch"], adt.obs["batch"] = ["a", "b", "c"], ["c", "d", "b"]
    mdata = mudata_of({"rna": rna, "adt": adt})
    assert "batch" not in mdata.obs
    mosaic = register(mdata, BATCH)
    names = mosaic.registry.categories["batch"]
    assert dict(zip(mosaic.cells, (names[b] for b in mosaic.batch), strict=True)) == {
        "c0": "a", "c1": "b", "c2": "c", "c3": "d",
    }  # fmt: skip
    adt.obs["batch"] = ["c", "d", "other"]
    with pytest.raises(InputError, match=r"differs between modalities for 1 cells \(such as 'c1'\)"):
        register(mudata_of({"rna": rna, "adt": adt}), BATCH)
    said = mudata_of({"rna": rna, "adt": adt})
    said.obs["batch"] = [{"c0": "a"}.get(c, np.nan) for c in said.obs_names]
    del said.mod["rna"].obs["batch"]
    mosaic = register(said, BATCH)
    assert mosaic.registry.categories["batch"] == ("a", "c", "d", "other")


def test_pulled_columns_with_a_prefix_serve_too() -> None:
    rna = one(sp.csr_matrix(COUNTS))
    mdata = mudata_of({"rna": rna}, pd.DataFrame({"rna:batch": ["x", "y", "x"]}, index=rna.obs_names))
    assert register(mdata, BATCH).registry.categories["batch"] == ("x", "y")


def test_missing_values_in_columns_are_named() -> None:
    a = one(sp.csr_matrix(COUNTS), obs={"batch": ["a", None, "b"], "age": [1.0, np.nan, 2]})
    with pytest.raises(InputError) as error:
        register(a, Setup(batch_key="batch", continuous_covariate_keys=("age",)))
    assert error.value.problems == [
        "obs['batch'] is missing (NaN) for 1 cells (such as 'c1'); fill it in, or remove those cells.",
        "obs['age'] is missing (NaN) for 1 cells (such as 'c1'); fill it in, or remove those cells.",
    ]


def test_covariates_are_one_hot_then_standardised() -> None:
    a = one(
        sp.csr_matrix(COUNTS),
        obs={"batch": ["b", "a", "b"], "donor": [3, 3, 4], "age": [10, 20, 60], "same": [7.0, 7.0, 7.0]},
    )
    setup = Setup(
        batch_key="batch", categorical_covariate_keys=("donor",), continuous_covariate_keys=("age", "same")
    )
    mosaic = register(a, setup)
    age = (np.array([10, 20, 60]) - 30) / np.std([10, 20, 60])
    expected = np.c_[[0, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 1], age, [0, 0, 0]]
    np.testing.assert_allclose(mosaic.covariates, expected, rtol=1e-6)
    query = register(a[[2]].copy(), setup, registry=mosaic.registry)
    np.testing.assert_allclose(query.covariates, expected[[2]], rtol=1e-6)


def test_without_a_batch_all_cells_share_one_covariate() -> None:
    mosaic = register(one(sp.csr_matrix(COUNTS)), Setup())
    np.testing.assert_array_equal(mosaic.covariates, np.ones((3, 1)))
    assert mosaic.registry.measured_in == {"rna": ("all",)}


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (Setup(batch_key="lane"), r"batch_key: no obs column 'lane'; there are 'batch', 'text'"),
        (Setup(continuous_covariate_keys=("text",)), r"obs\['text'\] does not hold numbers"),
        (Setup(continuous_covariate_keys=("far",)), r"obs\['far'\] holds infinite values"),
        (Setup(modalities=("adt",), batch_key="batch"), None),
        (Setup(layers={"adt": "x"}), r"layers: no modality 'adt'"),
        (Setup(likelihoods={"rna": "nb"}), r"likelihoods: unknown 'nb' for 'rna'; use one of NB, ZINB"),  # type: ignore[dict-item]
        (Setup(transforms={"rna": "log"}), r"transforms: unknown 'log' for 'rna'"),  # type: ignore[dict-item]
        (Setup(likelihoods={"rna": "Bernoulli"}, transforms={"rna": "none"}), r"is above 1, which Bernoulli"),
        (Setup(likelihoods={"rna": "Bernoulli"}, transforms={"rna": "clr"}), r"which needs 'binarize'"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(setup: Setup, message: str | None) -> None:
    obs = {"batch": ["a", "b", "a"], "text": ["x", "y", "z"], "far": [1, np.inf, 2]}
    a = one(sp.csr_matrix(COUNTS), obs=obs)
    if message is None:  # an AnnData takes the name that it is given
        assert register(a, setup).modalities[0].name == "adt"
        return
    with pytest.raises(InputError, match=message) as error:
        register(a, setup)
    assert all("\n" not in problem for problem in error.value.problems)


def test_a_column_of_names_is_no_batch() -> None:
    n = 1200
    a = one(sp.csr_matrix(np.ones((n, 2), np.float32)), obs={"barcode": [f"b{i}" for i in range(n)]})
    with pytest.raises(InputError, match=r"has 1,200 different values, more than 1,000"):
        register(a, Setup(batch_key="barcode"))


def test_a_column_or_modality_is_named_once() -> None:
    with pytest.raises(InputError, match=r"covariates: 'batch' is named more than once"):
        Setup(batch_key="batch", categorical_covariate_keys=("batch",))
    with pytest.raises(InputError, match=r"modalities: 'rna' is named more than once"):
        Setup(modalities=("rna", "rna"))


def test_groups_are_batch_and_modalities() -> None:
    mdata = random_mudata(5, nan=False)
    mosaic = quietly(mdata)
    for i, cell in enumerate(mosaic.cells):
        has = "+".join(name for name, a in mdata.mod.items() if cell in a.obs_names)
        assert mosaic.group_names[mosaic.group[i] - 1] == f"{mdata.obs.loc[cell, 'batch']}: {has}"
    assert set(mosaic.group) == set(range(1, len(mosaic.group_names) + 1))


# --- what is wrong with an object ---------------------------------------------------------------


def test_all_problems_are_told_at_once() -> None:
    mdata = random_mudata(0)
    mdata.mod["rna"].X.data[0] = -1
    mdata.mod["adt"].X[0, 0] = np.inf
    with pytest.raises(InputError) as error:
        register(mdata, Setup(batch_key="lane", likelihoods={"rna": "NB"}))
    cell_rna, cell_adt = mdata.mod["rna"].obs_names[0], mdata.mod["adt"].obs_names[0]
    assert [p.split(";")[0] for p in error.value.problems] == [
        f"rna: the value -1 of cell '{cell_rna}' is negative, which NB cannot be",
        f"adt: the value inf of cell '{cell_adt}' is not finite",
        "batch_key: no obs column 'lane'",
    ]


def test_cells_that_only_a_modality_knows_are_refused() -> None:
    mdata = random_mudata(0)
    extra = AnnData(
        sp.csr_matrix((1, 6), dtype=np.float32), obs=pd.DataFrame(index=["new"]), var=mdata.mod["rna"].var
    )
    grown = anndata.concat([mdata.mod["rna"], extra], merge="same")
    mdata.mod["rna"] = grown
    with pytest.raises(InputError, match=r"1 cells \(such as 'new'\) are not in the obs_names of the whole"):
        quietly(mdata)


def test_a_mudata_of_shared_features_or_nested_is_refused() -> None:
    shared = MuData({"a": one(sp.csr_matrix(COUNTS)), "b": one(sp.csr_matrix(COUNTS))}, axis=1)
    with pytest.raises(InputError, match=r"same features, not modalities"):
        quietly(shared, Setup())


def test_negative_values_where_counts_are_usual_are_gaussian_with_a_word() -> None:
    a = one(np.random.default_rng(0).normal(size=COUNTS.shape).astype(np.float32))
    a.layers["counts"] = COUNTS
    with pytest.warns(MosaicWarning, match=r"counts in layer 'counts' are taken.*layers=\{'rna': 'counts'\}"):
        assert register(a, Setup()).modality("rna").likelihood == "NB"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert register(a, Setup(likelihoods={"rna": "Gaussian"})).modality("rna").likelihood == "Gaussian"
        del a.layers["counts"]
        with mudata.set_options(pull_on_update=False):
            peptides = MuData({"peptides": a})
        assert register(peptides, Setup()).modality("peptides").likelihood == "Gaussian"


def test_a_few_values_among_counts_that_are_none_are_refused_and_named() -> None:
    for value in (0.5, -1):
        x = np.random.default_rng(0).poisson(3, (30, 10)).astype(np.float32)
        x[2, 1] = value
        with pytest.raises(InputError, match=rf"rna: the value {value} of cell .* is no count.*Gaussian"):
            register(one(x), Setup())
        with pytest.raises(InputError, match=rf"rna: the value {value} of cell .* is no count"):
            register(one(sp.csr_matrix(x)), Setup())


def test_sparse_nan_and_sparse_fractions_are_refused() -> None:
    x = COUNTS.copy()
    x[0, 1] = np.nan
    with pytest.raises(InputError, match=r"a sparse matrix holds NaN; missing entries need a dense matrix"):
        register(one(sp.csr_matrix(x)), Setup())
    a = one(sp.csr_matrix(COUNTS / 2))
    a.layers["counts"] = a.X
    with pytest.raises(InputError, match=r"look normalised already.*layers=.*\(it has 'counts'\)"):
        register(a, Setup())


def test_too_large_for_float32_is_not_finite() -> None:
    x = COUNTS.astype(np.float64)
    x[1, 0] = 1e300
    with pytest.raises(InputError, match=re.escape("the value inf of cell 'c1' is not finite")):
        register(one(sp.csr_matrix(x)), Setup())


# --- data for a model that is there -------------------------------------------------------------


def test_a_query_is_read_as_the_model_was() -> None:
    mdata = random_mudata(7)
    mosaic = quietly(mdata)
    state = {"registry": mosaic.registry.to_dict()}
    registry = Registry.from_dict(unflatten(*flatten(state))["registry"])
    shuffled = mdata[np.random.default_rng(0).permutation(mdata.n_obs)].copy()
    rng = np.random.default_rng(1)
    mods = {}
    for name in ("atac", "rna", "adt"):
        a = shuffled.mod[name]
        mods[name] = a[:, rng.permutation(a.n_vars)].copy()
    query = quietly(mudata_of(mods, shuffled.obs), registry.setup, registry)
    at = mosaic.cells.get_indexer(query.cells)
    assert query.registry is registry
    for m in mosaic.modalities:
        for mine, theirs in zip(dense_of(query, m.name), dense_of(mosaic, m.name), strict=True):
            np.testing.assert_array_equal(mine, theirs[at])
    np.testing.assert_array_equal(query.covariates, mosaic.covariates[at])


def test_a_query_without_some_modality_has_it_empty() -> None:
    mdata = random_mudata(8)
    registry = quietly(mdata).registry
    cells = mdata.mod["adt"].obs_names
    only = mudata_of({"adt": mdata.mod["adt"]}, mdata.obs.loc[cells])
    query = quietly(only, registry.setup, registry)
    assert [m.name for m in query.modalities] == ["rna", "adt", "atac"]
    assert [m.n_cells for m in query.modalities] == [0, len(cells), 0]
    assert (query.modality("rna").row_of_cell == -1).all()
    a = mdata.mod["adt"].copy()
    a.obs = mdata.obs.loc[cells]
    alone = quietly(a, registry.setup, registry)
    np.testing.assert_array_equal(dense_of(alone, "adt")[0], dense_of(query, "adt")[0])


def test_a_query_with_other_features_or_scale_is_refused() -> None:
    mdata = random_mudata(9, panels=False)
    registry = quietly(mdata).registry
    rna = mdata.mod["rna"]
    rest = {"adt": mdata.mod["adt"], "atac": mdata.mod["atac"]}
    renamed = rna.copy()
    renamed.var_names = ["g0", "g1", "x", "g3", "g4", "g5"]
    with pytest.raises(InputError, match=r"'rna' does not match .* it lacks 'g2' and has 'x' besides"):
        quietly(mudata_of({"rna": renamed} | rest, mdata.obs), registry.setup, registry)
    halved = rna.copy()
    halved.X = halved.X / 2
    with pytest.raises(InputError, match=r"rna: values are fractional, so they look normalised"):
        quietly(mudata_of({"rna": halved} | rest, mdata.obs), registry.setup, registry)


def test_the_mosaic_can_be_printed_and_weighed() -> None:
    mosaic = quietly(random_mudata(2))
    lines = repr(mosaic).splitlines()
    assert lines[0] == "Mosaic of 24 cells"
    assert re.fullmatch(r"  atac: \d+ cells x 7 features \(Poisson, 2 blocks\)", lines[3])
    assert mosaic.nbytes() > sum(m.x.data.nbytes for m in mosaic.modalities)
    with pytest.raises(InputError, match=r"No modality 'x'; the model has rna, adt, atac"):
        mosaic.modality("x")


def test_an_anndata_of_several_modalities_is_refused_or_told() -> None:
    adata = AnnData(np.ones((2, 2)), var=pd.DataFrame({"feature_types": ["Gene Expression", "Peaks"]}))
    with pytest.raises(InputError, match=r"tells 'rna', 'atac' apart.*mosaicvi.to_mudata"):
        register(adata, Setup())
    adata.var["feature_types"] = "Gene Expression"
    adata.obsm["protein_expression"] = np.ones((2, 3))
    with pytest.warns(MosaicWarning, match=r"obsm\['protein_expression'\] is not read.*mosaicvi.to_mudata"):
        assert [m.name for m in register(adata, Setup()).modalities] == ["rna"]
