"""What of a dataset is taken: matrices of obsm, cells with enough counts, zeros that are missing values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from mosaicvi.data.counts import counts_beside_x, is_x
from mosaicvi.data.layers import RAW, values_of
from mosaicvi.data.looks import LARGEST_LOG2, looks_like_intensities
from mosaicvi.data.problems import listed, problem
from mosaicvi.data.sparse import check_sparse
from mosaicvi.errors import InputError, warn


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for.

    Attributes
    ----------
    from_obsm
        Modality → key of ``obsm`` that holds it.
    min_counts
        Modality → sum below which a cell is left out of it.
    rounded
        Modalities whose fractional counts are rounded.
    log2
        Modalities of which the logarithms are taken, see `in_log2`.
    zeros_missing
        Modalities in which zeros may mean that nothing was measured, see `without_zeros`.
    """

    from_obsm: Mapping[str, str] = field(default_factory=dict)
    min_counts: Mapping[str, float] = field(default_factory=dict)
    rounded: Collection[str] = ()
    log2: Collection[str] = ()
    zeros_missing: Collection[str] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was asked for."""
        return not (self.from_obsm or self.min_counts or self.rounded or self.log2 or self.zeros_missing)


def choose(
    name: object,
    mods: Mapping[str, AnnData],
    wanted: Wanted,
    *,
    layers: Mapping[str, str],
    batch: pd.Series[Any] | None = None,
    is_batch: bool = False,
    known: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> dict[str, AnnData]:
    """The modalities as they were asked for; those of which nothing was asked are not copied.

    Parameters
    ----------
    name
        Of the dataset, for messages.
    mods
        Its modalities.
    wanted
        What was asked for; names of modalities that the dataset lacks are passed over.
    layers
        Modality → layer with its values.
    batch
        Of each cell, for zeros.
    is_batch
        Whether the dataset is one batch of several, so that what is 0 in all of it was not measured.
    known
        Modality → features x batches that a model knows, true for what was measured.
    """
    found = dict(mods)
    for modality in {*wanted.min_counts, *wanted.rounded, *wanted.log2, *wanted.zeros_missing} & set(found):
        layer = layers.get(modality)
        a = found[modality]
        if modality in wanted.rounded:
            a = _with_values(a, layer, _rounded(values_of(name, modality, a, layer)))
        elif layer is None:
            layer = counts_beside_x(modality, a)
        if modality in wanted.min_counts:
            sums = np.asarray(values_of(name, modality, a, layer).sum(axis=1)).ravel()
            enough = sums >= wanted.min_counts[modality]
            if not enough.any():
                least = f"{wanted.min_counts[modality]:g}"
                raise InputError(
                    problem(
                        "too-few-counts", name=name, modality=modality, least=least, most=f"{sums.max():g}"
                    )
                )
            a = a[enough].copy()
        if modality in wanted.log2:
            a = in_log2(name, modality, a, layer)
        elif modality in wanted.zeros_missing:
            own = None if batch is None else batch.reindex(a.obs_names)
            of_model = known.get(modality)
            a = without_zeros(name, modality, a, layer, batch=own, is_batch=is_batch, known=of_model)
        found[modality] = a
    return found


def from_obsm(name: object, data: AnnData, keys: Mapping[str, str]) -> dict[str, AnnData]:
    """Matrices of ``obsm`` as modalities."""
    found = {}
    for modality, key in keys.items():
        if key not in data.obsm:
            raise InputError(problem("no-obsm", name=name, key=key, keys=listed(data.obsm)))
        table = data.obsm[key]
        values = table.to_numpy() if isinstance(table, pd.DataFrame) else table
        if values.dtype.kind not in "biuf":
            raise InputError(problem("x-type", name=name, modality=f"obsm[{key!r}]", dtype=values.dtype))
        check_sparse(name, f"obsm[{key!r}]", values)
        x = values.astype(np.float32)
        dense_with_gaps = not sparse.issparse(x) and np.isnan(x).any()
        found[modality] = AnnData(
            x if dense_with_gaps else sparse.csr_matrix(x),
            obs=pd.DataFrame(index=data.obs_names),
            var=pd.DataFrame(index=column_names(data, key, x.shape[1])),
        )
    return found


def column_names(data: AnnData, key: str, n: int) -> pd.Index[str]:
    """Names of the columns of a matrix of ``obsm``: its own, those of ``uns``, or numbers."""
    table = data.obsm[key]
    named = table.columns if isinstance(table, pd.DataFrame) else ()
    for stored in (f"{key}_names", "protein_names", "adt_names", "peak_names"):
        if len(named) != n:
            named = data.uns.get(stored, ())
    return pd.Index(
        [str(name) for name in named] if len(named) == n else [f"{key}_{i + 1}" for i in range(n)],
        dtype=object,
    )


def has_names(data: AnnData, key: str, modality: str) -> bool:
    """Whether the columns of a matrix of ``obsm`` have names, of their own or in ``uns`` for the modality."""
    table = data.obsm[key]
    if isinstance(table, pd.DataFrame):
        return not isinstance(table.columns, pd.RangeIndex)
    usual = ("peak_names",) if modality == "atac" else ("protein_names", "adt_names")
    return any(len(data.uns.get(stored, ())) == table.shape[1] for stored in (f"{key}_names", *usual))


def in_log2(name: object, modality: str, a: AnnData, layer: str | None) -> AnnData:
    """A copy with logarithms to the base of 2, and zeros missing; without cells that have no other value.

    Raises
    ------
    InputError
        There are negative values.
    MosaicWarning
        A warning, if the values look like logarithms already.
    """
    x = values_of(name, modality, a, layer)
    dense = (x.toarray() if sparse.issparse(x) else np.array(x)).astype(np.float32)
    if (dense < 0).any():
        least = f"{np.nanmin(dense):g}"
        raise InputError(problem("log-negative", name=name, modality=modality, least=least))
    is_there = dense > 0
    if is_there.any() and dense[is_there].max() < LARGEST_LOG2:
        warn(
            f"{name}: {modality}: its values look like logarithms already (none above "
            f"{dense[is_there].max():.3g}), and log2=[{modality!r}] takes logarithms of them."
        )
    out = np.full_like(dense, np.nan)
    np.log2(dense, out=out, where=is_there)
    return _with_values(a, layer, out)[is_there.any(axis=1)].copy()


def without_zeros(
    name: object,
    modality: str,
    a: AnnData,
    layer: str | None,
    *,
    batch: pd.Series[Any] | None,
    is_batch: bool,
    known: pd.DataFrame | None = None,
) -> AnnData:
    """A copy in which zeros that mean "missing" are so.

    Among fractions and intensities, every exact zero. Among other whole numbers, cells of nothing but zeros
    lack the modality, and features that are 0 in all cells of a batch, but not in all, are not measured in
    that batch: a column of ``varm["measured"]``. Of batches that a model knows it is said, features x
    batches, what was measured, and that all features have other values than 0 somewhere. A warning says where
    none of it applies.
    """
    x = values_of(name, modality, a, layer)
    stored = x.data if sparse.issparse(x) else x
    fractional = bool((stored != np.rint(stored)).any())
    row_has = np.asarray((x != 0).sum(axis=1)).ravel() > 0
    column_has = (np.asarray((x != 0).sum(axis=0)).ravel() > 0) | (known is not None)
    if fractional or looks_like_intensities(stored):
        dense = (x.toarray() if sparse.issparse(x) else np.array(x)).astype(np.float32)
        dense[:, column_has] = np.where(dense[:, column_has] == 0, np.nan, dense[:, column_has])
        return _with_values(a, layer, dense)[row_has].copy()
    out = a[row_has].copy()
    labels = np.full(int(row_has.sum()), "all") if batch is None else batch.astype(str).to_numpy()[row_has]
    there = x[row_has]
    seen_elsewhere = column_has | is_batch
    table = {
        label: (np.asarray((there[labels == label] != 0).sum(axis=0)).ravel() > 0) | ~seen_elsewhere
        for label in dict.fromkeys(labels)
    }
    measured = pd.DataFrame(table, index=out.var_names)
    if known is not None:
        for label in measured.columns.intersection(known.columns):
            measured[label] = known[label].reindex(out.var_names, fill_value=True)
    if known is None and not is_batch and row_has.all() and measured.to_numpy().all():
        warn(
            f"{name}: zeros_missing=[{modality!r}] changes nothing: of counts, only cells of nothing but "
            "zeros, and features that are 0 in a whole batch but not in all, are missing; there are none."
        )
    own = a.varm.get("measured")
    if isinstance(own, pd.DataFrame):
        if own.shape[1] != 1 and set(map(str, own.columns)) != set(measured.columns):
            raise InputError(
                problem("zeros-panels", name=name, modality=modality, panels=listed(own.columns))
            )
        for label in measured.columns:
            measured[label] &= own.iloc[:, 0] if own.shape[1] == 1 else own[label]
    out.varm["measured"] = measured
    return out


def _rounded(x: Any) -> Any:
    if not sparse.issparse(x):
        return np.rint(x)
    x = x.copy()
    x.data = np.rint(x.data)
    x.eliminate_zeros()
    return x


def _with_values(a: AnnData, layer: str | None, values: NDArray[Any] | sparse.spmatrix) -> AnnData:
    """A copy with other values in X or in the layer; a layer ``"raw"`` comes before ``.raw``."""
    out = a.copy()
    if is_x(a, layer):
        out.X = values
    else:
        out.layers[layer if layer in a.layers else RAW] = values
    return out
