"""Features of new data that are written otherwise than those of a model: matched by rules, each one reported.

Legend: n cells, d features of the data, D of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from mosaicvi.data.combine.intervals import parse_peaks
from mosaicvi.data.combine.match import COLUMNS, RULES, match_features
from mosaicvi.data.problems import problem
from mosaicvi.data.registry import Registry
from mosaicvi.errors import InputError, quoted

Rules = Mapping[str, str | Sequence[str]]


def with_known_names(
    mods: Mapping[str, AnnData], registry: Registry, match: Rules
) -> tuple[dict[str, AnnData], pd.DataFrame]:
    """Modalities whose features have the model's names where a rule finds them equal.

    Parameters
    ----------
    mods
        Of the new data; they are not changed.
    registry
        Of the model.
    match
        By modality, one or several rules of `match_features`.

    Returns
    -------
    The modalities, and one row for each feature that was renamed or was ambiguous, as in `Matching.report`.

    Raises
    ------
    InputError
        An unknown modality or rule.
    """
    found = dict(mods)
    reports = []
    for name, rules in match.items():
        if name not in mods or name not in registry.features:
            known = quoted(n for n in mods if n in registry.features) or "none"
            raise InputError(f"match: no modality {name!r} that the model knows; there are {known}.")
        asked = [rules] if isinstance(rules, str) else list(rules)
        for rule in asked:
            if rule not in RULES:
                raise InputError(problem("option", name="match", value=rule, choices=" or ".join(RULES)))
        found[name], report = _renamed(name, mods[name], registry.features[name].names, asked)
        reports.append(report)
    return found, pd.concat(reports, ignore_index=True) if reports else pd.DataFrame(columns=COLUMNS)


def _renamed(
    name: str, a: AnnData, known: Sequence[str], rules: Sequence[str]
) -> tuple[AnnData, pd.DataFrame]:
    written = [rule for rule in rules if rule != "overlap"]
    features = {"model": pd.DataFrame(index=pd.Index(list(known))), "data": a.var}
    matching = match_features(features, modality=name, rules=written)
    common = dict(zip(matching.names["model"], known, strict=True))
    names = [common.get(new, new) for new in matching.names["data"]]
    report = matching.report[
        (matching.report["dataset"] == "data") & (matching.report["rule"] != "left alone")
    ]
    report = report.assign(matched_to=[common.get(new, new) for new in report["matched_to"]])
    if "overlap" in rules:
        at = overlapping(names, known)
        rows = [
            (name, "data", old, known[place], "overlap")
            for old, new, place in zip(a.var_names, names, at, strict=True)
            if place >= 0 and new != known[place]
        ]
        names = [known[place] if place >= 0 else new for new, place in zip(names, at, strict=True)]
        report = pd.concat([report, pd.DataFrame(rows, columns=COLUMNS, dtype=object)], ignore_index=True)
    return _with_names(a, names), report


def overlapping(names: Sequence[str], known: Sequence[str]) -> NDArray[np.int64]:
    """The known peak that each of some peaks overlaps most, (d,), the first of equals; -1 for none.

    Parameters
    ----------
    names, known
        Peaks as ``chr1:100-200``, half open.
    """
    asked, there = parse_peaks(list(names)), parse_peaks(list(known))
    out = np.full(len(asked), -1)
    for chromosome, peaks in asked[asked["end"] > 0].groupby("chromosome"):
        own = there[(there["chromosome"] == chromosome) & (there["end"] > 0)].sort_values("start")
        if own.empty:
            continue
        start, end = own["start"].to_numpy(), own["end"].to_numpy()
        reach = np.maximum.accumulate(end)
        for i, low, high in zip(peaks.index, peaks["start"], peaks["end"], strict=True):
            first, last = np.searchsorted(reach, low, side="right"), np.searchsorted(start, high)
            shared = np.minimum(end[first:last], high) - np.maximum(start[first:last], low)
            if len(shared) and shared.max() > 0:
                out[i] = own.index[first + int(shared.argmax())]
    return out


def _with_names(a: AnnData, names: Sequence[str]) -> AnnData:
    """The modality with other names of features; values of features that get the same name are summed."""
    distinct = list(dict.fromkeys(names))
    if len(distinct) == len(names):
        out = a.copy()
        out.var_names = pd.Index(list(names))
        return out
    at = {new: i for i, new in enumerate(distinct)}
    column = np.array([at[new] for new in names])
    adds = sp.csr_matrix((np.ones(len(names)), (np.arange(len(names)), column)), shape=(len(names), len(at)))
    first = pd.Index(names).get_indexer_for(pd.Index(distinct))
    out = AnnData(
        None if a.X is None else _summed(a.X, adds),
        obs=a.obs.copy(),
        var=a.var.iloc[first].set_axis(pd.Index(distinct)),
        layers={key: _summed(values, adds) for key, values in a.layers.items()},
        uns=dict(a.uns),
    )
    if "measured" in a.varm:
        table = a.varm["measured"]
        seen = np.asarray(table, bool)
        merged = np.asarray(adds.T @ seen, bool)
        columns = table.columns if isinstance(table, pd.DataFrame) else None
        out.varm["measured"] = pd.DataFrame(merged, index=out.var_names, columns=columns)
    return out


def _summed(x: object, adds: sp.csr_matrix) -> object:
    found = x @ adds
    return sp.csr_matrix(found) if sp.issparse(found) else np.asarray(found)
