"""mosaicvi.model.names and habits: what users of other packages type works, or says what to type."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import mosaicvi
from mosaicvi import InputError, MosaicVI, MosaicWarning
from mosaicvi.config import NetworkConfig
from mosaicvi.config.names import ARGUMENTS
from mosaicvi.model.history import COLUMNS
from mosaicvi.model.names import METHODS

SMALL: dict[str, Any] = {"dim_block_enc": 4, "dim_block_dec": 4}


@pytest.fixture(scope="module")
def mdata() -> MuData:
    data = mosaicvi.datasets.simulated_mosaic(90, n_genes=30, n_proteins=5, n_peaks=40).mdata
    MosaicVI.setup_mudata(data, batch_key="batch")
    return data


@pytest.fixture(scope="module")
def model(mdata: MuData) -> MosaicVI:
    return MosaicVI(mdata, n_latent=3, n_hidden=8, **SMALL).train(max_epochs=2, batch_size=30, progress=False)


def test_widths_by_their_usual_names(mdata: MuData, model: MosaicVI) -> None:
    assert (model.config.dim_latent, model.config.dimensions) == (3, (8,))
    assert MosaicVI(mdata, n_hidden=8.0, n_layers=2, **SMALL).config.dimensions == (8, 8)
    assert MosaicVI(mdata, n_layers=3, **SMALL).config.dimensions == (128,) * 3
    assert MosaicVI(mdata, **SMALL).config.dimensions == (128,)
    same = MosaicVI(mdata, dim_latent=3, dimensions=8, **SMALL).train(2, batch_size=30, progress=False)
    np.testing.assert_array_equal(same.get_latent_representation(), model.get_latent_representation())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_latent": 3, "dim_latent": 3}, "n_latent: dim_latent says the same; give one of them"),
        ({"n_hidden": 3, "dimensions": (3,)}, "n_hidden: dimensions says the same"),
        ({"n_layers": 3, "dimensions": (3,)}, "n_layers: dimensions says the same"),
        ({"n_latent": 2.5}, "n_latent: a whole number is needed"),
        ({"n_layers": 0}, "n_layers: at least 1"),
        (
            {"dropout_rate": 0.1},
            r"Unknown parameter 'dropout_rate'; use p_feat=\.\.\., the share of features",
        ),
        ({"gene_likelihood": "nb"}, r"Unknown parameter 'gene_likelihood'; use likelihoods="),
    ],
)
def test_a_parameter_is_said_once_and_those_of_others_name_ours(
    mdata: MuData, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        MosaicVI(mdata, **parameters)


def test_normalized_expression_is_that_of_one_library_and_says_so(model: MosaicVI) -> None:
    shares = model.get_normalized_expression()
    assert shares.attrs["scale"] == "expected counts at a library of 1"
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    genes = list(model.imputed_features("rna")[[3, 1]])
    direct = model.get_imputed_values(modality="rna", scale="counts", library=1e4, features=genes)
    some = model.get_normalized_expression(gene_list=genes, library_size=1e4, indices=[2, 5])
    np.testing.assert_allclose(some, direct.iloc[[2, 5]], rtol=1e-6)
    proteins = model.get_normalized_expression(modality="adt", library_size=100)
    assert proteins.attrs["scale"] == "expected counts at a library of 100"


def test_without_counts_there_is_no_expression() -> None:
    data = mosaicvi.datasets.simulated_mosaic(90, n_genes=30, n_proteins=5, n_peaks=40).mdata["atac"].copy()
    data.X.data[:] = 1
    del data.varm["measured"]
    MosaicVI.setup_anndata(data, modality="atac", likelihood="Bernoulli")
    with pytest.raises(InputError, match=r"no modality has counts; use get_imputed_values\(modality="):
        MosaicVI(data, **SMALL).get_normalized_expression()


def call(model: MosaicVI, function: str, **arguments: Any) -> Any:
    if function == "MosaicVI":
        return MosaicVI(model.mosaic, **arguments)
    if function == "setup_anndata":
        return MosaicVI.setup_anndata(mosaicvi.datasets.simulated_mosaic(60).mdata["rna"], **arguments)
    if function == "combine":
        return mosaicvi.combine({}, **arguments)
    if function == "umap":
        return mosaicvi.tl.umap(model.mosaic, **arguments)  # type: ignore[arg-type]
    if function in ("dotplot", "volcano"):
        return getattr(mosaicvi.pl, function)(pd.DataFrame(), **arguments)
    return getattr(model, function)(**arguments)


@pytest.mark.parametrize(("function", "name"), [(f, n) for f in ARGUMENTS if f for n in ARGUMENTS[f]])
def test_arguments_of_others_name_ours(model: MosaicVI, function: str, name: str) -> None:
    use = re.escape(ARGUMENTS[function][name])
    with pytest.raises(InputError, match=rf"nknown (argument|parameter) {name!r}; use {use}\."):
        call(model, function, **{name: 1})


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("get_imputed_values", {}, r"say which modality, modality='rna'; the model has 'rna', 'adt'"),
        ("posterior_predictive_sample", {"n_samples": 3}, r"say which modality, modality='rna'"),
        ("differential_expression", {"groupby": "batch"}, r"say which modality, modality='rna'"),
        ("load_query_data", {"freeze_dropout": True}, r"'freeze_dropout'; use unfrozen=False"),
        (
            "load_query_data",
            {"use_gpu": False},
            r"use nothing here; train\(accelerator='gpu'\) says where a model",
        ),
        (
            "get_normalized_expression",
            {"gene_list": ["protein001"]},
            r"features: rna has no 'protein001'; 'adt' has it: modality='adt'\.",
        ),
        ("save", {}, r"save: dir_path=\.\.\. is needed\."),
        ("get_imputed_values", {"modality": "rna", "gene_list": []}, r"'gene_list'; use features=\[\.\.\.\]"),
        ("train", {"max_epoch": 3}, r"train: unknown argument 'max_epoch'; did you mean 'max_epochs'\?"),
        (
            "save",
            {"folder": "x"},
            r"save: unknown argument 'folder'; known are dir_path, overwrite, progress\.",
        ),
    ],
)
def test_any_unknown_argument_is_told(
    model: MosaicVI, function: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        getattr(model, function)(**arguments)


def test_arguments_after_the_first_are_given_by_name(model: MosaicVI) -> None:
    with pytest.raises(InputError, match=r"train: give arguments after 'max_epochs' by name, such as"):
        model.train(2, 1e-3)  # type: ignore[misc]
    with pytest.raises(InputError, match=r"save: 'dir_path' is given twice"):
        model.save("folder", dir_path="folder")  # type: ignore[misc]


def test_every_public_method_answers_an_unknown_argument(model: MosaicVI) -> None:
    takes_arguments = [
        name
        for name in dir(MosaicVI)
        if not name.startswith("_")
        and callable(getattr(MosaicVI, name))
        and hasattr(getattr(model, name), "__wrapped__")
    ]
    assert len(takes_arguments) > 15
    for name in takes_arguments:
        with pytest.raises(InputError, match=rf"^{name}: unknown argument 'no_such_thing'"):
            getattr(model, name)(no_such_thing=1)


def test_an_adata_is_the_data(model: MosaicVI) -> None:
    mdata = mosaicvi.datasets.simulated_mosaic(90, n_genes=30, n_proteins=5, n_peaks=40).mdata
    np.testing.assert_array_equal(
        model.get_latent_representation(adata=mdata),  # type: ignore[call-arg]
        model.get_latent_representation(mdata),
    )
    with pytest.raises(InputError, match=r"reference=\.\.\. is needed"):
        MosaicVI.load_query_data(adata=mdata)  # type: ignore[call-arg]


def test_names_of_the_same_meaning_are_taken(model: MosaicVI, mdata: MuData) -> None:
    theirs: dict[str, Any] = {"adata": mdata}
    assert MosaicVI(**theirs, n_latent=3, n_hidden=8, **SMALL).mosaic is MosaicVI(mdata, **SMALL).mosaic
    prepared = MosaicVI.prepare_query(**theirs, reference_model=model)
    np.testing.assert_array_equal(
        model.get_latent_representation(prepared), model.get_latent_representation(mdata)
    )
    with pytest.raises(InputError, match=r"^MosaicVI: data=\.\.\. is needed\.$"):
        MosaicVI(**{})
    with pytest.raises(InputError, match=r"^MosaicVI: give arguments after 'data' by name, such as preset="):
        MosaicVI(mdata, *[128])


def test_values_that_others_give_are_answered(model: MosaicVI) -> None:
    theirs: dict[str, Any] = {"library_size": "latent"}
    with pytest.raises(InputError, match=r"library_size: a number is needed, not 'latent'; .*'rna'\) gives"):
        model.get_normalized_expression(**theirs)
    theirs = {"transform_batch": 0}
    with pytest.raises(InputError, match=r"transform_batch: '0' is unknown; use 'mean' or one of 'A'"):
        model.get_normalized_expression(**theirs)
    theirs = {"gene_list": np.arange(30) < 3}
    with pytest.raises(InputError, match=r"features: names are needed, not True and False; imputed_features"):
        model.get_normalized_expression(**theirs)


def test_names_of_other_packages_in_the_module() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'MULTIVI'; use mosaicvi\.MosaicVI"):
        _ = mosaicvi.MULTIVI
    with pytest.raises(AttributeError, match=r"'organize_multimodal_anndatas'; use mosaicvi\.combine"):
        _ = mosaicvi.organize_multimodal_anndatas
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = mosaicvi.nothing


def test_modalities_are_named_in_a_list(mdata: MuData) -> None:
    with pytest.raises(InputError, match=r"modalities: a list of names is needed, such as \['rna', 'adt'\]"):
        MosaicVI.setup_mudata(mdata, modalities={"rna_layer": "rna", "protein_layer": "adt"})  # type: ignore[arg-type]


def test_methods_of_others_name_ours(model: MosaicVI) -> None:
    for name, ours in METHODS.items():
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'; use {re.escape(ours)}"):
            getattr(model, name)
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'; use {re.escape(ours)}"):
            getattr(MosaicVI, name)
    for owner in (model, MosaicVI):
        with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
            _ = owner.nothing
    assert not hasattr(model, "predict")


def test_remedies_name_modalities_that_the_model_has(mdata: MuData) -> None:
    parts = {"gex": mdata["rna"].copy(), "Protein": mdata["adt"].copy()}
    for part in parts.values():
        del part.varm["measured"]
    data = MuData(parts)
    theirs: dict[str, Any] = {"protein_layer": "counts"}
    with pytest.raises(InputError, match=r"'protein_layer'; use layers=\{'Protein': \.\.\.\}\."):
        MosaicVI.setup_mudata(data, **theirs)
    MosaicVI.setup_mudata(data)
    with pytest.raises(InputError, match=r"'gene_likelihood'; use likelihoods=\{'gex': \.\.\.\} of"):
        MosaicVI(data, gene_likelihood="nb")
    model = MosaicVI(data, n_latent=3, n_hidden=8, **SMALL)
    for name, ours in (
        ("get_protein_foreground_probability", "get_imputed_values(modality='Protein'); there is no backgr"),
        ("get_accessibility_estimates", "get_imputed_values(modality=...) (modalities: 'gex', 'Protein')"),
    ):
        with pytest.raises(AttributeError, match=f"use {re.escape(ours)}"):
            getattr(model, name)
    theirs = {"protein_list": ["CD3"]}
    with pytest.raises(InputError, match=r"use get_imputed_values\(modality='Protein', features=\["):
        model.get_normalized_expression(**theirs)


def test_what_is_named_is_there() -> None:
    methods = {name for name in dir(MosaicVI) if not name.startswith("_")} | {"net", "mosaic", "print"}
    for ours in METHODS.values():
        named = set(re.findall(r"\b(?:MosaicVI\.)?(\w+)\(", ours)) | set(re.findall(r"^\w+$", ours))
        assert named
        assert named <= methods, named - methods
    known = {*NetworkConfig.__dataclass_fields__, "mosaicvi"}
    public = ("train", "setup_mudata", "setup_anndata", "get_imputed_values", "load_query_data")
    for function in (*public, "differential_expression"):
        known |= set(inspect.signature(getattr(MosaicVI, function)).parameters)
    for function in (mosaicvi.combine, mosaicvi.tl.umap, mosaicvi.pl.dotplot, mosaicvi.pl.volcano):
        known |= set(inspect.signature(function).parameters)
    for table in ARGUMENTS.values():
        for ours in table.values():
            assert set(re.findall(r"(\w+)=", ours)) <= known


def test_columns_of_the_history_by_other_names_name_ours(model: MosaicVI) -> None:
    history = model.history
    for theirs, ours in COLUMNS.items():
        with pytest.raises(InputError, match=f"history: no column '{theirs}'; use '") as caught:
            history[theirs]
        for named in re.findall(r"'(\w+)(?:\.\.\.)?'", ours):
            assert any(str(column).startswith(named) for column in history.columns), named
        assert str(caught.value).endswith(f"use {ours}.")
    with pytest.raises(KeyError, match="nothing"):
        history["nothing"]
    part = history.iloc[:1]
    pd.testing.assert_frame_equal(part, history[history.index < 1])
    assert part["train_loss"].tolist() == history["train_loss"].tolist()[:1]
    assert type(part.to_dict("list")["train_loss"]) is list


def test_which_modality_need_not_be_said_where_there_is_one(mdata: MuData) -> None:
    rna = mdata["rna"].copy()
    del rna.varm["measured"]
    MosaicVI.setup_anndata(rna)
    one = MosaicVI(rna, n_latent=3, n_hidden=8, **SMALL).train(1, batch_size=30, progress=False)
    values = one.get_imputed_values()  # type: ignore[call-arg]
    pd.testing.assert_frame_equal(values, one.get_imputed_values(modality="rna"))
    with pytest.raises(InputError, match="adt"):
        one.get_imputed_values(modality="adt")


def test_none_of_something_is_said_by_none(mdata: MuData) -> None:
    lists = ("categorical_covariate_keys", "continuous_covariate_keys", "condition_keys")
    none: dict[str, Any] = dict.fromkeys(lists)
    whole = MosaicVI.setup_mudata(mdata, batch_key="batch", **none, modalities=None)
    assert whole.registry.setup == MosaicVI.setup_mudata(mdata, batch_key="batch").registry.setup
    rna = mdata["rna"].copy()
    del rna.varm["measured"]
    one = MosaicVI.setup_anndata(rna, **none)
    assert one.registry.setup == MosaicVI.setup_anndata(rna).registry.setup
    with pytest.raises(InputError, match="condition_keys: a list of names is needed, not 3"):
        MosaicVI.setup_anndata(rna, condition_keys=3)  # type: ignore[arg-type]


def test_setup_anndata_is_told_of_its_own_arguments() -> None:
    x = np.random.default_rng(0).gamma(2.0, 1.0, (60, 3)).astype(np.float32)
    with pytest.warns(MosaicWarning, match=r"as by layer='counts'\. likelihood='Gaussian' takes X"):
        MosaicVI.setup_anndata(AnnData(x, layers={"counts": np.rint(4 * x)}))
    below = AnnData(x - 1)
    for name in ("rna", "a:b", "rna: ", "{x}", "it's"):
        with pytest.raises(
            InputError, match=r"layer=\.\.\., or set likelihood='Gaussian' with transform='none'\."
        ):
            MosaicVI.setup_anndata(below, modality=name, likelihood="NB")
    with pytest.raises(InputError, match=r"^likelihood: unknown 'nb' for 'rna'; use one of NB"):
        MosaicVI.setup_anndata(below, likelihood="nb")  # type: ignore[arg-type]
    for wrong in ({"modality": ["rna"]}, {"layer": {"rna": "counts"}}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: one name is needed, not "):
            MosaicVI.setup_anndata(below, **wrong)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"layers=\{'rna': \.\.\.\}, or set likelihoods=\{'rna': 'Gaussian'\} with"
    ):
        MosaicVI.setup_mudata(MuData({"rna": below}), likelihoods={"rna": "NB"})
