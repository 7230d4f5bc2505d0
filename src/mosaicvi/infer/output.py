"""Imputed values -> an .h5mu or .h5ad, chunk by chunk: memory holds one minibatch, whatever the size.

The file is first written by anndata or mudata with everything but the values. Then room is made in it for
each modality's ``X``, the dense array that they would have written, and HDF5 closes the file. The values go
into that room as plain bytes, so that a full disk is an ordinary error: HDF5 crashes after one.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.mosaic import ModalityData
from mosaicvi.data.read import mudata_as_it_is
from mosaicvi.errors import InputError
from mosaicvi.infer.impute import Scale
from mosaicvi.ranks.group import Group
from mosaicvi.store.files import atomic_path, shown

Chunks = Iterable[tuple[slice, NDArray[np.float32]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImputedModality:
    """The imputed values of one modality, still to be computed.

    Attributes
    ----------
    name
        Of the modality.
    cells
        Names of the n cells.
    measured
        Whether each cell measured the modality, shape (n,).
    var
        The d features.
    interval
        Rows, lower and upper ends, (b, d) each, for the layers ``lower`` and ``upper``; None for none.
    level
        Share of the values that should lie between them.
    interval_note
        Of which cells that is not promised; None for none.
    varm
        What is known of them, such as ``"measured"``: features × panels.
    scale
        What the values mean.
    batch
        As which batch.
    staining
        On which level of staining; None for values that have none.
    values
        Pairs of rows and values, float32 (b, d), in any order, each row once; of several processes each has
        its own.
    """

    name: str
    cells: pd.Index
    measured: NDArray[np.bool_]
    var: pd.DataFrame
    scale: Scale
    batch: str
    values: Chunks
    staining: str | None = None
    interval: Iterable[tuple[slice, NDArray[np.float32], NDArray[np.float32]]] | None = None
    level: float | None = None
    interval_note: str | None = None
    varm: Mapping[str, pd.DataFrame] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        return len(self.cells), len(self.var)

    @property
    def n_rows(self) -> int:
        """How many rows are computed, those of intervals apart."""
        return len(self.cells) * (1 if self.interval is None else 2)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Where in the file its arrays lie."""
        return ("X",) if self.interval is None else ("X", "layers/lower", "layers/upper")


def interval_notes(parts: Sequence[ImputedModality]) -> list[str]:
    """What is said of intervals, each with the modalities of which it is."""
    notes: dict[str, list[str]] = {}
    for part in parts:
        if part.interval_note is not None:
            notes.setdefault(part.interval_note, []).append(part.name)
    return [f"{', '.join(names)}: {note}." for note, names in notes.items()]


def with_accuracy(part: ImputedModality, table: pd.DataFrame | None, data: ModalityData) -> ImputedModality:
    """The part whose features say how well they are imputed, by what is measured of a cell.

    ``believe`` is ``"measured"`` of features that all cells have measured, if nothing tells how well they are
    imputed, and ``"unknown"`` of others of which nothing does.

    Parameters
    ----------
    part
        A modality still to be imputed.
    table
        Of `MosaicVI.imputation_accuracy`; rows of other modalities do not count. None where nothing can tell.
    data
        What the cells measured of the modality.
    """
    var = part.var.copy()
    measured = data.panels[np.unique(data.panel_of_row)].all(0) & bool((data.row_of_cell >= 0).all())
    otherwise = pd.Series(np.where(measured, "measured", "unknown"), list(data.features.names))
    otherwise = otherwise.reindex(var.index)
    if table is None:
        return dataclasses.replace(part, var=var.assign(believe=otherwise))
    table = table[table["modality"] == part.name]
    # of the view that most cells have which lack the feature
    usual = table.sort_values("lacking", ascending=False, kind="stable").drop_duplicates("feature")
    var["believe"] = usual.set_index("feature")["believe"].reindex(var.index).fillna(otherwise)
    for view, rows in table.groupby("view", sort=False):
        var[f"accuracy_from_{view}"] = rows.set_index("feature")["score"].reindex(var.index)
    return dataclasses.replace(part, var=var)


def write_imputed(
    output: Path,
    parts: Sequence[ImputedModality],
    obs: pd.DataFrame,
    *,
    uns: Mapping[str, Any] | None = None,
    obsm: Mapping[str, NDArray[np.float32]] | None = None,
    overwrite: bool = False,
    group: Group | None = None,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write imputed values, whole or not at all.

    Parameters
    ----------
    output
        An .h5mu; or an .h5ad, for one modality.
    parts
        The modalities.
    obs
        Of all cells; those in none of the parts are left out.
    uns
        Entries of ``uns["mosaicvi"]`` besides scale and batch.
    obsm
        Places of all cells, for an .h5mu.
    overwrite
        Whether a file may be replaced.
    group
        The processes that write together, each the values that it has.
    advance
        Called with the number of rows written.

    Raises
    ------
    InputError
        The output exists or there is no room for it; what was there is unchanged.
    LostRankError
        Another process of the group ended.
    """
    with ExitStack() as held:

        def prepared() -> bytes:
            check_room(output, sum(4 * len(p.arrays) * p.shape[0] * p.shape[1] for p in parts))
            temporary = held.enter_context(atomic_path(output, overwrite=overwrite))
            with mudata_as_it_is():
                _write_skeleton(temporary, parts, obs, dict(uns or {}), obsm or {})
            return json.dumps([str(temporary.absolute()), _make_room(temporary, parts)]).encode()

        path, offsets = json.loads(prepared() if group is None else group.from_first(prepared))
        try:
            file = open(path, "r+b")  # noqa: SIM115
        except FileNotFoundError:
            raise InputError(
                f"{shown(output)} is not seen by all processes; name a folder that their machines share."
            ) from None
        with file:
            for part, at in zip(parts, offsets, strict=True):
                _fill(file, part, at, advance)
        if group is not None:
            group.wait()


def check_room(output: Path, n_bytes: int) -> None:
    """Refuse an output for which its disk has no room."""
    free = shutil.disk_usage(output.parent).free
    if n_bytes > free:
        raise InputError(
            f"{shown(output)} needs {size(n_bytes)}, but {size(free)} are free there; "
            "ask for fewer cells or modalities, or choose another folder"
        )


def size(n_bytes: int) -> str:
    """A number of bytes in the unit that suits it: ``1.3 GB``, ``96 kB``."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= one:
            return f"{n_bytes / one:.3g} {unit}"
    return f"{n_bytes} bytes"


def _write_skeleton(
    path: Path,
    parts: Sequence[ImputedModality],
    obs: pd.DataFrame,
    uns: dict[str, Any],
    obsm: Mapping[str, NDArray[np.float32]],
) -> None:
    shells = {part.name: _shell(part, uns) for part in parts}
    if path.suffix == ".h5ad":
        shell = shells[parts[0].name]
        shell.obs = obs.loc[shell.obs_names].join(shell.obs)
        shell.write_h5ad(path)
        return
    there = np.zeros(len(obs), bool)
    for part in parts:
        there[obs.index.get_indexer(part.cells)] = True
    mdata = MuData(shells)
    if not mdata.obs_names.equals(obs.index[there]):
        mdata = mdata[obs.index[there]].copy()
    mdata.obs = obs[there].copy()
    for key, places in obsm.items():
        mdata.obsm[key] = places[there]
    mdata.uns["mosaicvi"] = {**uns, "scale": {part.name: str(part.scale) for part in parts}}
    mdata.uns["mosaicvi"]["batch"] = {part.name: part.batch for part in parts}
    stained = {part.name: part.staining for part in parts if part.staining is not None}
    mdata.uns["mosaicvi"] |= {"staining": stained} if stained else {}
    mdata.write_h5mu(path)


def _shell(part: ImputedModality, uns: Mapping[str, Any]) -> AnnData:
    """All of a modality but its values."""
    shell = AnnData(obs=pd.DataFrame({"measured": part.measured}, index=part.cells), var=part.var.copy())
    for key, table in part.varm.items():
        shell.varm[key] = table
    scale = {k: v for k, v in dataclasses.asdict(part.scale).items() if v is not None}
    about = {**uns, "scale": str(part.scale), "batch": part.batch}
    about |= {} if part.level is None else {"interval": part.level}
    about |= {} if part.staining is None else {"staining": part.staining}
    about |= {} if part.interval_note is None else {"interval_note": part.interval_note}
    shell.uns["mosaicvi"] = {**about, **{f"scale_{k}": v for k, v in scale.items()}}
    return shell


def _make_room(path: Path, parts: Sequence[ImputedModality]) -> list[list[int]]:
    """Create each modality's arrays without writing them; where the bytes of each begin in the file."""
    offsets = []
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "r+") as file:
        for part in parts:
            group = file if path.suffix == ".h5ad" else file[f"mod/{part.name}"]
            if "X" in group:
                del group["X"]
            found = []
            for where in part.arrays:
                space = h5py.h5s.create_simple(part.shape)
                array = h5py.h5d.create(group.id, where.encode(), h5py.h5t.IEEE_F32LE, space, layout)
                h5py.Dataset(array).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
                found.append(int(array.get_offset()))
            offsets.append(found)
    return offsets


def _fill(
    file: BinaryIO, part: ImputedModality, offsets: Sequence[int], advance: Callable[[int], None] | None
) -> None:
    def write(offset: int, rows: slice, values: NDArray[np.float32]) -> None:
        file.seek(offset + rows.start * 4 * part.shape[1])
        file.write(np.ascontiguousarray(values, "<f4").tobytes())

    for rows, values in part.values:
        write(offsets[0], rows, values)
        if advance is not None:
            advance(len(values))
    for rows, *ends in part.interval or ():
        for offset, end in zip(offsets[1:], ends, strict=True):
            write(offset, rows, end)
        if advance is not None:
            advance(len(ends[0]))
