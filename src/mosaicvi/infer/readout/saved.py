"""A saved read-out -> `ReadOut`, checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mosaicvi.config import NetworkConfig
from mosaicvi.infer.readout.levels import Levels
from mosaicvi.infer.readout.predictors import Projection
from mosaicvi.infer.readout.readout import Floats, Group, Part, ReadOut
from mosaicvi.infer.readout.regression import Linear, Nearest
from mosaicvi.infer.readout.saved_table import read_table
from mosaicvi.infer.readout.views import Shown
from mosaicvi.store.parts import fitting_the_network, need


def read_readout(saved: Mapping[str, Any], config: NetworkConfig, folder: Path, *, n_batches: int) -> ReadOut:
    """Read what `ReadOut.to_dict` wrote, as `fitting_the_network`; of a model with so many batches, or 0."""
    sizes = dict(zip(config.uni_block_names, config.dim_input_arr, strict=True))
    with fitting_the_network(folder, "its read-out does not fit"):
        scales: dict[str, Any] = {str(k): str(v) for k, v in saved["scales"].items()}
        need(set(scales) <= set(sizes) and set(scales.values()) <= {"clr", "log1p_cp10k"})
        parts = {}
        for one in saved["parts"]:
            name = str(one["modality"])
            part = _part(one)
            need(part.kind == scales[name])
            _check(part, sizes, sizes[name], config.dim_latent)
            parts[Shown.from_dict(one["shown"], sizes), name] = part
        levels = {str(k): _levels(v) for k, v in saved.get("levels", {}).items()}  # older ones know none
        for name, found in levels.items():
            need(name in scales and found.known.shape == found.offset.shape == (n_batches, sizes[name]))
            need(found.trust.shape == (sizes[name],))
        tables = {}
        for name, one in saved.get("tables", {}).items():
            tables[str(name)] = read_table(one, sizes[name], max(n_batches, 1))
        logs = read_readout(saved["logs"], config, folder, n_batches=n_batches) if saved.get("logs") else None
        return ReadOut(parts=parts, scales=scales, levels=levels, tables=tables, logs=logs)


def _check(part: Part, sizes: Mapping[str, int], d: int, k: int) -> None:
    """Raise `ValueError` for arrays that do not go together."""
    p = int(part.own.sum())
    need(part.own.shape == (d,) and part.shown_line.weight.shape == part.shown_line.intercept.shape == (d,))
    for name, projection in part.projections.items():
        of = projection.features
        need(of.ndim == 1 and projection.centre.shape == of.shape and projection.axes.ndim == 2)
        need(len(projection.axes) == len(of) and bool(((of >= 0) & (of < sizes[name])).all()))
        p += projection.axes.shape[1]
    centres = part.batch_centres
    need(centres.ndim == 2 and (not len(centres) or centres.shape[1] == p))
    for group in part.groups:
        of, g = group.features, len(group.features)
        need(of.ndim == 1 and bool(((of >= 0) & (of < d)).all()))
        need(group.centre.shape == (d,) and group.axes.ndim == 2 and len(group.axes) == d)
        lines = group.decoder, group.ridge_latent, group.ridge_measured
        for line, shape in zip(lines, ((g,), (k + group.axes.shape[1], g), (p, g)), strict=True):
            need(line.weight.shape == shape and line.intercept.shape == (g,))
        n_ways = 3
        for near, width in ((group.near_latent, k), (group.near_measured, p)):
            if near is not None:
                need(near.place.ndim == 2 and near.place.shape[1] == width and len(near.place) > 0)
                need(near.value.shape == (len(near.place), g))
                n_ways += 1
        need(n_ways in (3, 5) and group.weights.shape == (n_ways,) and group.mean.shape == (g,))


def _levels(d: Mapping[str, Any]) -> Levels:
    trust, offset = (np.asarray(d[key], np.float64) for key in ("trust", "offset"))
    return Levels(known=np.asarray(d["known"], bool), trust=trust, offset=offset)


def _part(d: Mapping[str, Any]) -> Part:
    def floats(value: Any) -> Floats:
        return np.asarray(value, np.float64)

    def linear(value: Mapping[str, Any]) -> Linear:
        penalty = float(value.get("penalty", 0.0))  # older ones know none
        return Linear(weight=floats(value["weight"]), intercept=floats(value["intercept"]), penalty=penalty)

    def nearest(value: Mapping[str, Any] | None) -> Nearest | None:
        if value is None:
            return None
        return Nearest(**{k: np.asarray(value[k], np.float32) for k in ("place", "value")})

    def group(value: Mapping[str, Any]) -> Group:
        return Group(
            features=np.asarray(value["features"], np.int64),
            near_latent=nearest(value["near_latent"]),
            near_measured=nearest(value["near_measured"]),
            centre=floats(value["centre"]),
            axes=floats(value["axes"]),
            weights=floats(value["weights"]),
            mean=floats(value["mean"]),
            decoder=linear(value["decoder"]),
            ridge_latent=linear(value["ridge_latent"]),
            ridge_measured=linear(value["ridge_measured"]),
        )

    kind: Any = str(d["kind"])
    if kind not in ("clr", "log1p_cp10k"):
        raise ValueError("the read-out has an unknown scale")
    projections = {
        k: Projection(
            features=np.asarray(v["features"], np.int64),
            kind=str(v["kind"]),
            centre=floats(v["centre"]),
            axes=floats(v["axes"]),
        )
        for k, v in d["projections"].items()
    }
    return Part(
        kind=kind,
        library=float(d["library"]),
        latent_spread=float(d["latent_spread"]),
        projections=projections,
        own=np.asarray(d["own"], bool),
        own_spread=float(d["own_spread"]),
        batch_centres=floats(d["batch_centres"]),
        shown_line=linear(d["shown_line"]),
        groups=tuple(group(g) for g in d["groups"]),
    )
