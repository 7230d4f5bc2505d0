"""Inputs of the same cells: noticed by their names, and made one set of cells where that was said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mosaicvi.data.combine.alike import FEW, RUNNING, SHARED, Alike, alike, called_alike
from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read.modalities import names_modalities, split_types
from mosaicvi.data.read.names import mostly
from mosaicvi.errors import InputError, warn

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
    warn(
        f"{name}: read as the modality {modality!r}, as its name says; "
        f"modality={{{name!r}: 'rna'}} reads it as another."
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


def groups_of(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Inputs of the same cells, directly or through others, in their order."""
    at = {name: i for i, name in enumerate(names)}
    rows, columns = [at[a] for a, _ in pairs], [at[b] for _, b in pairs]
    graph = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(at), len(at)))
    _, label = connected_components(graph, directed=False)
    groups: dict[int, list[str]] = {}
    for name, group in zip(names, label, strict=True):
        groups.setdefault(int(group), []).append(name)
    return list(groups.values())


def paired(
    cells: Mapping[str, pd.Index[str]], said: bool | Mapping[str, Collection[str]]
) -> tuple[dict[str, tuple[str, ...]], list[Alike]]:
    """Inputs of the same cells.

    Parameters
    ----------
    cells
        Names of the cells of each input.
    said
        True: those whose names agree; or by name which they are, others as their names say.

    Returns
    -------
    The inputs of each dataset, some of a single one; and which of all inputs write names differently.

    Raises
    ------
    InputError
        Nothing agrees, or not what was said to.
    """
    differing = alike(cells)
    pairs = [(a, b) for a, b, _ in same_cells(cells)] + [(d.a, d.b) for d in differing]
    groups: dict[str, tuple[str, ...]] = {}
    for name, members in (said if isinstance(said, Mapping) else {}).items():
        within = [pair for pair in pairs if {*pair} <= {*members}]
        if len(groups_of(list(members), within)) > 1:
            examples = listed(first for member in members for first in cells[member][:1])
            raise InputError(problem("pair-nothing", names=examples))
        groups[name] = tuple(members)
    left = [name for name in cells if not any(name in members for members in groups.values())]
    between = [pair for pair in pairs if {*pair} <= {*left}]
    if not (groups or between):
        examples = listed(first for index in cells.values() for first in index[:1])
        raise InputError(problem("pair-nothing", names=examples))
    found = [*groups.items(), *(("+".join(group), tuple(group)) for group in groups_of(left, between))]
    twice = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
    if twice:
        raise InputError(problem("pair-name", name=twice[0]))
    order = list(cells)
    found.sort(key=lambda pair: min(order.index(member) for member in pair[1]))
    return dict(found), differing


def merged(
    members: Mapping[str, Data], modality: Mapping[str, str | None], differing: Sequence[Alike] = ()
) -> dict[str, AnnData]:
    """The modalities of several inputs of the same cells.

    Where inputs write names differently, as `differing` says, cells are called as in the first that has them.

    Raises
    ------
    InputError
        Two inputs hold the same modality.
    """
    found: dict[str, AnnData] = {}
    owner: dict[str, str] = {}
    named_alike = {name for d in differing for name in (d.a, d.b)}
    names = called_alike({m: cells_of(data) for m, data in members.items()}) if named_alike else {}
    for name, data in members.items():
        for key, part in _parts(data, modality[name]).items():
            a = part
            if names and any(names[name][str(cell)] != cell for cell in part.obs_names):
                a = part.copy()
                a.obs_names = [names[name][str(cell)] for cell in part.obs_names]
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


def notice_alike(found: Alike) -> str:
    """The same where the names are written differently."""
    return (
        f"{found.a} and {found.b}: {found.in_words()}; "
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
