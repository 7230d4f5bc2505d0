"""MuData or AnnData -> `Mosaic`, with every error of the data found at once; the object is never changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi import likelihoods
from mosaicvi.data.blocks import Block
from mosaicvi.data.input_levels import input_levels
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.data.read.remembered import checked, noted_reading
from mosaicvi.data.register.connected import apart, components, seen_by_group
from mosaicvi.data.register.covariates import (
    Covariates,
    condition_groups,
    named_conditions,
    obs_column,
    read_covariates,
)
from mosaicvi.data.register.kinds import guessed_gaussian, with_counts
from mosaicvi.data.register.modalities import (
    left_out,
    modalities_of,
    unknown,
    unread_proteins,
    without_technical,
)
from mosaicvi.data.register.panels import measured_by_batch, panel_column
from mosaicvi.data.register.standard import standard_of
from mosaicvi.data.register.suspicious import droplets, hashtags, zero_or_one, zeros
from mosaicvi.data.register.unseen import read_new_covariates
from mosaicvi.data.register.values import Values, duplicates, find_values, keep
from mosaicvi.data.registry import ModalityFeatures, Registry, Setup
from mosaicvi.data.staining import at_level
from mosaicvi.data.stored.aligned import noted_rows
from mosaicvi.data.stored.parked import let_go, parked
from mosaicvi.data.stored.values import StoredMatrix, StoredMeasured, StoredValues
from mosaicvi.errors import InputError, quoted, warn


def register(
    data: MuData | AnnData,
    setup: Setup,
    *,
    registry: Registry | None = None,
    stored: Mapping[str, StoredMatrix] | None = None,
) -> Mosaic:
    """Read a MuData or AnnData into a `Mosaic`, checking everything that can be wrong with it.

    Parameters
    ----------
    data
        The user's object. It is not changed, but values are shared with it where they can be: do not
        write into its matrices in place while the mosaic is in use.
    setup
        How to read it.
    registry
        Of a trained model: data are then read as it was, features must match by name, and modalities
        that are not there count as not measured.
    stored
        Values that stay in their files, by modality; of these, the object says all but the values.

    Raises
    ------
    InputError
        With every problem found, one per line.

    Warns
    -----
    MosaicWarning
        For cells without counts, and values that stand where nothing was measured.
    """
    mods = modalities_of(data, setup, registry)
    notes: list[str] = []
    wanted = tuple(registry.features) if registry else setup.modalities
    if not wanted:
        wanted, notes = without_technical(tuple(mods))
    cells = pd.Index(data.obs_names)
    problems = [] if registry else unknown(mods, wanted, setup)
    problems += duplicates("obs_names", cells, "make them unique, for example with obs_names_make_unique()")
    if problems:
        raise InputError(problems)
    if not any(name in mods for name in wanted):
        there = quoted(mods) or "none"
        raise InputError(f"The data have none of the modalities {quoted(wanted)}; they have {there}.")
    if registry is None:
        setup, said = with_counts(setup, {name: mods[name] for name in wanted})
        notes += said
    else:
        notes += left_out(data, mods, registry)
    panel_key = panel_column(data, setup.panel_key, setup.batch_key)
    # where the batches are missing, that panels cannot be told by them would only confuse
    no_batch = (
        registry is None
        and panel_key is not None
        and panel_key == setup.batch_key
        and obs_column(data, panel_key) is None
    )
    covariates: Covariates | None = None
    of_covariates: list[str] = []
    said_of_covariates: list[str] = []
    try:
        if registry is None:
            covariates = read_covariates(data, setup)
        else:
            covariates, said_of_covariates = read_new_covariates(data, registry)
    except InputError as error:
        of_covariates = error.problems
    batch = np.zeros(len(cells), np.int64)
    batches: tuple[str, ...] = ("all",)
    if covariates is not None:
        if stored:
            table, batch = parked(covariates.table), parked(covariates.batch)
            covariates = dataclasses.replace(covariates, table=table, batch=batch)
        batch = covariates.batch
        batches = _batches(setup, covariates.categories, covariates.unseen)
    read: list[ModalityData] = []
    notes += unread_proteins(data) if registry is None else []
    for name in wanted:
        if name not in mods:
            assert registry is not None
            read.append(absent(name, len(cells), registry))
            continue
        try:
            values = find_values(name, mods[name], data, setup, panel_key, registry, stored or {})
            modality, said = _read(name, mods[name], data, cells, setup, registry, values, batch, batches)
        except InputError as error:
            problems += [p for p in error.problems if not (no_batch and "panel_key=" in p)]
            continue
        read.append(modality)
        notes += said
    problems += of_covariates
    notes += said_of_covariates
    conditions = None
    try:
        if setup.condition_keys:
            conditions = named_conditions(data, setup.condition_keys, needed=registry is None)
    except InputError as error:
        problems += error.problems
    if len(read) == len(wanted):
        problems += _cells_without_modality(cells, read)
    if problems or covariates is None:
        raise InputError(problems)
    learned = registry or _learn(setup, read, covariates, data)
    group, group_names = condition_groups(read, covariates.batch, batches)
    if registry is None:
        notes += apart(components(group_names, seen_by_group(read, group, len(group_names))))
    for note in notes:
        warn(note)
    if conditions is not None:
        group, group_names = conditions
    found = Mosaic(
        cells=cells,
        modalities=tuple(read),
        covariates=covariates.table,
        batch=covariates.batch,
        group=parked(group) if stored else group,
        group_names=group_names,
        registry=learned,
        unseen=covariates.unseen,
    )
    let_go()
    return at_level(found, learned.levels) if learned.levels else found


def without_cells(registry: Registry) -> Mosaic:
    """The mosaic of a model that was opened without data: its modalities, and no cell."""
    n_covariates = sum(map(len, registry.categories.values())) + len(registry.centre)
    n_covariates += registry.setup.batch_key is None
    return Mosaic(
        cells=pd.Index([], dtype=object),
        modalities=tuple(absent(name, 0, registry) for name in registry.features),
        covariates=np.zeros((0, n_covariates), np.float32),
        batch=np.zeros(0, np.int64),
        group=np.zeros(0, np.int64),
        group_names=(),
        registry=registry,
    )


# --- the whole ----------------------------------------------------------------------------------


def _cells_without_modality(cells: pd.Index[str], mods: Sequence[ModalityData]) -> list[str]:
    has = np.any([m.row_of_cell >= 0 for m in mods], axis=0)
    if has.all():
        return []
    names = [m.name for m in mods]
    return [
        f"{int((~has).sum()):,} cells have no modality at all (such as {quoted(cells[~has])}); "
        f"remove them: mdata = mdata[np.any([mdata.obsm[m] for m in {names!r}], axis=0)].copy()."
    ]


def _batches(
    setup: Setup, categories: Mapping[str, tuple[str, ...]], unseen: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    key = setup.batch_key
    return ("all",) if key is None else (*categories[key], *unseen.get(key, ()))


def named_files(data: MuData | AnnData) -> dict[str, str]:
    """The files that `combine` noted, of datasets that have another name than their file."""
    about = data.uns.get("mosaicvi")
    table = about.get("files") if isinstance(about, Mapping) else None
    if not isinstance(table, pd.DataFrame) or not {"dataset", "file"} <= {*table.columns}:
        return {}
    return dict(zip(table["dataset"].astype(str), table["file"].astype(str), strict=True))


def _learn(
    setup: Setup, mods: Sequence[ModalityData], covariates: Covariates, data: MuData | AnnData
) -> Registry:
    names = _batches(setup, covariates.categories, {})
    reading = noted_reading(data)
    with_gaps = checked(reading).get("zeros_missing", ())
    return Registry(
        setup=setup,
        features={m.name: m.features for m in mods},
        likelihoods={m.name: m.likelihood for m in mods},
        transforms={m.name: m.transform for m in mods},
        whole={m.name: m.whole for m in mods},
        categories=covariates.categories,
        centre=covariates.centre,
        spread=covariates.spread,
        median_library={
            m.name: float(np.median(m.library[m.library > 0])) if (m.library > 0).any() else 1.0 for m in mods
        },
        measured_in={
            m.name: tuple(names[b] for b in np.unique(covariates.batch[m.row_of_cell >= 0])) for m in mods
        },
        standards={m.name: m.standard for m in mods if m.standard is not None},
        files=named_files(data),
        reading=reading,
        panels={
            m.name: measured_by_batch(m, covariates.batch, len(names)) for m in mods if m.name in with_gaps
        },
        input_levels=input_levels(mods, covariates.batch, len(names)),
    )


# --- one modality -------------------------------------------------------------------------------


def _read(
    name: str,
    a: AnnData,
    data: MuData | AnnData,
    cells: pd.Index[str],
    setup: Setup,
    registry: Registry | None,
    v: Values,
    batch: NDArray[np.int64],
    batches: Sequence[str],
) -> tuple[ModalityData, list[str]]:
    """A modality, and notes for the user about it."""
    noted = noted_rows(data, name, a, cells)
    row_of_cell = np.asarray(a.obs_names.get_indexer(cells), np.int64) if noted is None else noted
    there = row_of_cell >= 0
    batch_of_row = np.zeros(a.n_obs, np.int64)
    batch_of_row[row_of_cell[there]] = batch[there]
    if isinstance(v.x, StoredMatrix):
        row_of_cell, batch_of_row = parked(row_of_cell), parked(batch_of_row)
    del noted, there
    kept = keep(v, batch_of_row, len(batches) if registry is None else 0)
    if registry is None:
        _check_measured(name, a.var_names[v.features.order], kept.seen)
    modality = ModalityData(
        name=name,
        features=v.features,
        likelihood=v.likelihood,
        transform=v.transform,
        x=kept.x,
        entry_measured=kept.entry,
        row_of_cell=row_of_cell,
        panels=v.panels,
        panel_of_row=v.panel_of_row,
        library=kept.library,
        scale=kept.scale,
        whole=v.looks.whole,
        known_columns=kept.columns,
        known_digest=kept.digest,
    )
    empty = (kept.library == 0) & (kept.n_measured > 0) if registry is None else np.zeros(a.n_obs, bool)
    notes = v.notes + _notes(modality, a.obs_names[empty], kept.n_outside)
    if registry is None:
        notes += hashtags(name, a.var_names) + droplets(name, v.looks)
        if len(kept.filled):
            notes += zeros(name, v.looks, kept.filled, pd.Index(v.features.names), batch_of_row, batches)
    if registry is None and name not in setup.likelihoods:
        notes += zero_or_one(name, v.looks, v.peaks)
        notes += [] if likelihoods.get(v.likelihood).whole else guessed_gaussian(name, a, v.looks)
    if not (kept.n_measured > 0).all():
        modality = _without(modality, kept.n_measured == 0)
    standard = standard_of(modality) if registry is None else registry.standards.get(name)
    return dataclasses.replace(modality, standard=standard), notes


def _check_measured(name: str, names: pd.Index[str], seen: NDArray[np.bool_]) -> None:
    if not seen.all():
        raise InputError(f"{name}: nobody measured {quoted(names[~seen])}; remove such features.")


def _notes(m: ModalityData, empty: pd.Index[str], n_outside: int) -> list[str]:
    notes = []
    if n_outside:
        notes.append(
            f"Modality {m.name!r}: {n_outside:,} values stand where varm['measured'] says that nothing was "
            "measured; they are left out."
        )
    if likelihoods.get(m.likelihood).whole and len(empty):
        notes.append(
            f"Modality {m.name!r}: {len(empty):,} cells have only zeros (such as {quoted(empty)}), "
            f"which are taken as measured; if they did not measure it, "
            f"mosaicvi.to_mudata(data, zeros_missing=[{m.name!r}]) takes them as missing."
        )
    return notes


def _without(m: ModalityData, empty: NDArray[np.bool_]) -> ModalityData:
    """The modality without the rows in which nothing was measured: those cells lack it."""
    kept = ~empty
    row = np.cumsum(kept) - 1
    has = (m.row_of_cell >= 0) & kept[m.row_of_cell]
    x: Block | StoredValues
    entry: NDArray[np.bool_] | StoredMeasured | None
    if isinstance(m.x, StoredValues):
        x = m.x.without(empty)
        entry = None if m.entry_measured is None else StoredMeasured(x)
    else:
        x, entry = m.x[kept], None if m.entry_measured is None else m.entry_measured[kept]
    of_cells: dict[str, Any] = {
        "row_of_cell": np.where(has, row[m.row_of_cell], -1),
        "panel_of_row": m.panel_of_row[kept],
        "library": m.library[kept],
        "scale": m.scale[kept],
    }
    if m.on_disk:
        of_cells = {name: parked(array) for name, array in of_cells.items()}
    return dataclasses.replace(m, x=x, entry_measured=entry, known_digest=None, **of_cells)


def absent(name: str, n_cells: int, registry: Registry) -> ModalityData:
    """A modality that no cell of the data has."""
    features: ModalityFeatures = registry.features[name]
    shape = (0, len(features.names))
    dense = not likelihoods.get(registry.likelihoods[name]).whole
    return ModalityData(
        name=name,
        features=features,
        likelihood=registry.likelihoods[name],
        transform=registry.transforms[name],
        x=np.zeros(shape, np.float32) if dense else sp.csr_matrix(shape, dtype=np.float32),
        entry_measured=None,
        row_of_cell=np.full(n_cells, -1),
        panels=np.ones((1, shape[1]), bool),
        panel_of_row=np.zeros(0, np.int64),
        library=np.zeros(0, np.float32),
        scale=np.zeros(0, np.float32),
        whole=registry.whole[name],
        standard=registry.standards.get(name),
    )
