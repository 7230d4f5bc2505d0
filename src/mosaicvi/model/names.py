"""Names that users of other packages bring along: those of the same meaning work, others name ours."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from mosaicvi.config.arguments import whole
from mosaicvi.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_WIDTH = 128
# Arguments that others have, and what to use here; by the name of the function, or "" for any.
ARGUMENTS: Mapping[str, Mapping[str, str]] = {
    "": {
        "adata": "the first argument, mdata, which may be an AnnData",
        "use_gpu": "accelerator='gpu'",
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
    },
}
# Methods that others have.
METHODS = {
    "get_accessibility_estimates": "get_imputed_values(modality='atac')",
    "get_latent": "get_latent_representation()",
    "impute": "get_imputed_values(modality=...)",
    "predict": "predict_labels(...), get_latent_representation() or get_imputed_values(modality=...)",
    "fit": "train()",
    "prepare_query_anndata": "MosaicVI.prepare_query(data, model)",
    "prepare_query_mudata": "MosaicVI.prepare_query(data, model)",
    "view_anndata_setup": "print(model.mosaic)",
    "get_elbo": "history",
    "is_trained_": "is_trained",
    "module": "net",
}


def names_ours(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with an `InputError` that names the right argument in place of another package's."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise InputError(_unknown(function.__name__, name, known))
        return function(*args, **kwargs)

    return checked


def _unknown(function: str, name: str, known: Iterable[str]) -> str:
    ours = [key for key in known if key not in ("self", "cls")]
    near = difflib.get_close_matches(name, ours, n=1)
    found = ARGUMENTS.get(function, {}).get(name) or ARGUMENTS[""].get(name)
    if found:
        use = f"use {found}."
    else:
        use = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(ours)}."
    return f"{function}: unknown argument {name!r}; {use}"


def in_our_names(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the network with ``n_latent``, ``n_hidden`` and ``n_layers`` by our names.

    Raises
    ------
    InputError
        A parameter is given by both names, or is one of another package.
    """
    found = dict(parameters)
    for name in found:
        if name in ARGUMENTS["MosaicVI"]:
            raise InputError(f"Unknown parameter {name!r}; use {ARGUMENTS['MosaicVI'][name]}.")
    for theirs, ours in (("n_latent", "dim_latent"), ("n_hidden", "dimensions"), ("n_layers", "dimensions")):
        if theirs in found and ours in found:
            raise InputError(f"{theirs}: {ours} says the same; give one of them.")
    if "n_latent" in found:
        found["dim_latent"] = whole("n_latent", found.pop("n_latent"), least=1)
    if "n_hidden" in found or "n_layers" in found:
        width = whole("n_hidden", found.pop("n_hidden", DEFAULT_WIDTH), least=1)
        found["dimensions"] = (width,) * whole("n_layers", found.pop("n_layers", 1), least=1)
    return found
