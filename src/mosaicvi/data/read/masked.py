"""A matrix of all features, with masks that say of each entry whether it is seen, as a MuData with panels.

Legend: n cells, D features, P patterns of what is seen.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config.arguments import whole
from mosaicvi.data.blocks import distinct_rows
from mosaicvi.data.read.modalities import mudata_as_it_is
from mosaicvi.errors import InputError, warn

MOST_PANELS = 64  # patterns up to which they are panels, and values stay sparse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked:
    """Values with what is seen of them.

    Attributes
    ----------
    x
        Values (n, D), dense or CSR; NaN is missing.
    table, code
        Different patterns (P, D), and that of each cell (n,).
    dataset
        Row of masks of each cell, (n,), where they have a row for each dataset.
    is_full
        Whether the masks came cell by cell.
    """

    x: Any
    table: NDArray[np.bool_]
    code: NDArray[np.int64]
    dataset: NDArray[np.int64] | None
    is_full: bool

    def measured(self) -> NDArray[np.bool_]:
        """Features of which some cell has a value, (D,); a warning tells of the others."""
        found: NDArray[np.bool_] = np.any(self.table, axis=0)
        if not found.all():
            warn(
                f"No cell has a value of {(~found).sum():,} features (such as column "
                f"{int(np.argmin(found))}); nothing is learned of them, and their answers are NaN."
            )
        return found

    def only(self, masks: Any) -> Masked:
        """The same, less what further masks hide: entries other than 0."""
        shown = _shown(masks, self.dataset, self.x.shape, allowed=(-1, 0, 1))
        table, code = _patterns(self.table[self.code] & shown)
        return dataclasses.replace(self, table=table, code=code)

    def mudata(
        self, columns: list[tuple[str, NDArray[np.int64]]], block: NDArray[np.int64], obs: pd.DataFrame
    ) -> MuData:
        """As a MuData, with the pattern of each cell as its panel, or NaN where patterns are many.

        Parameters
        ----------
        columns
            Name and columns of each modality.
        block
            Of each feature, (D,).
        obs
            Further columns of ``obs``.
        """
        mods, are_panels = {}, len(self.table) <= MOST_PANELS
        for name, at in columns:
            x, seen = self.x[:, at], self.table[:, at]
            if sp.issparse(x) and are_panels:
                x = x.multiply(seen[self.code]).tocsr()
            else:
                x = np.where(seen[self.code], x.toarray() if sp.issparse(x) else x, np.float32(np.nan))
            var = pd.DataFrame({"block": block[at].astype(str)}, index=[f"{name}:{j}" for j in at])
            mods[name] = AnnData(x.astype(np.float32), obs=obs[[]], var=var)
            if are_panels:
                patterns = [str(p) for p in range(len(seen))]
                mods[name].varm["measured"] = pd.DataFrame(seen.T, index=var.index, columns=patterns)
        with mudata_as_it_is():
            mdata = MuData(mods)
            mdata.obs = obs.assign(pattern=self.code.astype(str))
        return mdata


def read_masked(data: Any, masks: Any, id_dataset: Any) -> Masked:
    """Read a matrix and its masks.

    Parameters
    ----------
    data
        Values (n, D), dense or sparse, in the order of modalities and blocks; NaN is missing.
    masks
        -1 missing, 0 seen: (n, D), or a row for all cells, or for each dataset. None where all is seen.
    id_dataset
        Row of `masks` of each cell, counted from 0.

    Raises
    ------
    InputError
        They do not fit one another, or a cell has no value.
    """
    if isinstance(data, AnnData | MuData):
        raise InputError("data: an array is needed; give the values, such as data.X.")
    x: Any = data.tocsr() if sp.issparse(data) else _numbers("data", data)
    if x.ndim != 2 or not all(x.shape):
        raise InputError(f"data: a table of cells x features is needed, not the shape {x.shape}.")
    dataset = None
    if id_dataset is not None:
        try:
            given = np.asarray(id_dataset, np.float64).ravel().tolist()
        except (TypeError, ValueError) as error:
            some = np.asarray(id_dataset, object).ravel()[0]
            raise InputError(
                f"id_dataset: the row of masks of each cell is needed, counted from 0, not {some!r}; "
                "pandas.factorize(id_dataset)[0] counts names in the order in which they come."
            ) from error
        dataset = np.array([whole("id_dataset", one) for one in given], np.int64)
        if len(dataset) != x.shape[0]:
            raise InputError(
                f"id_dataset: {len(dataset):,} numbers for {x.shape[0]:,} cells; give one per cell."
            )
    shown = _shown(masks, dataset, x.shape, allowed=(-1, 0))
    table, code = _patterns(shown if sp.issparse(x) else shown & ~np.isnan(x))
    is_full = masks is None or np.shape(masks) == x.shape
    return Masked(x=x, table=table, code=code, dataset=dataset, is_full=is_full)


def _shown(
    masks: Any, dataset: NDArray[np.int64] | None, shape: tuple[int, int], *, allowed: tuple[int, ...]
) -> NDArray[np.bool_]:
    """What masks leave visible, (n, D)."""
    if masks is None:
        return np.ones(shape, bool)
    masks = masks.toarray() if sp.issparse(masks) else masks
    if np.asarray(masks).dtype == bool:
        raise InputError(
            "masks: -1 is missing and 0 is seen, not True and False; -1.0 * masks has True missing."
        )
    m = _numbers("masks", masks)
    strange = m[~np.isin(m, allowed)]
    if len(strange):
        raise InputError(f"masks: -1 is missing and 0 is seen; {strange[0]:g} is neither.")
    seen: NDArray[np.bool_] = m == 0
    if m.shape in (shape, shape[1:]) or (dataset is None and m.shape == (1, shape[1])):
        return np.broadcast_to(seen, shape)
    if dataset is None or m.shape[1:] != shape[1:]:
        raise InputError(
            f"masks: the shape {m.shape} fits neither data, {shape}, nor id_dataset; give a row for each "
            f"cell, or a row of {shape[1]} for each dataset and the row of each cell in id_dataset."
        )
    if dataset.max() >= len(m):
        raise InputError(
            f"id_dataset: {dataset.min()} to {dataset.max()}, but masks has the rows 0 to {len(m) - 1}; "
            "count datasets from 0."
        )
    return seen[dataset]


def _numbers(name: str, value: Any) -> NDArray[np.float32]:
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: a table of numbers is needed, and nothing else ({error}).") from error


def _patterns(shown: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Different rows (P, D), and which of them each row is, (n,)."""
    packed = np.packbits(shown, axis=1)
    padded = np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))))
    _, code = distinct_rows(padded.view(">u8").astype(np.uint64))  # 64 features at a time
    blind = np.flatnonzero(~shown.any(1))
    if len(blind):
        raise InputError(
            f"masks: nothing is left to see of {len(blind):,} cells (such as {blind[0]}, counted from 0); "
            "leave these cells out, or leave them a value."
        )
    _, first = np.unique(code, return_index=True)
    return shown[first], code


def annotation(name: str, value: Any, n: int, *, numbers: bool = False) -> pd.DataFrame:
    """Columns of ``obs`` of an array or table, (n, k), or of None, (n, 0), named by the argument.

    Parameters
    ----------
    name, value
        Of the argument.
    n
        Number of cells.
    numbers
        Whether they are numbers; in place of NaN stands the mean, with a warning.

    Raises
    ------
    InputError
        There are not n rows.
    """
    if sp.issparse(value):
        value = value.toarray()
    rows = value if np.iterable(value) and not isinstance(value, str) else [value]
    frame = pd.DataFrame(index=range(n)) if value is None else pd.DataFrame(rows)
    if len(frame) != n:
        raise InputError(f"{name}: {len(frame):,} rows for {n:,} cells; give one per cell.")
    columns = [f"{name}[:, {j}]" for j in range(frame.shape[1])]
    frame = frame.set_axis(columns, axis=1).set_axis([str(i) for i in range(n)], axis=0)
    return _with_means(frame) if numbers else frame


def _with_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers, with the mean in place of NaN; a warning says of how many cells."""
    frame = frame.apply(pd.to_numeric, errors="coerce")
    for column, missing in frame.isna().items():
        if missing.any() and not missing.all():
            warn(
                f"{column}: no number is given for {missing.sum():,} of {len(frame):,} cells (such as "
                f"{int(np.argmax(missing))}, counted from 0); the mean of the others is taken."
            )
    return frame.fillna(frame.mean())
