"""Datasets read or opened one by one, each taken apart, and put together as one mosaic."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from scipy import sparse

from mosaicvi.data.combine.alike import alike
from mosaicvi.data.combine.assemble import Assembled, Join, Plan, assemble
from mosaicvi.data.combine.match import RULES
from mosaicvi.data.combine.pair import (
    cells_of,
    merged,
    modality_of_name,
    notice,
    notice_alike,
    paired,
    suspicious,
)
from mosaicvi.data.combine.parts import Parts, take_apart
from mosaicvi.data.layers import layer_names
from mosaicvi.data.looks import is_whole, looks_like_intensities
from mosaicvi.data.looks import stored as stored_in
from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read.choose import Wanted
from mosaicvi.data.read.files import Duplicates, dataset_names, read_named
from mosaicvi.data.read.remembered import note_reading
from mosaicvi.data.read.table import Orientation
from mosaicvi.data.stored.open import open_stored
from mosaicvi.data.stored.values import StoredMatrix
from mosaicvi.errors import InputError, memory_for, warn

Dataset: TypeAlias = "AnnData | MuData | Mapping[str, AnnData] | str | os.PathLike[str]"
Choice = TypeVar("Choice")


def put_together(
    datasets: Mapping[str, Dataset],
    *,
    join: Join,
    dataset_key: str,
    name_key: str,
    panel_key: str | Mapping[str, str] | None,
    modality: str | Mapping[str, str] | None,
    rename: Mapping[str, str] | None,
    layers: Mapping[str, str] | None,
    match: Mapping[str, str | Sequence[str]] | None,
    orientation: Orientation | Mapping[str, Orientation] | None,
    duplicates: Duplicates,
    columns: str | Mapping[str, str] | None,
    names_from: str | Mapping[str, str] | None,
    genome: str | None,
    pair: bool | Mapping[str, Collection[str]] | None,
    from_obsm: Mapping[str, str] | None,
    min_counts: Mapping[str, float] | None,
    rounded: Collection[str],
    log2: Collection[str],
    zeros_missing: Collection[str],
    progress: bool | None,
    on_disk: bool,
    layers_if_there: Mapping[str, str] | None = None,
    dataset_in_names: bool = False,
    names_if_there: bool = False,
) -> Assembled:
    """What `combine` does; with `on_disk`, the values of paths stay in their files.

    Where no layer was named for a modality, `layers_if_there` does for those datasets that have it. With
    `dataset_in_names`, cells are called by their dataset also where their names are unique. With
    `names_if_there`, features keep their names where a path has no column `names_from`.
    """
    if not isinstance(datasets, Mapping):
        raise InputError(
            f"datasets: a mapping from the name of each to its data or path, such as {{'a': 'a.h5ad'}}, "
            f"not {type(datasets).__name__}."
        )
    of_values = {
        "pair": None if pair is None else bool(pair),
        "from_obsm": from_obsm,
        "min_counts": min_counts,
        "rounded": rounded,
        "log2": log2,
        "zeros_missing": zeros_missing,
    }
    if on_disk and any(of_values.values()):
        option = next(name for name, value in of_values.items() if value)
        raise InputError(
            f"{option}: needs values in memory, not on disk; leave it out, or set in_memory=True."
        )
    plan = Plan(
        join=join,
        dataset_key=dataset_key,
        name_key=name_key,
        rules={m: [r] if isinstance(r, str) else list(r) for m, r in (match or {}).items()},
        dataset_in_names=dataset_in_names,
    )
    members = [m for each in pair.values() for m in each] if isinstance(pair, Mapping) else []
    if len({*members}) < len(members):
        raise InputError("pair: a dataset is in two of them, or twice in one; name each once.")
    _check_options(
        datasets,
        plan,
        panel_key=panel_key,
        modality=modality,
        orientation=orientation,
        columns=columns,
        names_from=names_from,
        pair=dict.fromkeys(members),
    )
    rename, layers = rename or {}, layers or {}
    loaded: list[Parts] = []
    problems: list[str] = []
    stored: dict[str, dict[str, StoredMatrix]] = {}

    def layers_of(name: str) -> dict[str, str]:
        """Modality → layer of a dataset: said for all, or for it alone."""
        return _of_dataset(layers, None, datasets) | _of_dataset(layers, name, datasets)

    def apart(called: str, names: tuple[str, ...], data: AnnData | MuData | Mapping[str, AnnData]) -> Parts:
        """One dataset, or several of the same cells."""
        obsm = _of_dataset(from_obsm or {}, None, datasets)
        if isinstance(data, AnnData):
            obsm = {m: key for m, key in obsm.items() if key in data.obsm or len(datasets) == 1}
        own = [_there(data, layers_if_there or {}), *(layers_of(name) for name in names)]
        own_obsm = [_of_dataset(from_obsm or {}, name, datasets) for name in names]
        return take_apart(
            called,
            data,
            modality=_of(modality, names[0]) or modality_of_name(names[0], data),
            rename=rename,
            layers={m: layer for mapping in own for m, layer in mapping.items()},
            panel_key=_of(panel_key, names[0]),
            stored=stored.get(names[0], {}),
            wanted=Wanted(
                from_obsm={m: key for mapping in (obsm, *own_obsm) for m, key in mapping.items()},
                min_counts=min_counts or {},
                rounded=rounded,
                log2=log2,
                zeros_missing=zeros_missing,
            ),
        )

    with _progress(progress) as bar:
        read_all: dict[str, AnnData | MuData | Mapping[str, AnnData]] = {}
        for name, dataset in bar.track(datasets.items(), description="reading datasets"):
            try:
                options = {
                    "orientation": _of(orientation, name),
                    "columns": _of(columns, name),
                    "names_from": _of(names_from, name),
                    "names_if_there": names_if_there,
                }
                if on_disk:
                    read_all[name], stored[name] = open_stored(
                        Path(str(dataset)), layers_of(name), names_on_disk=False
                    )
                else:
                    read_all[name] = _data(name, dataset, duplicates=duplicates, genome=genome, **options)
            except InputError as error:
                problems += error.problems
                continue
            if not pair:
                loaded.append(apart(name, (name,), read_all.pop(name)))
                problems += loaded[-1].problems + _taken_columns(loaded[-1], plan)
        if pair and not problems:
            for group in _paired(read_all, modality, pair):
                loaded.append(apart(*group))
                problems += loaded[-1].problems + _taken_columns(loaded[-1], plan)
        if not problems:
            general = _of_dataset(layers, None, datasets)
            asked = {
                option: dict.fromkeys(names)
                for option, names in (
                    ("min_counts", min_counts or {}),
                    ("rounded", rounded),
                    ("log2", log2),
                    ("zeros_missing", zeros_missing),
                )
            }
            problems += _unknown_modalities(loaded, rename=rename, layers=general, match=plan.rules, **asked)
            for parts in loaded:
                own = _of_dataset(layers, parts.name, datasets)
                problems += _unknown_modalities([parts], layers=own)
        if problems:
            raise InputError(problems)
        _restore_empty_features(loaded, zeros_missing)
        _warn_of_values(loaded)
        if pair is None:
            names = {parts.name: parts.obs.index for parts in loaded}
            modalities = {parts.name: {*parts.modalities} for parts in loaded}
            for a, b, shared in suspicious(names, modalities):
                warn(notice(a, b, shared))
            for found in alike(names):
                if modalities[found.a] & modalities[found.b]:
                    continue  # of one modality they are several measurements, as channels of TMT runs are
                warn(notice_alike(found))
        with memory_for("combining", "combine fewer datasets, or join='inner', the features that all have"):
            together = assemble(loaded, plan, bar)
        files = _named_files(datasets)
        if len(files):
            together.mdata.uns["mosaicvi"]["files"] = files
        note_reading(
            together.mdata.uns,
            modality=modality,
            layers=layers,
            orientation=orientation,
            columns=columns,
            names_from=names_from,
            duplicates=duplicates,
            genome=genome,
            dataset_in_names=bool((together.mdata.obs[name_key] != together.mdata.obs_names).any()),
            **of_values,
        )
        return together


def _there(data: AnnData | MuData | Mapping[str, AnnData], layers: Mapping[str, str]) -> dict[str, str]:
    """Those of the layers that a dataset has; ``"X"`` every one has."""
    mods = {} if isinstance(data, AnnData) else dict(data.mod if isinstance(data, MuData) else data)
    own = {m: data if isinstance(data, AnnData) else mods.get(m) for m in layers}
    return {
        m: layer
        for m, layer in layers.items()
        if (a := own[m]) is not None and (layer == "X" or layer in layer_names(a))
    }


def _named_files(datasets: Mapping[str, Dataset]) -> pd.DataFrame:
    """Datasets whose name is not that of their file alone, and the end of its path."""
    paths = {name: Path(data) for name, data in datasets.items() if isinstance(data, str | os.PathLike)}
    named = [
        (name, "/".join(path.absolute().parts[-2:]))
        for name, path in paths.items()
        if name not in dataset_names([path])
    ]
    return pd.DataFrame(named, columns=["dataset", "file"], index=pd.Index(range(len(named))).astype(str))


def _check_options(datasets: Mapping[str, Dataset], plan: Plan, **by_dataset: object) -> None:
    """Refuse options that do not exist; ``by_dataset`` are those that may name datasets."""
    problems = []
    for option, choice in by_dataset.items():
        strangers = [n for n in choice if n not in datasets] if isinstance(choice, Mapping) else []
        there = listed(sorted(map(str, datasets)))
        problems += [
            problem("option", name=f"dataset of {option}", value=n, choices=f"among {there}")
            for n in strangers
        ]
    if not datasets:
        problems.append(problem("nothing"))
    if plan.join not in get_args(Join):
        problems.append(problem("option", name="join", value=plan.join, choices="'outer' or 'inner'"))
    unknown = dict.fromkeys(rule for rules in plan.rules.values() for rule in rules if rule not in RULES)
    problems += [problem("option", name="match", value=rule, choices=" or ".join(RULES)) for rule in unknown]
    for name in (*datasets, plan.dataset_key, plan.name_key):
        if not isinstance(name, str) or not name.strip() or "/" in name:
            problems.append(problem("dataset-name", name=repr(name)))
    if problems:
        raise InputError(problems)


@contextmanager
def _progress(wanted: bool | None) -> Iterator[Progress]:
    shown = sys.stderr.isatty() if wanted is None else wanted
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not shown, transient=console.is_terminal) as bar:
        yield bar


def _of(choice: Choice | Mapping[str, Choice] | None, dataset: str) -> Choice | None:
    """What was chosen for one dataset: for all, or by name."""
    return choice.get(dataset) if isinstance(choice, Mapping) else choice


def _of_dataset(layers: Mapping[str, str], dataset: str | None, datasets: Iterable[str]) -> dict[str, str]:
    """Modality → layer of one dataset, ``"<dataset>:<modality>"``; of all datasets for None."""
    found = {}
    for key, layer in layers.items():
        name = next((n for n in datasets if key.startswith(f"{n}:")), None)
        if name == dataset:
            found[key if name is None else key.removeprefix(f"{name}:")] = layer
    return found


def _restore_empty_features(loaded: Sequence[Parts], modalities: Collection[str]) -> None:
    """Features that are 0 in every dataset were measured, as far as anybody knows."""
    for modality in modalities:
        panels = [p.modalities[modality].panels for p in loaded if modality in p.modalities]
        tables = [table for table in panels if table is not None]
        seen = {name for table in tables for name in table.index[table.any(axis=1)]}
        for table in tables:
            table.loc[[name not in seen for name in table.index], :] = True


def _warn_of_values(loaded: Sequence[Parts]) -> None:
    """Say where values are raw intensities, or counts beside normalised values of another dataset."""
    for modality in dict.fromkeys(m for parts in loaded for m in parts.modalities):
        whole: dict[bool, list[str]] = {True: [], False: []}
        raw: list[str] = []
        for parts in loaded:
            part = parts.modalities.get(modality)
            if part is not None and isinstance(part.x, np.ndarray | sparse.csr_matrix):
                is_raw = looks_like_intensities(stored_in(part.x).reshape(-1))
                (raw if is_raw else whole[is_whole(part.x)]).append(parts.name)
        if raw:
            warn(
                f"{modality}: its values look like raw intensities in {listed(raw)}; take their logarithm, "
                f"with zeros as missing: log2=[{modality!r}]."
            )
        if whole[True] and whole[False]:
            warn(
                f"{modality}: values are whole numbers in {listed(whole[True])} and fractions in "
                f"{listed(whole[False])}; where these have the counts in a layer, name it: "
                f"layers={{'{whole[False][0]}:{modality}': ...}}."
            )


def _paired(
    read_all: dict[str, AnnData | MuData | Mapping[str, AnnData]],
    modality: str | Mapping[str, str] | None,
    pair: bool | Mapping[str, Collection[str]],
) -> Iterator[tuple[str, tuple[str, ...], AnnData | MuData | Mapping[str, AnnData]]]:
    """Datasets of the same cells as one, the others as they are."""
    groups, differing = paired({name: cells_of(data) for name, data in read_all.items()}, pair)
    for called, group in groups.items():
        members = {name: read_all.pop(name) for name in group}
        if len(group) == 1:
            yield called, group, members[group[0]]
            continue
        own = [d for d in differing if {d.a, d.b} <= {*group}]
        for d in own:
            warn(
                f"{d.a} and {d.b}: {d.in_words()} and are taken as the same cells; they are called as in "
                f"{d.a}."
            )
        named = {n: _of(modality, n) or modality_of_name(n, data) for n, data in members.items()}
        yield called, group, merged(members, named, own)


def _data(name: str, dataset: Dataset, **options: Any) -> AnnData | MuData | Mapping[str, AnnData]:
    if isinstance(dataset, str | os.PathLike):
        return read_named(dataset, **options)
    entries = list(dataset.values()) if isinstance(dataset, Mapping) else [dataset]
    wrong = [entry for entry in entries if not isinstance(entry, AnnData | MuData)]
    nested = isinstance(dataset, Mapping) and any(isinstance(entry, MuData) for entry in entries)
    if wrong or nested or not entries:
        kind = type(wrong[0]).__name__ if wrong else "a dict of MuData" if nested else "an empty dict"
        raise InputError(problem("kind", name=name, kind=kind))
    return dataset


def _taken_columns(parts: Parts, plan: Plan) -> list[str]:
    """Covariates that the columns written by combine would replace; its own columns it goes on with."""
    if plan.was_combined(parts) and not {plan.dataset_key, plan.name_key} & parts.apart:
        return []
    own = {"dataset_key": plan.dataset_key, "name_key": plan.name_key}
    if parts.panel is not None:
        own = {**own, "dataset_key ": plan.own_panel_key}
    columns = {*parts.obs.columns, *parts.apart}
    return [
        problem("column", name=parts.name, column=column, option=option.strip())
        for option, column in own.items()
        if column in columns
    ]


def _unknown_modalities(loaded: Sequence[Parts], **options: Mapping[str, object]) -> list[str]:
    """Options that name a modality that no dataset has; ``rename`` names those before renaming."""
    there = {modality for parts in loaded for modality in parts.modalities}
    before = {modality for parts in loaded for modality in parts.given}
    return [
        problem("no-such-modality", option=option, modality=modality, modalities=listed(sorted(names)))
        for option, mapping in options.items()
        for names in [before if option == "rename" else there]
        for modality in mapping
        if modality not in names
    ]
