"""An .h5ad, .h5mu or zarr store -> its cells, features, covariates and panels, and values that stay in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.layers import RAW, places_in_raw
from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.data.read.contained import check_contained
from mosaicvi.data.read.contained_zarr import check_contained_folder, check_contained_store
from mosaicvi.data.read.files import ZARR_MARKS
from mosaicvi.data.read.modalities import PROTEINS, USUAL, certain, feature_types
from mosaicvi.data.stored.aligned import rows_if_so
from mosaicvi.data.stored.names import is_stored, read_names, repeated
from mosaicvi.data.stored.parked import parked
from mosaicvi.data.stored.pieces import Piece, element
from mosaicvi.data.stored.values import StoredMatrix
from mosaicvi.errors import InputError

SHUFFLED = "mosaicvi-shuffled"  # attribute of a store whose cells were put in random order
Opened = tuple[MuData | AnnData, dict[str, StoredMatrix]]


def can_stay(path: Path) -> bool:
    """Whether values can stay in a file: whether it is an .h5ad, .h5mu or a zarr store of these."""
    if not path.exists():
        raise InputError(problem("missing", name=path))
    if path.is_dir():
        return any((path / mark).exists() for mark in ZARR_MARKS)
    try:
        with h5py.File(path, "r") as file:
            return "mod" in file or {"obs", "var"} <= set(file)
    except OSError:  # another format, or damaged: reading says which
        return False


def open_stored(path: Path, layers: Mapping[str, str], *, names_on_disk: bool = True) -> Opened:
    """Open a file for which `can_stay` is true.

    Parameters
    ----------
    path
        The file or folder.
    layers
        Modality → layer with its values; of an AnnData the only one.
    names_on_disk
        Whether the names of many cells of a MuData may stay out of memory.

    Returns
    -------
    An AnnData or MuData without values, and the values by modality, that of an AnnData as ``""``.

    Raises
    ------
    InputError
        It is damaged, foreign, or holds its values in a way of which rows cannot be read one by one.
    """
    try:
        group = _opened(path)
        if "mod" not in group:
            layer, obs = next(iter(layers.values()), None), read_elem(group["obs"])
            a, matrix = _anndata(str(path), group, layer, _mark(path), obs)
            _check_one_modality(path, group, a)
            return a, {"": matrix}
        return _mudata(path, group, layers, names_on_disk=names_on_disk)
    except InputError:
        raise
    except Exception as error:  # what a damaged file raises is not foreseeable
        reason = (next(iter(str(error).splitlines()), "") or type(error).__name__)[:160]
        raise InputError(problem("damaged", name=path, reason=reason)) from error


def _opened(path: Path) -> Any:
    if path.is_file():
        check_contained(path)
        return h5py.File(path, "r")
    try:
        import zarr
    except ImportError as error:
        raise InputError(problem("extra", name=path, format="zarr", package="zarr", extra="zarr")) from error
    check_contained_folder(path)
    group = zarr.open(str(path), mode="r")
    keys = set(group.keys()) if isinstance(group, zarr.Group) else set()
    if not isinstance(group, zarr.Group) or not ({"obs", "var"} <= keys or "mod" in keys):
        raise InputError(problem("foreign", name=path, what=f"zarr with {listed(sorted(keys))}"))
    check_contained_store(path, group)
    return group


def _check_one_modality(path: Path, group: Any, a: AnnData) -> None:
    """Refuse what reading into memory would part into several modalities."""
    several = len(feature_types(a)) > 1
    beside = [] if several else _modalities_of_obsm(group, a)
    if several or beside:
        what = "var['feature_types'] tells several modalities apart" if several else f"obsm has {beside[0]!r}"
        raise InputError(
            f"{path}: {what}, which cannot be parted on disk; write it as an .h5mu, "
            "mosaicvi.read_mudata(...).write(...), or set in_memory=True."
        )


def _modalities_of_obsm(group: Any, a: AnnData) -> list[str]:
    """Matrices beside the features that reading into memory would make modalities."""
    there = [key for key in group.get("obsm", {}) if key == PROTEINS or key.lower() in USUAL]
    if not there:
        return []
    uns = group.get("uns", {})
    names = {key: read_elem(uns[key]) for key in uns if key.endswith("_names")}
    obsm = {key: read_elem(group["obsm"][key]) for key in there}
    sure = certain(AnnData(obs=pd.DataFrame(index=a.obs_names), obsm=obsm, uns=names))
    return [key for key in there if key == PROTEINS or key in sure]


def _mudata(path: Path, group: Any, layers: Mapping[str, str], *, names_on_disk: bool) -> Opened:
    there = list(group["mod"].keys())
    order = [str(name) for name in group["mod"].attrs.get("mod-order", there)]
    mods, stored, noted = {}, {}, {}
    obs = _cells(group, names_on_disk=names_on_disk)
    if not is_stored(obs.index):
        obs.index = obs.index.astype(str)
    for name in order if set(order) == set(there) else there:
        about = _cells(group["mod"][name], names_on_disk=is_stored(obs.index))
        noted[name] = _noted(group, name, about, obs.index)
        mods[name], matrix = _anndata(
            f"{path}: {name}", group["mod"][name], layers.get(name), _mark(path), about
        )
        stored[name] = matrix.shuffled() if group.attrs.get(SHUFFLED) is True else matrix
    if all(rows is not None for rows in noted.values()) and not repeated(obs.index).any():
        return _put_together(mods, obs, noted, _notes(group)), stored
    if is_stored(obs.index):  # they have to be looked up
        return _mudata(path, group, layers, names_on_disk=False)
    known = pd.Index([]).append([a.obs_names for a in mods.values()])
    lost = obs.index[~obs.index.isin(known)]
    if len(lost):
        raise InputError(problem("no-modality", name=path, names=listed(lost)))
    with mudata_as_it_is():
        mdata = MuData(mods, obs=pd.DataFrame(index=obs.index))
        mdata.obs = obs if len(obs) == mdata.n_obs else obs.reindex(mdata.obs_names)  # cells that obs lacks
    mdata.uns.update(_notes(group))
    return mdata, stored


def _noted(group: Any, name: str, about: pd.DataFrame, cells: pd.Index[str]) -> NDArray[np.int64] | None:
    """Row of each cell in a modality as the file says it, if it is so; names are then kept once."""
    if "obsmap" not in group or name not in group["obsmap"]:
        return None
    row = rows_if_so(np.asarray(read_elem(group["obsmap"][name])).reshape(-1), about.index, cells)
    if row is not None and not is_stored(about.index):
        own = np.empty(len(about), object)
        there = np.flatnonzero(row >= 0)
        own[row[there]] = np.asarray(cells, object)[there]
        about.index = pd.Index(own, dtype=about.index.dtype, name=about.index.name)
    return None if row is None else parked(row)


def _cells(group: Any, *, names_on_disk: bool) -> pd.DataFrame:
    """The cells of a file or a modality, with names that stay out of memory where they are many."""
    about = group["obs"]
    key = about.attrs.get("_index")
    names = read_names(about[key]) if names_on_disk and isinstance(key, str) and key in about else None
    if names is None:
        obs: pd.DataFrame = read_elem(about)
        return obs
    order = [str(name) for name in about.attrs["column-order"]]
    return pd.DataFrame({name: read_elem(about[name]) for name in order}, index=names, columns=order)


class _ManyCells(AnnData):  # type: ignore[misc]
    """An AnnData whose names are not compared when it is made, for which they would have to be in memory."""

    def _check_uniqueness(self) -> None: ...


class _AsItIs(MuData):  # type: ignore[misc]
    """A MuData of which it is known that its parts belong together, which else is found out at length."""

    def update(self) -> None:
        """Nothing: what `update` finds is there."""

    def _check_duplicated_names(self) -> None: ...


def _put_together(
    mods: dict[str, AnnData],
    obs: pd.DataFrame,
    rows: Mapping[str, NDArray[np.int64] | None],
    notes: dict[str, Any],
) -> MuData:
    known = {name: row for name, row in rows.items() if row is not None}
    with mudata_as_it_is():
        return _AsItIs(
            mods,
            obs=obs,
            var=pd.concat([a.var[[]] for a in mods.values()]),
            obsm={name: row >= 0 for name, row in known.items()},
            obsmap={name: parked((row + 1).astype(np.uint32)) for name, row in known.items()},
            uns=notes,
        )


def _mark(path: Path) -> Path:
    """The file that changes when data are written again: of a store, what describes it."""
    there = [path / mark for mark in ZARR_MARKS if (path / mark).exists()] if path.is_dir() else []
    return there[0] if there else path


def _anndata(
    name: str, group: Any, layer: str | None, mark: Path, obs: pd.DataFrame
) -> tuple[AnnData, StoredMatrix]:
    kind = _ManyCells if is_stored(obs.index) else AnnData
    a = kind(obs=obs, var=read_elem(group["var"]))
    if "varm" in group and "measured" in group["varm"]:
        a.varm["measured"] = read_elem(group["varm"]["measured"])
    a.uns.update(_notes(group))
    layers = list(group["layers"].keys()) if "layers" in group else []
    if layer is None or (layer == "X" and layer not in layers):
        if "X" not in group:
            raise InputError(problem("no-x", name=name, modality="the data", layers=listed(layers)))
        return a, StoredMatrix([Piece(name, element(group["X"]), mark)])
    if layer in layers:
        return a, StoredMatrix([Piece(name, element(group["layers"][layer]), mark)])
    if layer != RAW or RAW not in group:
        raise InputError(
            problem("no-layer", name=name, modality="the data", layer=layer, layers=listed(layers))
        )
    known = read_elem(group[RAW]["var"]).index
    at = places_in_raw(known, a.var_names)
    if (at < 0).any():
        lacking = listed(a.var_names[at < 0])
        raise InputError(problem("raw-features", name=name, modality="the data", names=lacking))
    return a, StoredMatrix([Piece(name, element(group[RAW]["X"]), mark)]).ordered(at)


def _notes(group: Any) -> dict[str, Any]:
    """What `combine` noted of the data."""
    if "uns" not in group or "mosaicvi" not in group["uns"]:
        return {}
    return {"mosaicvi": read_elem(group["uns"]["mosaicvi"])}
