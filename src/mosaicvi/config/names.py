"""Names of arguments that users of other packages bring along, answered with ours."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from mosaicvi.errors import InputError, nearest, quoted

P = ParamSpec("P")
R = TypeVar("R")

# Arguments that others have, and what to use here; by the name of the function, or "" for any.
ARGUMENTS: Mapping[str, Mapping[str, str]] = {
    "": {
        "use_gpu": "nothing here; train(accelerator='gpu') says where a model is trained",
        "n_genes": "nothing: the data say how many features there are",
        "n_regions": "nothing: the data say how many features there are",
        "gene_list": "features=[...]",
        "protein_list": "features=[...]",
        "region_list": "features=[...]",
        "library_size": "library=...",
    },
    "train": {
        "use_gpu": "accelerator='gpu' or 'cpu'",
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
        "fdr": "fdr_target=...",
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
    "combine": {
        "label": "dataset_key=..., the column of obs for the names of datasets",
        "batch_key": "dataset_key=..., the column of obs for the names of datasets",
        "keys": "names of datasets in a mapping, {'a': adata, 'b': 'b.h5ad'}",
        "index_unique": "nothing: names of cells are made unique by those of the datasets",
        "merge": "nothing: what is the same of features is kept",
    },
    "umap": {
        "random_state": "seed=...",
        "n_components": "nothing: there are two",
        "neighbors_key": "key=..., of which the neighbours are found",
        "copy": "nothing: obsm['X_umap'] of the data is written",
    },
    "volcano": {"n_genes": "top=..."},
    "dotplot": {
        "var_names": "features=[...]",
        "groupby": "differential_expression(groupby=...), whose table is drawn",
        "n_genes": "n=...",
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
    },
}
# What these modalities may be called, of which messages speak.
CALLED = {"rna": ("rna", "gex"), "adt": ("adt", "protein", "proteins", "prot"), "atac": ("atac", "peaks")}
# Arguments of the same meaning, taken as the first of ours that a function has.
SAME = {"adata": ("mdata", "query", "data"), "reference_model": ("reference",), "use_rep": ("key",)}


def names_ours(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with an `InputError` that names the right argument in place of another package's.

    An argument that is missing, or given by place though it has to be named, is an `InputError` as well; but
    of a model of one modality, which one need not be said.
    """
    signature = inspect.signature(function)
    known = {name: of for name, of in signature.parameters.items() if of.kind is not of.VAR_KEYWORD}
    takes_any = len(known) < len(signature.parameters)
    called = function.__qualname__.split(".")[0] if function.__name__ == "__init__" else function.__name__
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
        for name in () if takes_any else kwargs:
            if name not in known:
                there = _modalities(args) or _of_data((*args, *kwargs.values()))
                raise InputError(_unknown(called, name, known, there))
        if len(names := _modalities(args)) == 1 and has_to_be_named:
            kwargs.setdefault("modality", names[0])
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            raise InputError(_misplaced(called, known, args, kwargs)) from None
        return function(*args, **kwargs)

    return checked


def instead(function: str, name: str) -> str | None:
    """What to use in place of an argument that others have; None where nothing is known of it."""
    return ARGUMENTS.get(function, {}).get(name) or ARGUMENTS[""].get(name)


def with_modalities(text: str, there: Sequence[str]) -> str:
    """The text with those of the modalities that it means; ``...``, and all of them, where there are none."""

    def own(word: re.Match[str]) -> str:
        found = [name for name in there if name.lower() in CALLED[word[1]]]
        found += there if word[1] == "rna" else []  # which stands for any
        return repr(found[0]) if found else "..."

    said = re.sub(r"'(rna|adt|atac)'", own, text) if there else text
    return f"{said} (modalities: {quoted(there)})" if said.count("=...") > text.count("=...") else said


def _unknown(function: str, name: str, known: Iterable[str], there: Sequence[str]) -> str:
    ours = [key for key in known if key not in ("self", "cls")]
    found = instead(function, name)
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
    """The modalities of a MuData that a function is given."""
    found = (getattr(data, "mod", None) for data in values)
    return next((tuple(mods) for mods in found if isinstance(mods, Mapping)), ())
