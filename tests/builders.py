"""Small mosaics whose every entry is known, and a fingerprint of what a user holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from mosaicvi.data.read import mudata_as_it_is

PEAKS = ["chr2:1-9", "chr1:1-9", "chr2:20-29", "chr1:20-29", "chr1:40-49", "chr2:40-49", "chr1:60-69"]


def mudata_of(mods: dict[str, AnnData], obs: pd.DataFrame | None = None) -> MuData:
    """A MuData whose cells are in the order of `obs`, without columns of its own besides."""
    with mudata_as_it_is():
        mdata = MuData(mods) if obs is None else MuData(mods, obs=pd.DataFrame(index=obs.index))
        if obs is not None:
            mdata.obs = obs
    return mdata


def random_mudata(
    seed: int,
    *,
    n_cells: int = 24,
    n_genes: int = 6,
    panels: bool = True,
    nan: bool = True,
    fractions: bool = False,
    modalities: tuple[str, ...] = ("rna", "adt", "atac"),
) -> MuData:
    """Three modalities: counts with panels, dense proteins with NaN, peaks of two chromosomes mixed up.

    Which cell has which modality is random, cells stand in another order in each of them, and the
    columns ``batch`` and ``age`` are in obs of the whole.
    """
    rng = np.random.default_rng(seed)
    cells = np.array([f"cell{i}" for i in range(n_cells)], dtype=object)
    batch = np.where(rng.random(n_cells) < 0.5, "A", "B")
    batch[:2] = "A", "B"
    has = rng.random((n_cells, len(modalities))) < 0.6
    has[np.arange(n_cells), rng.integers(0, len(modalities), n_cells)] = True
    has[:2] = True
    mods = {}
    for m, name in enumerate(modalities):
        rows = rng.permutation(np.flatnonzero(has[:, m]))
        mods[name] = _modality(name, rng, cells[rows], batch[rows], n_genes, panels, nan, fractions)
    obs = pd.DataFrame({"batch": pd.Categorical(batch), "age": rng.normal(40, 10, n_cells)}, index=cells)
    return mudata_of(mods, obs)


def _modality(
    name: str,
    rng: np.random.Generator,
    cells: np.ndarray,
    batch: np.ndarray,
    n_genes: int,
    panels: bool,
    nan: bool,
    fractions: bool,
) -> AnnData:
    n = len(cells)
    if name == "rna":
        x = rng.poisson(0.8, (n, n_genes))
        a = AnnData(
            sp.csr_matrix(x.astype(np.float32)), var=pd.DataFrame(index=[f"g{j}" for j in range(n_genes)])
        )
        a.obs_names = cells
        if panels:
            measured = rng.random((n_genes, 2)) < 0.7
            measured[rng.integers(n_genes), :] = True
            measured[~measured.any(1), 0] = True
            a.varm["measured"] = pd.DataFrame(measured, index=a.var_names, columns=["A", "B"])
            inside = measured.T[(batch == "B").astype(int)]
            a.X = sp.csr_matrix((x * inside).astype(np.float32))
        return a
    if name == "adt":
        x = rng.poisson(3.0, (n, 4)).astype(np.float32) if not fractions else rng.normal(0, 2, (n, 4))
        x = np.asarray(x, np.float32)
        if nan:
            hidden = rng.random(x.shape) < 0.2
            hidden[0] = False
            hidden[:, 0] = False
            x[hidden] = np.nan
        return AnnData(x, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=[f"p{j}" for j in range(4)]))
    x = rng.integers(0, 3, (n, len(PEAKS))) * (rng.random((n, len(PEAKS))) < 0.4)
    return AnnData(
        sp.csr_matrix(x.astype(np.float32)), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=PEAKS)
    )


def truth(mdata: MuData, name: str, features: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What the user's object says of a modality, dense by cell: values and measured, (n, D)."""
    a = mdata.mod[name]
    dense = pd.DataFrame(
        a.X.toarray() if sp.issparse(a.X) else np.asarray(a.X), index=a.obs_names, columns=a.var_names
    )
    known = pd.DataFrame(True, index=a.obs_names, columns=a.var_names)
    if "measured" in a.varm:
        table = a.varm["measured"]
        for cell in a.obs_names:
            known.loc[cell] = table[str(mdata.obs.loc[cell, "batch"])].to_numpy()
    known &= dense.notna()
    out = dense.reindex(index=mdata.obs_names, columns=list(features))
    measured = known.reindex(index=mdata.obs_names, columns=list(features)).fillna(False).to_numpy(bool)
    return np.where(measured, out.to_numpy(np.float64), 0.0), measured


def fingerprint(data: Any) -> str:
    """Hash of everything in an AnnData or MuData, stored arrays to the byte and in their order."""
    h = hashlib.sha256()
    _feed(h, data)
    return h.hexdigest()


def _feed(h: Any, value: Any) -> None:
    if isinstance(value, MuData):
        for part in (value.obs, value.var, dict(value.obsm), dict(value.uns), dict(value.mod)):
            _feed(h, part)
    elif isinstance(value, AnnData):
        parts = (
            value.obs,
            value.var,
            dict(value.obsm),
            dict(value.varm),
            dict(value.layers),
            dict(value.uns),
        )
        for part in (value.X, *parts):
            _feed(h, part)
    elif isinstance(value, dict):
        for key, part in value.items():
            h.update(str(key).encode())
            _feed(h, part)
    elif isinstance(value, pd.DataFrame):
        h.update(repr((list(value.columns), list(value.index), list(map(str, value.dtypes)))).encode())
        h.update(repr(value.to_numpy(object).tolist()).encode())
    elif sp.issparse(value):
        csr = value
        for part in (csr.data, csr.indices, csr.indptr):
            _feed(h, part)
    elif isinstance(value, np.ndarray):
        h.update(str(value.dtype).encode() + repr(value.shape).encode())
        h.update(repr(value.tolist()).encode() if value.dtype == object else value.tobytes())
    else:
        h.update(repr(value).encode())


def protein_tables(folder: Path, n: int, d: int, *, nobody: int | None = None, decoy: bool = False) -> Path:
    """Raw intensities as MaxQuant and DIA-NN write them, and a table of the samples of the first.

    Parameters
    ----------
    folder
        Where ``proteinGroups.txt``, ``report.pg_matrix.tsv`` and ``samples.csv`` are written.
    n, d
        Samples of each table, and genes of both: the first six are in the first table alone, as many of the
        last in the second.
    nobody
        A gene without any value.
    decoy
        Whether the last row of the first table is marked as one.
    """
    rng = np.random.default_rng(0)
    logs = 24 + rng.normal(0, 2, d) + rng.normal(size=(2 * n, 2)) @ rng.normal(size=(2, d))
    logs[rng.random(logs.shape) < 0.2] = np.nan
    if nobody is not None:
        logs[:, nobody] = np.nan
    genes = [f"GENE{j}" for j in range(d)]
    k = d - 6
    one = pd.DataFrame({"Protein IDs": [f"P{j:05d};P{j:05d}-2" for j in range(k)]})
    one["Gene names"] = [*(f"{g};{g}L" for g in genes[: k - 1]), ""]
    one["Peptides"] = 7
    one["Reverse"] = ["+" if decoy and j == k - 1 else "" for j in range(k)]
    names = [f"LFQ intensity S{i}" for i in range(n)]
    whole = np.nan_to_num(np.exp2(logs[:n, :k])).astype(np.int64).T
    first = pd.concat([one, pd.DataFrame(whole, columns=names)], axis=1)
    first.to_csv(folder / "proteinGroups.txt", sep="\t", index=False)
    two = pd.DataFrame({"Protein.Group": [f"P{j:05d}" for j in range(6, d)], "Genes": genes[6:]})
    files = [rf"D:\raw\plate{1 + i % 2}\S{i}.raw" for i in range(n)]
    second = pd.concat([two, pd.DataFrame(np.exp2(logs[n:, 6:]).T, columns=files)], axis=1)
    second.to_csv(folder / "report.pg_matrix.tsv", sep="\t", index=False)
    plates = [f"p{1 + i % 2}" for i in range(n + 1)]
    samples = pd.DataFrame({"sample": [*names, "S99"], "plate": plates})
    samples.to_csv(folder / "samples.csv", index=False)
    return folder
