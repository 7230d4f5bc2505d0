"""Inputs of the same cells: noticed by their names, and made one set of cells where that was said."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read.modalities import names_modalities, split_types
from mosaicvi.data.read.names import mostly
from mosaicvi.errors import InputError, MosaicWarning

SHARED = 0.2  # of the smaller input's cells; barcodes of two runs agree by chance in up to 7 %
FEW = 10  # names alike in two inputs that say nothing
RUNNING = re.compile(r"[A-Za-z]*[-_. ]?\d+(-\d)?")
TELLING = frozenset({"rna", "gex", "adt", "prot", "protein", "proteins", "atac", "peaks"})
ALONE = frozenset({"adt", "atac"})  # words that say so within a longer name

Data: TypeAlias = AnnData | MuData | Mapping[str, AnnData]


def modality_of_name(name: str, data: object) -> str | None:
    """The modality of data that name none, where the dataset is called as one: ``adt=proteins.csv``.

    So is a name with one such word among others, ``GSM1_adt_umi``, which is said.
    """
    if not isinstance(data, AnnData) or names_modalities(data):
        return None
    if name in TELLING:
        return name
    words = {*re.split(r"[^a-z]+", name.lower())} & TELLING
    if len(words) != 1 or not words <= ALONE:
        return None
    modality = words.pop()
    warnings.warn(
        f"{name}: read as the modality {modality!r}, as its name says; "
        f"modality={{{name!r}: 'rna'}} reads it as another.",
        MosaicWarning,
        stacklevel=6,
    )
    return modality


def suspicious(
    cells: Mapping[str, pd.Index[str]], modalities: Mapping[str, Collection[str]]
) -> list[tuple[str, str, pd.Index[str]]]:
    """Those of `same_cells` that are hardly by chance, as running numbers are in inputs of one modality."""
    return [
        (a, b, shared)
        for a, b, shared in same_cells(cells)
        if len(shared) >= FEW and (not {*modalities[a]} & {*modalities[b]} or not mostly(shared, RUNNING))
    ]


def same_cells(cells: Mapping[str, pd.Index[str]]) -> list[tuple[str, str, pd.Index[str]]]:
    """Each two inputs that share so many names of cells that they are the same cells, with these names."""
    found = []
    for a, b in combinations(cells, 2):
        shared = cells[a].intersection(cells[b], sort=False)
        if len(shared) and len(shared) >= SHARED * min(len(cells[a]), len(cells[b])):
            found.append((a, b, shared))
    return found


def groups_of(names: Sequence[str], pairs: Sequence[tuple[str, str, pd.Index[str]]]) -> list[list[str]]:
    """Inputs of the same cells, directly or through others, in their order."""
    at = {name: i for i, name in enumerate(names)}
    rows, columns = [at[a] for a, _, _ in pairs], [at[b] for _, b, _ in pairs]
    graph = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(at), len(at)))
    _, label = connected_components(graph, directed=False)
    groups: dict[int, list[str]] = {}
    for name, group in zip(names, label, strict=True):
        groups.setdefault(int(group), []).append(name)
    return list(groups.values())


def merged(members: Mapping[str, Data], modality: Mapping[str, str | None]) -> dict[str, AnnData]:
    """The modalities of several inputs of the same cells.

    Raises
    ------
    InputError
        Two inputs hold the same modality.
    """
    found: dict[str, AnnData] = {}
    owner: dict[str, str] = {}
    for name, data in members.items():
        for key, a in _parts(data, modality[name]).items():
            if key in found:
                raise InputError(problem("pair-modality", a=owner[key], b=name, modality=key))
            found[key], owner[key] = a, name
    return found


def cells_of(data: Data) -> pd.Index[str]:
    """Names of all cells of a dataset."""
    if isinstance(data, AnnData | MuData):
        return pd.Index(list(map(str, data.obs_names)))
    return pd.Index([str(name) for name in dict.fromkeys(n for a in data.values() for n in a.obs_names)])


def notice(a: str, b: str, shared: pd.Index[str]) -> str:
    """What to say of two inputs that seem to be of the same cells."""
    return (
        f"{a} and {b} have {len(shared):,} cells of the same names (such as {listed(shared, most=2)}); "
        "they are taken for different cells, so that nothing connects what each of them measured. "
        "If they are the same cells, pair=True makes them one; pair=False says that they are not."
    )


def _parts(data: Data, modality: str | None) -> dict[str, AnnData]:
    if isinstance(data, AnnData):
        return split_types(data, modality=modality)
    if not isinstance(data, MuData):
        return dict(data)
    mods = {}
    for name, a in data.mod.items():
        mods[name] = a.copy()
        own = [c for c in data.obs if c not in a.obs and ":" not in str(c)]
        mods[name].obs = a.obs.join(data.obs[own])
    return mods
