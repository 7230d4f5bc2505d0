"""Data that a saved model is to answer for, read as those were that it was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaicvi.cli.data import DATASET_KEY, Loaded, combine_files, read_all, without_unmeasured
from mosaicvi.cli.naming import (
    is_named,
    name_datasets,
    name_of,
    named_as_in_training,
    pairs_of,
    path_of,
    without_file,
)
from mosaicvi.cli.options import Reading
from mosaicvi.cli.remembered import as_in_training, still_to_do, with_values_as_in_training, words_of
from mosaicvi.cli.say import note
from mosaicvi.errors import InputError, MosaicWarning

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from mosaicvi.data.registry import Registry
    from mosaicvi.model import MosaicVI


def load_for(
    model: Path,
    paths: Sequence[Path],
    reading: Reading,
    *,
    take_as: Mapping[str, str] | None = None,
    quiet: bool = False,
    names_on_disk: bool = False,
) -> Loaded:
    """Read files as those that a model was trained on: by its batches, and with its names of datasets.

    Parameters
    ----------
    model
        Folder of the model.
    paths, reading
        What the user gave.
    take_as
        By column of obs, the category of cells of which the model has not seen theirs.
    quiet
        Show no progress.
    names_on_disk
        Whether the names of many cells may stay out of memory.
    """
    from mosaicvi.data.read.remembered import checked
    from mosaicvi.store.format import load_document

    document: Any = load_document(model, kind="model")
    registry = document.get("registry")
    with warnings.catch_warnings():
        if isinstance(registry, Mapping) and checked(registry.get("reading")).get("log2"):
            warnings.filterwarnings("ignore", message=".*look like raw intensities", category=MosaicWarning)
        loaded = _load_as(document, model, paths, reading, take_as=take_as, quiet=quiet)
    return loaded if names_on_disk else loaded.with_names()


def _load_as(
    document: Any,
    model: Path,
    paths: Sequence[Path],
    reading: Reading,
    *,
    take_as: Mapping[str, str] | None,
    quiet: bool,
) -> Loaded:
    """The same, with the document of the model."""
    try:
        key = document["registry"]["setup"]["batch_key"]
        paths = [named_as_in_training(path, document["registry"].get("files", {})) for path in paths]
        named = name_datasets(paths) if len(paths) > 1 else {name_of(paths[0]): path_of(paths[0])}
        pairs = pairs_of(paths)
        called = [*pairs, *(n for n in named if not any(n in files for files in pairs.values()))]
        reading = as_in_training(reading, document["registry"], named, called)
        is_as_it_is = not document["registry"].get("reading")
    except (KeyError, TypeError, AttributeError):
        return read_all(paths, reading, quiet=quiet)  # what is wrong with the model is said when it is read

    @cache
    def known() -> Registry:
        """What the model knows, read when it is first needed."""
        from mosaicvi.store.saved import read_model

        return read_model(model).registry

    loaded = read_all(paths, reading, batch_key=key, quiet=quiet)
    if loaded.stored and not is_as_it_is and _needs_memory(known(), loaded, reading):
        loaded = read_all(paths, replace(reading, on_disk=False), batch_key=key, quiet=quiet)
    is_alone = not loaded.combined and not loaded.stored and key == DATASET_KEY
    is_alone = is_alone and not _has(loaded.original, key)
    if is_alone:
        there = {m: k for m, k in reading.obsm_if_there.items() if m in loaded.as_mudata().mod}
        mdata = combine_files(paths, replace(reading, obsm_if_there=there), quiet=quiet)
        loaded = Loaded(original=mdata, to_register=mdata, combined=True)
    loaded = _with_names_as_batches(loaded, paths, key)
    if not is_as_it_is:
        loaded = _as_remembered(known(), loaded)
    loaded = without_unmeasured(
        loaded, lambda: {name: found.names for name, found in known().features.items()}
    )
    if is_alone:  # it lacks what only the other files had measured
        return prepared(model, loaded, take_as=take_as)
    layers = {} if loaded.combined else without_file(reading.layers, name_of(paths[0]))
    if layers or take_as:
        from mosaicvi.data.register.query import told

        asked = told(loaded.to_register, known(), layers=layers, take_as=take_as)
        return replace(loaded, to_register=asked)
    return loaded


def _with_names_as_batches(loaded: Loaded, paths: Sequence[Path], key: str | None) -> Loaded:
    """The data with the names that the user gave the files as batches, where they say nothing of these."""
    from mudata import MuData

    from mosaicvi.data.read import mudata_as_it_is

    if key in (None, DATASET_KEY) or not any(map(is_named, paths)) or _has(loaded.to_register, str(key)):
        return loaded
    data = loaded.to_register
    names = data.obs[DATASET_KEY] if loaded.combined else name_of(paths[0])
    with mudata_as_it_is():
        made = MuData(dict(data.mod)) if isinstance(data, MuData) else data.copy()
        made.obs = data.obs.assign(**{str(key): names})
    made.uns.update(data.uns)
    is_same = loaded.original is loaded.to_register
    return replace(loaded, original=made if is_same else loaded.original, to_register=made)


def _needs_memory(registry: Registry, loaded: Loaded, reading: Reading) -> bool:
    """Whether the model remembers cuts or missing zeros that values in files would go without."""
    left = words_of(still_to_do(loaded.to_register, registry))
    if left and reading.on_disk:
        raise InputError(
            f"--on-disk: the model was trained with {left}, which needs the values in memory; "
            "leave --on-disk out, or give a file that `mosaicvi combine` wrote with it"
        )
    return bool(left)


def _as_remembered(registry: Registry, loaded: Loaded) -> Loaded:
    """The data with the cuts and missing zeros that the model remembers."""
    mdata = with_values_as_in_training(loaded.to_register, registry)
    return loaded if mdata is None else replace(loaded, original=mdata, to_register=mdata)


def _has(data: AnnData | MuData, key: str) -> bool:
    from mosaicvi.data.register.covariates import obs_column

    return obs_column(data, key) is not None


def load_model(model: Path, loaded: Loaded, *, quiet: bool = False) -> MosaicVI:
    """A saved model with the data to answer for; what these lack of its features is said."""
    import numpy as np

    from mosaicvi.data.register.modalities import modalities_of
    from mosaicvi.data.register.query import lacking
    from mosaicvi.model import MosaicVI

    trained = MosaicVI.load(model, loaded.source())
    registry = trained.registry
    for name, part in modalities_of(loaded.to_register, registry.setup, registry).items():
        table = part.varm.get("measured")
        if name in registry.features and table is not None:
            there, known = int(np.asarray(table, bool).any(1).sum()), len(registry.features[name].names)
            if there < known:
                note(lacking(name, there, known), quiet=quiet)
    return trained


def prepared(
    model: Path,
    loaded: Loaded,
    *,
    take_as: Mapping[str, str] | None = None,
    match: Mapping[str, Sequence[str]] | None = None,
) -> Loaded:
    """The data with the model's features; what they lack is marked as not measured.

    How many there are is left to say to the command, in a note of its own.
    """
    from mosaicvi.data.register.query import OTHERS
    from mosaicvi.model import MosaicVI

    if loaded.stored:
        raise InputError("--allow-missing needs the values in memory; add --in-memory")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*{OTHERS}", category=MosaicWarning)
        made = MosaicVI.prepare_query(loaded.to_register, model, take_as=take_as, match=match)
    return replace(loaded, to_register=made)
