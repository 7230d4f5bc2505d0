"""Files and folders of any format that the field writes, as AnnData or MuData."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import anndata
import h5py
import mudata
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from anndata.utils import make_index_unique
from mudata import MuData

from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read import tenx
from mosaicvi.data.read.contained import check_contained
from mosaicvi.data.read.contained_zarr import check_contained_folder, check_contained_store
from mosaicvi.data.read.loom import is_loom, read_loom
from mosaicvi.data.read.modalities import mudata_as_it_is, to_mudata
from mosaicvi.data.read.remembered import checked, noted_reading
from mosaicvi.data.read.table import EXCEL, PARQUET, Orientation, read_table
from mosaicvi.data.sparse import check_sparse
from mosaicvi.errors import InputError, MosaicWarning, quoted, warn

Duplicates = Literal["error", "number"]
Named = TypeVar("Named", AnnData, MuData)

TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", *PARQUET, *EXCEL)
HDF5 = (".h5mu", ".h5ad", ".h5", ".loom")
ARCHIVES = {
    ".tar": "tar -xf",
    ".tar.gz": "tar -xf",
    ".tgz": "tar -xf",
    ".tar.bz2": "tar -xf",
    ".zip": "unzip",
}
PACKED = (".h5ad.gz", ".h5mu.gz", ".h5.gz", ".loom.gz", ".h5ad.bz2", ".csv.bz2", ".tsv.bz2")
ZARR_MARKS = (".zgroup", ".zattrs", "zarr.json")
CELL_RANGER = (
    "filtered_feature_bc_matrix",
    "filtered_feature_bc_matrix.h5",
    "filtered_peak_bc_matrix",
    "outs",
)
BEFORE = "original_name"  # column of var with the names before `names_from`
RAW = ("raw_feature_bc_matrix", "raw_feature_bc_matrix.h5")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `read` was told of the formats that leave something open."""

    orientation: Orientation | None
    columns: str | None
    genome: str | None


def read(
    path: str | os.PathLike[str],
    *,
    orientation: Orientation | None = None,
    duplicates: Duplicates = "error",
    columns: str | None = None,
    names_from: str | None = None,
    genome: str | None = None,
) -> AnnData | MuData:
    """Read any file or folder that holds single-cell data.

    The format is found by content first: HDF5 (h5mu, h5ad, 10x ``.h5``, loom), zarr (AnnData, MuData), a
    folder with ``matrix.mtx`` or Cell Ranger's ``outs``; tables (csv, tsv, txt, parquet, xlsx; gz) by their
    suffix.

    Parameters
    ----------
    path
        The file or folder.
    orientation
        For tables: what the rows are. By default found out, see
        :func:`mosaicvi.data.read.table.find_orientation`.
    duplicates
        What to do with feature names that occur more than once: an error, or number them (``A``, ``A-1``)
        with a warning. 10x output always names such features by their ids, with a warning.
    columns
        For tables: a regular expression for the columns of numbers; the others are annotations.
    names_from
        A column of ``var``, such as ``"Gene names"`` of a table, whose entries name the features: the first
        of several between semicolons, and the name that is there where it has none.
    genome
        For 10x files: take this genome alone.

    Returns
    -------
    A MuData where the file holds several modalities (10x feature types are split into ``rna``, ``adt``,
    ``atac``), else an AnnData.

    Raises
    ------
    InputError
        The path is missing, empty, truncated, foreign or has names twice; one line, naming file and remedy.
    """
    for name, value, choices in (
        ("orientation", orientation, ("cells", "features", None)),
        ("duplicates", duplicates, ("error", "number")),
    ):
        if value not in choices:
            raise InputError(
                problem("option", name=name, value=value, choices=" or ".join(map(repr, choices)))
            )
    return read_named(
        path,
        orientation=orientation,
        duplicates=duplicates,
        columns=columns,
        names_from=names_from,
        genome=genome,
    )


def read_named(
    path: str | os.PathLike[str],
    *,
    orientation: Orientation | None,
    duplicates: Duplicates,
    columns: str | None,
    names_from: str | None,
    genome: str | None,
    names_if_there: bool = False,
) -> AnnData | MuData:
    """The same; with `names_if_there`, features keep their names where there is no such column."""
    path = Path(path)
    try:
        with mudata_as_it_is():
            data = _read_any(path, Options(orientation=orientation, columns=columns, genome=genome))
        _check_matrices(path, data)
    except (InputError, MosaicWarning):
        raise
    except MemoryError as error:
        raise InputError(problem("memory", name=path, reason=_reason(error))) from error
    except Exception as error:  # what a damaged file raises is not foreseeable
        raise InputError(problem("damaged", name=path, reason=_reason(error))) from error
    if names_from is not None and checked(noted_reading(data)).get("names_from") != names_from:
        _name_features(path, data, names_from, if_there=names_if_there)
    return _with_checked_names(path, data, duplicates)


def _reason(error: BaseException) -> str:
    return (next(iter(str(error).splitlines()), "") or type(error).__name__)[:160]


def read_mudata(
    path: str | os.PathLike[str],
    *,
    modality: str | None = None,
    orientation: Orientation | None = None,
    duplicates: Duplicates = "error",
    columns: str | None = None,
    names_from: str | None = None,
    genome: str | None = None,
) -> MuData:
    """Read any file or folder as a MuData; see :func:`read` and :func:`to_mudata`.

    Parameters
    ----------
    path, orientation, duplicates, columns, names_from, genome
        As in :func:`read`.
    modality
        The name of the modality where the file holds one without a name.

    Returns
    -------
    The MuData, its ``obs`` as stored.
    """
    data = read(
        path,
        orientation=orientation,
        duplicates=duplicates,
        columns=columns,
        names_from=names_from,
        genome=genome,
    )
    return to_mudata(data, modality=modality)


def dataset_names(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Name each path by the last part that tells them apart, without its suffix.

    ``a/x.h5ad b/y.h5mu`` become ``x`` and ``y``; ``d1/filtered.h5 d2/filtered.h5`` become ``d1`` and ``d2``.
    What Cell Ranger calls alike in every run is named by its folder.

    Raises
    ------
    InputError
        A path is given twice.
    """
    every = [Path(os.path.abspath(path)) for path in paths]
    repeated = sorted({str(path) for path in every if every.count(path) > 1})
    if repeated:
        raise InputError([problem("path-twice", name=path) for path in repeated])
    telling = [_telling(path) for path in every]
    for depth in range(1, max((len(parts) for parts in telling), default=1)):
        names = [_stem(parts[-depth]) if depth < len(parts) else "" for parts in telling]
        if len(set(names)) == len(names) and all(names):
            return dict(zip(names, every, strict=True))
    return {"-".join(path.parts[1:]): path for path in every}


def _telling(path: Path) -> tuple[str, ...]:
    """Parts of a path without what has the same name in every run of Cell Ranger."""
    parts = path.parts
    while len(parts) > 2 and parts[-1] in (*CELL_RANGER, *RAW):
        parts = parts[:-1]
    return parts


def _stem(name: str) -> str:
    for suffix in (*TEXT, *HDF5, ".zarr"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _read_any(path: Path, options: Options) -> AnnData | MuData:
    if not path.exists():
        raise InputError(problem("missing", name=path))
    if path.is_dir():
        return _read_folder(path, options)
    if path.stat().st_size == 0:
        raise InputError(problem("empty", name=path))
    name = path.name.lower()
    if h5py.is_hdf5(path):
        return _read_hdf5(path, options)
    how = next((how for suffix, how in ARCHIVES.items() if name.endswith(suffix)), None)
    if how is None and name.endswith(PACKED):
        how = "gunzip" if name.endswith(".gz") else "bunzip2"
    if how is not None:
        raise InputError(problem("archive", name=path, how=how))
    if name.endswith(HDF5):
        raise InputError(problem("damaged", name=path, reason="no whole HDF5 file"))
    if name.endswith(TEXT):
        return read_table(path, orientation=options.orientation, columns=options.columns)
    what = "give its folder" if ".mtx" in name else f"suffix {path.suffix!r}"
    raise InputError(problem("foreign", name=path, what=what))


def _read_folder(path: Path, options: Options) -> AnnData | MuData:
    if any((path / mark).exists() for mark in ZARR_MARKS):
        return _read_zarr(path)
    if tenx.matrix_files(path):
        return _one_or_several(tenx.read_mtx(path, genome=options.genome))
    inside = [path / name for name in CELL_RANGER if (path / name).exists()]
    if not inside:
        raise InputError(problem("folder", name=path))
    return _read_any(inside[0], options)


def _read_hdf5(path: Path, options: Options) -> AnnData | MuData:
    check_contained(path)
    with h5py.File(path, "r") as file:
        keys = set(file)
        loom, genomes = is_loom(file), tenx.genomes_of(file)
    if "mod" in keys:
        return _read_h5mu(path)
    if loom:
        return read_loom(path)
    if genomes is not None:
        return _one_or_several(tenx.read_h5(path, genome=options.genome))
    if {"obs", "var"} <= keys:
        return anndata.read_h5ad(path)
    raise InputError(problem("foreign", name=path, what=f"HDF5 with {listed(sorted(keys))}"))


def _read_h5mu(path: Path) -> MuData:
    """Read a MuData; cells without any modality, which mudata drops silently, are an error."""
    data: MuData = mudata.read_h5mu(path)
    with h5py.File(path, "r") as file:
        names = pd.Index(read_elem(file["obs"][file["obs"].attrs["_index"]])).astype(str)
    lost = [name for name in names if name not in data.obs_names] if len(names) > data.n_obs else []
    if lost:
        raise InputError(
            f"{path}: {len(lost):,} cells have no modality at all (such as {quoted(lost)}); "
            "remove them from obs."
        )
    return data


def _read_zarr(path: Path) -> AnnData | MuData:
    try:
        import zarr
        from zarr import Group
    except ImportError as error:
        raise InputError(problem("extra", name=path, format="zarr", package="zarr", extra="zarr")) from error
    check_contained_folder(path)
    store = zarr.open(str(path), mode="r")
    keys = set(store.keys()) if isinstance(store, Group) else set()
    if not isinstance(store, Group) or not {"obs", "var"} <= keys:
        raise InputError(problem("foreign", name=path, what=f"zarr with {listed(sorted(keys))}"))
    check_contained_store(path, store)
    data: AnnData | MuData = mudata.read_zarr(str(path))
    return data


def _check_matrices(path: Path, data: AnnData | MuData) -> None:
    """Refuse sparse matrices that are not sound, also those that only a copy of some cells would touch."""
    for name, part in (parts_of(data) | ({"": data} if isinstance(data, MuData) else {})).items():
        where = f" of {name}" if name else ""
        tables = {place: getattr(part, place) for place in ("obsm", "varm", "obsp", "varp")}
        if isinstance(part, AnnData):
            check_sparse(path, f"X{where}", part.X)
            tables["layers"] = part.layers
            if part.raw is not None:
                check_sparse(path, f"raw.X{where}", part.raw.X)
        for place, table in tables.items():
            for key, values in table.items():
                check_sparse(path, f"{place}[{key!r}]{where}", values)


def parts_of(data: AnnData | MuData) -> dict[str, AnnData]:
    """The modalities by name; an AnnData is called ``""``."""
    return dict(data.mod) if isinstance(data, MuData) else {"": data}


def _one_or_several(parts: Mapping[str, AnnData]) -> AnnData | MuData:
    return next(iter(parts.values())) if len(parts) == 1 else MuData(dict(parts))


def _name_features(path: Path, data: AnnData | MuData, column: str, *, if_there: bool) -> None:
    """Name features by a column of var, in each modality that has it; the names before stay in var."""
    parts = parts_of(data)
    having = [part for part in parts.values() if column in part.var]
    if not having and not if_there:
        there = listed(dict.fromkeys(str(c) for part in parts.values() for c in part.var), most=12)
        raise InputError(problem("no-names-from", name=path, column=column, columns=there or "none"))
    for part in having:
        entries = part.var[column].astype(object)
        first = [str(entry).split(";")[0].strip() if pd.notna(entry) else "" for entry in entries]
        if BEFORE not in part.var:
            part.var[BEFORE] = part.var_names.to_numpy(object)
        part.var_names = pd.Index(
            [new or old for new, old in zip(first, part.var_names, strict=True)], dtype=object
        )


def _with_checked_names(path: Path, data: Named, duplicates: Duplicates) -> Named:
    problems = []
    for modality, part in parts_of(data).items():
        where = f" in {modality}" if modality else ""
        problems += duplicate_cells(path, part.obs_names, where)
        if part.var_names.is_unique:
            continue
        repeated = part.var_names[part.var_names.duplicated()].unique()
        if duplicates == "error":
            problems.append(problem("duplicate-features", name=path, where=where, names=listed(repeated)))
            continue
        part.var_names = make_index_unique(part.var_names)
        text = f"{path}: numbered feature names that occur more than once{where}: {listed(repeated)}"
        warn(text)
    if problems:
        raise InputError(problems)
    if isinstance(data, MuData):
        with mudata_as_it_is():
            data.update()
    return data


def duplicate_cells(name: object, cells: pd.Index[str], where: str = "") -> list[str]:
    """The problem of cell names that occur more than once, if there are any."""
    if cells.is_unique:
        return []
    repeated = cells[cells.duplicated()].unique()
    return [problem("duplicate-cells", name=name, where=where, names=listed(repeated))]
