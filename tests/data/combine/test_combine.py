from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mudata import MuData
from scipy import sparse

from mosaicvi import MosaicVI
from mosaicvi.data.combine import combine
from mosaicvi.data.read import mudata_as_it_is, read
from mosaicvi.errors import InputError, MosaicWarning


def adata(values: object, cells: str, features: str, **obs: object) -> AnnData:
    x = np.atleast_2d(np.array(values, np.float32))
    x = x if np.isnan(x).any() else sparse.csr_matrix(x)
    return AnnData(x, obs=pd.DataFrame(obs, index=list(cells)), var=pd.DataFrame(index=list(features)))


def dense(part: AnnData) -> np.ndarray:
    return part.X.toarray() if sparse.issparse(part.X) else np.asarray(part.X)


def frame(part: AnnData) -> pd.DataFrame:
    return pd.DataFrame(dense(part), index=part.obs_names, columns=part.var_names)


def test_two_panels() -> None:
    a = adata([[1, 2], [0, 3]], "xy", "AB", batch=["p", "q"], age=[1, 2])
    b = adata([[4, 5]], "x", "CB", batch=["p"])
    got = combine({"one": a, "two": b})
    rna = got["rna"]
    assert list(rna.var_names) == list("ABC")
    assert list(got.obs_names) == list(rna.obs_names) == ["x-one", "y-one", "x-two"]
    np.testing.assert_array_equal(dense(rna), [[1, 2, 0], [0, 3, 0], [0, 5, 4]])
    assert sparse.isspmatrix_csr(rna.X)
    assert rna.X.dtype == np.float32
    expected = pd.DataFrame({"one": [True, True, False], "two": [False, True, True]}, index=list("ABC"))
    pd.testing.assert_frame_equal(rna.varm["measured"], expected)
    assert list(got.obs["original_name"]) == ["x", "y", "x"]
    assert list(got.obs["dataset"]) == ["one", "one", "two"]
    assert list(got.obs["batch"]) == ["p", "q", "p"]
    np.testing.assert_array_equal(got.obs["age"].to_numpy(float), [1, 2, np.nan])
    assert got.uns["mosaicvi"] == {"panel_key": "dataset", "reading": '{"dataset_in_names": true}'}


def test_blocks_that_are_small_parts_of_the_whole_and_out_of_order() -> None:
    rng = np.random.default_rng(1)
    datasets = {}
    for i in range(6):
        names = "".join(rng.permutation(list("ABCDEFGH"))[:5])
        datasets[f"d{i}"] = adata(rng.integers(0, 3, (4, 5)), "wxyz", names)
    got = frame(combine(datasets)["rna"])
    for name, part in datasets.items():
        own = got.loc[[f"{cell}-{name}" for cell in part.obs_names], part.var_names]
        np.testing.assert_array_equal(own.to_numpy(), dense(part))


def test_inner_join_keeps_what_all_measure() -> None:
    got = combine({"a": adata([[1, 2]], "x", "AB"), "b": adata([[3, 4]], "y", "BC")}, join="inner")
    assert list(got["rna"].var_names) == ["B"]
    np.testing.assert_array_equal(dense(got["rna"]), [[2], [3]])


def test_a_cell_of_several_modalities_stays_one_cell() -> None:
    parts = {
        "rna": adata([[1], [2]], "xy", "A", n=[1, 2], t=["u", "v"]),
        "adt": adata([[3]], "y", "P", n=[9], t=["v"]),
    }
    got = combine({"a": parts, "b": adata([[5]], "y", "A", n=[7], t=["w"])})
    assert list(got.obs_names) == ["x-a", "y-a", "y-b"]  # all of them, as y is in both
    assert list(got["adt"].obs_names) == ["y-a"]
    assert list(got.obs["t"]) == ["u", "v", "w"]
    assert "n" not in got.obs  # its modalities disagree, so each keeps its own
    assert list(got["rna"].obs["n"]) == [1, 2, 7]
    assert list(got["adt"].obs["n"]) == [9]


def test_names_are_kept_where_no_two_datasets_share_one() -> None:
    got = combine({"one": adata([[1], [2]], "xy", "A"), "two": adata([[3]], "z", "A")})
    assert list(got.obs_names) == list(got["rna"].obs_names) == ["x", "y", "z"]
    assert list(got.obs["original_name"]) == ["x", "y", "z"]
    assert list(combine({"one": adata([[1], [2]], "xy", "A")}).obs_names) == ["x", "y"]


def test_names_are_always_unique() -> None:
    other = AnnData(np.ones((2, 1), "f"), obs=pd.DataFrame(index=["a-b", "a"]), var=pd.DataFrame(index=["A"]))
    got = combine({"b-c": adata([[1]], "a", "A"), "c": other})
    assert list(got.obs_names) == ["a-1", "a-b-2", "a-2"]
    assert list(got.obs["original_name"]) == ["a", "a-b", "a"]


def test_missing_entries_stay_missing_and_panels_too() -> None:
    a = adata([[1, np.nan], [0, 2]], "xy", "AB")
    got = combine({"a": a, "b": adata([[0, 3]], "z", "BC")})
    expected = [[1, np.nan, np.nan], [0, 2, np.nan], [np.nan, 0, 3]]
    np.testing.assert_array_equal(got["rna"].X, np.array(expected, np.float32))


def test_panels_of_the_inputs_are_carried_through() -> None:
    a = adata([[1, 0], [0, 2], [0, 0]], "xyz", "AB", site=["p", "q", "p"])
    a.varm["measured"] = pd.DataFrame({"p": [True, False], "q": [True, True]}, index=list("AB"))
    got = combine({"a": a, "b": adata([[3]], "x", "B")})
    assert got.uns["mosaicvi"]["panel_key"] == "dataset_panel"
    assert list(got.obs["dataset_panel"]) == ["a:p", "a:q", "a:p", "b"]
    assert got["rna"].varm["measured"].to_numpy().tolist() == [[True, True, False], [False, True, True]]
    again = combine({"m": got, "n": adata([[1]], "x", "A")}, dataset_key="d", name_key="n")
    assert list(again.obs["d_panel"]) == ["m:a:p", "m:a:q", "m:a:p", "m:b", "n"]


def test_what_was_combined_is_combined_with_more(tmp_path: Path) -> None:
    a, b = adata([[1, 0], [0, 2]], ["x", "y"], "AB"), adata([[3], [4]], ["x", "z"], "B", k=[1, 2])
    combine({"a": a, "b": b}).write(tmp_path / "mosaic.h5mu")
    more = {"mosaic": tmp_path / "mosaic.h5mu", "query": adata([[5]], ["q"], "A")}
    got = combine(more)
    assert list(got.obs["dataset"]) == ["a", "a", "b", "b", "query"]
    assert list(got.obs["original_name"]) == ["x", "y", "x", "z", "q"]
    assert list(got.obs["k"].dropna()) == [1, 2]
    assert got.uns["mosaicvi"]["panel_key"] == "dataset_panel"
    measured = got["rna"].varm["measured"]
    assert list(measured) == ["mosaic:a", "mosaic:b", "query"]
    assert measured.to_numpy().tolist() == [[True, False, True], [True, True, False]]
    again = combine({"first": got, "a": b})  # its cells are of the dataset of that name
    assert list(again.obs["dataset"]) == ["a", "a", "b", "b", "query", "a", "a"]
    assert list(again.obs["dataset_panel"])[:3] == ["first:mosaic:a", "first:mosaic:a", "first:mosaic:b"]
    registered = MosaicVI.setup_mudata(again, batch_key="dataset")
    assert registered.batches == ("a", "b", "query")
    with pytest.raises(
        InputError, match="a: obs has a column 'dataset' already"
    ):  # which nobody says is ours
        combine({"a": adata([[1]], "x", "A", dataset=["mine"]), "b": b})


def test_inputs_are_not_changed() -> None:
    a, b = adata([[2, 1], [0, 3]], "xy", "BA", k=[1, 2]), adata([[4, 5]], "x", "AC")
    before = [(v.X.copy(), v.X.indices.copy(), v.obs.copy(), list(v.obs_names)) for v in (a, b)]
    got = combine({"a": a, "b": b}, match={"rna": "case"})
    got["rna"].X.data[:] = -1
    for v, (x, indices, obs, names) in zip((a, b), before, strict=True):
        assert (x != v.X).nnz == 0
        np.testing.assert_array_equal(v.X.indices, indices)
        pd.testing.assert_frame_equal(v.obs, obs)
        assert list(v.obs_names) == names


def test_layers_renaming_and_integers() -> None:
    a = adata([[0.5]], "x", "A")
    a.layers["counts"] = sparse.csc_matrix(np.array([[7]], np.int64))
    with mudata_as_it_is():
        got = combine({"a": MuData({"prot": a})}, rename={"prot": "adt"}, layers={"adt": "counts"})
    assert dense(got["adt"]).tolist() == [[7]]


def test_a_layer_of_one_dataset() -> None:
    a, b = adata([[0.5]], "x", "A"), adata([[3]], "y", "A")
    a.layers["counts"] = sparse.csr_matrix(np.array([[7]]))
    got = combine({"a": a, "b": b}, layers={"a:rna": "counts"})
    assert dense(got["rna"]).tolist() == [[7], [3]]
    with pytest.raises(InputError, match="layers: no dataset has a modality 'atac'; there are: rna"):
        combine({"a": a, "b": b}, layers={"a:rna": "counts", "b:atac": "counts"})


def test_counts_beside_fractions_are_a_warning_that_names_the_dataset() -> None:
    a, b = adata([[0.5]], "x", "A"), adata([[3]], "y", "A")
    with pytest.warns(MosaicWarning, match=r"rna: .* whole numbers in b and fractions in a; .*'a:rna'"):
        combine({"a": a, "b": b})
    combine({"a": a, "b": adata([[0.25]], "y", "A")})


def test_paths_and_columns_of_any_kind(tmp_path: Path) -> None:
    a = adata(
        [[1], [2]],
        "xy",
        "A",
        flag=[True, False],
        mix=["u", 1],
        level=pd.Categorical(["lo", "hi"], ["lo", "hi"], ordered=True),
    )
    b = adata([[3]], "x", "A", level=pd.Categorical(["hi"], ["lo", "hi"], ordered=True), mix=[2])
    a.obs["mix"] = a.obs["mix"].astype(str)
    a.write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "c.csv").write_text("gene,k\nA,4\nB,5\n")
    got = combine({"a": tmp_path / "a.h5ad", "b": b, "c": str(tmp_path / "c.csv")})
    assert got.obs["level"].cat.ordered
    assert list(got.obs["mix"].astype(object)[:3]) == ["u", "1", "2"]
    assert got.obs["flag"].isna().tolist() == [False, False, True, True]
    got.write_h5mu(tmp_path / "m.h5mu")
    assert dense(read(tmp_path / "m.h5mu")["rna"]).tolist() == [[1, 0], [2, 0], [3, 0], [4, 5]]


def test_annotations_of_features() -> None:
    a, b = adata([[1, 2]], "x", "AB"), adata([[3, 4]], "y", "BC")
    a.var["id"], b.var["id"] = ["1", "2"], ["2", "3"]
    a.var["mean"], b.var["mean"] = [0.1, 0.2], [0.3, 0.4]
    var = combine({"a": a, "b": b})["rna"].var
    assert list(var["id"]) == ["1", "2", "3"]
    np.testing.assert_array_equal(var["mean-a"], [0.1, 0.2, np.nan])
    np.testing.assert_array_equal(var["mean-b"], [np.nan, 0.3, 0.4])


def test_overlapping_peaks_are_summed_and_matches_survive(tmp_path: Path) -> None:
    a = AnnData(
        sparse.csr_matrix(np.array([[1, 2, 4]], "f")),
        var=pd.DataFrame(index=["chr1:1-10", "chr1:8-20", "chr2:1-5"]),
    )
    b = AnnData(sparse.csr_matrix(np.array([[8, 16]], "f")), var=pd.DataFrame(index=["1:5-7", "2:9-12"]))
    got = combine({"a": a, "b": b}, modality="atac", match={"atac": "overlap"})
    assert list(got["atac"].var_names) == ["chr1:1-20", "chr2:1-5", "chr2:9-12"]
    assert dense(got["atac"]).tolist() == [[3, 4, 0], [8, 0, 16]]
    got.write_h5mu(tmp_path / "m.h5mu")
    matches = read(tmp_path / "m.h5mu").uns["mosaicvi"]["matches"]
    assert list(matches.columns) == ["modality", "dataset", "original", "matched_to", "rule"]
    pd.testing.assert_frame_equal(
        matches.astype(object), got.uns["mosaicvi"]["matches"].astype(object), check_index_type=False
    )


def test_overlapping_peaks_with_missing_values() -> None:
    a = AnnData(
        np.array([[1, np.nan, 4], [1, 2, np.nan]], "f"),
        var=pd.DataFrame(index=["chr1:1-10", "chr1:8-20", "chr2:1-5"]),
    )
    got = combine({"a": a}, modality="atac", match={"atac": "overlap"})
    np.testing.assert_array_equal(got["atac"].X, np.array([[np.nan, 4], [3, np.nan]], "f"))


def test_no_common_name_is_a_warning() -> None:
    with pytest.warns(
        MosaicWarning, match=r"rna: the features of .* no name in common .*: a \(A\); b \(a\);"
    ):
        combine({"a": adata([[1]], "x", "A"), "b": adata([[1]], "x", "a")})


def test_problems_of_all_datasets_come_together(tmp_path: Path) -> None:
    twice = adata([[1, 2]], "x", "AA")
    with pytest.raises(InputError) as caught:
        combine({"a": twice, "b": tmp_path / "none.h5ad", "c": adata([[np.inf]], "x", "A"), "d": 3})
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["a", str(tmp_path / "none.h5ad"), "c", "d"]


def test_progress_is_silent_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    combine({"a": adata([[1]], "x", "A")})
    assert capfd.readouterr() == ("", "")
    combine({"a": adata([[1]], "x", "A")}, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "combining rna" in err


NAMES = st.lists(st.sampled_from([f"f{i}" for i in range(6)]), min_size=1, max_size=4, unique=True)
CELLS = st.lists(st.sampled_from(["c1", "c2", "c-1", "c3"]), min_size=1, max_size=4, unique=True)
VALUES = st.sampled_from([0.0, 0.0, 1.0, 2.5, -3.0, np.nan])


@st.composite
def modality(draw: st.DrawFn) -> AnnData:
    cells, names = draw(CELLS), draw(NAMES)
    x = np.array([[draw(VALUES) for _ in names] for _ in cells], np.float32)
    if not draw(st.booleans()):
        x = np.nan_to_num(x)
    stored = draw(st.sampled_from([np.asarray, sparse.csr_matrix, sparse.csc_matrix]))
    x = x if np.isnan(x).any() else stored(x)
    return AnnData(x, obs=pd.DataFrame({"cell": cells}, index=cells), var=pd.DataFrame(index=names))


@st.composite
def mosaics(draw: st.DrawFn) -> dict[str, dict[str, AnnData]]:
    datasets = draw(st.lists(st.sampled_from(["d", "1-d", "e", "-d"]), min_size=1, max_size=3, unique=True))
    parts = st.dictionaries(st.sampled_from(["rna", "adt"]), modality(), min_size=1, max_size=2)
    return {name: draw(parts) for name in datasets}


def assert_same(got: MuData, expected: MuData) -> None:
    assert list(got.mod) == list(expected.mod)
    assert list(got.obs_names) == list(expected.obs_names)
    pd.testing.assert_frame_equal(got.obs.astype(object), expected.obs.astype(object))
    for m, part in expected.mod.items():
        assert sparse.issparse(got[m].X) == sparse.issparse(part.X)
        pd.testing.assert_frame_equal(frame(got[m]), frame(part))
        pd.testing.assert_frame_equal(got[m].varm["measured"], part.varm["measured"])
    assert got.uns["mosaicvi"] == expected.uns["mosaicvi"]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=mosaics(), written=st.sampled_from(["no", "no", "no", "h5mu", "zarr"]))
def test_every_value_is_kept_and_none_invented(data: dict[str, dict[str, AnnData]], written: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = combine(data)
    assert got.obs_names.is_unique
    renamed = {
        (d, n): new
        for new, d, n in zip(got.obs_names, got.obs["dataset"], got.obs["original_name"], strict=True)
    }
    assert set(renamed) == {
        (d, c) for d, parts in data.items() for part in parts.values() for c in part.obs_names
    }
    assert list(got.obs["cell"]) == list(got.obs["original_name"])
    for m in got.mod:
        values, measured = frame(got[m]), got[m].varm["measured"]
        owners = {d: parts[m] for d, parts in data.items() if m in parts}
        assert len(values) == sum(part.n_obs for part in owners.values())
        assert set(values.columns) == {f for part in owners.values() for f in part.var_names}
        assert list(measured.columns) == list(data)
        for d in data:
            own = owners.get(d)
            assert set(measured.index[measured[d]]) == (set() if own is None else set(own.var_names))
            if own is None:
                continue
            rows = values.loc[[renamed[d, c] for c in own.obs_names]]
            np.testing.assert_array_equal(rows[own.var_names].to_numpy(), frame(own).to_numpy())
            outside = rows.drop(columns=own.var_names).to_numpy()
            assert np.isnan(outside).all() if not sparse.issparse(got[m].X) else not outside.any()
    if written == "no":
        return
    with tempfile.TemporaryDirectory() as folder, mudata_as_it_is(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / f"m.{written}"
        got.write_h5mu(path) if written == "h5mu" else got.write_zarr(path)
        assert_same(read(path), got)


@pytest.mark.parametrize("option", ["modality", "panel_key", "orientation"])
def test_an_option_for_a_dataset_that_is_not_there_is_refused(option: str) -> None:
    data = AnnData(np.ones((2, 2), np.float32))
    with pytest.raises(InputError, match=f"dataset of {option} is 'nobody'; choose among"):
        combine({"a": data}, **{option: {"nobody": "features_by_cells"}})  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [["a.h5ad", "b.h5ad"], "a.h5ad"])
def test_datasets_without_names_are_refused(given: object) -> None:
    with pytest.raises(InputError, match=r"datasets: a mapping from the name of each .* not (list|str)"):
        combine(given)  # type: ignore[arg-type]
