"""Datasets taken apart → one MuData: union features, filled matrices, panels, covariates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from mudata import MuData
from rich.progress import Progress

from mosaicvi.data.combine.columns import join_columns, stack_columns
from mosaicvi.data.combine.fill import Places, fill, place
from mosaicvi.data.combine.match import match_features
from mosaicvi.data.combine.parts import Parts, Values
from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.data.stored.values import StoredMatrix
from mosaicvi.errors import InputError, warn

Join = Literal["outer", "inner"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How datasets are combined; the parameters of :func:`mosaicvi.data.combine.combine`."""

    join: Join
    dataset_key: str
    name_key: str
    rules: Mapping[str, Sequence[str]]
    dataset_in_names: bool = False  # of cells, even where they are unique without

    @property
    def own_panel_key(self) -> str:
        """The column of panels that datasets brought along."""
        return f"{self.dataset_key}_panel"

    def was_combined(self, parts: Parts) -> bool:
        """Whether a dataset was made of several, and its cells say of which each is."""
        return parts.panel_key in (self.dataset_key, self.own_panel_key) and self.dataset_key in parts.obs


@dataclass(frozen=True, kw_only=True)
class JoinedFeatures:
    """The features of one modality.

    Attributes
    ----------
    index
        The common names.
    places
        For each dataset, where each of its features is in ``index``; −1 if it was left out.
    var
        Their annotations.
    report
        What was matched.
    """

    index: pd.Index[str]
    places: dict[str, Places]
    var: pd.DataFrame
    report: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A mosaic, and the values that stay in files, by modality."""

    mdata: MuData
    stored: dict[str, StoredMatrix]


def assemble(datasets: Sequence[Parts], plan: Plan, bar: Progress) -> Assembled:
    """Put datasets together; their matrices are freed one after the other."""
    modalities = list(dict.fromkeys(m for parts in datasets for m in parts.modalities))
    features = {m: _place_features(datasets, m, plan) for m in modalities}
    empty = [m for m, f in features.items() if not len(f.index)]
    if empty:
        having = {m: listed(features[m].places) for m in empty}
        raise InputError([problem("no-overlap", modality=m, names=having[m]) for m in empty])
    cells = _cell_names(datasets, always=plan.dataset_in_names)
    panels = _panel_names(datasets)
    mods, stored = {}, {}
    for m in modalities:
        owners = [parts for parts in datasets if m in parts.modalities]
        obs = stack_columns([_apart(parts, m, datasets) for parts in owners])
        obs.index = pd.Index(np.concatenate([cells[p.name][_rows(p, m)] for p in owners]), dtype=object)
        blocks = [parts.modalities[m] for parts in owners]
        places = [features[m].places[parts.name] for parts in owners]
        task = bar.add_task(f"combining {m}", total=len(blocks))
        x: Values | None = None
        if any(isinstance(block.x, StoredMatrix) for block in blocks):
            stored[m] = place(blocks, places, len(features[m].index))
        else:
            x = fill(blocks, places, len(features[m].index), partial(bar.advance, task))
        mods[m] = AnnData(x, obs=obs, var=features[m].var)
        mods[m].varm["measured"] = _measured(owners, m, features[m], panels)
    with mudata_as_it_is():
        obs = _covariates(datasets, cells, plan, panels)
        mdata = MuData(mods, obs=pd.DataFrame(index=obs.index))
        mdata.obs = obs
        mdata.strings_to_categoricals()  # as writing would do
    own_panels = any(parts.panel is not None for parts in datasets)
    mdata.uns["mosaicvi"] = {"panel_key": plan.own_panel_key if own_panels else plan.dataset_key}
    if plan.rules:
        report = pd.concat([f.report for f in features.values()], ignore_index=True)
        report.index = report.index.astype(str)
        mdata.uns["mosaicvi"]["matches"] = report
    return Assembled(mdata=mdata, stored=stored)


def _place_features(datasets: Sequence[Parts], modality: str, plan: Plan) -> JoinedFeatures:
    owners = {p.name: p.modalities[modality].var for p in datasets if modality in p.modalities}
    matching = match_features(owners, modality=modality, rules=plan.rules.get(modality, ()))
    _warn_of_datasets_without_common_names(modality, matching.names)
    union = dict.fromkeys(name for names in matching.names.values() for name in names)
    if plan.join == "inner":
        common = set.intersection(*(set(names) for names in matching.names.values()))
        union = dict.fromkeys(name for name in union if name in common)
    index = pd.Index(list(union), dtype=object)
    var = {name: table.set_axis(pd.Index(matching.names[name])) for name, table in owners.items()}
    return JoinedFeatures(
        index=index,
        places={name: index.get_indexer(pd.Index(names)) for name, names in matching.names.items()},
        var=join_columns(var, index),
        report=matching.report,
    )


def _warn_of_datasets_without_common_names(modality: str, names: Mapping[str, Sequence[str]]) -> None:
    """Warn of datasets whose features have no name in common with any other dataset."""
    owners = Counter(name for own in names.values() for name in set(own))
    alone = {d: own for d, own in names.items() if all(owners[name] == 1 for name in own)}
    if len(names) > 1 and alone:
        examples = "; ".join(f"{dataset} ({listed(own, most=3)})" for dataset, own in alone.items())
        warn(
            f"{modality}: the features of these datasets have no name in common with another dataset: "
            f"{examples}; if they are only written differently, use match"
        )


def _rows(parts: Parts, modality: str) -> Places:
    """Where the modality's cells are among the dataset's."""
    return parts.obs.index.get_indexer(parts.modalities[modality].obs.index)


def _cell_names(datasets: Sequence[Parts], *, always: bool) -> dict[str, npt.NDArray[np.object_]]:
    """As they are, ``<name>-<dataset>``, or with the dataset's number, which has no ``-``: what is unique."""
    numbers = [f"-{i + 1}" for i in range(len(datasets))]
    plain = [] if always else [[""] * len(datasets)]
    for labels in (*plain, [f"-{p.name}" for p in datasets], numbers):
        names = {
            parts.name: np.array([f"{cell}{label}" for cell in parts.obs.index], dtype=object)
            for parts, label in zip(datasets, labels, strict=True)
        }
        if pd.Index(np.concatenate(list(names.values()))).is_unique:
            break
    return names


def _panel_names(datasets: Sequence[Parts]) -> dict[str, dict[str, str]]:
    """For each dataset, its own panels (``""`` if it brought none) → their names in the mosaic."""
    names: dict[str, dict[str, str]] = {}
    for parts in datasets:
        tables = [part.panels for part in parts.modalities.values() if part.panels is not None]
        own = dict.fromkeys(str(column) for table in tables for column in table)
        brought = parts.panel is not None
        names[parts.name] = {p: f"{parts.name}:{p}" for p in own} if brought else {"": parts.name}
    owner: dict[str, str] = {}
    for dataset, every in names.items():
        for name in every.values():
            if name in owner:
                clashing = dataset if name == dataset else owner[name]
                raise InputError(problem("panel-name", panel=name, name=clashing))
            owner[name] = dataset
    return names


def _measured(
    owners: Sequence[Parts], modality: str, features: JoinedFeatures, panels: Mapping[str, Mapping[str, str]]
) -> pd.DataFrame:
    """Which panel measured which feature: features × all panels of the mosaic."""
    columns = [name for every in panels.values() for name in every.values()]
    measured = pd.DataFrame(False, index=features.index, columns=columns)
    for parts in owners:
        place = features.places[parts.name]
        kept = place >= 0
        table = parts.modalities[modality].panels
        for own, name in panels[parts.name].items():
            if own and table is not None:
                own_d = table[own].to_numpy(bool) if own in table else np.zeros(len(place), bool)
            else:
                own_d = np.ones(len(place), bool)
            measured.loc[features.index[place[kept & own_d]], name] = True
    return measured


def _apart(parts: Parts, modality: str, datasets: Sequence[Parts]) -> pd.DataFrame:
    """The modality's own columns: those on which modalities disagree in any dataset."""
    apart = {column for p in datasets for column in p.apart}
    obs = parts.modalities[modality].obs
    return obs[[column for column in obs if column in apart]]


def _covariates(
    datasets: Sequence[Parts],
    cells: Mapping[str, npt.NDArray[np.object_]],
    plan: Plan,
    panels: Mapping[str, Mapping[str, str]],
) -> pd.DataFrame:
    apart = {column for parts in datasets for column in parts.apart}
    obs = stack_columns([p.obs[[c for c in p.obs if c not in apart or c in p.explicit]] for p in datasets])
    names = [parts.name for parts in datasets]
    came_of = np.concatenate(
        [_own(p, plan.dataset_key, np.repeat(p.name, len(p.obs)), plan) for p in datasets]
    )
    obs[plan.dataset_key] = pd.Categorical(list(came_of), categories=list(dict.fromkeys(came_of)))
    obs[plan.name_key] = np.concatenate([_own(p, plan.name_key, p.obs.index, plan) for p in datasets])
    if any(parts.panel is not None for parts in datasets):
        of_cell = [
            np.full(len(p.obs), p.name, dtype=object) if p.panel is None else p.panel.map(panels[p.name])
            for p in datasets
        ]
        every = [name for own in panels.values() for name in own.values()]
        obs[plan.own_panel_key] = pd.Categorical(np.concatenate(of_cell), categories=every)
    obs.index = pd.Index(np.concatenate([cells[name] for name in names]), dtype=object)
    return obs


def _own(
    parts: Parts, key: str, otherwise: npt.ArrayLike | pd.Index[str], plan: Plan
) -> npt.NDArray[np.object_]:
    """What a dataset of several says of its cells, else what is said of all datasets."""
    plain = np.asarray(otherwise, object)
    if not (plan.was_combined(parts) and key in parts.obs):
        return plain
    said = parts.obs[key].to_numpy(object)
    return np.where(pd.isna(said), plain, said)
