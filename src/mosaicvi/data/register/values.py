"""The values of one modality: found, looked at, and without what was not measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi import likelihoods
from mosaicvi.config import Distribution
from mosaicvi.data.blocks import Block
from mosaicvi.data.looks import Looks, check_finite, filled_by_batch, look
from mosaicvi.data.register.features import chromosomes, find_features, read_blocks
from mosaicvi.data.register.kinds import (
    check_range,
    choose_likelihood,
    choose_transform,
    is_filled,
    layer_for_model,
    looks_normalised,
)
from mosaicvi.data.register.panels import read_panels
from mosaicvi.data.registry import ModalityFeatures, Registry, Setup
from mosaicvi.data.stored.aligned import noted_rows
from mosaicvi.data.stored.learnt import once
from mosaicvi.data.stored.names import plain, repeated
from mosaicvi.data.stored.parked import parked
from mosaicvi.data.stored.scan import Scanned, scan
from mosaicvi.data.stored.values import StoredMatrix, StoredMeasured, StoredValues
from mosaicvi.data.sums import Columns
from mosaicvi.data.transforms import Transform
from mosaicvi.data.values import keep_measured, read_values, scales
from mosaicvi.errors import InputError, quoted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Values:
    """The values of a modality, what they look like, and which of them were measured."""

    x: Block | StoredMatrix
    looks: Looks
    features: ModalityFeatures
    likelihood: Distribution
    transform: Transform
    peaks: bool
    panels: NDArray[np.bool_]
    panel_of_row: NDArray[np.int64]
    notes: list[str]

    @property
    def is_dense(self) -> bool:
        """Whether measured values are kept as an array."""
        return not likelihoods.get(self.likelihood).whole


def find_values(
    name: str,
    a: AnnData,
    data: MuData | AnnData,
    setup: Setup,
    panel_key: str | None,
    registry: Registry | None,
    stored: Mapping[str, StoredMatrix],
) -> Values:
    """Find the values of a modality and look at them."""
    _check_names(name, a, data)
    peaks = False
    if registry is None:
        features = read_blocks(name, a, setup.block_keys.get(name))
        order = features.order
        peaks = chromosomes(a.var_names) is not None
    else:
        features = registry.features[name]
        order = find_features(name, a.var_names, features)
    x: Block | StoredMatrix
    matrix = stored.get(name, stored.get(""))
    notes: list[str] = []
    if matrix is not None:
        x = matrix.ordered(order)
    else:
        layer = setup.layers.get(name)
        if registry is not None:
            layer, notes = layer_for_model(name, a, registry)
        x = read_values(name, a, layer, order)
    looks = once(Looks, x, lambda: look(x)) if isinstance(x, StoredMatrix) else look(x)
    check_finite(name, a.obs_names, x, looks)
    if registry is None:
        likelihood = choose_likelihood(name, a, x, looks, peaks, setup)
        transform = choose_transform(name, likelihood, looks.whole, is_filled(looks), setup)
    else:
        likelihood, transform = registry.likelihoods[name], registry.transforms[name]
        if registry.whole[name] and not looks.whole and likelihoods.get(likelihood).whole:
            raise InputError(looks_normalised(name, a, of_model=True))
    of_model = registry is not None
    check_range(name, a, x, looks, likelihood, transform, of_model=of_model)
    panels, panel_of_row = read_panels(name, a, data, order, panel_key, of_model=of_model)
    if isinstance(x, StoredMatrix):
        panel_of_row = parked(panel_of_row)
    return Values(
        x=x,
        looks=looks,
        features=features,
        likelihood=likelihood,
        transform=transform,
        peaks=peaks,
        panels=panels,
        panel_of_row=panel_of_row,
        notes=notes,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredValues:
    """Values without what was not measured.

    Attributes
    ----------
    x, entry, library, scale
        As in `ModalityData`.
    n_measured
        Features that each row measured, (n_m,).
    n_outside
        Values that stood outside the panels.
    seen
        Which features any row measured, (D_m,).
    filled
        Where every row measured everything: cells of each batch that have something other than 0, (B, D_m).
    columns, digest
        Where stored values were read for it.
    """

    x: Block | StoredValues
    entry: NDArray[np.bool_] | StoredMeasured | None
    library: NDArray[np.float32]
    scale: NDArray[np.float32]
    n_measured: NDArray[np.int64]
    n_outside: int
    seen: NDArray[np.bool_]
    filled: NDArray[np.int64]
    columns: Mapping[str, Columns] = dataclasses.field(default_factory=dict)
    digest: str | None = None


def keep(v: Values, batch: NDArray[np.int64], n_batches: int) -> MeasuredValues:
    """Leave out what was not measured; `batch` is that of each row, (n_m,), of so many, 0 not to count."""
    if isinstance(v.x, StoredMatrix):
        return _keep_stored(v, v.x, batch, n_batches)
    x, entry, n_outside = keep_measured(v.x, v.panels, v.panel_of_row, dense=v.is_dense)
    n_measured = v.panels.sum(1)[v.panel_of_row] if entry is None else entry.sum(1)
    library, scale = scales(x, n_measured, v.transform)
    if v.features.scaled is not None:
        scale = _scale_by_some(v, x, entry, scale, v.features.scaled)
    says_it_all = entry is None and bool(v.panels.all())
    return MeasuredValues(
        x=x,
        entry=entry,
        library=library,
        scale=scale,
        n_measured=n_measured,
        n_outside=n_outside,
        seen=np.any(v.panels if entry is None else entry, axis=0),
        filled=filled_by_batch(x, batch, n_batches) if says_it_all else np.zeros((0, x.shape[1]), np.int64),
    )


def _scale_by_some(
    v: Values,
    x: Block,
    entry: NDArray[np.bool_] | None,
    of_all: NDArray[np.float32],
    scaled: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """The transform's scale of each row by some features, or by all where it measured none of them."""
    n_some = v.panels[:, scaled].sum(1)[v.panel_of_row] if entry is None else entry[:, scaled].sum(1)
    _, scale = scales(x[:, np.flatnonzero(scaled)], n_some, v.transform)
    return np.where(n_some > 0, scale, of_all)


def _keep_stored(v: Values, matrix: StoredMatrix, batch: NDArray[np.int64], n_batches: int) -> MeasuredValues:
    if v.features.scaled is not None:
        raise InputError(
            "A model that learnt new features reads values in memory; open them with in_memory=True."
        )
    found = once(
        Scanned,
        matrix,
        lambda: scan(
            matrix,
            v.panels,
            v.panel_of_row,
            is_dense=v.is_dense,
            transform=v.transform,
            batch=batch,
            n_batches=n_batches,
        ),
        *(v.panels, v.panel_of_row, v.is_dense, v.transform, batch, n_batches),
    )
    x = StoredValues(
        matrix,
        rows=None,
        panels=v.panels,
        panel_of_row=v.panel_of_row,
        is_dense=v.is_dense,
        has_gaps=found.has_gaps,
    )
    return MeasuredValues(
        x=x,
        entry=StoredMeasured(x) if found.has_gaps else None,
        library=parked(found.library),
        scale=parked(found.scale),
        n_measured=found.n_measured,
        n_outside=found.n_outside,
        seen=found.columns["none"].n_measured > 0,
        filled=found.filled,
        columns=found.columns,
        digest=found.digest,
    )


def _check_names(name: str, a: AnnData, data: MuData | AnnData) -> None:
    cells = pd.Index(data.obs_names)
    if a.n_obs == 0:
        raise InputError(f"Modality {name!r} has no cells; leave it out.")
    if a.n_vars == 0:
        raise InputError(f"Modality {name!r} has no features; leave it out.")
    problems = duplicates(f"{name}: var_names", a.var_names, "make them unique with var_names_make_unique()")
    if noted_rows(data, name, a, cells) is None:  # else no cell is there twice, or strange
        problems += _strange_cells(name, a.obs_names, cells)
    if problems:
        raise InputError(problems)


def _strange_cells(name: str, own: pd.Index[str], cells: pd.Index[str]) -> list[str]:
    """What is wrong with the names of a modality's cells: one is there twice, or unknown to the whole."""
    twice = duplicates(f"{name}: obs_names", own, "make them unique with obs_names_make_unique()")
    strange = own[~own.isin(cells)]
    if twice or not len(strange):
        return twice
    return [
        f"{name}: {len(strange):,} cells (such as {quoted(strange)}) are not in the obs_names of the "
        "whole; call mdata.update()."
    ]


def duplicates(what: str, names: pd.Index[str], remedy: str) -> list[str]:
    """What is wrong with names that occur more than once, if any do."""
    twice = plain(names[repeated(names)]).unique()
    return [f"{what}: {quoted(twice)} occur more than once; {remedy}."] if len(twice) else []
