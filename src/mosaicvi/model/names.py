"""Parameters and methods that users of other packages bring along, and what they are called here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mosaicvi.config.arguments import whole
from mosaicvi.config.names import instead, with_modalities
from mosaicvi.errors import InputError

DEFAULT_WIDTH = 128
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
    "get_likelihood_parameters": "get_imputed_values(modality=...), which are means",
    "get_protein_background_mean": "get_imputed_values(modality='adt'); there is no background apart",
    "impute": "get_imputed_values(modality=...)",
    "get_latent_z": "get_latent_representation(), or VAEIT of mosaicvi.scvaeit",
    "get_denoised_data": "get_imputed_values(modality=...), or VAEIT of mosaicvi.scvaeit",
    "update_z": "get_latent_representation(), or VAEIT of mosaicvi.scvaeit",
    "get_emb_umap": "get_latent_representation() in obsm, and mosaicvi.tl.umap",
    "save_checkpoint": "save(dir_path)",
    "load_checkpoint": "MosaicVI.load(dir_path, data)",
    "configure_data_from_mdata": "MosaicVI.setup_mudata(data, batch_key=...)",
    "configure_data_from_dir": "mosaicvi.combine of files, and MosaicVI.setup_mudata(data, batch_key=...)",
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
    "history_": "history",
    "train_indices": "held_out(), true for cells that validate",
    "validation_indices": "held_out(), true for cells that validate",
    "is_trained_": "is_trained",
    "module": "net",
}


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
        ours = instead("MosaicVI", name)
        if ours is not None:
            raise InputError(f"Unknown parameter {name!r}; use {with_modalities(ours, modalities)}.")
    for theirs, ours in (("n_latent", "dim_latent"), ("n_hidden", "dimensions"), ("n_layers", "dimensions")):
        if theirs in found and ours in found:
            raise InputError(f"{theirs}: {ours} says the same; give one of them.")
    if "n_latent" in found:
        found["dim_latent"] = whole("n_latent", found.pop("n_latent"), least=1)
    if "n_hidden" in found or "n_layers" in found:
        width = whole("n_hidden", found.pop("n_hidden", DEFAULT_WIDTH), least=1)
        found["dimensions"] = (width,) * whole("n_layers", found.pop("n_layers", 1), least=1)
    return found
