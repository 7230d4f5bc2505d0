"""Data in and out of the commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaicvi.cli.naming import (
    check_pairs,
    name_datasets,
    name_of,
    pairs_of,
    path_of,
    with_names,
    without_file,
)
from mosaicvi.cli.options import Reading, by_name
from mosaicvi.cli.say import note
from mosaicvi.cli.sheet import Sheet
from mosaicvi.cli.unmeasured import say, unmeasured, without
from mosaicvi.errors import InputError
from mosaicvi.store.files import atomic_path, check_output, shown

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from mosaicvi.data.combine.assemble import Assembled
    from mosaicvi.data.register.source import Source
    from mosaicvi.data.stored.values import StoredMatrix

DATASET_KEY, NAME_KEY = "dataset", "original_name"
H5MU, H5AD, ZARR = ".h5mu", ".h5ad", ".zarr"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What the user's files hold.

    Attributes
    ----------
    original
        The data as they were read or combined.
    to_register
        The same cells as a MuData, or as the AnnData itself where nothing names its modality.
    combined
        Whether several files were put together.
    stored
        Values that stay in their files, by modality; `original` and `to_register` are then without them.
    """

    original: AnnData | MuData
    to_register: AnnData | MuData
    combined: bool
    stored: Mapping[str, StoredMatrix] = field(default_factory=dict)

    def source(self) -> AnnData | MuData | Source:
        """What is to be registered, with the values that stay in files."""
        from mosaicvi.data.register.source import Source

        return Source(data=self.to_register, stored=self.stored) if self.stored else self.to_register

    @property
    def names_on_disk(self) -> bool:
        """Whether the names of the cells are out of memory."""
        from mosaicvi.data.stored.names import is_stored

        return is_stored(self.to_register.obs_names)

    def with_names(self) -> Loaded:
        """The same with the names of the cells as strings."""
        if self.names_on_disk:
            from mosaicvi.data.stored.names import plain

            mdata = self.as_mudata()
            for table in (mdata.obs, *(a.obs for a in mdata.mod.values())):
                table.index = plain(table.index)
        return self

    def as_mudata(self) -> MuData:
        """The data as a MuData."""
        from mosaicvi.data.read import to_mudata

        return to_mudata(self.to_register)


def load(
    paths: Sequence[Path], reading: Reading, *, batch_key: str | None = None, quiet: bool = False
) -> Loaded:
    """Read a file, or combine several, without features of which no cell has a value; see `read_all`."""
    return without_unmeasured(read_all(paths, reading, batch_key=batch_key, quiet=quiet))


def read_all(
    paths: Sequence[Path], reading: Reading, *, batch_key: str | None = None, quiet: bool = False
) -> Loaded:
    """Read a file, or combine several; a part ``NAME=PATH`` names its dataset.

    Parameters
    ----------
    paths
        What the user gave.
    reading
        How to read them. Layers are taken only where several files are combined, which keeps none.
    batch_key
        Column with the batches of one file, by which zeros may be missing.
    """
    from anndata import AnnData

    from mosaicvi.data.read import mudata_as_it_is, to_mudata
    from mosaicvi.data.read.files import read_named
    from mosaicvi.data.read.modalities import names_modalities
    from mosaicvi.data.read.remembered import note_reading

    named = name_datasets(paths) if len(paths) > 1 else {name_of(paths[0]): path_of(paths[0])}
    by_file = {
        "--as": by_name(reading.modality, named),
        "--orientation": by_name(reading.orientation, named),
        "--columns": by_name(reading.columns, named),
        "--names-from": by_name(reading.names_from, named),
    }
    check_pairs(paths, reading)
    on_disk = _left_on_disk(named, reading)
    if on_disk is not None:
        return on_disk
    if len(named) > 1:
        mdata = combine_files(paths, reading, quiet=quiet)
        return Loaded(original=mdata, to_register=mdata, combined=True)
    name, path = next(iter(named.items()))
    for option, choice in by_file.items():
        strangers = sorted(set(choice) - {name}) if isinstance(choice, Mapping) else []
        if strangers:
            raise InputError(f"{option} {strangers[0]}=...: there is no such file; there is {name!r}")
    modality, orientation, columns, names_from = (
        choice.get(name) if isinstance(choice, Mapping) else choice for choice in by_file.values()
    )
    if reading.pair:
        raise InputError("--pair: give the files of the same cells, two at least")
    read_as: dict[str, Any] = {
        "orientation": orientation,
        "columns": columns,
        "names_from": names_from,
        "duplicates": reading.duplicates,
        "genome": reading.genome,
    }
    data = read_named(path, **read_as, names_if_there=reading.names_if_there)
    if reading.obs:
        Sheet.read(reading.obs).add_to(data)
    there = data.obsm if isinstance(data, AnnData) else {}
    from_obsm = {m: key for m, key in reading.obsm_if_there.items() if key in there}
    from_obsm |= without_file(reading.from_obsm, name)
    if (
        isinstance(data, AnnData)
        and modality is None
        and not names_modalities(data)
        and not (from_obsm or _of_values(reading))
    ):
        note_reading(data.uns, **read_as)
        return Loaded(original=data, to_register=data, combined=False)
    with mudata_as_it_is():
        mdata = to_mudata(
            data,
            modality=modality,
            layers=without_file(reading.layers, name),
            from_obsm=from_obsm,
            min_counts=reading.min_counts,
            rounded=reading.rounded,
            log2=reading.log2,
            zeros_missing=reading.zeros_missing,
            batch_key=batch_key,
        )
        note_reading(mdata.uns, **read_as)
    return Loaded(original=mdata if _of_values(reading) else data, to_register=mdata, combined=False)


def _of_values(reading: Reading) -> bool:
    """Whether something is to be done to values once they are there."""
    return any((reading.min_counts, reading.rounded, reading.log2, reading.zeros_missing))


def _left_on_disk(named: Mapping[str, Path], reading: Reading) -> Loaded | None:
    """The data with values that stay in their files; None where they are brought into memory."""
    if reading.on_disk is False:
        return None
    from mosaicvi.data.read import to_mudata
    from mosaicvi.data.register.source import left_on_disk

    in_the_way = {
        "--as": reading.modality,
        "--from-obsm": reading.from_obsm,
        "--pair": reading.pair,
        "--duplicates": reading.duplicates == "number",
        "--names-from": reading.names_from,
        "--obs": reading.obs,
        "--min-counts": reading.min_counts,
        "--round": reading.rounded,
        "--log2": reading.log2,
        "--zeros-missing": reading.zeros_missing,
    }
    given = [option for option, value in in_the_way.items() if value]
    if given and reading.on_disk:
        raise InputError(f"--on-disk: {given[0]} needs the values in memory; leave one of the two out")
    if given:
        return None
    if len(named) > 1:
        layers = with_names(reading.layers, named)
    else:
        layers = without_file(reading.layers, next(iter(named)))
    source = left_on_disk(named, False if reading.on_disk else "auto", layers=layers)
    if source is None:
        return None
    mdata = to_mudata(source.data)
    return Loaded(original=mdata, to_register=mdata, combined=len(named) > 1, stored=source.stored)


def combine_files(paths: Sequence[Path], reading: Reading, *, quiet: bool = False, **more: Any) -> MuData:
    """Combine files as `mosaicvi.combine` does.

    Parameters
    ----------
    paths
        What the user gave.
    reading
        How to read them.
    quiet
        Show no progress.
    **more
        Further arguments of `mosaicvi.combine`.
    """
    from mosaicvi.data.combine.combine import combine_as

    check_pairs(paths, reading)
    named = name_datasets(paths)
    options = _options_of_combine(named, reading, pairs_of(paths), quiet=quiet)
    options |= {
        "dataset_in_names": reading.dataset_in_names,
        "names_if_there": reading.names_if_there,
    }
    mdata = combine_as(named, layers_if_there=reading.layers_if_there, **options, **more)
    if reading.obs:
        Sheet.read(reading.obs).add_to(mdata, names=str(more.get("name_key", NAME_KEY)))
    return mdata


def combine_for_store(
    paths: Sequence[Path], reading: Reading, *, quiet: bool = False, **more: Any
) -> Assembled:
    """The same with values that stay in the files where they can; arguments as `combine_files`."""
    from mosaicvi.data.combine import combine_stored
    from mosaicvi.data.combine.assemble import Assembled
    from mosaicvi.data.stored.open import can_stay

    check_pairs(paths, reading)
    named = name_datasets(paths)
    options = _options_of_combine(named, reading, pairs_of(paths), quiet=quiet) | more
    needs_memory = reading.duplicates == "number" or _of_values(reading)
    needs_memory |= any((reading.pair, reading.from_obsm, reading.names_from, reading.obs))
    if not needs_memory and all(can_stay(path) for path in named.values()):
        return combine_stored(named, **options)
    return Assembled(mdata=combine_files(paths, reading, quiet=quiet, **more), stored={})


def _options_of_combine(
    named: Mapping[str, Path], reading: Reading, pairs: Mapping[str, Sequence[str]], *, quiet: bool
) -> dict[str, Any]:
    modality, orientation, columns, names_from = (
        by_name(choice, named)
        for choice in (reading.modality, reading.orientation, reading.columns, reading.names_from)
    )
    return {
        "modality": modality,
        "layers": with_names(reading.layers, named),
        "orientation": orientation,
        "columns": columns,
        "names_from": names_from,
        "duplicates": reading.duplicates,
        "genome": reading.genome,
        "pair": pairs or reading.pair,
        "from_obsm": {**reading.obsm_if_there, **with_names(reading.from_obsm, named)},
        "min_counts": reading.min_counts,
        "rounded": reading.rounded,
        "log2": reading.log2,
        "zeros_missing": reading.zeros_missing,
        "progress": False if quiet else None,
    }


def without_unmeasured(
    loaded: Loaded, known: Callable[[], Mapping[str, Collection[str]]] | None = None
) -> Loaded:
    """The data without features of which no cell has a value, but with those that a model knows.

    Parameters
    ----------
    loaded
        The data.
    known
        Gives the features of each modality of the model; asked only where there are such features.
    """
    if loaded.stored or not unmeasured(loaded.to_register, None):
        return loaded
    names = unmeasured(loaded.to_register, None if known is None else known())
    if not names:
        return loaded
    say(names)
    to_register = without(loaded.to_register, names)
    is_same = loaded.original is loaded.to_register
    original = to_register if is_same else without(loaded.original, names)
    return replace(loaded, original=original, to_register=to_register)


def suggest_batch(data: AnnData | MuData, batch_key: str | None) -> None:
    """Name a column that looks like one of batches where none was given."""
    from mosaicvi.data.register.covariates import likely_batch

    found = likely_batch(data) if batch_key is None else None
    if found is not None:
        option = f"--batch-key {shlex.quote(found)}"
        note(
            f"hint: obs has a column {found!r}: to tell its batches apart, and correct for them, add {option}"
        )


def check_data_output(output: Path, *, overwrite: bool, suffixes: Sequence[str]) -> None:
    """Refuse an output that could not be written at the end of the work."""
    if output.suffix.lower() not in suffixes:
        raise InputError(f"{shown(output)}: the output must end in {' or '.join(suffixes)}; rename it")
    check_output(output, overwrite=overwrite)


def check_h5ad_fits(output: Path, loaded: Loaded) -> None:
    """Refuse an .h5ad for data of several modalities."""
    from mudata import MuData

    if output.suffix.lower() == H5AD and isinstance(loaded.original, MuData) and loaded.original.n_mod > 1:
        names = ", ".join(loaded.original.mod)
        raise InputError(f"{shown(output)}: an .h5ad holds one modality, these data {names}; name an .h5mu")


def write(data: AnnData | MuData, output: Path, *, overwrite: bool) -> None:
    """Write an .h5mu or .h5ad, whole or not at all."""
    from mudata import MuData

    from mosaicvi.data.read import mudata_as_it_is

    with atomic_path(output, overwrite=overwrite) as temporary, mudata_as_it_is():
        if isinstance(data, MuData):
            data.write_h5mu(temporary)
        else:
            data.write_h5ad(temporary)


def as_anndata(data: AnnData | MuData) -> AnnData:
    """Data of one modality as an AnnData, with the columns of the whole."""
    from anndata import AnnData

    if isinstance(data, AnnData):
        return data
    adata = next(iter(data.mod.values()))[data.obs_names].copy()
    for column in data.obs:
        if ":" not in str(column):
            adata.obs[column] = data.obs[column]
    return adata


def add_note(data: AnnData | MuData, entries: Mapping[str, Any]) -> None:
    """Add entries to ``uns["mosaicvi"]``, keeping those that are there."""
    before = data.uns.get("mosaicvi")
    data.uns["mosaicvi"] = {**(before if isinstance(before, Mapping) else {}), **entries}
