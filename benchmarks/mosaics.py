"""Mosaics whose hidden values are known, as they lie in a folder; none is known by its name.

``NAME.h5mu`` is what a method sees and ``NAME.truth.h5mu`` every measured value. Studies with protein panels
lie each in a ``NAME.STUDY.h5ad``, their truth in ``NAME.truth.h5ad``. ``obs`` has batch, celltype and, in
h5mu, group: what the cell shows.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import anndata
import mudata
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from benchmarks.common import say, shown
from mosaicvi import Mosaic, MosaicVI, combine

Bools = npt.NDArray[np.bool_]
NEIGHBOURS = 15  # in which groups are to mix
UNKNOWN = ("unknown", "nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A mosaic, its truth, and what each cell is.

    Attributes
    ----------
    truth
        Each modality with what was hidden as well: counts, or values.
    names
        Of the mosaic's cells in the truth.
    label, group
        Of each cell; "unknown" labels are not scored.
    """

    name: str
    folder: Path
    mosaic: Mosaic
    truth: dict[str, AnnData]
    names: pd.Index
    label: npt.NDArray[Any]
    group: npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hidden:
    """What of a modality was measured and not shown.

    Attributes
    ----------
    rows, cells
        Positions in the truth and in the mosaic of the cells that have hidden entries, r each.
    entries
        Which they are, r × d, columns as in the truth.
    """

    rows: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]
    entries: Bools


def find(folder: Path, asked: list[str] | None = None) -> list[str]:
    """Names of the tasks in a folder, those asked for or all; says what is there in part only."""
    found = []
    for path in sorted(folder.glob("*.truth.h5*")):
        name, _, kind = path.name.partition(".truth.")
        seen = [folder / f"{name}.h5mu"] if kind == "h5mu" else list(studies(folder, name).values())
        if kind in ("h5mu", "h5ad") and seen and seen[0].exists():
            found.append(name)
        else:
            say(f"skipped {name}: {path.name} is in {shown(folder)}, but not what a method is to see")
    for name in asked or ():
        if name not in found:
            say(f"skipped {name}: no {name}.h5mu or {name}.STUDY.h5ad with a truth in {shown(folder)}")
    return [name for name in found if not asked or name in asked]


def studies(folder: Path, name: str) -> dict[str, Path]:
    """Files of the studies of a task by the studies' names."""
    paths = sorted(folder.glob(f"{name}.*.h5ad"))
    found = {path.name.removeprefix(f"{name}.").removesuffix(".h5ad"): path for path in paths}
    return {study: path for study, path in found.items() if study != "truth"}


def read_task(folder: Path, name: str) -> Task:
    """Read and register a task with nothing but its batches said."""
    return task_of(name, folder, *read_seen(folder, name))


def read_with_hidden_entries(folder: Path, name: str, share: float = 0.1) -> Task | None:
    """A task with a share of the measured entries hidden as well; None if no single entries are missing.

    What a task hides by itself may be what a batch never measured; these are of batches that did.
    """
    seen, truth, obs, names = read_seen(folder, name)
    rng, found = np.random.default_rng(0), False
    for part in seen.mod.values():
        if not sp.issparse(part.X) and np.isnan(part.X).any():
            part.X = np.where(rng.random(part.shape) < share, np.nan, part.X)
            found = True
    return task_of(f"{name}-entries", folder, seen, truth, obs, names) if found else None


def read_seen(folder: Path, name: str) -> tuple[MuData, dict[str, AnnData], pd.DataFrame, pd.Series]:
    """What a method sees; the truth; obs; and the name of each cell in the truth."""
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        if (folder / f"{name}.truth.h5mu").exists():
            seen = mudata.read_h5mu(folder / f"{name}.h5mu")
            truth = dict(mudata.read_h5mu(folder / f"{name}.truth.h5mu").mod)
            obs = seen.obs.astype(str)
            names = pd.Series(seen.obs_names, index=seen.obs_names)
        else:
            seen = combine(studies(folder, name), modality="adt", progress=False)
            truth = {"adt": anndata.read_h5ad(folder / f"{name}.truth.h5ad")}
            obs = seen.obs.astype(str)
            obs["group"], names = obs.batch, obs.original_name
    return seen, truth, obs, names


def task_of(
    name: str, folder: Path, seen: MuData, truth: dict[str, AnnData], obs: pd.DataFrame, names: pd.Series
) -> Task:
    """A task of what `read_seen` returned, registered with nothing but its batches said."""
    mosaic = MosaicVI.setup_mudata(seen, batch_key="batch")
    obs = obs.loc[mosaic.cells]
    return Task(
        name=name,
        folder=folder,
        mosaic=mosaic,
        truth={m: t for m, t in truth.items() if m in mosaic.registry.features},
        names=pd.Index(names.loc[mosaic.cells]),
        label=obs.celltype.to_numpy(object),
        group=groups_to_mix(obs.batch, obs.group).to_numpy(object),
    )


def groups_to_mix(batch: pd.Series, group: pd.Series) -> pd.Series:
    """Batch × what was shown; what was shown alone, where so many groups fit into no neighbourhood."""
    both = batch + ":" + group
    return group if both.nunique() > NEIGHBOURS else both


def hidden(task: Task, modality: str) -> Hidden:
    """Entries that the truth has and the mosaic has not; without features that no cell shows."""
    truth, data = task.truth[modality], task.mosaic.modality(modality)
    cells = task.names.get_indexer(truth.obs_names)
    measured = np.ones(truth.shape, bool) if sp.issparse(truth.X) else ~np.isnan(np.asarray(truth.X))
    column = pd.Index(data.features.names).get_indexer(truth.var_names)
    shown_rd = data.panels[data.panel_of_row] if data.entry_measured is None else data.entry_measured
    measured &= (column >= 0) & np.asarray(shown_rd.any(0))[column]
    row = np.where(cells >= 0, data.row_of_cell[cells], -1)
    there = np.flatnonzero(row >= 0)
    measured[there] &= ~shown_rd[row[there]][:, column]
    rows = np.flatnonzero(measured.any(1) & (cells >= 0))
    return Hidden(rows=rows, cells=cells[rows], entries=measured[rows])
