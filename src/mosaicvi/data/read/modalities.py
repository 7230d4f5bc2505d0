"""The modalities that an AnnData holds, as a MuData."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mosaicvi.data.read import tenx
from mosaicvi.data.sparse import check_sparse
from mosaicvi.errors import MosaicWarning

PROTEINS = "protein_expression"
"""Where, in ``obsm``, an AnnData for scvi-tools keeps the counts of proteins beside its genes."""


@contextmanager
def mudata_as_it_is() -> Iterator[None]:
    """Keep MuData from copying columns between its levels and from its warnings about names, for a while."""
    with mudata.set_options(pull_on_update=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
        warnings.filterwarnings("ignore", message="Duplicated .*_names should not", category=UserWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="mudata|anndata")
        yield


def to_mudata(data: AnnData | MuData, *, modality: str | None = None) -> MuData:
    """An AnnData as a MuData; a MuData as it is.

    Parameters
    ----------
    data
        An AnnData is split where ``var["feature_types"]`` names several types; it is not copied otherwise.
        Proteins in ``obsm["protein_expression"]`` become the modality ``"adt"``, where cells of nothing but
        zeros count as not measured.
    modality
        The name of the one modality; by default after its feature type, or ``"rna"``.

    Returns
    -------
    A MuData whose ``obs`` has the columns of the AnnData.

    Raises
    ------
    MosaicWarning
        A warning that proteins were found in ``obsm``.
    """
    if isinstance(data, MuData):
        return data
    parts = split_types(data, modality=modality)
    with mudata_as_it_is():
        mdata = MuData(parts)
        mdata.obs = data.obs.copy()
    mdata.uns.update(data.uns)
    return mdata


def names_modalities(data: AnnData) -> bool:
    """Whether an AnnData says what its features are, or has proteins beside them."""
    return "feature_types" in data.var or PROTEINS in data.obsm


def split_types(data: AnnData, *, modality: str | None = None) -> dict[str, AnnData]:
    """The modalities of an AnnData, see `to_mudata`."""
    parts = _by_type(data, modality)
    proteins = _proteins(data) if "adt" not in parts else None
    return parts if proteins is None else parts | {"adt": proteins}


def feature_types(data: AnnData) -> list[str]:
    """Names of the modalities that ``var["feature_types"]`` tells apart; none without it."""
    return [] if "feature_types" not in data.var else list(dict.fromkeys(_type_of_each(data)))


def _type_of_each(data: AnnData) -> pd.Index[str]:
    types = data.var["feature_types"].astype(object).fillna("").to_numpy()
    return pd.Index([tenx.modality_of(str(name)) for name in types])


def _by_type(data: AnnData, modality: str | None) -> dict[str, AnnData]:
    found = feature_types(data)
    if len(found) <= 1:
        return {modality or (found[0] if found else "rna"): data}
    check_sparse("the data", "X", data.X)  # before columns are taken from it
    names = _type_of_each(data)
    return {name: data[:, np.asarray(names == name)].copy() for name in found}


def _proteins(data: AnnData) -> AnnData | None:
    """Proteins beside the genes, without the cells that have only zeros, or None."""
    table = data.obsm.get(PROTEINS)
    if table is None:
        return None
    values = table.toarray() if sparse.issparse(table) else np.asarray(table)
    if values.ndim != 2 or values.dtype.kind not in "biuf" or not values.any():
        return None
    named = table.columns if isinstance(table, pd.DataFrame) else data.uns.get("protein_names", ())
    names = [str(n) for n in named] if len(named) == values.shape[1] else map(str, range(values.shape[1]))
    measured = values.any(axis=1)
    x = values[measured].astype(np.float32)
    text = (
        f"obsm[{PROTEINS!r}]: its {values.shape[1]:,} proteins are read as the modality 'adt'; "
        "modalities=['rna'] leaves them out."
    )
    if not measured.all():
        text += f" {int((~measured).sum()):,} cells with only zeros there count as not measured."
    warnings.warn(text, MosaicWarning, stacklevel=4)
    return AnnData(
        x if np.isnan(x).any() else sparse.csr_matrix(x),
        obs=pd.DataFrame(index=data.obs_names[measured]),
        var=pd.DataFrame(index=list(names)),
    )
