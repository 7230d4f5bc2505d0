"""What a mosaic holds before any training: counts, panels, bridges, and what cannot be connected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy.sparse.csgraph import shortest_path

from mosaicvi.data.blocks import Block
from mosaicvi.data.combine.parts import agreed
from mosaicvi.data.counts import settled_layers, taken
from mosaicvi.data.looks import filled_by_batch, look
from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read import to_mudata
from mosaicvi.data.register.connected import apart, components
from mosaicvi.data.register.covariates import check_categories, likely_batch
from mosaicvi.data.register.features import chromosomes
from mosaicvi.data.register.kinds import counts_in, looks_normalised
from mosaicvi.data.register.suspicious import (
    droplets,
    hashtags,
    looks_sparse,
    scale,
    technical,
    zero_or_one,
    zeros,
)
from mosaicvi.data.values import read_values
from mosaicvi.errors import InputError, quoted
from mosaicvi.inspect.summary import ALL, Bridge, Group, Library, ModalitySummary, MosaicSummary, Overlap

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """Of each cell of the mosaic: batch, panel, group, and whether it is in each modality."""

    batch: pd.Series[str]
    panel: pd.Series[str]
    group: npt.NDArray[np.intp]
    has: Mapping[str, npt.NDArray[np.bool_]]


def describe(
    mdata: MuData | AnnData, *, batch_key: str | None = None, layers: Mapping[str, str] | None = None
) -> MosaicSummary:
    """Describe a mosaic without changing it.

    Parameters
    ----------
    mdata
        The data; an AnnData counts as one modality.
    batch_key
        The column of ``obs`` that names each cell's batch; by default all cells are one batch.
    layers
        Modality → layer with its values. Where none is named: ``X``, or the counts beside it where ``X``
        certainly holds none.

    Raises
    ------
    InputError
        There is no such column, it has too many values, or it does not say which cell has which panel.
    """
    mdata = to_mudata(mdata)
    if not mdata.mod:
        raise InputError(problem("kind", name="the data", kind="a MuData without modalities"))
    labels, groups = _label_cells(mdata, batch_key)
    _check_panels(mdata, labels.panel, None if batch_key is not None else likely_batch(mdata))
    seen, notes = {}, []
    named, found = settled_layers(mdata.mod, layers or {}, meant={})
    notes += [f"{taken(name, layer)}." for name, layer in found.items()]
    modalities, libraries = [], []
    for name, adata in mdata.mod.items():
        rows = _rows_of(mdata, adata)
        panels = _panels_of(adata, labels.panel)
        x_nd = read_values(name, adata, named.get(name), np.arange(adata.n_vars))
        summary, seen[name], library_n = _modality(name, x_nd, adata.shape, panels, labels, rows, len(groups))
        modalities.append(summary)
        libraries += _libraries(name, library_n, labels.batch.to_numpy()[rows])
        notes += _feature_notes(name, adata, seen[name])
        notes += _value_notes(name, adata, x_nd, labels.batch.to_numpy()[rows], layer=named.get(name))
    overlaps = [o for name, adata in mdata.mod.items() for o in _overlaps(name, adata, labels.panel)]
    bridges = _bridges(labels.has)
    parts = components([str(group) for group in groups], seen)
    notes += _connection_notes(parts, bridges) + _cell_notes(labels, libraries)
    return MosaicSummary(
        n_cells=mdata.n_obs,
        batch_key=batch_key,
        batches=tuple(dict.fromkeys(labels.batch)),
        modalities=tuple(modalities),
        groups=tuple(groups),
        libraries=tuple(libraries),
        panels={
            name: {panel: int(d.sum()) for panel, d in _panels_of(adata, labels.panel).items()}
            for name, adata in mdata.mod.items()
        },
        overlaps=tuple(overlaps),
        bridges=tuple(bridges),
        components=parts,
        warnings=tuple(notes),
    )


def unconnected(mdata: MuData, *, batch_key: str | None) -> list[str]:
    """What `describe` says of cells and modalities that nothing connects, without reading any value.

    Parameters
    ----------
    mdata
        A mosaic, whose values may be elsewhere.
    batch_key
        Column of ``obs`` with the batches.
    """
    labels, groups = _label_cells(mdata, batch_key)
    seen = {}
    for name, adata in mdata.mod.items():
        panels = _panels_of(adata, labels.panel)
        only = next(iter(panels.values()))
        seen[name] = np.stack([panels.get(g.panel, only) & (name in g.modalities) for g in groups])
    return _connection_notes(components([str(group) for group in groups], seen), _bridges(labels.has))


def _rows_of(mdata: MuData, adata: AnnData) -> npt.NDArray[np.intp]:
    """Where the cells of a modality are among those of the mosaic."""
    rows: npt.NDArray[np.intp] = mdata.obs_names.get_indexer(adata.obs_names)
    return rows


def _column(mdata: MuData, key: str) -> pd.Series | None:
    """A column of ``obs``, or the same column of the modalities where they agree."""
    if key in mdata.obs:
        return pd.Series(mdata.obs[key])
    candidates = [adata.obs[key] for adata in mdata.mod.values() if key in adata.obs]
    return agreed(candidates, mdata.obs_names) if candidates else None


def _label_cells(mdata: MuData, batch_key: str | None) -> tuple[_Labels, list[Group]]:
    def as_text(column: pd.Series | None) -> pd.Series[str]:
        if column is None:
            return pd.Series(ALL, index=mdata.obs_names, dtype=object)
        return column.astype(object).where(column.notna(), "missing").astype(str)

    column = None if batch_key is None else _column(mdata, batch_key)
    if batch_key is not None and column is None:
        raise InputError(problem("batch-key", column=batch_key, columns=listed(mdata.obs.columns, most=20)))
    batch = as_text(column)
    if batch_key is not None:
        check_categories(batch_key, batch.nunique())
    recorded = mdata.uns.get("mosaicvi")
    panel_key = recorded.get("panel_key") if isinstance(recorded, Mapping) else None
    panelled = any("measured" in adata.varm for adata in mdata.mod.values())
    named = None if panel_key is None else _column(mdata, str(panel_key))
    panel = as_text(named) if named is not None else batch if panelled else as_text(None)
    has = {}
    for name, adata in mdata.mod.items():
        has[name] = np.zeros(mdata.n_obs, bool)
        has[name][_rows_of(mdata, adata)] = True
    table = pd.DataFrame({"batch": batch.to_numpy(), "panel": panel.to_numpy()})
    for i, has_n in enumerate(has.values()):
        table[i] = has_n
    by = table.groupby(list(table.columns), sort=False, dropna=False)
    group = by.ngroup().to_numpy().astype(np.intp)
    sizes = np.bincount(group, minlength=by.ngroups)
    firsts = table.drop_duplicates().to_numpy()
    groups = [
        Group(
            batch=row[0],
            panel=row[1],
            modalities=tuple(m for m, there in zip(has, row[2:], strict=True) if there),
            n_cells=int(size),
        )
        for row, size in zip(firsts, sizes, strict=True)
    ]
    return _Labels(batch=batch, panel=panel, group=group, has=has), groups


def _check_panels(mdata: MuData, panel: pd.Series[str], batch: str | None) -> None:
    """Raise where a modality has several panels and a cell of it has none of them."""
    problems = []
    which = "...." if batch is None else f"{batch!r} perhaps."
    for name, adata in mdata.mod.items():
        table = adata.varm.get("measured")
        if not isinstance(table, pd.DataFrame) or table.shape[1] < 2:
            continue
        if not set(panel.loc[adata.obs_names]) <= set(map(str, table.columns)):
            problems.append(
                f"{name}: varm['measured'] has the panels {quoted(table.columns)}; "
                f"name the obs column that says which cell has which, batch_key={which}"
            )
    if problems:
        raise InputError(problems)


def _panels_of(adata: AnnData, panel: pd.Series[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Of each panel that cells of the modality have, which features it measures; without panels, all."""
    table = adata.varm.get("measured")
    if not isinstance(table, pd.DataFrame):
        return {ALL: np.ones(adata.n_vars, bool)}
    if table.shape[1] == 1:
        return {str(table.columns[0]): table.iloc[:, 0].to_numpy(bool)}
    there = set(panel.loc[adata.obs_names])
    return {str(name): table[name].to_numpy(bool) for name in table if str(name) in there}


def _modality(
    name: str,
    x_nd: Block,
    shape: tuple[int, int],
    panels: Mapping[str, npt.NDArray[np.bool_]],
    labels: _Labels,
    rows: npt.NDArray[np.intp],
    n_groups: int,
) -> tuple[ModalitySummary, npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """The summary, which group measured which feature (groups × features), and each cell's sum."""
    values = x_nd if isinstance(x_nd, np.ndarray) else x_nd.data
    panel_n, group_n = labels.panel.to_numpy()[rows], labels.group[rows]
    seen = np.zeros((n_groups, shape[1]), bool)
    n_inside = n_missing = 0
    for group in np.unique(group_n):
        cells = np.flatnonzero(group_n == group)
        own = panel_n[cells[0]]
        measured_d = panels.get(own, next(iter(panels.values())) if len(panels) == 1 else None)
        if measured_d is None:
            continue
        n_inside += int(measured_d.sum()) * len(cells)
        seen[group] = measured_d
        if isinstance(x_nd, np.ndarray):
            missing = np.isnan(values[cells]) & measured_d
            n_missing += int(missing.sum())
            seen[group] &= ~missing.all(axis=0)
    known = values[~np.isnan(values)]
    kind = "real" if (known < 0).any() else "counts" if (known == np.rint(known)).all() else "positive"
    sums = np.asarray(
        np.nansum(values, axis=1) if isinstance(x_nd, np.ndarray) else x_nd.sum(axis=1), np.float64
    )
    summary = ModalitySummary(
        name=name,
        n_cells=shape[0],
        n_features=shape[1],
        values=kind,
        zeros=1 - np.count_nonzero(known) / max(n_inside - n_missing, 1),
        missing=n_missing / max(n_inside, 1),
    )
    return summary, seen, sums.ravel()


def _libraries(modality: str, sums: npt.NDArray[np.float64], batch: npt.NDArray[np.object_]) -> list[Library]:
    return [
        Library(
            batch=str(name),
            modality=modality,
            quantiles=tuple(float(q) for q in np.quantile(sums[batch == name], QUANTILES)),
            n_empty=int((sums[batch == name] == 0).sum()),
        )
        for name in dict.fromkeys(batch)
    ]


def _overlaps(modality: str, adata: AnnData, panel: pd.Series[str]) -> list[Overlap]:
    panels = _panels_of(adata, panel)
    table = np.array(list(panels.values())).T
    counts = Counter(tuple(p for p, there in zip(panels, row, strict=True) if there) for row in table)
    return [Overlap(modality=modality, panels=names, n_features=n) for names, n in counts.most_common()]


def _bridges(has: Mapping[str, npt.NDArray[np.bool_]]) -> list[Bridge]:
    names = list(has)
    paired = np.array([[int((has[a] & has[b]).sum()) for b in names] for a in names]).reshape(len(names), -1)
    _, before = shortest_path(paired > 0, directed=False, unweighted=True, return_predecessors=True)
    bridges = []
    for i, j in combinations(range(len(names)), 2):
        chain: list[str] = []
        step = before[i, j]
        while step not in (i, -9999):
            chain.insert(0, names[step])
            step = before[i, step]
        pair = (names[i], names[j])
        bridges.append(Bridge(modalities=pair, n_cells=int(paired[i, j]), chain=tuple(chain)))
    return bridges


def _connection_notes(parts: tuple[tuple[str, ...], ...], bridges: Sequence[Bridge]) -> list[str]:
    notes = apart(parts)
    for bridge in bridges:
        if bridge.n_cells == 0 and not bridge.chain:
            a, b = bridge.modalities
            notes.append(f"No cell and no chain of modalities connects {a} and {b}")
    return notes


def _value_notes(
    name: str, adata: AnnData, x_nd: Block, batch: npt.NDArray[np.object_], *, layer: str | None
) -> list[str]:
    """What is suspicious in the values, as training would say it."""
    counts = counts_in(adata) if layer is None else None
    found = look(x_nd)
    unlikely = scale(name, found, counts_in=counts)
    notes = [] if unlikely is None else [unlikely]
    if unlikely is None and not found.whole and found.least >= 0 and (counts or looks_sparse(found)):
        notes.append(looks_normalised(name, adata))
    if technical(name) is not None:
        notes.append(f"Modality {name!r} holds {technical(name)}; training leaves it out unless it is named")
    code, batches = pd.factorize(batch)
    if "measured" not in adata.varm:
        of_cell = code.astype(np.int64)
        filled = filled_by_batch(x_nd, of_cell, len(batches))
        notes += zeros(name, found, filled, adata.var_names, of_cell, [str(b) for b in batches])
    notes += zero_or_one(name, found, chromosomes(adata.var_names) is not None)
    return notes + hashtags(name, adata.var_names) + droplets(name, found)


def _feature_notes(modality: str, adata: AnnData, seen: npt.NDArray[np.bool_]) -> list[str]:
    nobody = adata.var_names[~seen.any(axis=0)]
    return (
        [f"{modality}: features that nobody measured ({len(nobody):,}): {listed(nobody)}"]
        if len(nobody)
        else []
    )


def _cell_notes(labels: _Labels, libraries: Sequence[Library]) -> list[str]:
    notes = [
        f"{library.batch}: cells with nothing but zeros in {library.modality}: {library.n_empty:,}"
        for library in libraries
        if library.n_empty
    ]
    nowhere = ~np.any(list(labels.has.values()), axis=0)
    if nowhere.any():
        names = listed(labels.batch.index[nowhere])
        notes.append(f"Cells in no modality ({int(nowhere.sum()):,}): {names}")
    return notes
