"""Choices of reading that a saved model remembers, for the files that it is given later."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaicvi.cli.options import Reading
from mosaicvi.cli.say import note

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from mosaicvi.data.registry import Registry

OPTIONS = {
    "modality": "--as",
    "layers": "--layer",
    "orientation": "--orientation",
    "columns": "--columns",
    "names_from": "--names-from",
    "duplicates": "--duplicates",
    "genome": "--genome",
    "pair": "--pair",
    "from_obsm": "--from-obsm",
    "min_counts": "--min-counts",
    "rounded": "--round",
    "log2": "--log2",
    "zeros_missing": "--zeros-missing",
}
OF_VALUES = ("min_counts", "rounded", "log2", "zeros_missing")  # applied once the data are there


def as_in_training(
    reading: Reading, registry: Mapping[str, Any], named: Mapping[str, Path], called: Collection[str]
) -> Reading:
    """What was said, and otherwise what the model remembers of how its files were read.

    Parameters
    ----------
    reading
        What was said.
    registry
        Of the model, as its document has it.
    named
        The files, by the names of their datasets.
    called
        The names that users gave them, those of several files once.
    """
    from mosaicvi.data.read.remembered import checked

    saved = checked(registry.get("reading", ""))
    taken: dict[str, Any] = {}
    for name in ("modality", "orientation", "columns", "names_from", "genome"):
        value = _for_those(saved.get(name), named)
        if value and getattr(reading, name) is None:
            taken[name] = value
    if saved.get("duplicates") and reading.duplicates == "error":
        taken["duplicates"] = saved["duplicates"]
    labels = [label for names in registry["categories"].values() for label in names["$tuple"]]
    known = {part for label in labels for part in label.split("+")}
    if saved.get("pair") and reading.pair is None and len(named) > 1 and {*called} <= known:
        taken["pair"] = True
    _say(taken, "; names of features where there is that column" if "names_from" in taken else "")
    taken["names_if_there"] = "names_from" in taken
    taken["dataset_in_names"] = bool(saved.get("dataset_in_names")) and {*called} <= known
    where_there = {m: "X" for m, whole in registry["whole"].items() if not whole}
    where_there |= {m: layer for m, layer in saved.get("layers", {}).items() if ":" not in m}
    obsm = {m: key for m, key in saved.get("from_obsm", {}).items() if ":" not in m}
    return replace(reading, **taken, layers_if_there=where_there, obsm_if_there=obsm)


def still_to_do(data: AnnData | MuData, registry: Registry) -> dict[str, Any]:
    """Cuts, rounding, logarithms and missing zeros of training that data still lack; arguments as below."""
    from mosaicvi.data.read.remembered import checked, noted_reading
    from mosaicvi.data.register.modalities import modalities_of

    done, saved = checked(noted_reading(data)), checked(registry.reading)
    mods = modalities_of(data, registry.setup, registry)
    wanted = {name: _of_modalities(saved.get(name), mods) for name in OF_VALUES if name not in done}
    return {name: value for name, value in wanted.items() if value}


def with_values_as_in_training(data: AnnData | MuData, registry: Registry) -> MuData | None:
    """The data with cuts, rounded values and missing zeros as in training; None where nothing is to be done.

    Parameters
    ----------
    data
        As they were read; what was done to them already is noted beside them.
    registry
        Of the model.
    """
    from mudata import MuData

    from mosaicvi.data.read import mudata_as_it_is
    from mosaicvi.data.read.choose import Wanted, choose
    from mosaicvi.data.read.remembered import note_reading
    from mosaicvi.data.register.covariates import obs_column
    from mosaicvi.data.register.modalities import modalities_of

    wanted = still_to_do(data, registry)
    mods = modalities_of(data, registry.setup, registry)
    if "log2" in wanted:
        wanted["log2"] = _without_logarithms(wanted["log2"], mods, registry)
    wanted = {name: value for name, value in wanted.items() if value}
    if not wanted:
        return None
    _say(wanted)
    key = registry.setup.batch_key
    batch = None if key is None else obs_column(data, key)
    parts = choose(
        "the data",
        mods,
        Wanted(**wanted),
        layers=registry.setup.layers,
        batch=batch,
        is_batch=batch is not None,
        known=_measured(registry),
    )
    with mudata_as_it_is():
        out = MuData(parts)
        out.obs = data.obs.loc[out.obs_names].copy()
    out.uns.update(data.uns)
    note_reading(out.uns, **wanted)
    return out


def _without_logarithms(names: Collection[str], mods: Mapping[str, AnnData], registry: Registry) -> list[str]:
    """Those of the modalities whose values do not look like logarithms already, which is said."""
    from mosaicvi.data.layers import values_of
    from mosaicvi.data.looks import look, looks_like_logarithms

    raw = []
    for name in names:
        if looks_like_logarithms(
            look(values_of("the data", name, mods[name], registry.setup.layers.get(name)))
        ):
            note(f"{name}: its values look like logarithms already, so --log2 of training is not done again")
        else:
            raw.append(name)
    return raw


def _measured(registry: Registry) -> dict[str, pd.DataFrame]:
    """Modality -> features x batches in training that had it, true for what was measured."""
    import pandas as pd

    key = registry.setup.batch_key
    batches = ("all",) if key is None else registry.categories[key]
    return {
        name: pd.DataFrame(
            {b: row for b, row in zip(batches, table, strict=False) if b in registry.measured_in[name]},
            index=list(registry.features[name].names),
        )
        for name, table in registry.panels.items()
    }


def words_of(taken: Mapping[str, Any]) -> str:
    """Choices as they would be said on the command line."""
    return " ".join(
        f"{OPTIONS[name]} {shlex.quote(word) if word else ''}".rstrip()
        for name, value in taken.items()
        for word in _words(value)
    )


def _of_modalities(value: Any, mods: Collection[str]) -> Any:
    """A choice for those modalities that are there."""
    if isinstance(value, Mapping):
        return {name: each for name, each in value.items() if name in mods}
    return [name for name in value or () if name in mods]


def _for_those(value: Any, named: Mapping[str, Path]) -> Any:
    """A choice for all, or what was chosen for some of these files."""
    return {n: v for n, v in value.items() if n in named} if isinstance(value, Mapping) else value


def _say(taken: Mapping[str, Any], more: str = "") -> None:
    if words := words_of(taken):
        note(f"Read as the data that the model was trained on: {words}{more}")


def _words(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{n}={each:g}" if isinstance(each, float) else f"{n}={each}" for n, each in value.items()]
    return [""] if value is True else list(value) if isinstance(value, list) else [str(value)]
