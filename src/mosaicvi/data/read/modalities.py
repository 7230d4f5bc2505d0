"""The modalities that an AnnData holds, as a MuData."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read import tenx
from mosaicvi.data.read.choose import Wanted, choose, has_names
from mosaicvi.data.read.choose import from_obsm as from_obsm_of
from mosaicvi.data.read.remembered import note_reading
from mosaicvi.data.sparse import check_sparse
from mosaicvi.errors import InputError, warn

PROTEINS = "protein_expression"
USUAL = frozenset(  # other keys of obsm, in lower case, whose counts are those of a modality
    {"protein_counts", "proteins", "protein", "adt", "adt_counts", "antibody_capture"}
    | {"atac", "atac_counts", "peaks", "peak_counts", "accessibility"}
)
"""Where, in ``obsm``, an AnnData for scvi-tools keeps the counts of proteins beside its genes."""


@contextmanager
def mudata_as_it_is() -> Iterator[None]:
    """Keep MuData from copying columns between its levels and from its warnings about names, for a while."""
    with mudata.set_options(pull_on_update=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
        warnings.filterwarnings("ignore", message="Duplicated .*_names should not", category=UserWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="mudata|anndata")
        yield


def to_mudata(
    data: AnnData | MuData,
    *,
    modality: str | None = None,
    layers: Mapping[str, str] | None = None,
    from_obsm: Mapping[str, str] | None = None,
    min_counts: Mapping[str, float] | None = None,
    rounded: Collection[str] = (),
    log2: Collection[str] = (),
    zeros_missing: Collection[str] = (),
    batch_key: str | None = None,
) -> MuData:
    """An AnnData as a MuData; a MuData as it is.

    Parameters
    ----------
    data
        An AnnData is split where ``var["feature_types"]`` names several types; it is not copied otherwise.
        Proteins in ``obsm["protein_expression"]`` become the modality ``"adt"``, where cells of nothing but
        zeros count as not measured; so do whole counts under other usual keys (``protein_counts``, ``adt``;
        ``peaks`` become ``"atac"``) if their columns have names, every zero as measured. What `from_obsm`
        names is read as it says alone.
    modality
        The name of the one modality; by default after its feature type, or ``"rna"``.
    layers
        Modality → layer with its values, for the options below; it is not taken for ``X``.
    from_obsm
        Modality → key of ``obsm`` of an AnnData that holds it, such as ``{"adt": "protein_counts"}``; every
        zero there was measured, unless `zeros_missing` names the modality.
    min_counts
        Modality → sum of a cell's values below which it is left out of the modality.
    rounded
        Modalities with fractional counts (SoupX, CellBender), which are rounded.
    log2
        Modalities of raw intensities, of which the logarithms to the base of 2 are taken, zeros as missing.
    zeros_missing
        Modalities in which zeros mean that nothing was measured: among fractions and intensities every zero;
        among counts cells of nothing but zeros, and features that are 0 in a whole batch, but not in all.
    batch_key
        Column of ``obs`` with the batches, for `zeros_missing`.

    Returns
    -------
    A MuData whose ``obs`` has the columns of the AnnData.

    Raises
    ------
    MosaicWarning
        A warning that a modality was found in ``obsm``.
    """
    wanted = Wanted(
        from_obsm=from_obsm or {},
        min_counts=min_counts or {},
        rounded=rounded,
        log2=log2,
        zeros_missing=zeros_missing,
    )
    if isinstance(data, MuData) and wanted.is_empty:
        return data
    if isinstance(data, MuData):
        parts = dict(data.mod)
        if wanted.from_obsm:
            raise InputError(problem("obsm-of-mudata"))
    else:
        parts = split_types(data, modality=modality, from_obsm=wanted.from_obsm)
    there = {*parts}
    for option, names in (
        ("min_counts", wanted.min_counts),
        ("rounded", rounded),
        ("log2", log2),
        ("zeros_missing", zeros_missing),
    ):
        for name in set(names) - there:
            raise InputError(
                problem("no-such-modality", option=option, modality=name, modalities=listed(sorted(there)))
            )
    batch = None if batch_key is None else data.obs.get(batch_key)
    parts = choose("the data", parts, wanted, layers=layers or {}, batch=batch)
    with mudata_as_it_is():
        mdata = MuData(parts)
        obs = data.obs if wanted.is_empty else data.obs.loc[mdata.obs_names]
        mdata.obs = obs.copy()
    mdata.uns.update(data.uns)
    note_reading(
        mdata.uns,
        modality=modality,
        from_obsm=from_obsm,
        min_counts=min_counts,
        rounded=list(rounded),
        log2=list(log2),
        zeros_missing=list(zeros_missing),
    )
    return mdata


def unread(data: AnnData) -> dict[str, str]:
    """Matrices of ``obsm`` that look like counts of a modality: key → the modality that it may be."""
    found = {}
    for key, table in data.obsm.items():
        values: Any = table.to_numpy() if isinstance(table, pd.DataFrame) else table
        stored = values.data if sparse.issparse(values) else np.asarray(values)
        if key == PROTEINS or key.startswith("X_") or values.ndim != 2 or values.dtype.kind not in "biuf":
            continue
        if values.shape[1] > 1 and (stored >= 0).all() and (stored == np.rint(stored)).all():
            is_peaks = any(word in key.lower() for word in ("access", "atac", "peak"))
            found[str(key)] = "atac" if is_peaks else "adt"
    return found


def names_modalities(data: AnnData) -> bool:
    """Whether an AnnData says what its features are, or has others beside them."""
    return "feature_types" in data.var or PROTEINS in data.obsm or bool(certain(data))


def certain(data: AnnData) -> dict[str, str]:
    """Matrices of ``obsm`` that are a modality and nothing else: key → the modality."""
    return {
        key: modality
        for key, modality in unread(data).items()
        if key.lower() in USUAL and has_names(data, key, modality)
    }


def split_types(
    data: AnnData,
    *,
    modality: str | None = None,
    from_obsm: Mapping[str, str] | None = None,
    name: object = "the data",
    of_model: bool = False,
) -> dict[str, AnnData]:
    """The modalities of an AnnData, see `to_mudata`; what is said to who has a model already is less."""
    parts = _by_type(data, modality)
    asked = from_obsm_of(name, data, from_obsm or {})
    named = {*(from_obsm or {}).values()}
    proteins = None if PROTEINS in named or "adt" in parts | asked else _proteins(data)
    setup = "" if of_model else f", or modalities={[*parts]!r} of setup_mudata,"
    parts |= asked
    if proteins is not None:
        parts["adt"], unmeasured = proteins
        text = (
            f"obsm[{PROTEINS!r}]: its {proteins[0].n_vars:,} proteins are read as the modality 'adt'; "
            f"del data.obsm[{PROTEINS!r}] first{setup} leaves them out."
        )
        if unmeasured:
            text += f" {unmeasured:,} cells with only zeros there count as not measured."
        warn(text)
    is_certain = certain(data)
    for key, guess in unread(data).items():
        if key in named:
            continue
        option = f"from_obsm={{{guess!r}: {key!r}}}"
        option = f"mosaicvi.to_mudata(data, {option})" if of_model else option
        text = f"obsm[{key!r}] holds counts that are not read; {option} makes them a modality."
        if key in is_certain and guess not in parts:
            parts |= from_obsm_of(name, data, {guess: key})
            text = (
                f"obsm[{key!r}]: its {parts[guess].n_vars:,} features are read as the modality {guess!r}, "
                f"as by {option}; del data.obsm[{key!r}] first{setup} leaves them out."
            )
        warn(text)
    return parts


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


def _proteins(data: AnnData) -> tuple[AnnData, int] | None:
    """Proteins beside the genes without the cells that have only zeros, and how many these are; or None."""
    table = data.obsm.get(PROTEINS)
    if table is None:
        return None
    check_sparse("the data", f"obsm[{PROTEINS!r}]", table)
    values = table.toarray() if sparse.issparse(table) else np.asarray(table)
    if values.ndim != 2 or values.dtype.kind not in "biuf" or not values.any():
        return None
    named = table.columns if isinstance(table, pd.DataFrame) else data.uns.get("protein_names", ())
    names = [str(n) for n in named] if len(named) == values.shape[1] else map(str, range(values.shape[1]))
    measured = values.any(axis=1)
    x = values[measured].astype(np.float32)
    proteins = AnnData(
        x if np.isnan(x).any() else sparse.csr_matrix(x),
        obs=pd.DataFrame(index=data.obs_names[measured]),
        var=pd.DataFrame(index=list(names)),
    )
    return proteins, int((~measured).sum())
