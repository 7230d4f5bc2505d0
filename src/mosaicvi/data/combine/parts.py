"""One dataset of a mosaic taken apart: its cells, covariates, and the matrix of each modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mosaicvi.data.counts import counts_beside_x, taken
from mosaicvi.data.layers import values_of
from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read.choose import Wanted, choose
from mosaicvi.data.read.files import duplicate_cells
from mosaicvi.data.read.modalities import split_types
from mosaicvi.data.sparse import sparse_fault
from mosaicvi.data.stored.values import StoredMatrix
from mosaicvi.errors import InputError, warn

Dense = npt.NDArray[np.float32]
Values: TypeAlias = "sparse.csr_matrix | Dense"


@dataclass(kw_only=True)
class Part:
    """One modality of one dataset.

    Attributes
    ----------
    x
        Cells × features, float32: CSR, or dense if entries are missing (NaN); or as its file has it, where it
        stays there. None once it was taken.
    obs, var
        The modality's own; ``obs`` is indexed by the dataset's cell names.
    panels
        Features × panels, where the dataset names panels of its own.
    """

    x: Values | StoredMatrix | None
    obs: pd.DataFrame
    var: pd.DataFrame
    panels: pd.DataFrame | None

    @property
    def n_values(self) -> int:
        """Stored values of a sparse matrix."""
        return int(self.x.nnz) if isinstance(self.x, sparse.csr_matrix) else 0

    def take(self) -> Values:
        """Hand the matrix over, so that its memory can be freed."""
        assert self.x is not None
        assert not isinstance(self.x, StoredMatrix)
        x, self.x = self.x, None
        return x


@dataclass(kw_only=True)
class Parts:
    """One dataset.

    Attributes
    ----------
    name
        The dataset's name.
    obs
        One row a cell; the columns on which all modalities agree. The other columns stay in the modalities.
    explicit
        Names of the columns that were above the modalities already.
    apart
        Names of the columns on which modalities disagree.
    modalities
        The part of each.
    given
        The modalities' names before renaming.
    panel
        The dataset's own panel of each cell, or None.
    panel_key
        The column that names panels, as it was noted by whoever made the dataset, or None.
    problems
        What is wrong with it.
    """

    name: str
    obs: pd.DataFrame
    explicit: set[str]
    apart: set[str]
    modalities: dict[str, Part]
    given: tuple[str, ...] = ()
    panel: pd.Series[str] | None = None
    panel_key: str | None = None
    problems: list[str] = field(default_factory=list)


def take_apart(
    name: str,
    data: AnnData | MuData | Mapping[str, AnnData],
    *,
    modality: str | None,
    rename: Mapping[str, str],
    layers: Mapping[str, str],
    panel_key: str | None,
    wanted: Wanted,
    stored: Mapping[str, StoredMatrix],
) -> Parts:
    """Take a dataset apart; whatever is wrong with it is in ``problems`` of the result.

    Parameters
    ----------
    name, data
        The dataset.
    modality, rename, layers, panel_key
        As in `combine`, for this dataset.
    wanted
        What was asked for of its values.
    stored
        Values that stay in its file, by modality; that of an AnnData is called ``""``.
    """
    mods, obs, uns = _modalities(name, data, modality, wanted)
    parts = Parts(
        name=name, obs=obs, explicit=set(obs.columns), apart=set(), modalities={}, given=tuple(mods)
    )
    if not wanted.is_empty:
        mods = _as_asked(parts, mods, rename, layers, wanted)
    if not mods:
        parts.problems.append(problem("kind", name=name, kind="a MuData without modalities"))
    if isinstance(data, MuData) and data.axis != 0:
        parts.problems.append(problem("axis", name=name, axis=data.axis))
        return parts
    for old, adata in mods.items():
        new = rename.get(old, old)
        if not _is_name(new):
            parts.problems.append(problem("dataset-name", name=f"{name}: modality {new!r}"))
        elif new in parts.modalities:
            parts.problems.append(problem("rename-clash", name=name, modality=new))
        else:
            part = _part(parts, new, adata, layers.get(new), stored.get(old, stored.get("")))
            if part is not None:
                parts.modalities[new] = part
    if not parts.problems:
        _lift_covariates(parts, mods)
        _find_cells(parts)
        parts.panel_key = _recorded_panel_key(uns)
        parts.panel = _own_panels(parts, panel_key or parts.panel_key)
    return parts


def _as_asked(
    parts: Parts,
    mods: dict[str, AnnData],
    rename: Mapping[str, str],
    layers: Mapping[str, str],
    wanted: Wanted,
) -> dict[str, AnnData]:
    """The modalities after `choose`; options name them as they are called after renaming."""
    new = {old: rename.get(old, old) for old in mods}
    try:
        chosen = choose(
            parts.name, {new[old]: a for old, a in mods.items()}, wanted, layers=layers, is_batch=True
        )
    except InputError as error:
        parts.problems += error.problems
        return mods
    mods = {old: chosen[new[old]] for old in mods}
    left = np.any([parts.obs.index.isin(a.obs_names) for a in mods.values()], axis=0)
    parts.obs = parts.obs[left]
    return mods


def _modalities(
    name: str, data: AnnData | MuData | Mapping[str, AnnData], modality: str | None, wanted: Wanted
) -> tuple[dict[str, AnnData], pd.DataFrame, Mapping[str, object]]:
    """Modalities, the ``obs`` above them, and ``uns``."""
    if isinstance(data, AnnData):
        mods = split_types(data, modality=modality, from_obsm=wanted.from_obsm, name=name)
        return mods, pd.DataFrame(index=data.obs_names), data.uns
    if isinstance(data, MuData):
        pulled = [f"{m}:{column}" for m, adata in data.mod.items() for column in adata.obs]
        return dict(data.mod), data.obs.drop(columns=pulled, errors="ignore"), data.uns
    cells: pd.Index[str] = pd.Index([], dtype=object)
    for adata in data.values():
        cells = cells.append(adata.obs_names.difference(cells, sort=False))
    return dict(data), pd.DataFrame(index=cells), {}


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip()) and "/" not in name


def _recorded_panel_key(uns: Mapping[str, object]) -> str | None:
    recorded = uns.get("mosaicvi")
    key = recorded.get("panel_key") if isinstance(recorded, Mapping) else None
    return None if key is None else str(key)


def _part(
    parts: Parts, modality: str, adata: AnnData, layer: str | None, stored: StoredMatrix | None
) -> Part | None:
    """One modality, or None and its problems noted."""
    noted = len(parts.problems)
    name, where = parts.name, f" in {modality}"
    for what, n in (("cells", adata.n_obs), ("features", adata.n_vars)):
        if n == 0:
            parts.problems.append(problem("no-cells", name=name, modality=modality, what=what))
    parts.problems += duplicate_cells(name, adata.obs_names, where)
    if not adata.var_names.is_unique:
        repeated = listed(adata.var_names[adata.var_names.duplicated()].unique())
        parts.problems.append(problem("duplicate-features", name=name, where=where, names=repeated))
    for column in (*adata.obs.columns, *adata.var.columns):
        if not _is_name(column):
            parts.problems.append(problem("column-name", name=name, column=column, where=modality))
    panels = adata.varm.get("measured")
    if panels is not None and not (
        isinstance(panels, pd.DataFrame) and panels.dtypes.map(pd.api.types.is_bool_dtype).all()
    ):
        parts.problems.append(problem("panel-type", name=name, modality=modality))
    x: Values | StoredMatrix | None = stored
    if x is None and len(parts.problems) == noted:
        x = _values(parts, modality, adata, layer)
    if x is None or len(parts.problems) > noted:
        return None
    return Part(x=x, obs=adata.obs, var=adata.var, panels=panels)


def _values(parts: Parts, modality: str, adata: AnnData, layer: str | None) -> Values | None:
    """X or a layer as float32, CSR or dense with NaN; shares memory with the input where it can."""
    if adata.isbacked:
        adata = adata.to_memory()
    if layer is None and (layer := counts_beside_x(modality, adata)) is not None:
        text = f"{parts.name}: {taken(modality, layer)}. layers={{{modality!r}: 'X'}} takes X instead."
        warn(text)
    try:
        raw = values_of(parts.name, modality, adata, layer)
    except InputError as error:
        parts.problems += error.problems
        return None
    if not (np.issubdtype(raw.dtype, np.number) or raw.dtype == np.bool_) or raw.dtype.kind == "c":
        text = problem("x-type", name=parts.name, modality=modality, dtype=raw.dtype)
        parts.problems.append(text)
        return None
    fault = sparse_fault(raw)
    if fault is not None:
        parts.problems.append(problem("sparse", name=parts.name, what=modality, fault=fault))
        return None
    x: Values
    if sparse.issparse(raw):
        x = _csr(raw)
        if np.isnan(x.data).any():
            parts.problems.append(problem("sparse-nan", name=parts.name, modality=modality))
            return None
        infinite = x.indices[np.isinf(x.data)]
    else:
        dense = np.asarray(raw, dtype=np.float32)
        infinite = np.flatnonzero(np.isinf(dense).any(axis=0))
        x = dense if np.isnan(dense).any() else sparse.csr_matrix(dense)
    if len(infinite):
        feature = adata.var_names[infinite[0]]
        parts.problems.append(problem("infinite", name=parts.name, modality=modality, feature=feature))
        return None
    return x


def _csr(raw: sparse.spmatrix) -> sparse.csr_matrix:
    """CSR float32 in which every entry stands once; the input is not changed."""
    x = sparse.csr_matrix(raw, dtype=np.float32)  # shares what is CSR float32 already
    if not x.has_canonical_format:
        x = x.copy() if np.shares_memory(x.data, getattr(raw, "data", np.empty(0))) else x
        x.sum_duplicates()
    return x


def _lift_covariates(parts: Parts, mods: Mapping[str, AnnData]) -> None:
    """Columns of the modalities on which all of them agree go into ``obs``."""
    columns = dict.fromkeys(column for adata in mods.values() for column in adata.obs)
    for column in columns:
        candidates = [adata.obs[column] for adata in mods.values() if column in adata.obs]
        if column in parts.obs:
            candidates.insert(0, parts.obs[column])
        merged = agreed(candidates, parts.obs.index)
        if merged is None:
            parts.apart.add(column)
        else:
            parts.obs = parts.obs.assign(**{column: merged})
    for column in parts.obs:
        if not _is_name(column):
            parts.problems.append(problem("column-name", name=parts.name, column=column, where="obs"))


def agreed(candidates: list[pd.Series], index: pd.Index[str]) -> pd.Series | None:
    """One column that says what all candidates say, each for its cells; None where two contradict."""
    if len(candidates) == 1 and candidates[0].index.equals(index):
        return candidates[0]
    merged = np.full(len(index), None, dtype=object)
    for series in candidates:
        at = index.get_indexer(series.index)
        there = series.notna().to_numpy() & (at >= 0)
        new = series.to_numpy(dtype=object)[there]
        old = merged[at[there]]
        known = np.array([value is not None for value in old], dtype=bool)
        if (old[known] != new[known]).any():
            return None
        merged[at[there]] = new
    column = pd.Series(merged, index=index, dtype=object)
    dtypes = list(dict.fromkeys(series.dtype for series in candidates))
    if len(dtypes) == 1 and (isinstance(dtypes[0], pd.CategoricalDtype) or column.notna().all()):
        return column.astype(dtypes[0])
    return column.infer_objects()


def _find_cells(parts: Parts) -> None:
    """Every cell must be in a modality, and every cell of a modality in ``obs``."""
    cells = parts.obs.index
    parts.problems += duplicate_cells(parts.name, cells)
    if not cells.is_unique:
        return
    seen = np.zeros(len(cells), dtype=bool)
    for part in parts.modalities.values():
        seen[cells.get_indexer(part.obs.index)] = True
    if not seen.all():
        parts.problems.append(problem("no-modality", name=parts.name, names=listed(cells[~seen])))


def _own_panels(parts: Parts, key: str | None) -> pd.Series[str] | None:
    """The dataset's own panel of every cell, where ``varm["measured"]`` names panels."""
    panelled = {m: part for m, part in parts.modalities.items() if part.panels is not None}
    if parts.problems or not panelled:
        return None
    modality, part = next(iter(panelled.items()))
    names = {str(column) for p in panelled.values() if p.panels is not None for column in p.panels}
    if key is None and len(names) == 1:
        return pd.Series(next(iter(names)), index=parts.obs.index, dtype=object)
    if key is None or key not in parts.obs:
        fitting = [c for c in parts.obs if set(parts.obs[c].astype(object)) <= names]
        if len(fitting) != 1 or key is not None:
            text = problem("panel-key", name=parts.name, modality=modality, panels=listed(sorted(names)))
            parts.problems.append(text)
            return None
        key = str(fitting[0])
    panel = parts.obs[key].astype(object)
    for modality, part in panelled.items():
        assert part.panels is not None
        unknown = set(panel.loc[part.obs.index]) - {str(column) for column in part.panels}
        if unknown:
            names_ = listed(sorted(map(str, unknown)))
            parts.problems.append(
                problem("panel-unknown", name=parts.name, column=key, modality=modality, panels=names_)
            )
    return panel.astype(str)
