"""Output of 10x Genomics: the ``.h5`` file and the folder of ``matrix.mtx``, barcodes and features."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from scipy import io, sparse

from mosaicvi.data.problems import listed, problem
from mosaicvi.data.read.contained import check_size
from mosaicvi.data.read.lines import first_lines
from mosaicvi.data.sparse import arrays_fault
from mosaicvi.errors import InputError, warn

MODALITIES = {"Gene Expression": "rna", "Antibody Capture": "adt", "Peaks": "atac"}
"""The modality of each ``feature_types`` that 10x writes and that is common."""


def modality_of(feature_type: str) -> str:
    """``rna``, ``adt``, ``atac``; another type in lower case with ``_`` between its words."""
    return MODALITIES.get(feature_type) or re.sub(r"\W+", "_", feature_type).strip("_").lower() or "rna"


def genomes_of(file: h5py.File) -> list[str] | None:
    """The groups with a matrix: ``matrix``, or in version 2 the genomes; None if it is no 10x file."""
    if _holds_matrix(file.get("matrix")):
        return ["matrix"]
    names = [name for name in file if _holds_matrix(file[name]) and "gene_names" in file[name]]
    return names if names and len(names) == len(file) else None


def _holds_matrix(group: object) -> bool:
    return isinstance(group, h5py.Group) and {"data", "indices", "indptr", "shape", "barcodes"} <= set(group)


def read_h5(path: Path, *, genome: str | None = None) -> dict[str, AnnData]:
    """Read a Cell Ranger ``.h5`` file: version 3 and later, or 2.

    Parameters
    ----------
    path
        Of the file.
    genome
        Read this genome alone; needed in version 2 where there are several.

    Returns
    -------
    One AnnData for each feature type, by modality name.
    """
    with h5py.File(path, "r") as file:
        modern = "matrix" in file
        group = file["matrix"] if modern else file[_genome(path, sorted(file), genome)]
        n_features, n_cells = (int(n) for n in group["shape"][:])
        # Stored by columns, features × cells: read as rows, it is cells × features.
        data, indices, indptr = (group[name][:] for name in ("data", "indices", "indptr"))
        fault = arrays_fault(indptr, indices, len(data), n_cells, n_features)
        if fault is not None:
            raise InputError(problem("sparse", name=path, what="its matrix", fault=fault))
        x_nd = sparse.csr_matrix(
            (data.astype(np.float32, copy=False), indices, indptr), shape=(n_cells, n_features)
        )
        barcodes = group["barcodes"].asstr()[:]
        columns = _modern_columns(group["features"], n_features) if modern else _old_columns(group)
    names, var = columns.pop("name"), pd.DataFrame(columns)
    if modern and genome is not None:
        chosen = (var["genome"] == genome).to_numpy() if "genome" in var else np.zeros(n_features, bool)
        if not chosen.any():
            _genome(path, sorted(set(var.get("genome", ()))), genome)
        x_nd, names, var = x_nd[:, chosen], names[chosen], var[chosen].reset_index(drop=True)
    return _split(path, x_nd, barcodes, names, var)


def _genome(path: Path, there: list[str], wanted: str | None) -> str:
    """The one genome that is wanted, or that is there."""
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted is None:
        raise InputError(problem("genomes", name=path, example=there[0], genomes=listed(there)))
    if wanted not in there:
        raise InputError(problem("no-genome", name=path, genome=wanted, genomes=listed(there)))
    return wanted


def _modern_columns(features: h5py.Group, n: int) -> dict[str, npt.NDArray[np.object_]]:
    stored = {"name": "name", "gene_ids": "id", "feature_types": "feature_type", "genome": "genome"}
    found = {column: features[key].asstr()[()] for column, key in stored.items() if key in features}
    found.setdefault("feature_types", "Gene Expression")
    return {column: np.broadcast_to(np.asarray(value, object), n) for column, value in found.items()}


def _old_columns(genome: h5py.Group) -> dict[str, npt.NDArray[np.object_]]:
    ids = genome["genes"].asstr()[:]
    types = np.full(len(ids), "Gene Expression", object)
    return {"name": genome["gene_names"].asstr()[:], "gene_ids": ids, "feature_types": types}


def matrix_files(folder: Path) -> list[Path]:
    """The ``matrix.mtx`` files of a folder, with or without a prefix and ``.gz``."""
    return sorted(p for p in folder.iterdir() if re.search(r"(^|[._-])matrix\.mtx(\.gz)?$", p.name))


def read_mtx(folder: Path, *, genome: str | None = None) -> dict[str, AnnData]:
    """Read a folder of ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv``, ``genes.tsv`` or ``peaks.bed``.

    Parameters
    ----------
    folder
        With the three files.
    genome
        Take the features whose ids or names begin with it, ``hg19_``.

    Returns
    -------
    One AnnData for each feature type, by modality name.
    """
    matrix = matrix_files(folder)[0]
    prefix = re.sub(r"matrix\.mtx(\.gz)?$", "", matrix.name)
    barcodes = _names(folder, prefix, ("barcodes.tsv",), matrix)
    features = _names(folder, prefix, ("features.tsv", "genes.tsv", "peaks.bed"), matrix)
    n_rows, n_columns, n_values, *_ = io.mminfo(matrix)  # before memory is taken for so many
    if (n_rows, n_columns) != (len(features), len(barcodes)):
        raise InputError(
            problem(
                "mtx-shape",
                name=folder,
                n_features=n_rows,
                n_cells=n_columns,
                feature_names=len(features),
                cell_names=len(barcodes),
            )
        )
    check_size(matrix, "its list of values", 12 * n_values, matrix.stat().st_size)
    x_dn = sparse.coo_matrix(io.mmread(matrix))
    names, var = _feature_table(features)
    x_nd = sparse.csr_matrix(x_dn.T, dtype=np.float32)
    if genome is not None:
        prefixes = pd.Series(names, dtype=str).str.extract(r"^([A-Za-z]+\d+)_+")[0]
        chosen = (prefixes == genome).to_numpy()
        if not chosen.any():
            _genome(folder, sorted(set(prefixes.dropna())), genome)
        x_nd, names, var = x_nd[:, chosen], names[chosen], var[chosen].reset_index(drop=True)
    return _split(folder, x_nd, barcodes[0].to_numpy(), names, var)


def _names(folder: Path, prefix: str, choices: tuple[str, ...], matrix: Path) -> pd.DataFrame:
    for name in choices:
        for path in (folder / f"{prefix}{name}", folder / f"{prefix}{name}.gz"):
            if path.exists():
                first_lines(path, 1)
                rows = pd.read_csv(path, sep="\t", header=None, dtype=str, na_filter=False)
                lacks = (rows == "").any(axis=1).to_numpy()
                if lacks[-1:].all() and not lacks[:-1].any():
                    reason = f"the last line is shorter than others: {' '.join(rows.iloc[-1])!r:.60}"
                    raise InputError(problem("damaged", name=path, reason=reason))
                return rows
    raise InputError(problem("mtx-part", name=folder, part=prefix + " or ".join(choices), matrix=matrix.name))


def _feature_table(rows: pd.DataFrame) -> tuple[npt.NDArray[np.object_], pd.DataFrame]:
    """Names and ``var`` from id, name, type; id, name; names alone; or chromosome, start, end."""
    n_columns = rows.shape[1]
    if n_columns >= 3 and rows[1].str.isdigit().all() and rows[2].str.isdigit().all():
        names = (rows[0] + ":" + rows[1] + "-" + rows[2]).to_numpy()
        return names, pd.DataFrame({"feature_types": np.full(len(rows), "Peaks", object)})
    names = rows[min(1, n_columns - 1)].to_numpy()
    types = rows[2].to_numpy() if n_columns >= 3 else np.full(len(rows), "Gene Expression", object)
    return names, pd.DataFrame({"gene_ids": rows[0].to_numpy(), "feature_types": types})


def _split(
    path: Path,
    x_nd: sparse.csr_matrix,
    barcodes: npt.NDArray[np.object_],
    names: npt.NDArray[np.object_],
    var: pd.DataFrame,
) -> dict[str, AnnData]:
    types = var["feature_types"].to_numpy()
    parts = {}
    for feature_type in dict.fromkeys(types):
        chosen = types == feature_type
        part_var = var[chosen].set_index(_unique_names(path, names[chosen], var.loc[chosen]))
        part_x = x_nd if chosen.all() else x_nd[:, chosen]
        parts[modality_of(feature_type)] = AnnData(part_x, obs=pd.DataFrame(index=barcodes), var=part_var)
    return parts


def _unique_names(path: Path, names: npt.NDArray[np.object_], var: pd.DataFrame) -> pd.Index[str]:
    """Names, those that occur more than once replaced by their ids, with a warning that says which."""
    index = pd.Index(names, dtype=object)
    repeated = index.duplicated(keep=False)
    if not repeated.any() or "gene_ids" not in var:
        return index
    warn(
        f"{path}: {index[repeated].nunique()} names occur more than once "
        f"({listed(index[repeated].unique())}); these {repeated.sum()} features are named by their ids"
    )
    return pd.Index(np.where(repeated, var["gene_ids"], index), dtype=object)
