"""Names that users of other packages bring along: those of the same meaning work, others name ours."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from mudata import MuData

from mosaicvi.config.arguments import whole
from mosaicvi.errors import InputError, nearest, quoted

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_WIDTH = 128
# Arguments that others have, and what to use here; by the name of the function, or "" for any.
ARGUMENTS: Mapping[str, Mapping[str, str]] = {
    "": {
        "use_gpu": "accelerator='gpu' or 'cpu'",
        "n_genes": "nothing: the data say how many features there are",
        "n_regions": "nothing: the data say how many features there are",
        "gene_list": "features=[...]",
        "protein_list": "features=[...]",
        "region_list": "features=[...]",
        "library_size": "library=...",
    },
    "train": {
        "n_epochs": "max_epochs=...",
        "epochs": "max_epochs=...",
        "num_epoch": "max_epochs=...",
        "learning_rate": "lr=...",
        "validation_size": "train_size=..., whose rest validates",
        "early_stopping_patience": "patience=...",
        "plan_kwargs": "lr=... and weight_decay=... themselves",
        "n_steps_kl_warmup": "beta_kl=... of MosaicVI, which is constant",
        "n_epochs_kl_warmup": "beta_kl=... of MosaicVI, which is constant",
        "enable_progress_bar": "progress=...",
        "gradient_clip_val": "max_grad_norm=...",
        "save_best": "nothing: the best weights are always kept",
        "check_val_every_n_epoch": "nothing: held-out cells are looked at after every epoch",
        "adversarial_mixing": "gamma=... of MosaicVI",
    },
    "save": {"save_anndata": "mdata.write(...)", "prefix": "another folder, dir_path"},
    "load_query_data": {
        "freeze_dropout": "unfrozen=False, which trains what is new alone",
        "inplace_subset_query_vars": "MosaicVI.prepare_query(data, model)",
    },
    "get_normalized_expression": {
        "return_mean": "nothing: means are returned; posterior_predictive_sample(...) draws",
        "return_numpy": "nothing: the answer is a DataFrame, which has to_numpy()",
        "n_samples_overall": "n_samples=...",
        "protein_list": "get_imputed_values(modality='adt', features=[...])",
    },
    "posterior_predictive_sample": {"n_samples_overall": "n_samples=..."},
    "differential_expression": {
        "all_stats": "nothing: all columns are there",
        "weights": "nothing: cells weigh as many as they are in each batch",
        "batchid1": "batch_correction=True, which compares within batches",
        "batchid2": "batch_correction=True, which compares within batches",
    },
    "setup_mudata": {
        "rna_layer": "layers={'rna': ...}",
        "protein_layer": "layers={'adt': ...}",
        "atac_layer": "layers={'atac': ...}",
        "layer": "layers={'rna': ...}",
        "size_factor_key": "nothing: the library is the sum of what was measured",
        "labels_key": "nothing: training looks at no labels",
        "split_by": "batch_key=...",
    },
    "setup_anndata": {
        "layers": "layer=...",
        "size_factor_key": "nothing: the library is the sum of what was measured",
        "labels_key": "nothing: training looks at no labels",
        "protein_expression_obsm_key": "mosaicvi.to_mudata(adata), then setup_mudata",
        "protein_names_uns_key": "mosaicvi.to_mudata(adata), then setup_mudata",
    },
    "MosaicVI": {
        "dropout_rate": "p_feat=..., the share of features that a step hides",
        "gene_likelihood": "likelihoods={'rna': ...} of setup_mudata",
        "likelihood": "likelihoods={'rna': ...} of setup_mudata",
        "kl_weight": "beta_kl=...",
        "modality_weights": "beta_modal=...",
        "dim_c": "dim_latent=...",
        "n_dims": "dim_latent=...",
        "dispersion": "categorical_covariate_keys=[...] of setup_mudata, by which it differs",
        "use_layer_norm": "norm='layer'",
        "use_batch_norm": "norm='batch'",
        "mmd_weight": "gamma=...",
        "latent_distribution": "nothing: the latent is normal",
        "n_genes": "nothing: the data say how many features there are",
        "n_regions": "nothing: the data say how many features there are",
    },
}
# Methods that others have.
METHODS = {
    "get_accessibility_estimates": "get_imputed_values(modality='atac')",
    "get_normalized_accessibility": "get_imputed_values(modality='atac')",
    "get_protein_foreground_probability": "get_imputed_values(modality='adt'); there is no background apart",
    "get_feature_correlation_matrix": "posterior_predictive_sample(modality=...), and its correlations",
    "get_latent_library_size": "get_imputed_values(library=...); the library is what was measured",
    "get_library_size_factors": "get_imputed_values(library=...); the library is what was measured",
    "get_region_factors": "get_imputed_values(modality='atac')",
    "get_latent": "get_latent_representation()",
    "get_reconstruction_error": "cell_fit(), the log-likelihood of what each cell measured",
    "get_marginal_ll": "cell_fit(), the log-likelihood of what each cell measured",
    "get_elbo": "history",
    "impute": "get_imputed_values(modality=...)",
    "predict": "predict_labels(...), get_latent_representation() or get_imputed_values(modality=...)",
    "fit": "train()",
    "differential_accessibility": "differential_expression(modality='atac')",
    "prepare_query_anndata": "MosaicVI.prepare_query(data, model)",
    "prepare_query_mudata": "MosaicVI.prepare_query(data, model)",
    "view_anndata_setup": "print(model.mosaic)",
    "summary_string": "print(model.mosaic)",
    "load_registry": "MosaicVI.load(dir_path).reference",
    "convert_legacy_save": "load(dir_path), which reads older models",
    "minify_adata": "without_data()",
    "to_device": "train(accelerator=...)",
    "device": "train(accelerator=...)",
    "adata": "mosaic",
    "adata_manager": "mosaic",
    "get_anndata_manager": "mosaic",
    "trainer": "history",
    "is_trained_": "is_trained",
    "module": "net",
}
# What these modalities may be called, of which messages speak.
CALLED = {"rna": ("rna", "gex"), "adt": ("adt", "protein", "proteins", "prot"), "atac": ("atac", "peaks")}
# Arguments of the same meaning, taken as the first of ours that a function has.
SAME = {"adata": ("mdata", "query")}


def names_ours(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with an `InputError` that names the right argument in place of another package's.

    An argument that is missing, or given by place though it has to be named, is an `InputError` as well; but
    of a model of one modality, which one need not be said.
    """
    signature = inspect.signature(function)
    known = signature.parameters
    modality = known.get("modality")
    has_to_be_named = modality is not None and (modality.kind, modality.default) == (
        modality.KEYWORD_ONLY,
        modality.empty,
    )

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for theirs, all_ours in SAME.items():
            ours = next((name for name in all_ours if name in known), None)
            if theirs in kwargs and theirs not in known and ours is not None and ours not in kwargs:
                kwargs[ours] = kwargs.pop(theirs)
        for name in kwargs:
            if name not in known:
                there = _modalities(args) or _of_data((*args, *kwargs.values()))
                raise InputError(_unknown(function.__name__, name, known, there))
        if len(names := _modalities(args)) == 1 and has_to_be_named:
            kwargs.setdefault("modality", names[0])
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            raise InputError(_misplaced(function.__name__, known, args, kwargs)) from None
        return function(*args, **kwargs)

    return checked


def with_modalities(text: str, there: Sequence[str]) -> str:
    """The text with those of the modalities that it means; ``...``, and all of them, where there are none."""

    def own(word: re.Match[str]) -> str:
        found = [name for name in there if name.lower() in CALLED[word[1]]]
        found += there if word[1] == "rna" else []  # which stands for any
        return repr(found[0]) if found else "..."

    said = re.sub(r"'(rna|adt|atac)'", own, text) if there else text
    return f"{said} (there are {quoted(there)})" if said.count("=...") > text.count("=...") else said


def _unknown(function: str, name: str, known: Iterable[str], there: Sequence[str]) -> str:
    ours = [key for key in known if key not in ("self", "cls")]
    found = ARGUMENTS.get(function, {}).get(name) or ARGUMENTS[""].get(name)
    use = f"use {with_modalities(found, there)}." if found else nearest(name, ours)
    return f"{function}: unknown argument {name!r}; {use}"


def _misplaced(
    function: str,
    known: Mapping[str, inspect.Parameter],
    args: Sequence[object],
    kwargs: Mapping[str, object],
) -> str:
    """What is wrong with arguments whose names are right."""
    by_place = [name for name, of in known.items() if of.kind is not of.KEYWORD_ONLY]
    if len(args) > len(by_place):
        named = [name for name in known if name not in by_place]
        return f"{function}: give arguments after {by_place[-1]!r} by name, such as {named[0]}=...."
    twice = [name for name in by_place[: len(args)] if name in kwargs]
    if twice:
        return f"{function}: {twice[0]!r} is given twice."
    needed = [name for name, of in known.items() if of.default is of.empty and name not in kwargs]
    missing = [name for name in needed if name not in by_place[: len(args)]]
    if missing == ["modality"] and (names := _modalities(args)):
        return f"{function}: say which modality, modality={names[0]!r}; the model has {quoted(names)}."
    return f"{function}: {missing[0]}=... is needed."


def _modalities(args: Sequence[object]) -> Sequence[str]:
    """Those of the model whose method is called; none where it is no method of a model."""
    return getattr(getattr(args[0], "config", None), "uni_block_names", ()) if args else ()


def _of_data(values: Iterable[object]) -> Sequence[str]:
    """The modalities of data that a method is given."""
    return next((tuple(data.mod) for data in values if isinstance(data, MuData)), ())


def in_our_names(parameters: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    """Parameters of the network with ``n_latent``, ``n_hidden`` and ``n_layers`` by our names.

    Parameters
    ----------
    parameters
        As they were given.
    modalities
        Those of the model, for messages.

    Raises
    ------
    InputError
        A parameter is given by both names, or is one of another package.
    """
    found = dict(parameters)
    for name in found:
        if name in ARGUMENTS["MosaicVI"]:
            use = with_modalities(ARGUMENTS["MosaicVI"][name], modalities)
            raise InputError(f"Unknown parameter {name!r}; use {use}.")
    for theirs, ours in (("n_latent", "dim_latent"), ("n_hidden", "dimensions"), ("n_layers", "dimensions")):
        if theirs in found and ours in found:
            raise InputError(f"{theirs}: {ours} says the same; give one of them.")
    if "n_latent" in found:
        found["dim_latent"] = whole("n_latent", found.pop("n_latent"), least=1)
    if "n_hidden" in found or "n_layers" in found:
        width = whole("n_hidden", found.pop("n_hidden", DEFAULT_WIDTH), least=1)
        found["dimensions"] = (width,) * whole("n_layers", found.pop("n_layers", 1), least=1)
    return found
