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
    varm
        What is known of them, such as ``"measured"``: features × panels.
    scale
        What the values mean.
    batch
        As which batch.
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
    varm: Mapping[str, pd.DataFrame] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        return len(self.cells), len(self.var)


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
            check_room(output, sum(n * d for n, d in (part.shape for part in parts)) * 4)
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
            for part, offset in zip(parts, offsets, strict=True):
                _fill(file, part, offset, advance)
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
    mdata.write_h5mu(path)


def _shell(part: ImputedModality, uns: Mapping[str, Any]) -> AnnData:
    """All of a modality but its values."""
    shell = AnnData(obs=pd.DataFrame({"measured": part.measured}, index=part.cells), var=part.var.copy())
    for key, table in part.varm.items():
        shell.varm[key] = table
    scale = {k: v for k, v in dataclasses.asdict(part.scale).items() if v is not None}
    about = {**uns, "scale": str(part.scale), "batch": part.batch}
    shell.uns["mosaicvi"] = {**about, **{f"scale_{k}": v for k, v in scale.items()}}
    return shell


def _make_room(path: Path, parts: Sequence[ImputedModality]) -> list[int]:
    """Create each modality's X without writing it; where its bytes begin in the file."""
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
            space = h5py.h5s.create_simple(part.shape)
            x = h5py.h5d.create(group.id, b"X", h5py.h5t.IEEE_F32LE, space, layout)
            h5py.Dataset(x).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            offsets.append(int(x.get_offset()))
    return offsets


def _fill(file: BinaryIO, part: ImputedModality, offset: int, advance: Callable[[int], None] | None) -> None:
    row = 4 * part.shape[1]
    for rows, values in part.values:
        file.seek(offset + rows.start * row)
        file.write(np.ascontiguousarray(values, "<f4").tobytes())
        if advance is not None:
            advance(len(values))
