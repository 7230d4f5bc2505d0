"""Features that different datasets write differently: opt-in rules, each reported, none silent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mosaicvi.data.combine.antibody import adt_key
from mosaicvi.data.combine.intervals import unify_peaks
from mosaicvi.data.problems import problem
from mosaicvi.errors import InputError

COLUMNS = ["modality", "dataset", "original", "matched_to", "rule"]
RULES = ("ensembl", "version", "case", "adt", "overlap")
ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl", "ensembl_gene_id", "feature_id", "ids")
SYMBOL_COLUMNS = ("gene_symbols", "gene_symbol", "symbol", "gene_name", "gene_names", "feature_name", "name")
ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{6,})(?:\.\d+)?")

Names = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """The common name of every feature of every dataset.

    Attributes
    ----------
    names
        For each dataset, the common name of each feature, in its order.
    report
        With rules, one row for each feature that was renamed, was ambiguous, or is in one dataset only:
        ``modality``, ``dataset``, ``original``, ``matched_to`` (empty if left alone), ``rule``.
    """

    names: Names
    report: pd.DataFrame


def match_features(
    features: Mapping[str, pd.DataFrame], *, modality: str = "rna", rules: Sequence[str] = ()
) -> Matching:
    """Find the features that datasets write differently.

    The rules apply one after the other. Names that a rule finds equal get the name of the first dataset that
    has one of them, unless a dataset has two of them: those are ambiguous and left alone.

    Parameters
    ----------
    features
        The ``var`` of each dataset, its index the names.
    modality
        What the report calls the modality.
    rules
        ``"ensembl"``: symbols against Ensembl ids, by the columns of ``var`` that hold the other one;
        ``"version"``: without ``.1`` at the end; ``"case"``: upper and lower case alike; ``"adt"``: without
        the prefixes, clones and barcodes of antibodies, see :func:`mosaicvi.data.combine.antibody.adt_key`;
        ``"overlap"``: peaks that overlap are one, see :func:`mosaicvi.data.combine.intervals.unify_peaks`.

    Raises
    ------
    InputError
        An unknown rule.
    """
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise InputError(problem("option", name="match", value=unknown[0], choices=" or ".join(RULES)))
    original = {dataset: [str(name) for name in var.index] for dataset, var in features.items()}
    names = original
    rows: list[tuple[str, ...]] = []
    for rule in rules:
        before, ambiguous = names, set[tuple[str, str]]()
        if rule == "overlap":
            names = unify_peaks(before)
        else:
            names, ambiguous = _same_key(before, _keys(rule, before, features))
        for dataset, every in original.items():
            for first, old, new in zip(every, before[dataset], names[dataset], strict=True):
                if new != old:
                    rows.append((modality, dataset, first, new, rule))
                elif (dataset, old) in ambiguous:
                    rows.append((modality, dataset, first, "", f"{rule}: ambiguous"))
    if rules:
        rows += _left_alone(modality, original, names)
    return Matching(names=names, report=pd.DataFrame(rows, columns=COLUMNS, dtype=object))


def _left_alone(modality: str, original: Names, names: Names) -> list[tuple[str, ...]]:
    """Features that only one of several datasets has."""
    if len(names) < 2:
        return []
    owners = Counter(name for every in names.values() for name in set(every))
    return [
        (modality, dataset, first, "", "left alone")
        for dataset, every in names.items()
        for first, name in zip(original[dataset], every, strict=True)
        if owners[name] == 1
    ]


def _keys(rule: str, names: Names, features: Mapping[str, pd.DataFrame]) -> Names:
    if rule == "ensembl":
        return _ensembl_keys(names, features)
    key: Callable[[str], str] = {"version": without_version, "case": str.casefold, "adt": adt_key}[rule]
    return {dataset: [key(name) for name in every] for dataset, every in names.items()}


def without_version(name: str) -> str:
    """``ENSG00000141510.18`` → ``ENSG00000141510``."""
    return re.sub(r"(?<=.)\.\d+$", "", name)


def _ensembl_keys(names: Names, features: Mapping[str, pd.DataFrame]) -> Names:
    """The Ensembl id of every feature: its name, its own column, or what other datasets say of its symbol."""
    ids: dict[str, list[str]] = {}
    known: dict[str, set[str]] = {}
    for dataset, every in names.items():
        ids[dataset], symbols = _own_ids(every, features[dataset])
        for symbol, found in zip(symbols, ids[dataset], strict=True):
            if symbol and found:
                known.setdefault(symbol, set()).add(found)
    only = {symbol: next(iter(found)) for symbol, found in known.items() if len(found) == 1}
    return {
        dataset: [found or only.get(name, name) for found, name in zip(ids[dataset], every, strict=True)]
        for dataset, every in names.items()
    }


def _own_ids(every: list[str], var: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Ids (without version) and symbols that a dataset gives itself; empty where it gives none."""

    def column(choices: Sequence[str]) -> list[str]:
        found = next((c for c in choices if c in var), None)
        return [""] * len(var) if found is None else var[found].astype(object).fillna("").astype(str).tolist()

    ids, symbols = column(ID_COLUMNS), column(SYMBOL_COLUMNS)
    for i, name in enumerate(every):
        match = ENSEMBL.fullmatch(name) or ENSEMBL.fullmatch(ids[i])
        ids[i] = match[1] if match else ""
        if not ENSEMBL.fullmatch(name):
            symbols[i] = name
    return ids, symbols


def _same_key(names: Names, keys: Names) -> tuple[Names, set[tuple[str, str]]]:
    """Give names of one key the first of them; also the (dataset, name) that are ambiguous."""
    groups: dict[str, dict[str, set[str]]] = {}
    first: dict[str, str] = {}
    for dataset, every in names.items():
        for name, key in zip(every, keys[dataset], strict=True):
            groups.setdefault(key, {}).setdefault(dataset, set()).add(name)
            first.setdefault(key, name)
    unclear = {key for key, group in groups.items() if any(len(found) > 1 for found in group.values())}
    ambiguous = {
        (dataset, name) for key in unclear for dataset, found in groups[key].items() for name in found
    }
    renamed = {}
    for dataset, every in names.items():
        wanted = [
            name if key in unclear else first[key] for name, key in zip(every, keys[dataset], strict=True)
        ]
        renamed[dataset], clashing = _without_clashes(every, wanted)
        ambiguous |= {(dataset, name) for name in clashing}
    return renamed, ambiguous


def _without_clashes(every: list[str], wanted: list[str]) -> tuple[list[str], set[str]]:
    """Take renaming back where two different names of a dataset would become one."""
    undone: set[str] = set()
    while True:
        owners: dict[str, set[str]] = {}
        for name, new in zip(every, wanted, strict=True):
            owners.setdefault(new, set()).add(name)
        clashing = {
            name for name, new in zip(every, wanted, strict=True) if new != name and len(owners[new]) > 1
        }
        if not clashing:
            return wanted, undone
        undone |= clashing
        wanted = [name if name in clashing else new for name, new in zip(every, wanted, strict=True)]
