"""What a user gives to be registered, an object or paths -> all of it but the values that stay in files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from anndata import AnnData
from mudata import MuData

from mosaicvi.data.combine import combine, combine_stored
from mosaicvi.data.layers import values_of
from mosaicvi.data.read import dataset_names, read
from mosaicvi.data.registry import Setup
from mosaicvi.data.stored.memory import InMemory, fits
from mosaicvi.data.stored.open import can_stay, open_stored
from mosaicvi.data.stored.pieces import Piece, is_stored
from mosaicvi.data.stored.values import StoredMatrix
from mosaicvi.errors import InputError

PathLike: TypeAlias = str | os.PathLike[str]
Paths: TypeAlias = PathLike | Sequence[PathLike] | Mapping[str, PathLike]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Data to be registered.

    Attributes
    ----------
    data
        Cells, features, covariates and panels; and the values that are in memory.
    stored
        Values that stay in files, by modality; that of an AnnData is called ``""``.
    """

    data: MuData | AnnData
    stored: Mapping[str, StoredMatrix]


def source_of(data: MuData | AnnData | Paths | Source, setup: Setup, in_memory: InMemory) -> Source:
    """Open what a user gave.

    Parameters
    ----------
    data
        An object, whose values may be backed by a file; or the path of a file, or several, which are combined
        as `mosaicvi.combine` does.
    setup
        How it is to be read; it says which layers.
    in_memory
        Whether values of files are brought into memory; ``"auto"`` for if they fit.

    Raises
    ------
    InputError
        The data are of no type that can be read, a file cannot, or its values cannot stay where they are.
    """
    if in_memory not in (True, False, "auto"):
        raise InputError(f"in_memory: True, False or 'auto', not {in_memory!r}.")
    if isinstance(data, Source):
        return data
    if are_paths(data):
        return _of_paths(data, setup, in_memory)
    if not isinstance(data, MuData | AnnData):
        raise InputError(f"The data: a MuData, an AnnData or paths of files, not {type(data).__name__}.")
    stored = {} if in_memory is True else _backed(data, setup)
    if in_memory is False and not stored:
        raise InputError("in_memory: these data are in memory already; give the path of their file instead.")
    return Source(data=data, stored={} if in_memory == "auto" and fits(stored.values()) else stored)


def are_paths(data: object) -> TypeGuard[Paths]:
    """Whether a user gave one or several paths."""
    every = list(data.values()) if isinstance(data, Mapping) else data
    if isinstance(every, Sequence) and not isinstance(every, str):
        return bool(every) and all(isinstance(path, str | os.PathLike) for path in every)
    return isinstance(every, str | os.PathLike)


def left_on_disk(named: Mapping[str, Path], in_memory: InMemory, **options: Any) -> Source | None:
    """Files whose values stay in them; None where they are to be brought into memory.

    Parameters
    ----------
    named
        Their paths by the names of the datasets.
    in_memory
        As in `source_of`.
    **options
        Of `combine`; for one file only its `layers`.

    Raises
    ------
    InputError
        They are to stay, and cannot.
    """
    if in_memory is True:
        return None
    cannot = [path for path in named.values() if not can_stay(path)]
    if cannot and in_memory is False:
        raise InputError(
            f"{cannot[0]}: in_memory=False needs an .h5ad, .h5mu or .zarr, whose cells can be read one by "
            "one; write it as one of these first, or set in_memory=True."
        )
    if cannot:
        return None
    try:
        source = _left(named, **options)
    except InputError:
        if in_memory is False:
            raise
        return None  # reading into memory can more, or says what is wrong
    return None if in_memory == "auto" and fits(source.stored.values()) else source


def _left(named: Mapping[str, Path], **options: Any) -> Source:
    if len(named) > 1:
        together = combine_stored(named, **options)
        return Source(data=together.mdata, stored=together.stored)
    data, stored = open_stored(next(iter(named.values())), options.get("layers", {}))
    return Source(data=data, stored=stored)


def _of_paths(data: Paths, setup: Setup, in_memory: InMemory) -> Source:
    if isinstance(data, str | os.PathLike):
        data = [data]
    if isinstance(data, Mapping):
        named = {name: Path(path) for name, path in data.items()}
    else:
        named = dataset_names(data)
    source = left_on_disk(named, in_memory, layers=setup.layers)
    if source is not None:
        return source
    one = next(iter(named.values()))
    return Source(data=combine(named, layers=setup.layers) if len(named) > 1 else read(one), stored={})


def _backed(data: MuData | AnnData, setup: Setup) -> dict[str, StoredMatrix]:
    """The values that are in files, of an object's modalities."""
    mods: Mapping[str, Any] = data.mod if isinstance(data, MuData) else {"": data}
    stored = {}
    for name, a in mods.items():
        if setup.modalities and name and name not in setup.modalities:
            continue
        layer = setup.layers.get(name) if name else next(iter(setup.layers.values()), None)
        try:
            values = values_of("the data", name, a, layer)
        except InputError:
            continue  # which is said when it is registered
        if is_stored(values):
            stored[name] = StoredMatrix([Piece(f"{a.filename or 'the data'}: {name or 'X'}", values)])
    return stored
