"""Cells and what they can be coloured by, small enough to travel inside a page.

Cells are put in an order in which neighbours in the picture are neighbours in the list, so that a column
changes little from one cell to the next; differences are then stored in a byte each and compressed. A
number keeps 64 levels (`LEVELS`), which is more than an eye tells apart.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.errors import InputError
from mosaicvi.infer.impute import ImputationRequest, imputed
from mosaicvi.view.cells import column, column_names
from mosaicvi.view.palette import MISSING, categories, column_colors, is_categorical

if TYPE_CHECKING:
    from mosaicvi.model import MosaicVI

LEVELS = 64
MOST_KINDS = 250
MOST_COLUMNS = 24
MOST_FEATURES = 200  # per modality
MOST_VALUES = 200_000_000  # imputed ones in memory; no page could hold so many
BUDGET = 4_300_000  # characters of the whole payload
NAMES_BUDGET = 600_000
CELLS_AT_A_TIME = 1_024
PROBE = 1_000  # cells from which the most variable features are found


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownFeatures:
    """Features of a modality to show, most variable first, by their position among the imputed ones."""

    modality: str
    names: tuple[str, ...]
    position: NDArray[np.int64]


def spatial_order(xy: NDArray[Any]) -> NDArray[np.int64]:
    """Cells along a Z-shaped curve through the picture (Morton 1966)."""
    grid = _grid(xy, 1023)
    code = np.zeros(len(grid), np.int64)
    for bit in range(10):
        code |= ((grid[:, 0] >> bit) & 1) << (2 * bit) | ((grid[:, 1] >> bit) & 1) << (2 * bit + 1)
    return np.argsort(code, kind="stable")


def coordinates(xy: NDArray[Any]) -> str:
    """Places as 16-bit numbers, all x, then all y, keeping the picture's proportions."""
    return packed(_grid(xy, 65535).astype("<u2").T)


def packed(values: NDArray[Any]) -> str:
    """Bytes of an array, compressed, as text; the same array gives the same text."""
    return base64.b64encode(gzip.compress(np.ascontiguousarray(values).tobytes(), 6, mtime=0)).decode()


def packed_steps(values: NDArray[np.uint8]) -> str:
    """Differences from one cell to the next, modulo 256."""
    return packed(np.diff(values, prepend=np.uint8(0)))


def categorical(name: str, values: pd.Series, colors: Mapping[str, str]) -> dict[str, Any]:
    """A column of names; the last kind is what is missing or unknown, if any cell is."""
    names = list(colors)
    code = pd.Index(names).get_indexer(pd.Index(values.astype(object).where(values.notna(), "").astype(str)))
    if (code < 0).any():
        names = [*names, "unknown"]
        code = np.where(code < 0, len(names) - 1, code)
    shades = [colors.get(n, MISSING) for n in names]
    return {
        "name": name,
        "kind": "names",
        "names": names,
        "colors": shades,
        "data": packed_steps(np.asarray(code, np.uint8)),
    }


def numeric(name: str, values: NDArray[Any], **more: Any) -> dict[str, Any]:
    """A column of numbers, in levels from its 0.5 % to its 99.5 % quantile; 255 is missing."""
    value = np.asarray(values, np.float64)
    known = np.isfinite(value)
    low, high = (float(q) for q in np.quantile(value[known], [0.005, 0.995])) if known.any() else (0.0, 1.0)
    if low == high and known.any():
        low, high = float(value[known].min()), float(value[known].max())
    span = high - low if high > low else 1.0
    level = np.clip(np.round((np.where(known, value, low) - low) / span * (LEVELS - 1)), 0, LEVELS - 1)
    data = packed_steps(np.where(known, level, 255).astype(np.uint8))
    return {"name": name, "kind": "numbers", "low": low, "high": high, "data": data, **more}


def columns(
    data: MuData | AnnData, order: NDArray[np.int64], first: Mapping[str, pd.Series]
) -> list[dict[str, Any]]:
    """Columns to colour by: those of `first` (title → values), then those of ``obs`` that tell cells apart.

    Identifiers (names with more than `MOST_KINDS` values) are left out.
    """
    out, known = [], set(first)
    for title, values in first.items():
        out.append(
            categorical(title, values.iloc[order], column_colors(values, pattern=title == "modalities"))
        )
    for name in column_names(data):
        values = column(data, name)
        if name in known or len(out) >= MOST_COLUMNS or values.nunique() < 2:
            continue
        if is_categorical(values):
            if len(categories(values)) <= MOST_KINDS:
                out.append(categorical(name, values.iloc[order], column_colors(values)))
        else:
            out.append(numeric(name, values.to_numpy(np.float64, na_value=np.nan)[order]))
    return out


def cell_names(cells: pd.Index, order: NDArray[np.int64]) -> str | None:
    """Names of the cells, unless they are too long to travel."""
    text = packed(np.frombuffer("\n".join(str(c) for c in cells[order]).encode(), np.uint8))
    return text if len(text) <= NAMES_BUDGET else None


# --- imputed values -----------------------------------------------------------------------------


def choose_features(
    model: MosaicVI, mosaic: Mosaic, features: Sequence[str] | None, *, seed: int = 0
) -> list[ShownFeatures]:
    """Features to show: those asked for, or the most variable imputed ones of each modality.

    Raises
    ------
    InputError
        A feature that was asked for is in no modality.
    """
    names = {m.name: model.imputed_features(m.name) for m in mosaic.modalities}
    if features is not None:
        return _asked_for(names, features)
    probe = np.sort(np.random.default_rng([seed, 6]).permutation(mosaic.n_cells)[:PROBE])
    most = min(MOST_FEATURES, max(1, MOST_VALUES // (mosaic.n_cells * len(names))))
    out = []
    for name, index in names.items():
        variance = _variance(model, mosaic, name, probe)
        best = np.argsort(-variance, kind="stable")[:most]
        out.append(ShownFeatures(modality=name, names=tuple(str(index[j]) for j in best), position=best))
    return out


def _asked_for(names: Mapping[str, pd.Index], features: Sequence[str]) -> list[ShownFeatures]:
    found: dict[str, list[str]] = {m: [] for m in names}
    absent = []
    for feature in dict.fromkeys(str(f) for f in features):
        homes = [m for m, index in names.items() if feature in index]
        head, _, tail = feature.partition(":")
        if head in names and tail in names[head]:
            found[head].append(tail)
        elif homes:
            for m in homes:
                found[m].append(feature)
        else:
            absent.append(feature)
    if absent:
        more = f" and {len(absent) - 4} more" if len(absent) > 4 else ""
        raise InputError(
            f"features: no modality has {', '.join(map(repr, absent[:4]))}{more}; give names of features, "
            "or modality:feature"
        )
    return [
        ShownFeatures(
            modality=m, names=tuple(f), position=np.asarray(names[m].get_indexer(pd.Index(f)), np.int64)
        )
        for m, f in found.items()
        if f
    ]


def _variance(model: MosaicVI, mosaic: Mosaic, name: str, cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Variance of each imputed feature over some cells, of logarithms for counts."""
    logs = model.imputed_scale(name).kind == "counts"
    total = square = np.zeros(1)
    for _, values in model.iter_imputed_values(mosaic, modality=name, indices=cells):
        v = np.log1p(values, dtype=np.float64) if logs else values.astype(np.float64)
        total, square = total + v.sum(0), square + (v**2).sum(0)
    return np.asarray(square / len(cells) - (total / len(cells)) ** 2)


def answers(
    model: MosaicVI, mosaic: Mosaic, chosen: Sequence[ShownFeatures]
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """Latent of every cell, and the imputed values of the chosen features, in one pass over the cells."""
    names = model.config.uni_block_names
    wanted = [
        ImputationRequest(
            m=names.index(c.modality), scale=model.imputed_scale(c.modality), features=c.position
        )
        for c in chosen
    ]
    z = np.empty((mosaic.n_cells, model.config.dim_latent), np.float32)
    values = [np.empty((mosaic.n_cells, len(c.names)), np.float32) for c in chosen]
    loader = MinibatchLoader(mosaic, device=next(model.net.parameters()).device)
    cells = np.arange(mosaic.n_cells)
    for part in imputed(
        model.net, loader, mosaic, cells, wanted, readout=model.readout(), batch_size=CELLS_AT_A_TIME
    ):
        z[part.rows] = part.latent
        for out, value in zip(values, part.values, strict=True):
            out[part.rows] = value
    return model.align(mosaic, cells, z, np.zeros_like(z))[0], values


def imputed_features(
    model: MosaicVI,
    chosen: Sequence[ShownFeatures],
    values: Sequence[NDArray[np.float32]],
    order: NDArray[np.int64],
    budget: int,
) -> tuple[list[dict[str, Any]], int]:
    """Imputed values of chosen features, best first, as many as fit; and how many did not."""
    out: list[dict[str, Any]] = []
    dropped = 0
    for rank in range(max((len(c.names) for c in chosen), default=0)):
        for c, value in zip(chosen, values, strict=True):
            if rank >= len(c.names):
                continue
            logs = model.imputed_scale(c.modality).kind == "counts"
            shown = np.log1p(np.maximum(value[:, rank], 0)) if logs else value[:, rank]
            entry = numeric(c.names[rank], shown[order], modality=c.modality, logs=logs)
            budget -= len(entry["data"]) + 120
            if budget >= 0:
                out.append(entry)
            else:
                dropped += 1
    return out, dropped


def _grid(xy: NDArray[Any], top: int) -> NDArray[np.int64]:
    low, high = xy.min(0), xy.max(0)
    span = float((high - low).max()) or 1.0
    return np.asarray(np.round((xy - low) / span * top), np.int64)
